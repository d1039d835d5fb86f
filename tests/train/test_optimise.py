"""Learning rates, frozen layers and the moving average do what they say."""

import math
from itertools import pairwise

import pytest
import torch

from lensfinder import networks
from lensfinder.train import optimise
from lensfinder.train.settings import Settings

SETTINGS = Settings(
    network="lensnet",
    epochs=2,
    batch_size=8,
    learning_rate=1e-2,
    weight_decay=1e-3,
    warmup=0.1,
    clip_norm=1.0,
    shift_pixels=1,
    seed=1,
)


def changed(**keys):
    return Settings(**{**vars(SETTINGS), **keys})


def test_schedule_rises_to_its_peak_and_falls_to_nothing():
    rates = [optimise.schedule(step, 100, 0.1) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert all(late <= early for early, late in pairwise(rates[9:]))
    assert 0 <= rates[-1] < 1e-3
    assert math.isfinite(optimise.schedule(0, 1, 0.0))


def test_the_step_schedule_drops_and_the_constant_one_stays():
    rates = [optimise.schedule(step, 120, 0.0, "step", 40, 0.1) for step in range(120)]
    assert rates[0] == rates[39] == 1.0
    assert [rates[40], rates[79], rates[80]] == pytest.approx([0.1, 0.1, 0.01])
    assert {optimise.schedule(step, 9, 0.1, "constant") for step in range(1, 9)} == {1.0}


@pytest.mark.parametrize("name", networks.names())
def test_layers_hold_every_weight_once_and_end_with_the_head(name):
    with torch.device("meta"):
        network = networks.build(name, 2, 101)
    layers = optimise.layers_of(network)
    held = [id(p) for layer in layers for m in layer for p in m.parameters(recurse=False)]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    assert layers[-1][0] is network.head
    if name == "deeplens":
        assert len(layers) == 46 + 1


def test_frozen_layers_keep_weights_and_batch_statistics_and_the_rest_learns():
    torch.manual_seed(0)
    network = networks.build("deeplens", 1, 17)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layers = optimise.layers_of(network)
    optimise.freeze(network, 4)
    optimizer = optimise.optimizer_of(network, SETTINGS)
    optimise.training_mode(network, network, 4)
    network(torch.randn(4, 1, 17, 17)).sum().backward()
    optimizer.step()
    names = {id(module): name for name, module in network.named_modules()}
    for depth, layer in enumerate(layers):
        for module in layer:
            for name, tensor in module.state_dict(prefix=f"{names[id(module)]}.").items():
                moved = not torch.equal(tensor, before[name])
                assert moved == (depth >= 4), name


def test_every_layer_learns_at_its_share_of_the_rate():
    network = networks.build("lenet5", 1, 32)
    optimizer = optimise.optimizer_of(network, changed(layer_decay=0.5))
    optimise.set_rates(optimizer, 1.0)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    layers = optimise.layers_of(network)
    assert [rates[id(layer[0].weight)] for layer in layers] == [0.0625, 0.125, 0.25, 0.5, 1.0]
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays[id(network.head.weight)] == 1e-3
    assert decays[id(network.head.bias)] == 0.0


def test_layers_thaw_from_the_head_down():
    settings = changed(freeze=12, head_epochs=2, unfreeze_every=3)
    frozen = [settings.frozen_layers(epoch, 20) for epoch in range(20)]
    assert frozen == [19] * 2 + [12] * 3 + [6] * 3 + [3] * 3 + [1] * 3 + [0] * 6
    assert [changed(freeze=5).frozen_layers(epoch, 20) for epoch in range(9)] == [5] * 9


def test_an_average_of_equal_weights_is_those_and_it_lags_behind_others():
    network = networks.build("lenet5", 1, 32)
    average = optimise.Average(network, 0.9)
    for step in range(5):
        average.update(step)
    for ours, theirs in zip(average.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    before = network.head.weight.detach().clone()
    with torch.no_grad():
        network.head.weight += 1.0
    average.update(10**6)
    torch.testing.assert_close(average.network.head.weight, before + 0.1)
    assert optimise.Average(network, 0.0).network is network


def test_weights_and_balance_shift_the_prevalence_that_scores_are_calibrated_at():
    assert SETTINGS.effective_prevalence(0.2) == pytest.approx(0.2)
    assert changed(balance=True).effective_prevalence(0.2) == 0.5
    odds = 4 * 0.2 / 0.8
    assert changed(lens_weight=4.0).effective_prevalence(0.2) == pytest.approx(odds / (1 + odds))

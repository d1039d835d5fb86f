"""Weights of a trained model find their places, or are refused with a reason."""

import pytest
import torch

from lensfinder import networks
from lensfinder.errors import MismatchError, RequestError
from lensfinder.model import Spec
from lensfinder.pixels import RECIPES
from lensfinder.train import transfer

SPEC = Spec("lensnet", ("g", "r"), 25, 0.2)


def trained(name="lensnet", bands=2, size=25):
    torch.manual_seed(1)
    return networks.build(name, bands, size)


def begun(bands, size=25, new_head=True, name="lensnet", spec=SPEC):
    torch.manual_seed(2)
    network = networks.build(name, len(bands), size, auxiliary=True)
    weights = trained(name, len(spec.bands), spec.size).state_dict()
    begin = transfer.weights_for(network, weights, spec, spec.bands, bands, size, new_head=new_head)
    network.load_state_dict(begin)
    return network


def test_all_but_the_head_comes_from_the_model():
    old, new = trained().state_dict(), begun(("g", "r")).state_dict()
    for name, tensor in new.items():
        assert torch.equal(tensor, old[name]) != name.startswith("head.")
    kept = begun(("g", "r"), new_head=False).state_dict()
    assert all(torch.equal(kept[name], old[name]) for name in old)


def test_bands_are_found_by_name_and_unknown_ones_keep_the_signal():
    old = trained().state_dict()["stem.weight"]
    swapped = begun(("r", "g")).state_dict()["stem.weight"]
    assert torch.equal(swapped, old.flip(1))
    assert torch.equal(begun(("r",)).state_dict()["stem.weight"], 2 * old[:, 1:])
    wider = begun(("g", "r", "i", "z")).state_dict()["stem.weight"]
    torch.testing.assert_close(wider.sum(dim=1), old.sum(dim=1))


def test_what_half_a_turn_changes_is_seen_by_both_or_neither():
    recipe = RECIPES["sky-turned"]
    had, wanted = recipe.channels(("g", "r")), recipe.channels(("r",))
    assert wanted == ("r", "r less turned")
    weights = trained(bands=4).state_dict()
    begin = transfer.weights_for(trained(bands=2), weights, SPEC, had, wanted, 25, new_head=True)
    assert torch.equal(begin["stem.weight"], 2 * weights["stem.weight"][:, [1, 3]])
    with pytest.raises(MismatchError, match=r"sees what half a turn.*own pixels"):
        transfer.weights_for(trained(), weights, SPEC, had, ("g", "r"), 25, new_head=True)
    with pytest.raises(MismatchError, match=r"does not see.*own pixels"):
        transfer.weights_for(
            trained(), trained().state_dict(), SPEC, ("g", "r"), wanted, 25, new_head=True
        )


def test_another_size_is_taken_where_the_layers_do_not_depend_on_it():
    assert begun(("g", "r"), size=45)(torch.zeros(1, 2, 45, 45)).shape == (1,)
    with pytest.raises(MismatchError, match=r"dense.*25 pixels.*45"):
        begun(("g", "r"), size=45, name="lenet5", spec=Spec("lenet5", ("g", "r"), 25, 0.2))


def test_auxiliary_classifiers_of_a_model_without_them_are_fresh():
    spec = Spec("googlenet", ("g", "r"), 33, 0.2)
    network = begun(("g", "r"), size=33, name="googlenet", spec=spec)
    assert len(network.train()(torch.zeros(2, 2, 33, 33))) == 3


def test_another_architecture_and_other_pixels_are_refused():
    with pytest.raises(MismatchError, match=r"is a lensnet, and a deeplens") as caught:
        transfer.check(SPEC, "deeplens", False)
    assert caught.value.exit_code == 4
    with pytest.raises(MismatchError, match="takes fluxes"):
        transfer.check(SPEC, "lensnet", True)
    with pytest.raises(RequestError, match=r"freeze is 99.*at most 9"):
        transfer.check_freeze(trained(), 99)

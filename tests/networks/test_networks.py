"""Every network maps stamps to one logit each, and is the published one to the parameter."""

import pytest
import torch

from lensfinder import networks
from lensfinder.errors import RequestError
from lensfinder.networks import dieleman2015
from lensfinder.networks.symmetric import SymmetricConv2d


@pytest.mark.parametrize(("bands", "count"), [(1, 3_508_545), (3, 3_511_681), (4, 3_513_249)])
def test_deeplens_has_the_published_number_of_parameters(bands, count):
    assert networks.count_parameters(networks.build("deeplens", bands, 45)) == count


def test_deeplens_has_46_convolutions_on_its_main_branch():
    network = networks.build("deeplens", 1, 45)
    convolutions = [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d) and not name.endswith("shortcut")
    ]
    assert len(convolutions) == 46


@pytest.mark.parametrize(
    ("name", "bands", "size", "outputs", "count"),
    [
        # As published; where papers round or leave out, as their tables add up.
        ("lenet5", 1, 32, 10, 61_706),
        ("alexnet", 3, 227, 1000, 60_965_224),
        ("vgg16", 3, 224, 1000, 138_357_544),
        ("googlenet", 3, 224, 1000, 6_998_552),
        ("resnet50", 3, 224, 1000, 25_557_032),
        ("dieleman2015", 3, 69, 37, 42_303_237),
    ],
)
def test_the_classic_ones_have_their_published_number_of_parameters(
    name, bands, size, outputs, count
):
    with torch.device("meta"):
        network = networks.build(name, bands, size, outputs=outputs)
    assert networks.count_parameters(network) == count
    assert network.eval()(torch.empty(2, bands, size, size, device="meta")).shape == (2, outputs)


def layers(network, kind):
    return [module for module in network.modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("name", "convolutions", "dense"),
    [
        ("lenet5", 2, 3),
        ("alexnet", 5, 3),
        ("vgg16", 13, 3),
        ("googlenet", 57, 1),  # 3 in the stem, 6 in each of 9 modules
        ("resnet50", 53, 1),  # 49 in a row, 4 shortcuts
        ("petrillo2017", 4, 3),
        ("petrillo2019", 20, 1),  # 17 in a row, 3 shortcuts
        ("dieleman2015", 4, 3),
    ],
)
def test_the_number_of_layers_is_the_published_one(name, convolutions, dense):
    with torch.device("meta"):
        network = networks.build(name, 1, 101)
    assert len(layers(network, torch.nn.Conv2d)) == convolutions
    assert len(layers(network, torch.nn.Linear)) == dense


def smallest(name):
    """Side of the smallest stamp that a network takes."""
    for size in range(9, 100):
        try:
            with torch.device("meta"):
                networks.build(name, 1, size)
        except RequestError:
            continue
        return size
    raise AssertionError(name)


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize(("bands", "more"), [(1, 0), (3, 1), (6, 16)])
def test_one_logit_a_stamp_for_any_bands_and_size(name, bands, more):
    size = smallest(name) + more
    with torch.device("meta"):
        network = networks.build(name, bands, size).eval()
    assert network(torch.empty(3, bands, size, size, device="meta")).shape == (3,)


@pytest.mark.parametrize("name", networks.names())
def test_a_logit_is_finite_and_does_not_depend_on_the_batch(name):
    size = smallest(name)
    network = networks.build(name, 2, size).eval()
    stamps_NCHW = torch.randn(3, 2, size, size)
    with torch.no_grad():
        together_N = network(stamps_NCHW)
        alone_N = torch.cat([network(stamps_NCHW[i : i + 1]) for i in range(3)])
    assert torch.isfinite(together_N).all()
    torch.testing.assert_close(together_N, alone_N, rtol=1e-4, atol=1e-4)


def test_auxiliary_classifiers_speak_in_training_alone_and_leave_no_weights_behind():
    torch.manual_seed(0)
    whole = networks.build("googlenet", 2, 33, auxiliary=True)
    stamps_NCHW = torch.randn(2, 2, 33, 33)
    said = whole.train()(stamps_NCHW)
    assert [one.shape for one in said] == [(2,)] * 3
    bare = networks.build("googlenet", 2, 33)
    kept = {name: whole.state_dict()[name] for name in bare.state_dict()}
    assert len(kept) < len(whole.state_dict())
    bare.load_state_dict(kept)
    torch.testing.assert_close(bare.eval()(stamps_NCHW), whole.eval()(stamps_NCHW))
    assert networks.build("lensnet", 2, 33, auxiliary=True).train()(stamps_NCHW).shape == (2,)


def test_the_sixteen_parts_of_a_turned_or_mirrored_stamp_are_the_same_sixteen():
    stamp_NCHW = torch.randn(1, 1, 101, 101, dtype=torch.float64)
    parts = dieleman2015.parts_of(stamp_NCHW)
    assert parts.shape == (16, 1, 45, 45)
    distinct = torch.cdist(parts.flatten(1), parts.flatten(1)) + 99 * torch.eye(16)
    assert distinct.min() > 1
    for same_NCHW in (torch.rot90(stamp_NCHW, 1, (2, 3)), stamp_NCHW.flip(3)):
        others = dieleman2015.parts_of(same_NCHW)
        distance = torch.cdist(parts.flatten(1), others.flatten(1))
        assert distance.min(dim=1).values.max() < 1e-9


def test_the_object_stands_in_the_same_corner_of_all_parts():
    stamp_NCHW = torch.zeros(1, 1, 101, 101)
    stamp_NCHW[..., 50, 50] = 1.0
    for part in dieleman2015.parts_of(stamp_NCHW)[:, 0]:
        assert part.argmax() == 34 * 45 + 34, "the middle of 69 pixels"


@pytest.mark.parametrize("size", [25, 26, 28, 45])
def test_lensnet_says_the_same_of_a_stamp_in_all_eight_positions(size):
    torch.manual_seed(1)
    network = networks.build("lensnet", 2, size).double().train()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    stamps_NCHW = torch.randn(3, 2, size, size, dtype=torch.float64)
    logit_N = network(stamps_NCHW)
    assert logit_N.std() > 1e-3
    for mirrored in (stamps_NCHW, stamps_NCHW.flip(3)):
        for quarter in range(4):
            turned = network(torch.rot90(mirrored, quarter, (2, 3)))
            torch.testing.assert_close(turned, logit_N, rtol=0, atol=1e-12)
    shuffled = network(stamps_NCHW.flatten(2)[:, :, torch.randperm(size**2)].view_as(stamps_NCHW))
    assert (shuffled - logit_N).abs().max() > 1e-3


def test_a_turned_stamp_turns_the_maps_of_a_symmetric_layer_and_permutes_its_positions():
    first = SymmetricConv2d(2, 3, 5, padding=2, bias=True, lifting=True).double()
    second = SymmetricConv2d(3, 2, 3, padding=1).double()
    stamp_NCHW = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        plain, turned = (second(first(x)) for x in (stamp_NCHW, torch.rot90(stamp_NCHW, 1, (2, 3))))
    back = torch.rot90(turned, -1, (2, 3)).reshape(2, 8, 9, 9)
    plain = plain.reshape(2, 8, 9, 9)
    for feature in range(2):
        distance = torch.cdist(plain[feature].flatten(1), back[feature].flatten(1))
        # Each position comes back as another one.
        assert (distance.min(dim=1).values < 1e-10).all()
        assert sorted(distance.argmin(dim=1).tolist()) == list(range(8))
        assert (distance.argmin(dim=1) != torch.arange(8)).all()


def test_lensnet_in_training_mode_does_not_depend_on_the_batch_either():
    network = networks.build("lensnet", 1, 31).double().train()
    stamps_NCHW = torch.randn(4, 1, 31, 31, dtype=torch.float64)
    torch.testing.assert_close(
        network(stamps_NCHW)[:1], network(stamps_NCHW[:1]), rtol=0, atol=1e-10
    )


def test_multiply_adds_grow_with_the_area_and_lensnet_is_the_cheap_one():
    assert networks.count_multiply_adds("lensnet", 3, 61) < 30e6
    lensnet, deeplens = (networks.count_multiply_adds(n, 3, 61) for n in ("lensnet", "deeplens"))
    assert 10 * lensnet < deeplens
    wide = networks.count_multiply_adds("deeplens", 3, 120)
    assert wide == pytest.approx(4 * networks.count_multiply_adds("deeplens", 3, 60), rel=0.15)


def test_multiply_adds_count_every_view_that_a_network_makes():
    one_part = 40**2 * 32 * 36 + 16**2 * 64 * 800 + 6**2 * 128 * 576 + 4**2 * 128 * 1152
    dense = 8192 * 4096 + 2048 * 4096 + 2048
    assert networks.count_multiply_adds("dieleman2015", 1, 69) == 16 * one_part + dense


def test_a_list_of_all_says_why_a_network_cannot_take_the_stamps():
    listed = {item["name"]: item for item in networks.describe(1, 45)}
    assert tuple(listed) == networks.names()
    assert "45 pixels" in listed["alexnet"]["reason"]
    assert listed["alexnet"]["parameters"] is None
    assert listed["deeplens"]["parameters"] == 3_508_545
    assert all(item["citation"] for item in listed.values())


def test_an_unknown_name_is_refused_with_the_nearest_known_one_and_all_others():
    with pytest.raises(RequestError, match=r"'lensnett'.*'lensnet'") as caught:
        networks.build("lensnett", 3, 61)
    assert all(name in str(caught.value) for name in networks.names())


@pytest.mark.parametrize("name", networks.names())
def test_a_stamp_too_small_is_refused_with_both_sizes(name):
    with pytest.raises(RequestError, match=r"9 pixels.*at least"):
        networks.build(name, 3, 9)

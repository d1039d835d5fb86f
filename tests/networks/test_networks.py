"""Every network maps stamps to one logit each; deeplens is the published one to the parameter."""

import pytest
import torch

from lensfinder import networks
from lensfinder.errors import RequestError


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


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize(("bands", "size"), [(1, 25), (3, 41), (6, 61)])
def test_one_logit_a_stamp_for_any_bands_and_size(name, bands, size):
    logit_N = networks.build(name, bands, size).eval()(torch.randn(3, bands, size, size))
    assert logit_N.shape == (3,)
    assert torch.isfinite(logit_N).all()


@pytest.mark.parametrize("name", networks.names())
def test_a_logit_does_not_depend_on_the_batch(name):
    network = networks.build(name, 2, 31).double().eval()
    stamps_NCHW = torch.randn(4, 2, 31, 31, dtype=torch.float64)
    with torch.no_grad():
        together_N = network(stamps_NCHW)
        alone_N = torch.cat([network(stamps_NCHW[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together_N, alone_N, rtol=0, atol=1e-10)


def test_lensnet_in_training_mode_does_not_depend_on_the_batch_either():
    network = networks.build("lensnet", 1, 31).double().train()
    stamps_NCHW = torch.randn(4, 1, 31, 31, dtype=torch.float64)
    torch.testing.assert_close(
        network(stamps_NCHW)[:1], network(stamps_NCHW[:1]), rtol=0, atol=1e-10
    )


def test_multiply_adds_grow_with_the_area_and_lensnet_is_the_cheap_one():
    assert networks.count_multiply_adds("lensnet", 3, 61) < 30e6
    lensnet, deeplens = (networks.count_multiply_adds(n, 3, 61) for n in networks.names())
    assert 10 * lensnet < deeplens
    wide = networks.count_multiply_adds("deeplens", 3, 120)
    assert wide == pytest.approx(4 * networks.count_multiply_adds("deeplens", 3, 60), rel=0.15)


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(RequestError, match=r"'lensnett'.*'lensnet'"):
        networks.build("lensnett", 3, 61)


@pytest.mark.parametrize("name", networks.names())
def test_a_stamp_too_small_is_refused_with_both_sizes(name):
    with pytest.raises(RequestError, match=r"9 pixels.*at least"):
        networks.build(name, 3, 9)

"""A stamp's transformed pixels depend on that stamp alone, and are always finite."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensfinder.errors import RequestError
from lensfinder.pixels import RECIPES, PixelTransform, Recipe, good_pixels

SIZE = 31


def sky(n=16, bands=3, seed=0, dtype=torch.float32):
    """Noise of sigma 2, 4, 6 nJy a band with a bright blob in the middle and a raised sky."""
    generator = torch.Generator().manual_seed(seed)
    sigma_C11 = 2.0 * torch.arange(1, bands + 1)[:, None, None]
    image_NCHW = sigma_C11 * torch.randn(n, bands, SIZE, SIZE, generator=generator) + 50.0
    image_NCHW[:, :, 12:19, 12:19] += 500.0
    return image_NCHW.to(dtype), torch.zeros(n, bands, SIZE, SIZE, dtype=torch.uint8)


@pytest.fixture(params=sorted(RECIPES))
def transform(request):
    return PixelTransform.fit(RECIPES[request.param], [sky()])


def test_a_stamp_does_not_depend_on_its_batch(transform):
    image_NCHW, mask_NCHW = sky(dtype=torch.float64)
    together_NCHW = transform(image_NCHW, mask_NCHW)
    order = torch.randperm(len(image_NCHW), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        transform(image_NCHW[order], mask_NCHW[order]), together_NCHW[order], rtol=0, atol=1e-13
    )
    alone_NCHW = torch.cat(
        [transform(image_NCHW[i : i + 1], mask_NCHW[i : i + 1]) for i in range(len(image_NCHW))]
    )
    torch.testing.assert_close(alone_NCHW, together_NCHW, rtol=0, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    value=st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 0.0, 1e-40]),
    bad_fraction=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    masked=st.booleans(),
    name=st.sampled_from(sorted(RECIPES)),
    stretch=st.sampled_from(["linear", "sqrt", "arcsinh"]),
)
def test_no_nan_comes_out_whatever_goes_in(value, bad_fraction, masked, name, stretch):
    recipe = Recipe(**{**RECIPES[name].__dict__, "stretch": stretch})
    transform = PixelTransform.fit(recipe, [sky()])
    image_NCHW, mask_NCHW = sky(n=2, seed=3)
    hit = torch.rand(image_NCHW.shape, generator=torch.Generator().manual_seed(4)) < bad_fraction
    image_NCHW[hit] = value
    if masked:
        mask_NCHW[hit] = 4
    out_NCHW = transform(image_NCHW, mask_NCHW)
    assert out_NCHW.dtype == torch.float32
    assert torch.isfinite(out_NCHW).all()
    if masked or not torch.isfinite(torch.tensor(value)):
        assert all((part[hit] == 0).all() for part in out_NCHW.split(3, dim=1))


def test_what_stands_in_bad_pixels_changes_nothing(transform):
    image_NCHW, mask_NCHW = sky(n=3)
    mask_NCHW[:, :, :5, 3:9] = 1
    out_NCHW = transform(image_NCHW, mask_NCHW)
    image_NCHW[:, :, :5, 3:9] = torch.nan
    assert torch.equal(transform(image_NCHW, mask_NCHW), out_NCHW)


def test_a_pixel_is_good_if_it_is_finite_and_not_masked():
    image_P = torch.tensor([0.0, -3e38, torch.nan, torch.inf, -torch.inf, 1.0, torch.nan])
    mask_P = torch.tensor([0, 0, 0, 0, 0, 4, 2], dtype=torch.uint8)
    assert good_pixels(image_P, mask_P).tolist() == [True, True, *[False] * 5]


@pytest.mark.parametrize("bad", [0, 1, 40, SIZE * SIZE])
def test_the_border_background_is_the_median_of_the_frames_good_pixels(bad):
    transform = PixelTransform(Recipe("border", "sky", False, 1e9, "linear", 1.0), (1.0,))
    image_NCHW, mask_NCHW = sky(n=2, bands=1, dtype=torch.float64)
    mask_NCHW[1].view(-1)[:bad] = 4  # the other stamp has no bad pixel at all
    out_NCHW = transform(image_NCHW, mask_NCHW)
    frame_YX = torch.ones(SIZE, SIZE, dtype=torch.bool)
    frame_YX[2:-2, 2:-2] = False
    for i in range(2):
        good_YX = mask_NCHW[i, 0] == 0
        pixels_P = image_NCHW[i, 0][frame_YX & good_YX]
        level_njy = pixels_P.median() if len(pixels_P) else torch.zeros(())
        wanted_YX = torch.where(good_YX, image_NCHW[i, 0] - level_njy, 0)
        torch.testing.assert_close(out_NCHW[i, 0], wanted_YX, rtol=0, atol=1e-9)


def test_a_sky_pedestal_changes_nothing_under_the_border_background():
    transform = PixelTransform.fit(RECIPES["sky"], [sky()])
    image_NCHW, mask_NCHW = sky(dtype=torch.float64)
    raised_NCHW = image_NCHW + torch.tensor([10.0, -300.0, 4000.0])[:, None, None]
    torch.testing.assert_close(
        transform(raised_NCHW, mask_NCHW), transform(image_NCHW, mask_NCHW), rtol=0, atol=1e-9
    )


def test_the_sky_recipe_finds_the_sky_sigma_beside_bright_objects():
    transform = PixelTransform.fit(RECIPES["sky"], [sky(n=64)])
    assert transform.scale_njy_C == pytest.approx((2.0, 4.0, 6.0), rel=0.05)


def test_the_deeplens_recipe_is_mean_and_sigma_of_the_set_in_any_batching():
    image_NCHW, mask_NCHW = sky(n=60)
    whole = PixelTransform.fit(RECIPES["deeplens"], [(image_NCHW, mask_NCHW)])
    halves = zip(image_NCHW.split(17), mask_NCHW.split(17), strict=True)
    streamed = PixelTransform.fit(RECIPES["deeplens"], halves)
    assert streamed.scale_njy_C == pytest.approx(whole.scale_njy_C, rel=1e-9)
    torch.testing.assert_close(whole.mean_njy_CHW, image_NCHW.mean(dim=0))
    out_NCHW = whole(image_NCHW, mask_NCHW)
    torch.testing.assert_close(out_NCHW.std(dim=(0, 2, 3)), torch.ones(3), rtol=0, atol=0.01)


def test_round_trip_through_json_and_arrays(transform):
    arrays = {name: tensor.clone() for name, tensor in transform.arrays().items()}
    again = PixelTransform.from_dict(json.loads(json.dumps(transform.to_dict())), arrays)
    assert torch.equal(again(*sky(seed=5)), transform(*sky(seed=5)))


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("fill", [torch.nan, 7.0])
def test_stamps_without_any_scatter_are_refused(name, fill):
    image_NCHW, mask_NCHW = sky()
    image_NCHW[:, 1] = fill
    with pytest.raises(RequestError, match="no noise level"):
        PixelTransform.fit(RECIPES[name], [(image_NCHW, mask_NCHW)])
    with pytest.raises(RequestError, match="no noise level"):
        PixelTransform.fit(RECIPES[name], [])

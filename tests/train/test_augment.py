"""Augmentation keeps what it should keep, and depends on (seed, epoch, object index) alone."""

import numpy as np
import pytest
import torch

from lensfinder.train import augment
from lensfinder.train.augment import Ranges

SIZE = 31
SCALE = (1.0, 2.0)


@pytest.fixture
def stamps():
    generator = torch.Generator().manual_seed(0)
    image_NCHW = torch.randn(6, 2, SIZE, SIZE, generator=generator, dtype=torch.float64)
    image_NCHW[1, 0, 4:9, 4:9] = torch.nan
    mask_NCHW = torch.zeros(image_NCHW.shape, dtype=torch.uint8)
    mask_NCHW[1, 0, 4:9, 4:9] = 1
    mask_NCHW[2, :, 20:] = 4
    return image_NCHW, mask_NCHW


def amounts(n, value=0.0):
    return torch.full((n, 6), value, dtype=torch.float64)


EVERYTHING = Ranges(True, 2, 45.0, 0.9, 0.5, 1.0, 0.3)


def test_a_stamp_does_not_depend_on_its_batch(stamps):
    image_NCHW, mask_NCHW = stamps
    amount_NK = torch.from_numpy(augment.draw_amounts(1, 2, 6, 2))
    noise = torch.from_numpy(augment.draw_noise(1, 2, np.arange(6), (2, SIZE, SIZE)))
    whole = augment.alter(image_NCHW, mask_NCHW, amount_NK, noise, EVERYTHING, SCALE)
    for i in (1, 4):
        one = slice(i, i + 1)
        alone = augment.alter(
            image_NCHW[one], mask_NCHW[one], amount_NK[one], noise[one], EVERYTHING, SCALE
        )
        torch.testing.assert_close(alone[0], whole[0][one], rtol=0, atol=1e-12)
        assert torch.equal(alone[1], whole[1][one])


def test_numbers_depend_on_seed_epoch_and_object_alone():
    drawn = augment.draw_amounts(1, 2, 50, 2)
    np.testing.assert_array_equal(augment.draw_amounts(1, 2, 20, 2), drawn[:20])
    assert (augment.draw_amounts(1, 3, 50, 2) != drawn).all()
    noise = augment.draw_noise(1, 2, np.arange(5), (2, 9, 9))
    np.testing.assert_array_equal(augment.draw_noise(1, 2, np.array([3]), (2, 9, 9))[0], noise[3])


def test_a_quarter_turn_of_the_warp_is_a_quarter_turn(stamps):
    image_NCHW, mask_NCHW = stamps
    amount_NK = amounts(6)
    amount_NK[:, 0] = 0.75  # of 180 degrees either way: 90
    turned, mask = augment.alter(
        image_NCHW, mask_NCHW, amount_NK, None, Ranges(rotation_deg=180.0), SCALE
    )
    good = mask == 0
    expected = torch.rot90(torch.nan_to_num(image_NCHW), 1, (2, 3))
    torch.testing.assert_close(turned[good], expected[good], rtol=0, atol=1e-9)
    assert (mask != 0).sum() == (mask_NCHW != 0).sum()


def test_zoom_magnifies_about_the_centre():
    axis = torch.arange(SIZE, dtype=torch.float64) - SIZE // 2
    ramp_NCHW = axis.expand(1, 2, SIZE, SIZE).clone()
    amount_NK = amounts(1, 1.0)
    amount_NK[:, 0] = 0.5  # no turn
    zoomed, _ = augment.alter(
        ramp_NCHW,
        torch.zeros(ramp_NCHW.shape, dtype=torch.uint8),
        amount_NK,
        None,
        Ranges(rotation_deg=10.0, zoom=0.8),
        SCALE,
    )
    torch.testing.assert_close(zoomed, 0.8 * ramp_NCHW, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ranges", [Ranges(rotation_deg=45.0, zoom=0.8), Ranges(blur_pixels=2.0)])
def test_bad_pixels_leave_no_trace_in_a_constant_image(stamps, ranges):
    _, mask_NCHW = stamps
    image_NCHW = torch.where(mask_NCHW == 0, 7.0, torch.nan).double()
    altered, mask = augment.alter(
        image_NCHW, mask_NCHW, torch.rand(6, 6, dtype=torch.float64), None, ranges, SCALE
    )
    assert (mask[1, 0] != 0).any()
    torch.testing.assert_close(altered[mask == 0], torch.full_like(altered[mask == 0], 7.0))


def test_blur_keeps_the_flux_and_widens_by_its_sigma():
    point_NCHW = torch.zeros(1, 2, SIZE, SIZE, dtype=torch.float64)
    point_NCHW[..., SIZE // 2, SIZE // 2] = 5.0
    blurred, _ = augment.alter(
        point_NCHW,
        torch.zeros(point_NCHW.shape, dtype=torch.uint8),
        amounts(1, 0.75),
        None,
        Ranges(blur_pixels=2.0),
        SCALE,
    )
    assert blurred.sum().item() == pytest.approx(10.0, rel=1e-9)
    axis = torch.arange(SIZE, dtype=torch.float64) - SIZE // 2
    variance = (blurred[0, 0].sum(0) * axis**2).sum() / 5
    assert variance.item() == pytest.approx(1.5**2, rel=2e-3)


def test_noise_is_white_and_in_units_of_the_bands():
    flat_NCHW = torch.zeros(4, 2, SIZE, SIZE, dtype=torch.float64)
    noise = torch.from_numpy(augment.draw_noise(0, 0, np.arange(4), (2, SIZE, SIZE)))
    noisy, mask = augment.alter(
        flat_NCHW, flat_NCHW.to(torch.uint8), amounts(4, 0.5), noise, Ranges(noise=3.0), SCALE
    )
    assert (mask == 0).all()
    assert noisy.std(dim=(0, 2, 3)).tolist() == pytest.approx([1.5, 3.0], rel=0.05)


def test_dropped_bands_are_masked_and_one_always_stays():
    flat_NCHW = torch.zeros(400, 2, 9, 9)
    amount_NK = torch.from_numpy(augment.draw_amounts(0, 0, 400, 2))
    _, mask = augment.alter(
        flat_NCHW, flat_NCHW.to(torch.uint8), amount_NK, None, Ranges(band_dropout=0.4), SCALE
    )
    gone_NC = (mask != 0).flatten(2).all(dim=2)
    assert not gone_NC.all(dim=1).any()
    assert gone_NC.float().mean().item() == pytest.approx(0.4 - 0.16 / 2, abs=0.05)


def test_views_without_flips_only_shift():
    drawn_N4 = augment.draw(1, 0, 100, Ranges(flips=False, shift_pixels=1))
    assert (drawn_N4[:, :2] == 0).all()
    assert len(np.unique(drawn_N4[:, 2:], axis=0)) == 9

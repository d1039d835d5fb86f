"""What half a turn about a galaxy's centre changes: nothing of the galaxy, all of its arcs."""

import pytest
import torch

from lensfinder.pixels import RECIPES, PixelTransform
from lensfinder.turned import half_turned

SIZE, SOFTENING = 45, 2.0
TURNED = PixelTransform(RECIPES["sky-turned"], (1.0,))


def galaxy(y: float, x: float, *, brightest: float = 3000.0) -> torch.Tensor:
    """An inclined galaxy as broad as seeing makes it, in units of the sky's noise, (1, 1, y, x)."""
    at = torch.arange(SIZE, dtype=torch.float64)
    dy, dx = at[:, None] - y, at[None, :] - x
    radius = torch.sqrt(dy**2 + 0.6 * dx**2 + 0.3 * dy * dx + 3.0)
    return (brightest * torch.exp(-radius / 2.5))[None, None]


def point(y: float, x: float, peak: float) -> torch.Tensor:
    at = torch.arange(SIZE, dtype=torch.float64)
    return peak * torch.exp(-((at[:, None] - y) ** 2 + (at[None, :] - x) ** 2) / 4)[None, None]


def change(image_NCHW: torch.Tensor, transform: PixelTransform = TURNED) -> torch.Tensor:
    mask_NCHW = torch.zeros(image_NCHW.shape, dtype=torch.uint8)
    return transform(image_NCHW, mask_NCHW)[:, image_NCHW.shape[1] :]


@pytest.mark.parametrize("centre", [(22.0, 22.0), (22.3, 21.6), (23.71, 20.2), (20.5, 24.5)])
def test_a_smooth_galaxy_vanishes_wherever_its_centre_is(centre):
    image = galaxy(*centre)
    assert image.max() > 1000
    assert change(image).abs().max() < 0.1


def test_light_on_one_side_stays_and_has_its_negative_on_the_other():
    image = galaxy(22.0, 22.0) + point(28.0, 22.0, 60.0)
    alone = change(image)[0, 0]
    assert image[0, 0, 28, 22] < 1.3 * galaxy(22.0, 22.0)[0, 0, 28, 22]  # drowned in the galaxy
    assert alone[28, 22] > 1.5
    assert alone[28, 22] == pytest.approx(-float(alone[16, 22]), rel=0.05)
    far = torch.hypot(*torch.meshgrid(*2 * [torch.arange(SIZE) - 22.0], indexing="ij")) > 12
    assert alone[far].abs().max() < 0.1


def test_an_arc_does_not_draw_the_centre_to_itself():
    image = galaxy(22.3, 21.6) + point(28.0, 22.0, 300.0)
    level = torch.asinh(image / SOFTENING)
    turned, _ = half_turned(level, torch.zeros_like(level, dtype=torch.bool))
    core = (slice(None), slice(None), slice(20, 25), slice(20, 24))
    expected = torch.asinh(galaxy(22.3, 21.6) / SOFTENING)
    assert (turned[core] - expected[core]).abs().max() < 0.03  # of its logarithm


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_stamp_turned_or_mirrored_changes_alike(turns, mirrored):
    noise = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).double()
    image = galaxy(22.4, 21.8) + point(27.0, 25.0, 80.0) + noise

    def moved(x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NCHW = x_NCHW.rot90(turns, dims=(2, 3))
        return x_NCHW.flip(3) if mirrored else x_NCHW

    torch.testing.assert_close(change(moved(image)), moved(change(image)), rtol=0, atol=1e-6)


def test_noise_is_one_where_there_is_nothing_else():
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(64, 1, SIZE, SIZE, generator=generator).double()
    ratio = 2 * torch.sinh(change(noise))
    # Interpolation takes some of the noise of what is turned.
    assert 0.85 < float(ratio[ratio != 0].std()) < 1.0


def test_bad_pixels_and_their_counterparts_say_nothing():
    image = galaxy(22.0, 22.0) + point(28.0, 22.0, 60.0)
    mask = torch.zeros(image.shape, dtype=torch.uint8)
    mask[..., 28, 22] = 1
    changed = TURNED(image, mask)[0, 1]
    assert changed[28, 22] == changed[16, 22] == 0
    image[..., 28, 22] = torch.nan
    torch.testing.assert_close(TURNED(image, torch.zeros_like(mask))[0, 1], changed)


def test_all_bands_turn_about_one_centre():
    both = torch.cat([galaxy(22.3, 21.6), 0.01 * galaxy(22.3, 21.6)], dim=1)
    level = torch.asinh(both / SOFTENING)
    turned, _ = half_turned(level, torch.zeros_like(level, dtype=torch.bool))
    inner = (slice(None), slice(None), slice(8, 36), slice(8, 36))
    assert (turned - level)[inner].abs().max() < 0.01


@pytest.mark.parametrize("size", [7, 12, 25])
def test_small_stamps_and_even_sides(size):
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    image = 500 * torch.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / 6)[None, None]
    out = change(image)
    assert out.shape == image.shape
    assert out.isfinite().all()
    assert out.abs().max() < 0.1

"""Knots, tails, rings and tracks: as bright as stated, uneven, and the same whoever draws them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lensfinder.simulate import scene
from lensfinder.simulate.artefacts import artefact
from lensfinder.simulate.grid import Columns, FineGrid
from lensfinder.simulate.mocks import Sky
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import draw, draw_conditions, draw_members
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.render import render
from lensfinder.simulate.structure import draw_structure

BANDS = ("g", "r", "i")


def njy(mag: float) -> float:
    return 10 ** (0.4 * (31.4 - mag))


@pytest.mark.parametrize("kind", ["disc", "spiral", "edge_on", "irregular", "merger", "galaxy"])
def test_structure_is_as_bright_as_the_row_says(population: Population, kind: str) -> None:
    for index in range(12):
        row = draw(population, BANDS, 2, index, kind=kind)
        expected = 0.0
        if float(row["knot_count"]) >= 1:
            expected += float(row["knot_fraction"]) * njy(float(row["knot_mag_r"]))
        if kind == "merger":
            expected += njy(float(row["feature_mag_r"]))
        field = draw_structure(population, BANDS, row)
        assert field["flux_njy"][:, 1].sum() == pytest.approx(expected)
        again = draw_structure(population, ("r",), row)
        np.testing.assert_array_equal(again["flux_njy"][:, 0], field["flux_njy"][:, 1])
        np.testing.assert_array_equal(again["x_arcsec"], field["x_arcsec"])
        assert kind != "galaxy" or len(field["x_arcsec"]) == 0


@pytest.mark.parametrize("band", ["g", "VIS", "u", "i"])
def test_members_of_a_group_are_as_much_fainter_in_any_band(
    population: Population, band: str
) -> None:
    """Whether r is among the bands or not."""
    fainter = []
    for bands in ((band,), ("r", band)):
        steps = []
        for index in range(40):
            row = draw(population, bands, 2, index, kind="group")
            flux = draw_members(population, bands, row)["flux_njy"][:, -1]
            steps += (31.4 - 2.5 * np.log10(flux) - float(row[f"mag_bulge_{band}"])).tolist()
        fainter.append(np.median(steps))
    assert fainter[0] == pytest.approx(fainter[1], abs=0.1)


def test_knots_of_a_spiral_lie_on_its_arms(population: Population) -> None:
    row = draw(population, BANDS, 2, 1, kind="spiral")
    row |= {"disc_q": 1.0, "disc_pa_deg": -90.0, "disc_re_arcsec": 1.0, "arm_count": 2.0}
    row |= {"arm_pitch_deg": 20.0, "arm_phase_deg": 40.0, "knot_lopsidedness": 0.0}
    row |= {"knot_count": 60.0, "centre_x_arcsec": 0.0, "centre_y_arcsec": 0.0}
    field = draw_structure(population, BANDS, row)
    x, y = field["x_arcsec"], field["y_arcsec"]
    winding = np.log(np.hypot(x, y)) / math.tan(math.radians(20))
    off = np.cos(2 * (np.arctan2(y, x) - winding - math.radians(40)))
    assert np.median(off) > 0.9


def ring_image(seed: float) -> np.ndarray:
    told = {"dx": 0.0, "ring_radius_arcsec": 2.0, "ring_width_arcsec": 0.3, "ring_q": 1.0}
    told |= {"ring_lopsidedness": 0.0, "ring_knot_contrast": 0.5, "ring_knot_count": 0.0}
    told |= {"ring_pa_deg": 0.0, "ring_phase_deg": 0.0, "ring_seed": seed}
    columns = Columns({k: torch.tensor([v], dtype=torch.float64) for k, v in told.items()})
    axis = (torch.arange(96, dtype=torch.float64) - 48) * 0.1
    zero = torch.zeros(1, dtype=torch.float64)
    return scene.rings(FineGrid(axis, 0.1), columns, zero, zero)[0].numpy()


def test_a_ring_is_uneven_by_its_seed() -> None:
    even, uneven = ring_image(math.nan), ring_image(8.0)
    assert uneven.sum() == pytest.approx(1)
    np.testing.assert_array_equal(uneven, ring_image(8.0))
    np.testing.assert_allclose(even[1:, 1:], even[1:, 1:].T, atol=1e-12)
    assert np.abs(uneven - ring_image(7.0)).sum() > 0.2
    y, x = np.indices(even.shape) - 48
    for image, low, high in ((even, 0.0, 0.02), (uneven, 0.03, 1.0)):
        sector = np.floor((np.arctan2(y, x) + math.pi) / (math.pi / 4)).clip(0, 7)
        radius = [
            (image * np.hypot(x, y))[sector == k].sum() / image[sector == k].sum() for k in range(8)
        ]
        assert low <= np.std(radius) / np.mean(radius) <= high


def test_cosmic_rays_are_in_one_band_and_in_single_pixels(
    population: Population, sky: Sky, observation: Observation
) -> None:
    conditions = (sky.psf_fwhm_arcsec, sky.sky_rms_njy)
    seen = 0
    for index in range(40):
        row = draw(population, BANDS, 2, index, kind="artefact")
        row |= draw_conditions(population, *conditions, 2, index)
        if row["artefact"] != "cosmic_ray":
            continue
        image = artefact(row, observation)
        hit = int(row["artefact_band"])
        assert not image[[k for k in range(3) if k != hit]].any()
        # No blur: most pixels are dark, whatever the length.
        assert np.count_nonzero(image[hit]) < 0.3 * image[hit].size
        assert (image >= 0).all()
        seen += image[hit].any()
    assert seen > 5


def test_clumps_have_colours_of_their_own(
    population: Population, sky: Sky, observation: Observation
) -> None:
    """Flux of the arc in g goes up by the clumps' share of it; r stays."""
    conditions = (sky.psf_fwhm_arcsec, sky.sky_rms_njy)
    row = draw(population, BANDS, 2, 3, kind="lens") | draw_conditions(
        population, *conditions, 2, 3
    )
    row |= {"feature_snr": math.nan, "feature_mag_r": 23.0, "clump_1_fraction": 0.3}
    row |= {"clump_1_x_arcsec": 0.0, "clump_1_y_arcsec": 0.1, "clump_1_sigma_arcsec": 0.06}
    row |= {f"clump_{k}_fraction": math.nan for k in range(2, 6)}
    alone = {name: np.zeros(0) for name in ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q")}
    alone |= {"phi_rad": np.zeros(0), "flux_njy": np.zeros((0, 3))}
    colour = float(row["feature_g_minus_r"])
    plain, bluer = (
        render([row | {"clump_g_minus_r": colour - shift}], [alone], observation)
        for shift in (0.0, 0.5)
    )
    ratio = bluer.feature_NCHW[0].sum(axis=(1, 2)) / plain.feature_NCHW[0].sum(axis=(1, 2))
    assert ratio[1] == pytest.approx(1, abs=1e-6)
    assert 1.05 < ratio[0] < 1 + (10**0.2 - 1)
    step = plain.truth["mag_source_g"] - bluer.truth["mag_source_g"]
    assert step == pytest.approx(2.5 * math.log10(1 + 0.3 * (10**0.2 - 1)), abs=1e-4)

"""Systems that both `simulate` and lenstronomy can render, and how they are said in its words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from lenstronomy.Util.param_util import phi_q2_ellipticity

from lensfinder.simulate import light


def system(rng: np.random.Generator, psf_fwhm_arcsec: dict[str, float]) -> dict[str, Any]:
    """A lens with its light and a source, as a truth row in these bands."""
    row: dict[str, Any] = dict.fromkeys(
        [f"{part}_{name}" for part in ("disc", "partner") for name in ("re_arcsec", "n", "q")]
        + ["disc_pa_deg", "partner_pa_deg", "partner_x_arcsec", "partner_y_arcsec"]
        + [f"mag_{part}_{band}" for part in ("disc", "partner") for band in psf_fwhm_arcsec],
        math.nan,
    )
    beta, azimuth = rng.uniform(0.0, 0.5), rng.uniform(0, 2 * math.pi)
    return row | {
        "kind": "lens",
        "dx": rng.uniform(-0.5, 0.5),
        "dy": rng.uniform(-0.5, 0.5),
        "centre_x_arcsec": 0.0,
        "centre_y_arcsec": 0.0,
        "bulge_re_arcsec": rng.uniform(0.4, 1.0),
        "bulge_n": rng.uniform(1.0, 4.0),
        "bulge_q": rng.uniform(0.5, 1.0),
        "bulge_pa_deg": rng.uniform(0, 180),
        **{f"mag_bulge_{band}": 20.0 for band in psf_fwhm_arcsec},
        "theta_e_arcsec": rng.uniform(0.6, 1.4),
        "q_lens": rng.uniform(0.4, 0.98),
        "pa_lens_deg": rng.uniform(0, 180),
        "shear": rng.uniform(0, 0.1),
        "pa_shear_deg": rng.uniform(0, 180),
        "source_x_arcsec": beta * math.cos(azimuth),
        "source_y_arcsec": beta * math.sin(azimuth),
        "source_re_arcsec": rng.uniform(0.1, 0.4),
        "source_n": rng.uniform(0.6, 2.0),
        "source_q": rng.uniform(0.4, 1.0),
        "source_pa_deg": rng.uniform(0, 180),
        "feature_snr": math.nan,
        "feature_mag_r": 22.0,
        **{f"feature_{band}_minus_r": 0.0 for band in psf_fwhm_arcsec},
        **{f"psf_fwhm_{band}_arcsec": fwhm for band, fwhm in psf_fwhm_arcsec.items()},
        **{f"sky_rms_{band}_njy": 6.0 for band in psf_fwhm_arcsec},
    }


def nothing_nearby(count: int, bands: int) -> list[dict[str, np.ndarray]]:
    """Surroundings without objects."""
    names = ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q", "phi_rad")
    return [
        {**{name: np.zeros(0) for name in names}, "flux_njy": np.zeros((0, bands))}
        for _ in range(count)
    ]


def sersic_kwargs(
    row: dict[str, Any], part: str, mag: float, x: float, y: float
) -> dict[str, float]:
    """Theirs: another b_n, which is the same profile under another r_e, and central brightness."""
    r_e, n, q = (row[f"{part}_{name}"] for name in ("re_arcsec", "n", "q"))
    b, b_theirs = float(light.sersic_b(torch.tensor(n, dtype=torch.float64))), 1.9992 * n - 0.3271
    zero = torch.zeros((), dtype=torch.float64)
    shape = [torch.tensor(v, dtype=torch.float64) for v in (r_e, n, q, 0.0)]
    centre = float(light.sersic(zero, zero, *shape)) * 10 ** (-0.4 * (mag - 31.4))
    e1, e2 = phi_q2_ellipticity(math.radians(row[f"{part}_pa_deg"] + 90), q)
    return {
        "amp": centre * math.exp(-b_theirs),
        "R_sersic": r_e * (b_theirs / b) ** n,
        "n_sersic": n,
        "e1": e1,
        "e2": e2,
        "center_x": x,
        "center_y": y,
    }


def lens_names(row: dict[str, Any]) -> list[str]:
    """Of the mass profiles."""
    return ["EPL" if "lens_slope" in row else "SIE", "SHEAR"]


def model_kwargs(row: dict[str, Any], band: str, pixel_arcsec: float) -> dict[str, Any]:
    """Arguments of `ImageModel.image`; positions from the centre of the central pixel, nJy."""
    x, y = row["dx"] * pixel_arcsec, row["dy"] * pixel_arcsec
    e1, e2 = phi_q2_ellipticity(math.radians(row["pa_lens_deg"] + 90), row["q_lens"])
    lens = {"theta_E": row["theta_e_arcsec"], "e1": e1, "e2": e2, "center_x": x, "center_y": y}
    if "lens_slope" in row:
        lens["gamma"] = row["lens_slope"]
    angle = 2 * math.radians(row["pa_shear_deg"] + 90)
    shear = {
        "gamma1": row["shear"] * math.cos(angle),
        "gamma2": row["shear"] * math.sin(angle),
        "ra_0": x,
        "dec_0": y,
    }
    source = (row["source_x_arcsec"] + x, row["source_y_arcsec"] + y)
    mag_source = row["feature_mag_r"] + row[f"feature_{band}_minus_r"]
    return {
        "kwargs_lens": [lens, shear],
        "kwargs_source": [sersic_kwargs(row, "source", mag_source, *source)],
        "kwargs_lens_light": [sersic_kwargs(row, "bulge", row[f"mag_bulge_{band}"], x, y)],
    }

"""Painting on real galaxies: what is measured on a host, and which hosts may be used for what.

An arc gets the PSF of its host's tile and only its own shot noise, since the sky comes with the
host. Its mass follows the host's measured shape. Whether a host carries positives or negatives is
decided by hash, so that no galaxy is seen both with and without an arc.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from lensfinder.simulate import cosmology
from lensfinder.simulate.families import Row
from lensfinder.simulate.noise import normals
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import draw, generator
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.render import render
from lensfinder.simulate.splits import fraction_of

# Alternative lenses among which the one is taken whose host is nearest in brightness.
_ALTERNATIVES = 16
_MAG_TOLERANCE, _Z_TOLERANCE = 0.3, 0.05
_ARCSEC_PER_RAD = 180 * 3600 / math.pi
_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


class Shape(NamedTuple):
    """Ellipse of a galaxy: axis ratio, and angle of its major axis from +x."""

    q: float
    phi_rad: float


class HostGalaxy(NamedTuple):
    """What is known of a real galaxy that is painted on.

    Attributes
    ----------
    mag : in the reference band; NaN: not known
    z : redshift; NaN: not known
    shape : of its light, which the mass follows with the recipe's scatter
    peak_njy : of a pixel in the reference band, above the sky
    """

    mag: float
    z: float
    shape: Shape
    peak_njy: float


def away_from(
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    known_ra_deg: np.ndarray,
    known_dec_deg: np.ndarray,
    radius_arcsec: float = 5.0,
) -> np.ndarray:
    """Whether each position is farther than `radius_arcsec` from every known lens, (N,) bool."""
    if len(known_ra_deg) == 0:
        return np.ones(len(ra_deg), dtype=bool)
    tree = cKDTree(_unit_vectors(known_ra_deg, known_dec_deg))
    chord, _ = tree.query(_unit_vectors(ra_deg, dec_deg))
    result: np.ndarray = chord > 2 * math.sin(radius_arcsec / _ARCSEC_PER_RAD / 2)
    return result


def _unit_vectors(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def is_positive(host_id: str, positive_fraction: float) -> bool:
    """Whether a host carries lensed sources; it never carries anything else."""
    return fraction_of(f"class/{host_id}") < positive_fraction


def measure_shape(
    image_YX: np.ndarray,
    good_YX: np.ndarray,
    x_pixel: float,
    y_pixel: float,
    *,
    psf_fwhm_pixel: float,
    aperture_sigma_pixel: float,
) -> Shape:
    """Shape of a galaxy from Gaussian-weighted second moments.

    The weight and then the PSF are taken out as if all were Gaussian: M = (M_w^-1 - W^-1)^-1 - P.
    Good enough to lay a mass ellipse over the light; not for weak lensing.

    Parameters
    ----------
    image_YX : sky-subtracted
    good_YX : bool; other pixels don't count
    x_pixel, y_pixel : centre
    psf_fwhm_pixel : as observed
    aperture_sigma_pixel : of the weight

    Returns
    -------
    shape : round where nothing could be measured
    """
    y, x = np.indices(image_YX.shape, dtype=float)
    dx, dy = x - x_pixel, y - y_pixel
    weight = np.exp(-(dx**2 + dy**2) / (2 * aperture_sigma_pixel**2))
    flux = np.where(good_YX, np.nan_to_num(image_YX), 0.0) * weight
    total = flux.sum()
    if total <= 0:
        return Shape(1.0, 0.0)
    xy = (flux * dx * dy).sum()
    weighted = np.array([[(flux * dx**2).sum(), xy], [xy, (flux * dy**2).sum()]]) / total
    if np.linalg.eigvalsh(weighted)[0] <= 0:
        return Shape(1.0, 0.0)
    sharpened = np.linalg.inv(weighted) - np.eye(2) / aperture_sigma_pixel**2
    if np.linalg.eigvalsh(sharpened)[0] <= 0:
        return Shape(1.0, 0.0)
    psf_variance = (psf_fwhm_pixel / _FWHM_PER_SIGMA) ** 2
    variances, axes = np.linalg.eigh(np.linalg.inv(sharpened) - psf_variance * np.eye(2))
    if variances[0] <= 0:
        return Shape(1.0, 0.0)
    return Shape(math.sqrt(variances[0] / variances[1]), math.atan2(axes[1, 1], axes[0, 1]))


def measure_sky(image_CYX: np.ndarray, good_CYX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level and rms of the sky in each band, from the median and MAD of a stamp's outer pixels.

    Returns
    -------
    level_C, rms_C : in the unit of the image; NaN in a band without good outer pixels
    """
    size = image_CYX.shape[-1]
    y, x = np.indices((size, size))
    outer = np.hypot(x - size // 2, y - size // 2) > 0.4 * size
    level_C = np.full(len(image_CYX), math.nan)
    rms_C = np.full(len(image_CYX), math.nan)
    for band, (image, good) in enumerate(zip(image_CYX, good_CYX, strict=True)):
        sky = image[outer & good & np.isfinite(image)]
        if len(sky):
            level_C[band] = np.median(sky)
            rms_C[band] = 1.4826 * np.median(np.abs(sky - level_C[band]))
    return level_C, rms_C


def draw_on_host(
    population: Population,
    bands: tuple[str, ...],
    reference_band: str,
    seed: int,
    index: int,
    *,
    positive: bool,
    host: HostGalaxy,
) -> Row:
    """Truth row of a mock on a real host: its own light is left out.

    Of several draws the one is taken whose modelled host is nearest to the real one in brightness
    and, where it is known, redshift, so that Einstein radius and light agree as they do in the
    recipe. Where the redshift is known the Einstein radius follows from it and the drawn velocity
    dispersion. Negatives take the same steps; what is painted on them is not lensed.

    Parameters
    ----------
    host : what is known of the galaxy

    Returns
    -------
    row : a lens; or companions or nothing, as often as the recipe has companions among early types
    """
    weights, rules = population.negatives, population.hosts
    beside, alone = weights.get("companions", 0.0), weights.get("galaxy", 0.0)
    chance = beside / (beside + alone) if beside + alone > 0 else 0.5
    kind = "galaxy"
    if positive:
        kind = "lens"
    elif generator(seed, 5, index).random() < chance:
        kind = "companions"
    known = math.isfinite(host.mag) or math.isfinite(host.z)
    follow = rules.theta_e == "of_host" and known
    rows = [
        draw(population, bands, seed, index, kind=kind, attempt=k)
        for k in range(_ALTERNATIVES if follow else 1)
    ]
    row = min(rows, key=lambda one: _unlikeness(one, host, reference_band))
    if positive:
        if follow and 0 < host.z < float(row["z_source"]):
            row["z_lens"] = row["z_galaxy"] = host.z
            sigma_v, z_source = float(row["sigma_v_km_s"]), float(row["z_source"])
            _rescale(row, cosmology.theta_e_arcsec(sigma_v, host.z, z_source))
        if rules.shape == "of_host":
            _turn_to(row, host.shape)
    # A host whose core is masked has no peak to go by.
    if rules.peak_ratio is not None and kind != "galaxy" and host.peak_njy > 0:
        ratio = rules.peak_ratio.sample(generator(seed, 11, index))
        row["feature_peak_ratio"], row["feature_peak_njy"] = ratio, ratio * host.peak_njy
    for band in bands:
        row[f"mag_{band}"] = math.nan
        for part in ("bulge", "disc", "partner"):
            row[f"mag_{part}_{band}"] = math.nan
    row["centre_x_arcsec"] = row["centre_y_arcsec"] = 0.0
    return row


def _unlikeness(row: Row, host: HostGalaxy, reference_band: str) -> float:
    """How far a modelled galaxy is from a host, in scatters of what is known of it."""
    in_mag = (float(row[f"mag_{reference_band}"]) - host.mag) / _MAG_TOLERANCE
    in_z = (float(row["z_galaxy"]) - host.z) / (_Z_TOLERANCE * (1 + host.z))
    return math.hypot(*(step for step in (in_mag, in_z) if math.isfinite(step)))


def _rescale(row: Row, theta_e_arcsec: float) -> None:
    """Give a lens another Einstein radius; the source keeps its place in units of it."""
    factor = theta_e_arcsec / float(row["theta_e_arcsec"])
    row["theta_e_arcsec"] = theta_e_arcsec
    row["source_x_arcsec"] = float(row["source_x_arcsec"]) * factor
    row["source_y_arcsec"] = float(row["source_y_arcsec"]) * factor


def _turn_to(row: Row, shape: Shape) -> None:
    """Give the mass the host's shape instead of the drawn light's, keeping the scatter between.

    The source turns with the mass, and stays inside the cut as far as the new axis ratio lets it.
    """
    q_offset = float(row["q_lens"]) - float(row["bulge_q"])
    pa_offset = float(row["pa_lens_deg"]) - float(row["bulge_pa_deg"])
    pa_host = math.degrees(shape.phi_rad) - 90
    turn = math.radians(pa_host + pa_offset - float(row["pa_lens_deg"]))
    row["q_lens"] = min(max(shape.q + q_offset, 0.4), 1.0)
    row["pa_lens_deg"] = (pa_host + pa_offset) % 180
    x, y = float(row["source_x_arcsec"]), float(row["source_y_arcsec"])
    row["source_x_arcsec"] = x * math.cos(turn) - y * math.sin(turn)
    row["source_y_arcsec"] = x * math.sin(turn) + y * math.cos(turn)


def paint(
    host_NCHW: np.ndarray,
    rows: Sequence[Row],
    observation: Observation,
    generators: Sequence[np.random.Generator],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Add features to a chunk of real hosts.

    Parameters
    ----------
    host_NCHW : nJy; pixels without data stay NaN
    rows : of `draw_on_host`, with the host's conditions and its dx, dy
    generators : one for each row, for the feature's own shot noise

    Returns
    -------
    image_NCHW : float32, nJy
    truth : as in `render.Rendered`
    """
    alone = {
        name: np.zeros(0) for name in ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q", "phi_rad")
    }
    alone["flux_njy"] = np.zeros((0, len(observation.bands)))
    rendered = render(rows, [alone] * len(rows), observation)
    feature_NCHW, truth = rendered.feature_NCHW, dict(rendered.truth)
    _set_peaks(feature_NCHW, truth, rows, observation)
    image_NCHW = host_NCHW + feature_NCHW
    if observation.electrons_per_njy is not None:
        gain = np.array(observation.electrons_per_njy, dtype=np.float32)[:, None, None]
        for k, rng in enumerate(generators):
            sigma = np.sqrt(np.maximum(feature_NCHW[k], 0) / gain)
            image_NCHW[k] += sigma * normals(rng, sigma.shape)
    return image_NCHW.astype(np.float32), truth


def _set_peaks(
    feature_NCHW: np.ndarray,
    truth: dict[str, np.ndarray],
    rows: Sequence[Row],
    observation: Observation,
) -> None:
    """Scale features, in place, whose peak in the reference band is told."""
    c = observation.bands.index(observation.reference_band)
    for k, row in enumerate(rows):
        wanted, peak = float(row["feature_peak_njy"]), float(feature_NCHW[k, c].max())
        if math.isfinite(wanted) and peak > 0:
            factor = wanted / peak
            feature_NCHW[k] *= np.float32(factor)
            truth["source_snr"][k] *= factor
            for band in observation.bands:
                truth[f"mag_source_{band}"][k] -= 2.5 * math.log10(factor)

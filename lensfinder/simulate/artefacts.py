"""What stands in an image without being on the sky: spikes of a star, trails, cosmic rays.

They are laid over the rendered stamp, pixel by pixel. All are the same whoever draws them: what a
truth row leaves open follows from its `surroundings_seed`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lensfinder.simulate.families import Row
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import generator

Floats = npt.NDArray[np.floating[Any]]

_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_ZERO_POINT_NJY = 31.4
# Of a star's light: how much goes into each of four spikes, and over what length it falls.
_SPIKE_SHARE, _SPIKE_LENGTH_ARCSEC = 0.004, 3.0
# Wings of bright stars are wider than those of the PSF of faint ones.
_STAR_MOFFAT_BETA = 2.2
# A cosmic ray never passed the telescope: sharper than any PSF.
_COSMIC_RAY_SIGMA_PIXELS = 0.55


def artefact(row: Row, observation: Observation) -> npt.NDArray[np.float32]:
    """Light of a row's artefact in each band, (C, H, W), nJy; nothing where it has none."""
    size, scale = observation.size, observation.pixel_scale_arcsec
    image = np.zeros((len(observation.bands), size, size))
    what = row.get("artefact", "")
    if what not in _DRAW:
        return image.astype(np.float32)
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = axis[None, :] * scale, axis[:, None] * scale
    _DRAW[str(what)](image, x, y, row, observation)
    return image.astype(np.float32)


def _spikes(image: Floats, x: Floats, y: Floats, row: Row, observation: Observation) -> None:
    azimuth = math.radians(float(row["artefact_azimuth_deg"]))
    distance = float(row["artefact_distance_arcsec"])
    dx, dy = x - distance * math.cos(azimuth), y - distance * math.sin(azimuth)
    r2, pixel_area = dx**2 + dy**2, observation.pixel_scale_arcsec**2
    for k, band in enumerate(observation.bands):
        flux = 10 ** (0.4 * (_ZERO_POINT_NJY - float(row[f"mag_artefact_{band}"])))
        fwhm = float(row[f"psf_fwhm_{band}_arcsec"])
        beta = _STAR_MOFFAT_BETA
        a2 = fwhm**2 / (4 * (2 ** (1 / beta) - 1))
        image[k] += flux * pixel_area * (beta - 1) / (math.pi * a2) * (1 + r2 / a2) ** -beta
        sigma = fwhm / _FWHM_PER_SIGMA
        for turn in range(4):
            angle = math.radians(float(row["artefact_pa_deg"]) + 90 * turn)
            along = dx * math.cos(angle) + dy * math.sin(angle)
            across = dy * math.cos(angle) - dx * math.sin(angle)
            # Falls as the square beyond its length, and starts outside the core.
            fall = (1 + np.maximum(along, 0) / _SPIKE_LENGTH_ARCSEC) ** -2 / _SPIKE_LENGTH_ARCSEC
            profile = np.exp(-0.5 * (across / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
            image[k] += np.where(along > 0, _SPIKE_SHARE * flux * pixel_area * fall * profile, 0)


def _trail(image: Floats, x: Floats, y: Floats, row: Row, observation: Observation) -> None:
    k = int(row["artefact_band"])
    band = observation.bands[k]
    azimuth = math.radians(float(row["artefact_azimuth_deg"]))
    across = x * math.cos(azimuth) + y * math.sin(azimuth) - float(row["artefact_distance_arcsec"])
    sigma = float(row[f"psf_fwhm_{band}_arcsec"]) / _FWHM_PER_SIGMA
    ridge = float(row["artefact_snr"]) * float(row[f"sky_rms_{band}_njy"])
    image[k] += ridge * np.exp(-0.5 * (across / sigma) ** 2)


def _cosmic_ray(image: Floats, x: Floats, y: Floats, row: Row, observation: Observation) -> None:
    k, scale = int(row["artefact_band"]), observation.pixel_scale_arcsec
    rng = generator(int(row["surroundings_seed"]), 9)
    peak = float(row["artefact_snr"]) * float(row[f"sky_rms_{observation.bands[k]}_njy"])
    reach = observation.size // 2
    for _ in range(round(float(row["artefact_count"]))):
        # Some pass close to the galaxy: those are the ones that matter.
        cx, cy = rng.normal(0, reach / 2.5, 2)
        angle = rng.uniform(0, 2 * math.pi)
        half = float(row["artefact_length_pixels"]) * rng.uniform(0.3, 1.5) / 2
        dx, dy = x / scale - cx, y / scale - cy
        along = dx * math.cos(angle) + dy * math.sin(angle)
        across = dy * math.cos(angle) - dx * math.sin(angle)
        beyond = np.maximum(np.abs(along) - half, 0)
        distance2 = across**2 + beyond**2
        # Charge is left unevenly along the track.
        uneven = 1 + 0.4 * np.sin(along * rng.uniform(0.5, 2) + rng.uniform(0, 6))
        image[k] += (
            peak
            * rng.uniform(0.4, 1)
            * uneven
            * np.exp(-0.5 * distance2 / _COSMIC_RAY_SIGMA_PIXELS**2)
        )


_DRAW = {"spikes": _spikes, "trail": _trail, "cosmic_ray": _cosmic_ray}

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
# Of cosmic rays, how many branch; and of the points of a track, how many spill charge aside.
_BRANCHING, _SPILLING = 0.3, 0.35


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
    k, size = int(row["artefact_band"]), observation.size
    rng = generator(int(row["surroundings_seed"]), 9)
    peak = float(row["artefact_snr"]) * float(row[f"sky_rms_{observation.bands[k]}_njy"])
    bend = math.radians(float(np.nan_to_num(float(row["artefact_bend_deg"]))))
    charge = np.zeros((size, size))
    for _ in range(round(float(row["artefact_count"]))):
        # Some pass close to the galaxy: those are the ones that matter.
        start = size // 2 + rng.normal(0, size / 5, 2)
        length = float(row["artefact_length_pixels"]) * rng.uniform(0.3, 1.5)
        strength = peak * rng.uniform(0.4, 1)
        track = _track(rng, start, rng.uniform(0, 2 * math.pi), length, bend)
        _deposit(charge, track, strength, rng)
        if rng.random() < _BRANCHING:
            at = int(rng.integers(len(track)))
            aside = rng.uniform(0, 2 * math.pi)
            branch = _track(rng, track[at], aside, 0.5 * length, 2 * bend)
            _deposit(charge, branch, 0.6 * strength, rng)
    image[k] += charge


def _track(
    rng: np.random.Generator, start: Floats, angle: float, length: float, bend: float
) -> Floats:
    """Column and row of points along a particle's way, half a pixel apart, (K, 2)."""
    count = max(round(2 * length), 1)
    # It is scattered on its way, mostly to one side.
    turns = np.cumsum(bend / 2 + abs(bend) * rng.normal(0, 0.7, count))
    steps = np.stack([np.cos(angle + turns), np.sin(angle + turns)], axis=1) / 2
    track: Floats = start + np.cumsum(steps, axis=0)
    return track


def _deposit(charge: Floats, track: Floats, strength: float, rng: np.random.Generator) -> None:
    """Charge of a track, in place: in single pixels, as no telescope has blurred it."""
    size, count = len(charge), len(track)
    left = strength * np.exp(rng.normal(0, 0.35, count))
    # Charge spills over into a neighbour here and there.
    spilt = left * np.where(rng.random(count) < _SPILLING, rng.uniform(0.2, 0.9, count), 0.0)
    to = rng.integers(-1, 2, (count, 2))
    for places, amounts in ((track, left), (track + to, spilt)):
        i, j = np.rint(places).astype(int).T
        on = (i >= 0) & (i < size) & (j >= 0) & (j < size)
        np.maximum.at(charge, (j[on], i[on]), amounts[on])


_DRAW = {"spikes": _spikes, "trail": _trail, "cosmic_ray": _cosmic_ray}

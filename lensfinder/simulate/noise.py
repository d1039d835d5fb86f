"""Noise of a stamp: Gaussian or Poisson, white, correlated or cut from real sky; bad pixels.

Everything here is drawn from the object's own generator, so that it depends on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage

from lensfinder.schema import MASK_BAD, MASK_NO_DATA

LONGEST_CORRELATION_PIXELS = 10.0

NoiseKind = Literal["gaussian", "poisson"]
# Gives standard normal numbers of any shape, float32.
Normals = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Noise:
    """What a survey's noise is like; how strong it is in one mock stands in that mock's row.

    Attributes
    ----------
    kind : of the object's own photons, where there is a gain. 'gaussian' draws sky and photons as
        one normal number of their joint variance; 'poisson' draws the photons of object and sky
        exactly, at some ten times the cost
    correlation_pixels : length L over which the sky's noise is correlated, as resampling leaves it:
        exp(-r^2 / (2 L^2)); the variance of a pixel stays what it was. 0: white. Real sky is as
        correlated as it is
    sky_patches_PCYX : pieces of real, empty, sky-subtracted sky, nJy, at least as large as a
        stamp: each mock takes one at random, turned and flipped at random, scaled to its own
        sky_rms, in place of drawn sky noise. None: the sky is drawn
    bad_pixel_fraction : share of single pixels that are dead; they read zero
    bad_columns : mean number of dead columns in a stamp's band
    off_edge_fraction : share of stamps that reach beyond the edge of their tile
    """

    kind: NoiseKind = "gaussian"
    correlation_pixels: float = 0.0
    sky_patches_PCYX: np.ndarray | None = None
    bad_pixel_fraction: float = 0.0
    bad_columns: float = 0.0
    off_edge_fraction: float = 0.0

    @property
    def spoils(self) -> bool:
        """Whether any pixel may be bad or missing."""
        return bool(self.bad_pixel_fraction or self.bad_columns or self.off_edge_fraction)

    def __post_init__(self) -> None:
        patches = self.sky_patches_PCYX
        if not 0 <= self.correlation_pixels <= LONGEST_CORRELATION_PIXELS:
            raise ValueError(
                f"correlation_pixels is {self.correlation_pixels}; expected 0 to "
                f"{LONGEST_CORRELATION_PIXELS:g}"
            )
        if patches is not None and (patches.ndim != 4 or not np.isfinite(patches).all()):
            raise ValueError(
                f"sky patches are {patches.shape}; expected (patches, bands, y, x) without NaN"
            )
        if not 0 <= self.off_edge_fraction <= 1:
            raise ValueError(
                f"off_edge_fraction is {self.off_edge_fraction}; expected a share of 0 to 1"
            )
        if not 0 <= self.bad_pixel_fraction < 1 or self.bad_columns < 0:
            raise ValueError(
                f"bad_pixel_fraction is {self.bad_pixel_fraction}, bad_columns "
                f"{self.bad_columns}; expected a share below 1 and a mean of at least 0"
            )


def normals(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of any shape, float32, none beyond 6.8.

    Box & Muller 1958 (Ann. Math. Stat. 29, 610) on whole arrays: three times as fast as the
    generator's own method, which draws one number after another.
    """
    count = math.prod(shape)
    pairs = -(-count // 2)
    bits = rng.integers(-(2**63), 2**63, size=pairs, dtype=np.int64).view(np.int32)
    # Evenly from -1/2 to 1/2.
    uniform = torch.from_numpy(bits.reshape(2, pairs)).to(torch.float32).mul_(2.0**-32)
    radius = uniform[0].add_(0.5).clamp_(min=2.0**-33).log_().mul_(-2).sqrt_()
    angle = uniform[1].mul_(2 * math.pi)
    both = torch.stack([torch.cos(angle), torch.sin(angle)]).mul_(radius)
    result: np.ndarray = both.view(-1)[:count].view(shape).numpy()
    return result


def add_noise(
    rng: np.random.Generator,
    image_CYX: np.ndarray,
    sky_rms_njy_C: np.ndarray,
    electrons_per_njy_C: np.ndarray | None = None,
    noise: Noise = Noise(),
    draw: Normals = normals,
) -> np.ndarray:
    """A noisy image.

    Parameters
    ----------
    rng : of the object
    image_CYX : noiseless object flux, nJy
    sky_rms_njy_C : standard deviation of a sky pixel in each band, nJy
    electrons_per_njy_C : photo-electrons a nJy in the whole exposure; None: sky dominated
    draw : what gives normal numbers

    Returns
    -------
    image_CYX : float32, nJy, sky-subtracted, of variance
        sky_rms**2 + max(image, 0) / electrons_per_njy

    Raises
    ------
    ValueError
        if Poisson noise is asked for without a gain
    """
    sky_rms = np.asarray(sky_rms_njy_C, dtype=np.float32)[:, None, None]
    white = not noise.correlation_pixels and noise.sky_patches_PCYX is None
    if noise.kind == "gaussian" and white:
        noisy: np.ndarray = gaussian(rng, image_CYX, sky_rms_njy_C, electrons_per_njy_C, draw)
        noisy += image_CYX
        return noisy
    gain = None
    if electrons_per_njy_C is not None:
        gain = np.asarray(electrons_per_njy_C, dtype=np.float64)[:, None, None]
    if noise.kind == "poisson":
        if gain is None:
            raise ValueError("Poisson noise needs the photo-electrons a nJy; none are given")
        # A sky as bright as makes its photons' noise sky_rms; read noise counts as sky.
        sky = (sky_rms * gain) ** 2 if white else np.zeros_like(gain)
        expected = np.maximum(image_CYX, 0) * gain + sky
        result = (rng.poisson(expected) - sky) / gain + np.minimum(image_CYX, 0)
    elif gain is None:
        result = image_CYX
    else:
        sigma = np.sqrt(np.maximum(image_CYX, 0) / gain)
        result = image_CYX + sigma * draw(rng, image_CYX.shape)
    if not white:
        result = result + sky_rms * _sky(rng, noise, image_CYX.shape, draw)
    return np.asarray(result, dtype=np.float32)


def gaussian(
    rng: np.random.Generator,
    image_CYX: np.ndarray,
    sky_rms_njy_C: np.ndarray,
    electrons_per_njy_C: np.ndarray | None = None,
    draw: Normals = normals,
) -> np.ndarray:
    """White Gaussian noise of the sky and, where a gain is given, of the object's own photons.

    Parameters as in `add_noise`; returns the noise alone, float32, nJy.
    """
    unit = draw(rng, image_CYX.shape)
    sky_rms = np.asarray(sky_rms_njy_C, dtype=np.float32)[:, None, None]
    if electrons_per_njy_C is None:
        unit *= sky_rms
        return unit
    sigma = np.maximum(image_CYX, 0, dtype=np.float32)
    sigma /= np.asarray(electrons_per_njy_C, dtype=np.float32)[:, None, None]
    sigma += sky_rms**2
    unit *= np.sqrt(sigma, out=sigma)
    return unit


def _sky(
    rng: np.random.Generator, noise: Noise, shape: tuple[int, ...], draw: Normals
) -> np.ndarray:
    """Sky noise of unit variance: correlated, or cut from real sky."""
    _, height, width = shape
    patches = noise.sky_patches_PCYX
    if patches is None:
        return _correlated(rng, shape, noise.correlation_pixels, draw)
    if patches.shape[1] != shape[0] or patches.shape[2] < height or patches.shape[3] < width:
        raise ValueError(
            f"sky patches are {patches.shape}; expected {shape[0]} bands of at least "
            f"{height} x {width} pixels"
        )
    patch = patches[rng.integers(len(patches))]
    top = rng.integers(patch.shape[1] - height + 1)
    left = rng.integers(patch.shape[2] - width + 1)
    cut = patch[:, top : top + height, left : left + width]
    if height == width:
        cut = np.rot90(cut, int(rng.integers(4)), axes=(1, 2))
    cut = cut[:, :, ::-1] if rng.integers(2) else cut
    scale = 1.4826 * np.median(np.abs(cut - np.median(cut, (1, 2), keepdims=True)), axis=(1, 2))
    unit_rms: np.ndarray = cut / np.where(scale > 0, scale, 1.0)[:, None, None]
    return unit_rms


def _correlated(
    rng: np.random.Generator, shape: tuple[int, ...], length_pixel: float, draw: Normals = normals
) -> np.ndarray:
    """Noise of unit variance whose correlation falls as exp(-r^2 / (2 length^2)).

    White noise convolved with a Gaussian of standard deviation s has a Gaussian autocorrelation of
    standard deviation s sqrt(2).
    """
    sigma = length_pixel / math.sqrt(2)
    reach = max(1, math.ceil(4 * sigma))
    axis: np.ndarray = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    axis /= np.sqrt((axis**2).sum())
    # Drawn wider by the kernel's reach, so that the edge is like the rest.
    result = draw(rng, (shape[0], *(side + 2 * reach for side in shape[1:])))
    for along in (1, 2):
        result = ndimage.correlate1d(result, axis, axis=along, mode="constant")
    inside: np.ndarray = result[:, reach:-reach, reach:-reach]
    return inside


def spoil(
    rng: np.random.Generator, image_CYX: np.ndarray, noise: Noise
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that don't work, and those beyond a tile's edge.

    Dead ones read zero and are marked bad. The edge runs along rows or columns, the same in all
    bands, between a tenth of the half side and the whole of it from the centre; NaN lies beyond.

    Parameters
    ----------
    rng : of the object
    image_CYX : nJy

    Returns
    -------
    image_CYX, mask_CYX : the mask with MASK_BAD or MASK_NO_DATA of `schema`
    """
    dead = np.zeros(image_CYX.shape, dtype=bool)
    if noise.bad_pixel_fraction > 0:
        dead |= rng.random(image_CYX.shape) < noise.bad_pixel_fraction
    if noise.bad_columns > 0:
        for band in dead:
            columns = rng.integers(band.shape[1], size=rng.poisson(noise.bad_columns))
            band[:, columns] = True
    mask = dead * np.uint8(MASK_BAD)
    image = np.where(dead, np.float32(0), image_CYX).astype(np.float32)
    if rng.random() < noise.off_edge_fraction:
        side, half = int(rng.integers(4)), image.shape[-1] // 2
        kept = half + 1 + round(half * rng.uniform(0.1, 1.0))
        # Turned until the side that ends is the right one.
        for plane, empty in ((image, np.nan), (mask, MASK_NO_DATA)):
            np.rot90(plane, side, axes=(1, 2))[:, :, kept:] = empty
    return image, mask

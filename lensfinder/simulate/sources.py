"""Images of real galaxies as sources: cleaned stamps, and their light between pixels.

A stamp is cleaned once: its sky level is taken off, what does not belong to the object at its
centre is faded out, and noise around it is set to zero (`clean`). Its brightness anywhere in the
source plane follows by bilinear interpolation of its pixels, which keeps its flux exactly: the
interpolated image integrates to the sum of the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

# Light fainter than this many times the noise, in a stamp smoothed by _SMOOTHING_PIXELS, is noise.
_THRESHOLD_SIGMA = 3.0
_SMOOTHING_PIXELS = 2.0
# From the first S/N (in the smoothed stamp) on its own pixels are mixed in, from the second on they
# stand alone: what is fainter would only be noise, which lensing magnifies.
_TRUSTED_FROM, _TRUSTED_FULLY = 5.0, 30.0
# Pixels over which the edge of an object is faded to zero.
_FADE_PIXELS = 3.0


def clean(image_YX: np.ndarray) -> np.ndarray:
    """A galaxy without its sky, its neighbours and the noise about it, of unit flux.

    The level and noise of the sky are the median and MAD of the outermost frame. Kept is what is
    connected to the brightest smoothed pixel within the middle half, above three times the noise of
    the smoothed image (Gaussian of 2 pixels); its edge is faded over three pixels. Where the galaxy
    is faint, from a S/N of 30 down to 5, its pixels give way to smoothed ones.

    Parameters
    ----------
    image_YX : any unit, the galaxy near its centre; at least 8 pixels a side

    Raises
    ------
    ValueError
        if it is too small, holds NaN, or nothing stands out of its noise
    """
    image = np.asarray(image_YX, dtype=np.float64)
    if image.ndim != 2 or min(image.shape) < 8:
        raise ValueError(f"source image is {image.shape}; expected at least 8 x 8 pixels")
    if not np.isfinite(image).all():
        raise ValueError(
            "source image holds NaN or infinity; expected finite values: fill gaps first"
        )
    frame = np.concatenate([image[:2].ravel(), image[-2:].ravel(), *image[2:-2, [0, 1, -2, -1]].T])
    level = np.median(frame)
    noise = 1.4826 * np.median(np.abs(frame - level))
    smooth = ndimage.gaussian_filter(image - level, _SMOOTHING_PIXELS)
    smooth_noise = noise / (2 * np.sqrt(np.pi) * _SMOOTHING_PIXELS)
    height, width = image.shape
    middle = np.zeros(image.shape, dtype=bool)
    middle[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    peak = np.unravel_index(np.argmax(np.where(middle, smooth, -np.inf)), image.shape)
    labels, _ = ndimage.label(smooth > _THRESHOLD_SIGMA * smooth_noise)
    if labels[peak] == 0 or smooth[peak] <= 0:
        raise ValueError(
            "source image has nothing near its centre above its noise; expected a galaxy "
            "there, with some sky about it"
        )
    trust = (smooth / max(smooth_noise, 1e-30) - _TRUSTED_FROM) / (_TRUSTED_FULLY - _TRUSTED_FROM)
    mixed = smooth + np.clip(trust, 0, 1) * (image - level - smooth)
    own = labels == labels[peak]
    weight = np.clip(1 - ndimage.distance_transform_edt(~own) / _FADE_PIXELS, 0, 1)
    # The last row and column must be dark, or the image would end in an edge.
    weight[[0, -1], :] = weight[:, [0, -1]] = 0
    kept = mixed * weight
    total = kept.sum()
    if total <= 0:
        raise ValueError("source image has no positive flux; expected a galaxy")
    result: np.ndarray = kept / total
    return result


@dataclass(frozen=True)
class SourceImages:
    """Source galaxies of unit flux, padded to one size.

    Attributes
    ----------
    images_SYX : (S, k, k) share of the flux in each pixel
    names : of each, for `source_id`
    pixel_arcsec : (S,) native pixel
    """

    images_SYX: np.ndarray
    names: tuple[str, ...]
    pixel_arcsec: np.ndarray

    def __len__(self) -> int:
        return len(self.images_SYX)

    @classmethod
    def of(
        cls, images: Sequence[np.ndarray], names: Sequence[str], pixel_arcsec: Sequence[float]
    ) -> SourceImages:
        """Clean stamps of any size and put each, by its centroid, into the middle of a square.

        Raises
        ------
        ValueError
            with the names of all that can't be used
        """
        cleaned, wrong = [], []
        for name, image in zip(names, images, strict=True):
            try:
                cleaned.append(clean(image))
            except ValueError as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        size = 2 * max(max(image.shape) for image in cleaned) + 2
        stack = np.zeros((len(cleaned), size, size))
        for k, image in enumerate(cleaned):
            row, column = (round(float(c)) for c in ndimage.center_of_mass(image))
            top, left = size // 2 - row, size // 2 - column
            stack[k, top : top + image.shape[0], left : left + image.shape[1]] = image
        used = np.flatnonzero(stack.any(axis=(0, 1)) | stack.any(axis=(0, 2)))
        margin = int(min(used[0], size - 1 - used[-1])) - 1
        trimmed = stack[:, margin : size - margin, margin : size - margin]
        return cls(trimmed, tuple(names), np.array(pixel_arcsec, dtype=np.float64))

    def radius_pixel(self) -> np.ndarray:
        """Radius of the circle about the middle that holds all light, pixels, (S,)."""
        size = self.images_SYX.shape[-1]
        axis = np.arange(size) - size // 2
        distance = np.hypot(axis[:, None], axis[None, :])
        # Interpolation carries light one pixel further, along either axis.
        return np.array(
            [distance[image != 0].max() + 1.5 for image in self.images_SYX], dtype=np.float64
        )

    def half_light_radius_arcsec(self) -> np.ndarray:
        """Radius of the circle about each centroid that holds half of the flux, (S,)."""
        size = self.images_SYX.shape[-1]
        y, x = np.indices((size, size))
        radii = []
        for image, pixel in zip(self.images_SYX, self.pixel_arcsec, strict=True):
            centre_y, centre_x = ndimage.center_of_mass(image)
            radius = np.hypot(x - centre_x, y - centre_y).ravel()
            order = np.argsort(radius)
            grown = np.cumsum(image.ravel()[order])
            radii.append(float(radius[order][np.searchsorted(grown, 0.5)]) * float(pixel))
        return np.array(radii)


def brightness(
    images_SYX: Tensor, which: Tensor, bx: Tensor, by: Tensor, pixel_arcsec: Tensor, phi_rad: Tensor
) -> Tensor:
    """Surface brightness of source images, arcsec**-2; zero outside of them.

    Parameters
    ----------
    images_SYX : of `SourceImages`
    which : index of the image, an integer tensor; broadcasts against bx and by
    bx, by : source-plane position relative to the middle of the image, arcsec
    pixel_arcsec : side of a pixel as it is placed behind the lens
    phi_rad : by which the image is turned counter-clockwise
    """
    size = images_SYX.shape[-1]
    cos, sin = torch.cos(phi_rad), torch.sin(phi_rad)
    u = (cos * bx + sin * by) / pixel_arcsec + size // 2
    v = (cos * by - sin * bx) / pixel_arcsec + size // 2
    inside = (u >= 0) & (u < size - 1) & (v >= 0) & (v < size - 1)
    # Points outside read pixel 0, and count as nothing.
    u, v = torch.where(inside, u, 0.0), torch.where(inside, v, 0.0)
    i, j = torch.floor(u), torch.floor(v)
    fu, fv = u - i, v - j
    at = which * (size * size) + j.long() * size + i.long()
    flat = images_SYX.reshape(-1)
    low = flat[at] * (1 - fu) + flat[at + 1] * fu
    high = flat[at + size] * (1 - fu) + flat[at + size + 1] * fu
    value = low * (1 - fv) + high * fv
    return torch.where(inside, value, 0.0) / pixel_arcsec**2

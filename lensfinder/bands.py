"""The pixels of one band: stored numbers to nJy, mask bits and variance.

Image, noise and mask are read together, so that no plane is read twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, stamps
from lensfinder.errors import UnitError
from lensfinder.planes import Plane
from lensfinder.survey import NOISE_KINDS, Bits, Survey

# Nothing from here on has bits in an int64.
_MOST_BITS = 2.0**63
# What float32 can't hold is damage, and becomes no data; a signalling NaN is one.
_as_damage = np.errstate(over="ignore", under="ignore", invalid="ignore")


@dataclass(frozen=True)
class Pixels:
    """Pixels of a window or of many stamps.

    Attributes
    ----------
    flux : (..., Y, X) float32, nJy, NaN without data
    mask : (..., Y, X) uint8, bits of `schema`
    variance : (..., Y, X) float32, nJy^2, or None if not asked for
    """

    flux: NDArray[np.float32]
    mask: NDArray[np.uint8]
    variance: NDArray[np.float32] | None = None


class BandPixels:
    """One band of an open tile, sliced as ``pixels[y0:y1, x0:x1]``.

    Parameters
    ----------
    planes : mapping of kind to Plane
        Empty for a band that is missing: all its pixels are without data.
    survey : Survey
    band : str
    shape_YX : (int, int)

    Raises
    ------
    UnitError
        If there is no zero point, the unit is not the survey's, or the mask lacks a bit's name.
    """

    def __init__(
        self, planes: Mapping[str, Plane], survey: Survey, band: str, shape_YX: tuple[int, int]
    ) -> None:
        self.shape, self.band = shape_YX, band
        self._rules = survey.mask
        self._image, self._stored = planes.get("image"), planes.get("mask")
        self._noise_kind = next((kind for kind in NOISE_KINDS if kind in planes), None)
        self._noise = planes[self._noise_kind] if self._noise_kind else None
        self._njy = 1.0 if self._image is None else _njy_factor(self._image, survey, band)
        self._spoiling = [] if self._stored is None else _spoiling(self._stored, survey, band)
        self._saturation = math.inf
        card = survey.mask.saturation_card
        if self._image is not None and card is not None and self._image.card(card) is not None:
            level = self._image.number(card, "no_saturation_level")
            self._saturation = level if level > 0 else math.inf  # 0 where nobody knew it

    @_as_damage
    def __getitem__(self, index: tuple[slice, slice]) -> Pixels:
        if self._image is None:
            shape = np.empty(self.shape, np.bool_)[index].shape
            return self._convert(np.full(shape, np.nan, np.float32), None, None)
        return self._convert(
            np.array(self._image[index], self._dtype()),
            None if self._noise is None else self._noise[index],
            None if self._stored is None else self._stored[index],
        )

    @property
    def only_fluxes(self) -> bool:
        """Whether nothing but its own value can spoil a pixel: no noise, no mask, no rule."""
        return (
            self._image is not None
            and self._image.exact_in_float32
            and self._noise is None
            and self._stored is None
            and self._saturation == math.inf
            and self._rules.no_data_value is None
        )

    def fluxes(self, ix: NDArray[np.int64], iy: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Cut stamps that lie inside, where there are `only_fluxes`, into `out` (N, size, size).

        Of numbers beyond float32's numpy warns, unless it is told not to: that is the caller's.
        """
        assert self._image is not None
        pixels, size = self._image.mapped, out.shape[-1]
        left, bottom = (ix - size // 2).tolist(), (iy - size // 2).tolist()
        for k, (x, y) in enumerate(zip(left, bottom, strict=True)):
            out[k] = pixels[y : y + size, x : x + size]
        if self._njy != 1:
            np.multiply(out, np.float32(self._njy), out=out)

    @_as_damage
    def stamps(self, ix: NDArray[np.int64], iy: NDArray[np.int64], out: Pixels) -> None:
        """Cut stamps into `out`, NaN and masked outside the tile.

        Parameters
        ----------
        ix, iy : (N,) int64
            Central pixels, in row order.
        out : Pixels
            (N, size, size); variance if wanted.
        """
        size = out.flux.shape[-1]

        def cut(plane: Plane, fill: float, dtype: Any) -> NDArray[Any]:
            return stamps.crop(plane.mapped, ix, iy, size, fill=fill, dtype=dtype)

        if self._image is None:
            out.flux[:] = np.nan
            self._convert(out.flux, None, None, out)
            return
        if self._dtype() is np.float32:
            image = stamps.crop(
                self._image.mapped, ix, iy, size, fill=np.nan, dtype=np.float32, out=out.flux
            )
        else:
            image = cut(self._image, np.nan, np.float64)
        noise = None if self._noise is None else cut(self._noise, np.nan, _floats(self._noise))
        stored = None if self._stored is None else cut(self._stored, 0, self._stored_dtype())
        self._convert(image, noise, stored, out)

    def require_noise(self) -> None:
        """Raise `UnitError` if the band has no plane that tells its noise."""
        if self._image is not None and self._noise is None:
            raise UnitError(
                "no_weight",
                f"{self._image.path}: no weight, variance or rms beside the {self.band} image",
                "one for each band",
            )

    def forget(self) -> None:
        """Let go of whatever rows are held in memory."""
        for plane in (self._image, self._noise, self._stored):
            if plane is not None:
                plane.forget()

    def _dtype(self) -> type[np.floating[Any]]:
        return np.float32 if self._image is None else _floats(self._image)

    def _stored_dtype(self) -> type[Any]:
        # Stored as whole numbers, a mask holds whole numbers.
        assert self._stored is not None
        if int(self._stored.header["BITPIX"]) < 0:
            return np.float64
        if self._stored.unsigned and not self._stored.blanks:
            return np.uint64
        return np.float64 if self._stored.scaled else np.int64

    def _convert(
        self,
        image: NDArray[Any],
        noise: NDArray[Any] | None,
        stored: NDArray[Any] | None,
        out: Pixels | None = None,
    ) -> Pixels:
        """Turn stored numbers into `Pixels`; `image` may be `out.flux` itself."""
        out = out or Pixels(
            np.empty(image.shape, np.float32),
            np.empty(image.shape, np.uint8),
            None if noise is None else np.empty(image.shape, np.float32),
        )
        saturated = None if self._saturation == math.inf else image >= self._saturation
        sentinel = self._rules.no_data_value
        empty = None if sentinel is None else image == sentinel
        np.multiply(image, image.dtype.type(self._njy), out=out.flux, casting="same_kind")
        no_data = ~np.isfinite(out.flux)
        if empty is not None:
            no_data |= empty
        if noise is not None:
            no_data |= ~((noise > 0) & (noise < np.inf))
        np.multiply(no_data, np.uint8(schema.MASK_NO_DATA), out=out.mask)
        if saturated is not None:
            out.mask[saturated] |= schema.MASK_SATURATED
        if stored is not None:
            self._add_bits(stored, out.mask)
        empty_pixels = (out.mask & schema.MASK_NO_DATA) != 0
        if empty_pixels.any():
            out.flux[empty_pixels] = np.nan
        if out.variance is not None:
            out.variance[:] = np.nan if noise is None else self._variance(noise)
            out.variance[empty_pixels] = np.nan
        return out

    def _add_bits(self, stored: NDArray[Any], mask: NDArray[np.uint8]) -> None:
        if stored.dtype.kind == "f":
            # NaN is no less than anything.
            unreadable = ~(np.abs(stored) < _MOST_BITS)
            mask[unreadable] |= schema.MASK_BAD
            stored = np.where(unreadable, 0, stored)
        for values, bit in self._spoiling:
            if self._rules.codes:
                spoilt = np.isin(stored, values)
            else:
                # One pattern of bits; as int64, so that bit 31 of an int32 is a bit.
                spoilt = (stored.astype(np.int64, copy=False) & values[0]) != 0
            if spoilt.any():
                mask[spoilt] |= bit

    def _variance(self, noise: NDArray[Any]) -> NDArray[np.float32]:
        good = (noise > 0) & (noise < np.inf)
        variance = np.full(noise.shape, np.nan)
        values = noise[good].astype(np.float64)
        if self._noise_kind == "weight":
            values = 1 / values
        elif self._noise_kind == "rms":
            values = values**2
        variance[good] = values * self._njy**2
        return variance.astype(np.float32)


def _floats(plane: Plane) -> type[np.floating[Any]]:
    """Choose what holds a plane's numbers: whole ones above 2^24 need more than a float32."""
    return np.float32 if plane.exact_in_float32 else np.float64


def _njy_factor(image: Plane, survey: Survey, band: str) -> float:
    said = survey.zero_point
    unit = image.card("BUNIT")
    if said.unit and unit is not None and not _same_unit(str(unit).strip(), said.unit):
        raise UnitError("unit", f"{image.path} is in {unit!r}", f"{said.unit!r}")
    if said.flux_card is not None:
        flux = image.number(said.flux_card, "no_zero_point")
        if not 0 < flux < math.inf:
            raise UnitError(
                "no_zero_point", f"{image.path}: {said.flux_card} is {flux}", "a positive number"
            )
        magnitude = 2.5 * math.log10(flux)
    elif said.card is not None:
        magnitude = image.number(said.card, "no_zero_point")
    else:
        assert said.value is not None
        magnitude = said.value[band] if isinstance(said.value, dict) else said.value
    if not abs(magnitude) < 100:
        raise UnitError("no_zero_point", f"{image.path}: zero point {magnitude}", "magnitudes")
    return float(10 ** ((schema.AB_ZERO_POINT_NJY - magnitude) / 2.5))


def _same_unit(one: str, other: str) -> bool:
    """Compare names of units, whose case many writers change, and of which mJy is not MJy."""
    return one.lower() == other.lower() and (one[:1] == other[:1] or one[:1] not in "mM")


def _spoiling(mask: Plane, survey: Survey, band: str) -> list[tuple[list[int], int]]:
    """Pair each of our bits with the mask's values that stand for it."""
    rules, found = survey.mask, []
    for bits, bit in (
        (rules.no_data, schema.MASK_NO_DATA),
        (rules.saturated, schema.MASK_SATURATED),
        (rules.bad, schema.MASK_BAD),
    ):
        own = bits.get(band, 0) if isinstance(bits, dict) else bits
        if own:
            values = _numbers(mask, own)
            found.append(
                (values if rules.codes else [sum({1 << number for number in values})], bit)
                if not isinstance(own, int)
                else ([own], bit)
            )
    return found


def _numbers(mask: Plane, bits: Bits) -> list[int]:
    if isinstance(bits, int):
        return [bits]
    numbers = []
    for bit in bits:
        if isinstance(bit, int):
            numbers.append(bit)
            continue
        card = f"MP_{bit.removesuffix('?')}"
        if mask.card(card) is not None:
            numbers.append(int(mask.number(card, "no_mask_bit")))
        elif not bit.endswith("?"):
            raise UnitError(
                "no_mask_bit", f"{mask.path}: the mask has no card {card}", "the bit's number"
            )
    return numbers

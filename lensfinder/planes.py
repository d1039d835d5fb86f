"""One plane of pixels in a FITS file, found by HDU and read lazily.

A plain image is a memory map. A compressed or gzipped one is read in strips of rows, each once as
long as rows are asked for in order, so that no image stands in memory as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lensfinder import headers
from lensfinder.errors import UnitError
from lensfinder.footprints import READ_ERRORS, quietly

# Strips of this size are read at a time.
_STRIP_BYTES = 32 * 2**20
# A small file can declare an enormous image, and a compressed tile must be held as a whole.
_MOST_BYTES_AT_ONCE = 2**30
_MOST_PICTURE_PIXELS = 2**24
# Images that belong to the WCS and are no pixels of the sky.
_DISTORTION_TABLES = ("WCSDVARR", "D2IMARR")


class Plane:
    """Pixels of one image, sliced as ``plane[y0:y1, x0:x1]`` in native byte order.

    Parameters
    ----------
    path : Path
    hdus : HDUList
        The open file.
    hdu : image HDU
    layer : int, optional
        Which image of a cube.
    """

    def __init__(self, path: Path, hdus: fits.HDUList, hdu: Any, layer: int | None = None) -> None:
        self.path, self.hdus, self.hdu, self.layer = path, hdus, hdu, layer
        self.shape: tuple[int, int] = hdu.shape[-2:]
        if layer is not None and layer >= hdu.shape[0]:
            raise UnitError(
                "missing_band", f"{path} has {hdu.shape[0]} planes", f"at least {layer + 1}"
            )
        self.header = hdu.header
        compressed = isinstance(hdu, fits.CompImageHDU)
        self._in_strips = compressed or path.suffix == ".gz"
        # Whole compressed tiles, so that none is decompressed for two strips.
        tile_rows = int(hdu.tile_shape[-2]) if compressed else 1
        itemsize = abs(int(hdu.header["BITPIX"])) // 8
        row_bytes = max(1, self.shape[1] * itemsize)
        if tile_rows * row_bytes > _MOST_BYTES_AT_ONCE:
            raise UnitError(
                "too_large",
                f"{path} can only be read {tile_rows * row_bytes / 2**30:.1f} GiB at a time",
                "rows or compressed tiles below 1 GiB",
                "Compress it again by rows, as fpack does.",
            )
        if compressed:
            _check_tiles_there(path, hdu)
        self._step = max(1, _STRIP_BYTES // (row_bytes * tile_rows)) * tile_rows
        self._strip: NDArray[Any] | None = None
        self._strip_start = 0
        _check_whole(path, hdu)
        # Read before `.data`, which drops these cards.
        scale, zero = (
            hdu.header.get(card, default) for card, default in (("BSCALE", 1), ("BZERO", 0))
        )
        blank = "BLANK" in hdu.header and int(hdu.header["BITPIX"]) > 0
        self.scaled = (scale, zero) != (1, 0) or blank
        # Unsigned integers, as FITS writes them. Of these astropy knows no blank ones.
        self.unsigned = (
            int(hdu.header["BITPIX"]) > 8
            and scale == 1
            and zero == 2 ** (int(hdu.header["BITPIX"]) - 1)
        )
        self._blank = int(hdu.header["BLANK"] + zero) if blank and self.unsigned else None
        # Whether the stored numbers are float32, unscaled.
        self.exact_in_float32 = not self.scaled and int(hdu.header["BITPIX"]) == -32
        self._pixels = hdu.section if self._in_strips or self.scaled else np.asarray(hdu.data)

    @property
    def blanks(self) -> bool:
        """Whether a number of the file stands for no data."""
        return self._blank is not None

    @property
    def mapped(self) -> NDArray[Any] | Plane:
        """The bare map of the pixels, where there is one; else the plane itself."""
        if self._in_strips or self.scaled:
            return self
        pixels: NDArray[Any] = self._pixels if self.layer is None else self._pixels[self.layer]
        return pixels

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[Any]:
        rows, columns = index
        try:
            if self._in_strips:
                return self._blanked(self._rows_of_strip(rows)[:, columns])
            if not self.scaled:
                # A plain view of the map; whoever copies it swaps the bytes.
                pixels: NDArray[Any] = self._pixels[self._layered(rows, columns)]
                return pixels
            with quietly():
                return self._blanked(np.asarray(self._pixels[self._layered(rows, columns)]))
        except READ_ERRORS as error:
            raise UnitError("unreadable", f"{self.path}: pixels can't be read ({error})") from error

    def _blanked(self, pixels: NDArray[Any]) -> NDArray[Any]:
        if self._blank is None or pixels.dtype.kind not in "iu":
            return pixels
        return np.where(pixels == self._blank, np.nan, pixels)

    def _layered(self, rows: slice, columns: slice) -> tuple[Any, ...]:
        return (rows, columns) if self.layer is None else (self.layer, rows, columns)

    def _rows_of_strip(self, rows: slice) -> NDArray[Any]:
        end = self._strip_start + (0 if self._strip is None else len(self._strip))
        if self._strip is None or rows.start < self._strip_start or rows.start > end:
            # Elsewhere: start anew, at the beginning of a compressed tile.
            self._strip, self._strip_start = None, rows.start
            end = rows.start
        if rows.stop > end:
            stop = min(self.shape[0], -(-rows.stop // self._step) * self._step)
            with quietly():
                new = np.asarray(self._pixels[self._layered(slice(end, stop), slice(None))])
            if self._strip is not None:
                # Rows that windows share stay; all before them are done with.
                new = np.concatenate([self._strip[rows.start - self._strip_start :], new])
            self._strip, self._strip_start = new, rows.start
        start = rows.start - self._strip_start
        return self._strip[start : start + rows.stop - rows.start]  # type: ignore[index]

    def forget(self) -> None:
        """Let go of the strip in memory."""
        self._strip = None

    def card(self, name: str, *, own: bool = False) -> Any:
        """Return a header card of the image, else (without `own`) of the primary HDU, or None.

        Raises
        ------
        UnitError
            If it is there and can't be read.
        """
        try:
            for header in (self.header,) if own else (self.header, self.hdus[0].header):
                if name in header:
                    return header[name]
        except READ_ERRORS as error:
            raise UnitError(
                "damaged", f"{self.path}: card {name} can't be read ({error})"
            ) from error
        return None

    def number(self, card: str, reason: str) -> float:
        """Read a number from the image's header or the primary one.

        Raises
        ------
        UnitError
            With `reason`, if there is none.
        """
        try:
            value = self.card(card)
            if value is None or isinstance(value, bool):
                raise KeyError(card)
            return float(value)
        except READ_ERRORS as error:
            raise UnitError(
                reason, f"{self.path}: card {card} can't be read ({error})", "a number"
            ) from error


class OpenFiles:
    """Files opened once each, for as long as a tile is."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[Path, fits.HDUList] = {}

    def plane(self, path: Path, hdu: int | str | None = None, layer: int | None = None) -> Plane:
        """Open an image of a file.

        Parameters
        ----------
        path : Path
            A PNG or JPEG picture has one plane, or a cube of red, green and blue.
        hdu : int or str, optional
            Number or EXTNAME; without it the file must hold one image.
        layer : int, optional
            Which plane of a cube.

        Raises
        ------
        UnitError
            If the file is unreadable or truncated, or the image is not there or not the only one
            of its name.
        """
        hdus, image = self.image(path, hdu, layer)
        with _readable(path):
            return Plane(path, hdus, image, layer)

    def image(
        self, path: Path, hdu: int | str | None = None, layer: int | None = None
    ) -> tuple[fits.HDUList, Any]:
        """Find an image, whose pixels may be missing; parameters and errors as for `plane`.

        Returns
        -------
        hdus, hdu : of the file, and the one
        """
        with _readable(path):
            hdus = self._open.get(path)
            if hdus is None:
                opened = _picture(path) if is_picture(path) else fits.open(path)
                hdus = self._stack.enter_context(opened)
                # Each gzipped image is read in order by a reader of its own.
                if path.suffix != ".gz":
                    self._open[path] = hdus
            return hdus, _image(path, hdus, hdu, 2 if layer is None else 3)

    def table(self, path: Path, column: str, hdu: int | str | None = None) -> Any:
        """Open the table of a file that has a column, whatever its case; None if there is none.

        Raises
        ------
        UnitError
            If the file is unreadable.
        """
        with _readable(path):
            hdus = self._open.get(path)
            if hdus is None:
                hdus = self._open[path] = self._stack.enter_context(fits.open(path))
            tables = [
                (number, table)
                for number, table in enumerate(hdus)
                if isinstance(table, fits.BinTableHDU)
                and column.casefold() in {name.casefold() for name in table.columns.names}
            ]
            named = [t for n, t in tables if hdu is None or hdu in (n, t.name)]
            return named[0] if named else None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises into a unit's failure."""
    try:
        with quietly():
            yield
    except READ_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise UnitError("unreadable", f"{path} can't be read: {reason}") from error


def is_picture(path: Path) -> bool:
    """Tell pictures for the eye, whose pixels are no fluxes, by the name of the file."""
    return path.suffix.lower() in (".png", ".jpg", ".jpeg")


def _picture(path: Path) -> fits.HDUList:
    """Open a picture as if it were FITS: the first row at the bottom, colours as planes."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > _MOST_PICTURE_PIXELS:
                raise UnitError(
                    "too_large", f"{path} has {picture.width} x {picture.height} pixels", "a stamp"
                )
            grey = picture.mode in ("L", "1")
            pixels = np.asarray(picture.convert("L" if grey else "RGB"))[::-1]
    except Image.DecompressionBombError as error:
        raise UnitError("too_large", f"{path}: {error}", "a stamp") from error
    except SyntaxError as error:  # Pillow's word for a broken PNG
        raise UnitError("unreadable", f"{path} can't be read: {error}") from error
    return fits.HDUList([fits.PrimaryHDU(pixels if grey else np.moveaxis(pixels, -1, 0))])


def _image(path: Path, hdus: fits.HDUList, wanted: int | str | None, dimensions: int) -> Any:
    """Return the image asked for; refuse to guess between several."""
    images = {
        number: hdu
        for number, hdu in enumerate(hdus)
        if getattr(hdu, "is_image", False)
        and len(shape := getattr(hdu, "shape", ())) == dimensions
        and min(shape) > 0
        and hdu.name not in _DISTORTION_TABLES
    }
    if wanted is not None:
        numbers = [
            number
            for number, hdu in images.items()
            if number == wanted or (isinstance(wanted, str) and hdu.name == wanted.upper())
        ]
    else:
        numbers = list(images)
    if not numbers:
        what = "image" if wanted is None else f"image {wanted}"
        there = ", ".join(f"{n} {hdu.name}".strip() for n, hdu in images.items())
        raise UnitError(
            "no_image",
            f"{path} holds no {'two' if dimensions == 2 else 'three'}-dimensional {what}",
            f"one; it has {there or 'no such image'}",
        )
    if len(numbers) > 1:
        names = sorted({images[number].name or "nothing" for number in numbers})
        raise UnitError(
            "ambiguous_image",
            f"{path} holds {len(numbers)} images named {', '.join(names)}",
            "one, or a survey file that says which ([files.hdus]), or that each is a tile of its "
            "own (chips = true, as for the CCDs of a camera)",
        )
    return images[numbers[0]]


def _check_tiles_there(path: Path, hdu: Any) -> None:
    # However large an image a header declares, each of its tiles has a pointer of 8 bytes.
    tiles = math.prod(
        -(-int(side) // int(step))  # numpy's integers overflow
        for side, step in zip(hdu.shape, hdu.tile_shape, strict=True)
    )
    where = hdu.fileinfo()
    if where is not None and tiles * 8 > where["datSpan"]:
        raise UnitError(
            "damaged",
            f"{path} declares {' x '.join(map(str, reversed(hdu.shape)))} pixels in {tiles} "
            f"compressed tiles, and holds {where['datSpan']} bytes",
            "a header that fits its data",
        )


def _check_whole(path: Path, hdu: Any) -> None:
    # `.section` reads the intact part of a truncated file without complaint.
    if short := headers.shortfall(path, hdu):
        if path.suffix != ".gz" and _gzipped(path):
            raise UnitError("unreadable", f"{path} is gzipped", "a name that ends in .gz")
        declared, found = short
        raise UnitError("truncated", f"{path} has {found} bytes", f"{declared}")


def _gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"

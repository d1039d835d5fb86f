"""Stamps that others have cut: one object a file, or a file for each of its bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lensfinder import schema, stamps, tiles
from lensfinder.cutout.extract import BY_RULE, CORE_ARCSEC, Stamps, judge
from lensfinder.cutout.travel import from_plain
from lensfinder.errors import UnitError
from lensfinder.survey import Survey
from lensfinder.tilefiles import TileFiles
from lensfinder.tilepsf import psf_sources


def is_damage(reason: str) -> bool:
    """Tell a reason to reject a stamp that its files give from one that its pixels do."""
    flags = set(schema.FLAG_NAMES.values())
    return bool(reason) and reason not in BY_RULE and not set(reason.split("+")) <= flags


def stamps_of(
    task: Mapping[str, Any],
    survey: Survey,
    bands: tuple[str, ...],
    size: int,
    *,
    max_bad_fraction: float,
) -> Stamps:
    """Read the stamps of a unit that `stampjobs.plan_stamps` made.

    Parameters
    ----------
    task : mapping
        ``stamps``, ``labels`` and ``splits`` as in `stampjobs.StampJob.task`.
    survey, bands, size, max_bad_fraction
        As for `read_stamps`.
    """
    objects = [TileFiles(name, from_plain(paths)) for name, paths in task["stamps"].items()]
    return read_stamps(
        objects, survey, bands, size, max_bad_fraction=max_bad_fraction, labels=task["labels"],
        splits=task["splits"],
    )  # fmt: skip


def read_stamps(
    objects: Sequence[TileFiles],
    survey: Survey,
    bands: tuple[str, ...],
    size: int,
    *,
    max_bad_fraction: float,
    labels: Mapping[str, int],
    splits: Mapping[str, str],
) -> Stamps:
    """Read the stamps of objects, each centred on its middle pixel.

    Parameters
    ----------
    objects : sequence of TileFiles
        One for each object, named by its id.
    survey : Survey
    bands : tuple of str
    size : int
        Odd side in pixels; larger stamps are cropped, smaller ones padded and flagged.
    max_bad_fraction : float
    labels : mapping of id to 1 or 0
    splits : mapping of id to train, val or test
        Where known.

    Returns
    -------
    Stamps
        An object whose files can't be read is rejected with the reason.
    """
    n = len(objects)
    shape = (n, len(bands), size, size)
    image = np.full(shape, np.nan, np.float32)
    mask = np.full(shape, schema.MASK_NO_DATA, np.uint8)
    unreadable: dict[int, str] = {}
    at_edge = np.zeros(n, bool)
    columns = {name: np.full(n, np.nan) for name in ("ra", "dec", "x", "y")}
    columns |= {name: np.zeros(n, np.float32) for name in ("dx", "dy")}
    fwhm = np.full((n, len(bands)), np.nan, np.float32)
    sources = np.full(n, "", dtype=object)
    for k, files in enumerate(objects):
        try:
            with tiles.open_stamp(files, survey, bands) as stamp:
                height, width = stamp.shape_YX
                ix, iy = np.array([width // 2]), np.array([height // 2])
                for c, band in enumerate(bands):
                    whole = stamp.pixels[band][0:height, 0:width]
                    for plane, out, fill in (
                        (whole.flux, image, np.nan),
                        (whole.mask, mask, schema.MASK_NO_DATA),
                    ):
                        (out[k, c],) = stamps.crop(plane, ix, iy, size, fill=fill, dtype=out.dtype)
                psfs = {band: stamp.psf_at(band) for band in bands}
                fwhm[k] = [width for width, _ in psfs.values()]
                sources[k] = psf_sources({band: source for band, (_, source) in psfs.items()})
                at_edge[k] = min(height, width) < size
                columns["ra"][k], columns["dec"][k] = stamp.centre
                # The middle of an even side lies between two pixels.
                for axis, side in (("x", width), ("y", height)):
                    columns[axis][k] = (side - 1) / 2
                    columns[f"d{axis}"][k] = (side - 1) / 2 - side // 2
        except UnitError as error:
            unreadable[k] = error.reason
            image[k], mask[k] = np.nan, schema.MASK_NO_DATA
    core_pix = CORE_ARCSEC / survey.pixel_scale_arcsec
    outcome, reason, flags = judge(image, mask, at_edge, core_pix, max_bad_fraction)
    for k, why in unreadable.items():
        outcome[k], reason[k] = schema.REJECTED, why
    ids = np.array([files.name for files in objects], dtype=object)
    found = {
        "id": ids,
        **columns,
        "tile": np.full(n, "", dtype=object),
        "flags": flags,
        "label": np.array([labels.get(name, schema.UNKNOWN) for name in ids], np.int8),
        "split": np.array([splits.get(name, "") for name in ids], dtype=object),
        **{f"psf_fwhm_{band}_arcsec": fwhm[:, c] for c, band in enumerate(bands)},
        "psf_source": sources,
    }
    for name in schema.REQUIRED_COLUMNS:
        found.setdefault(name, np.array([schema.empty_value(name)] * n))
    return Stamps(image, mask, None, found, outcome, reason)

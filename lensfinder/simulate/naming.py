"""Names of the columns that a table of systems may have, and what a wrong one may stand for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from lensfinder.simulate import population

TEXT = ("kind", "artefact", "id", "split", "host_id", "source_id", "tile")
CARRIED = ("ra", "dec", "x", "y", "flags", "noise_seed", "noise_index")
_MEASURED = (
    "source_snr",
    "magnification",
    "image_separation_arcsec",
    "sky_fraction",
    "label",
    "composite_softening",
)
_BY_BAND = re.compile(
    r"(mag(_(bulge|disc|partner|artefact|source))?_|psf_fwhm_|sky_rms_|feature_|clump_|composite_)"
    r"(?P<band>[A-Za-z0-9]+)(_arcsec|_njy|_minus_r|_level_per_njy)?"
)
_MOST_ALIKE = 3


def known_columns(bands: tuple[str, ...]) -> set[str]:
    """Columns that a table may have, beside those of other bands."""
    by_band = ("mag_source_{}", "psf_fwhm_{}_arcsec", "sky_rms_{}_njy")
    named = {name.format(band) for name in by_band for band in bands}
    named.add("noise_correlation_pixels")
    return {*population.columns(bands), *named, *TEXT, *CARRIED, *_MEASURED}


def unknown_columns(
    names: Iterable[str], bands: tuple[str, ...], other_bands: Iterable[str]
) -> list[str]:
    """What is wrong with the names of a table's columns.

    Parameters
    ----------
    bands : that are rendered
    other_bands : that there are colours for, whose columns are of no use here, and no error
    """
    known, all_bands = known_columns(bands), {*bands, *other_bands}

    def of_another_band(name: str) -> bool:
        match = _BY_BAND.fullmatch(name)
        return match is not None and match["band"] in all_bands

    return [
        f"column {name}: unknown; expected {_alike(name, known)}"
        for name in names
        if name not in known and not of_another_band(name)
    ]


def _alike(name: str, known: set[str]) -> str:
    """Say which columns a name may stand for; a hundred others help nobody."""
    parts = name.lower().split("_")

    def abbreviated(column: str) -> bool:
        own = column.split("_")
        begun = len(own) >= len(parts) and all(map(str.startswith, own, parts))
        return begun or own == parts[: len(own)]

    def reordered(column: str) -> bool:
        return {*parts} <= {*column.split("_")}

    # Fewer letters first: who writes mag means mag_r rather than mag_artefact_r.
    by_length = sorted(known, key=lambda column: (len(column), column))
    found = [column for column in by_length if reordered(column)]
    found += [column for column in by_length if abbreviated(column)]
    found += difflib.get_close_matches(name, by_length, n=_MOST_ALIKE, cutoff=0.75)
    if not found:
        return "a column of truth.parquet (docs/populations.md lists the usual ones), or none"
    return f"{' or '.join(list(dict.fromkeys(found))[:_MOST_ALIKE])}, or none"

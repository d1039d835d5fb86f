"""The contract: names, types, shapes and units of everything that passes between stages.

Stages meet in files, and these are the files. Columns that depend on the bands are written
with ``<band>``; a concrete column such as ``mag_r`` matches its pattern.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

SCHEMA_VERSION = 1

# Fluxes are nanojansky everywhere: m_AB = 31.4 - 2.5 log10(flux / nJy).
AB_ZERO_POINT_NJY = 31.4

# Bits of a shard's `mask`; 0 is a good pixel.
MASK_NO_DATA = 1
MASK_SATURATED = 2
MASK_BAD = 4

# `label`
LENS, NOT_LENS, UNKNOWN = 1, 0, -1
# The column `kind` of what people said is a lens, and is none.
GRADED_KINDS = ("graded lens", "graded negative")

# `outcome`: each target ends as exactly one of these.
OK, FLAGGED, REJECTED, FAILED = "ok", "flagged", "rejected", "failed"
OUTCOMES = (OK, FLAGGED, REJECTED, FAILED)

SPLITS = ("train", "val", "test")

# `flags`: bits that travel from shard to scores.
FLAG_EDGE = 1  # part of the stamp lies outside the tile
FLAG_MASKED = 2  # more than MUCH_MASKED of the stamp's pixels are masked in some band
FLAG_SATURATED = 4  # a saturated pixel within the central 2 arcsec
FLAG_SEEN_IN_TRAINING = 8  # within 1 arcsec of an object that trained the model
FLAG_ADAPTED = 16  # pixels were resampled to fit the model
MUCH_MASKED = 0.1
FLAG_NAMES = {
    FLAG_EDGE: "edge",
    FLAG_MASKED: "masked",
    FLAG_SATURATED: "saturated",
    FLAG_SEEN_IN_TRAINING: "seen_in_training",
    FLAG_ADAPTED: "adapted",
}

MAX_ID_BYTES = 64


@dataclass(frozen=True)
class Column:
    """One column of a catalogue: its type, unit and meaning."""

    name: str
    dtype: str  # a numpy type, or "str"
    unit: str
    meaning: str

    @property
    def pattern(self) -> re.Pattern[str]:
        escaped = re.escape(self.name).replace("<band>", r"[A-Za-z0-9]+")
        return re.compile(escaped.replace("<k>", r"[0-9]+"))


CATALOG_COLUMNS = (
    Column("id", "str", "", "name of the object, any printable text up to 64 bytes"),
    Column("ra", "float64", "deg", "right ascension, ICRS; NaN for a modelled host"),
    Column("dec", "float64", "deg", "declination, ICRS; NaN for a modelled host"),
    Column("tile", "str", "", "tile the pixels came from"),
    Column("x", "float64", "pix", "position in the tile, 0-based"),
    Column("y", "float64", "pix", "position in the tile, 0-based"),
    Column("dx", "float32", "pix", "target minus centre of the central pixel"),
    Column("dy", "float32", "pix", "target minus centre of the central pixel"),
    Column("mag_<band>", "float32", "mag", "AB magnitude; of a mock that of its smooth host"),
    Column("psf_fwhm_<band>_arcsec", "float32", "arcsec", "FWHM of the PSF as observed"),
    Column(
        "psf_source", "str", "", "where psf_fwhm is from: psfex, header, picture, stars or survey"
    ),
    Column("resampled_bands", "str", "", "bands that were put on another band's pixel grid"),
    Column("flags", "int32", "", "; ".join(f"{bit} {name}" for bit, name in FLAG_NAMES.items())),
    Column("label", "int8", "", "1 lens, 0 not a lens, -1 unknown"),
    Column("kind", "str", "", "lens, or the kind of negative; empty for the sky"),
    Column("split", "str", "", "train, val or test; empty for the sky"),
    Column("host_id", "str", "", "host galaxy; never shared between splits"),
    Column("source_id", "str", "", "background source; never shared between splits"),
)

# What every shard must hold; the others are optional.
REQUIRED_COLUMNS = (
    *("id", "ra", "dec", "tile", "x", "y", "dx", "dy"),
    *("flags", "label", "kind", "split", "host_id", "source_id"),
)

TRUTH_COLUMNS = (
    Column("sky_fraction", "float64", "", "share of the kind among targets on the sky, if known"),
    Column("theta_e_arcsec", "float32", "arcsec", "Einstein radius, circularised"),
    Column("z_lens", "float32", "", "redshift of the lens"),
    Column("z_source", "float32", "", "redshift of the source"),
    Column(
        "source_snr", "float32", "", "sqrt(sum s^2/sigma^2) of the lensed source, reference band"
    ),
)

SCORE_COLUMNS = (
    Column("logit", "float32", "", "network output; thresholds and ranks use it"),
    Column("logit_std", "float32", "", "standard deviation of the logits of an ensemble's members"),
    Column("score", "float32", "", "probability calibrated at the training prevalence"),
    Column("outcome", "str", "", "ok, flagged or rejected; in a ledger also failed"),
    Column("reason", "str", "", "why an object was flagged or rejected"),
    Column("model_id", "str", "", "sha256 of the model that scored it"),
    # Trivial numbers of the stamp, by which `report` looks for shortcuts and drift.
    Column("stamp_flux_<band>_njy", "float32", "nJy", "sum of the good pixels above the sky"),
    Column("stamp_noise_<band>_njy", "float32", "nJy", "robust sigma of the stamp's frame"),
    Column("stamp_offset_pix", "float32", "pix", "flux centroid from the centre, all bands"),
    Column("stamp_masked_fraction", "float32", "", "share of masked pixels, all bands"),
    Column("embedding_<k>", "float32", "", "penultimate feature of the network, by number"),
    # Of the ranked list that `infer` merges from its units.
    Column("rank", "int32", "", "place by logit, from 1"),
    Column("unit", "str", "", "unit of work whose product holds the object's other columns"),
    Column("group_id", "str", "", "best-ranked object within 3 arcsec, perhaps itself"),
    Column("group_rank", "int32", "", "place within that group, from 1"),
)

# Of the report's candidates, whose flags are words.
CANDIDATE_COLUMNS = (
    Column("name", "str", "", "designation after the IAU, from the position"),
    Column("probability", "float64", "", "of being a lens, at the report's prevalence"),
)

_ALL_COLUMNS = CATALOG_COLUMNS + TRUTH_COLUMNS + SCORE_COLUMNS + CANDIDATE_COLUMNS


@lru_cache(maxsize=4096)
def column(name: str) -> Column | None:
    """Find the contract's column that `name` stands for, or None for an extra one."""
    return next((c for c in _ALL_COLUMNS if c.pattern.fullmatch(name)), None)


def unit_of(name: str) -> str:
    """Return the unit of a column: the contract's, or the suffix of an extra column's name."""
    known = column(name)
    if known is not None:
        return known.unit
    suffix = name.rsplit("_", 1)[-1]
    return {"arcsec": "arcsec", "deg": "deg", "njy": "nJy", "kms": "km/s"}.get(suffix, "")


def empty_value(name: str) -> object:
    """Return what stands in a column of the contract where a product has nothing to say."""
    known = column(name)
    if known is None or known.dtype == "str":
        return ""
    if name == "label":
        return UNKNOWN
    return math.nan if known.dtype.startswith("float") else 0


def flag_names(flags: int) -> list[str]:
    """Spell out the bits of `flags`."""
    return [name for bit, name in FLAG_NAMES.items() if flags & bit]

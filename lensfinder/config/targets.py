"""The keys that choose targets, in ``[cutout]`` and in ``[infer]``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import Field

from lensfinder.config.fields import INPUT, Fraction, InputPath, Listed, OddSize, Section


class TargetsConfig(Section):
    """Which objects of which tiles: shared by `cutout` and by `infer` on tiles."""

    def meant_for_tiles(self, used: Collection[str]) -> str:
        """Say which of the given keys mean nothing for stamps that are cut already."""
        vain = sorted((self.model_fields_set & TargetsConfig.model_fields.keys()) - {*used})
        return f"note: of no use for stamps that are cut already: {', '.join(vain)}" * bool(vain)

    catalog: InputPath | None = Field(
        None,
        description="Targets with id, ra, dec (CSV, ECSV, FITS, VOTable, Parquet). "
        "Without one, targets are detected.",
        json_schema_extra=INPUT,
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Catalogue columns under unusual names, {ra = 'RAdeg'}."
    )
    bands: Listed[str] = Field((), description="Bands in order; default: the survey's.")
    size: OddSize = Field(101, description="Side of a stamp in pixels, odd.")
    mag_min: float = Field(-99.0, description="Brightest target magnitude (reference band).")
    mag_max: float = Field(99.0, description="Faintest target magnitude (reference band).")
    ranges: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="Targets only within these ranges of columns or their differences, "
        "{mag_r = [17, 21], 'mag_g-mag_r' = [0.5, 2]}.",
    )
    selection: Literal["all", "lrg-petrillo2017"] = Field(
        "all",
        description="A colour cut by name: all | lrg-petrillo2017 (luminous red galaxies, as in "
        "Petrillo+ 2017).",
    )
    deredden: bool = Field(
        True,
        description="Take extinction_<band> off mag_<band>, where the catalogue has both; else "
        "E(B-V) by the survey's [dust] coefficients.",
    )
    detect_sigma: float = Field(
        2.0, gt=0, description="Detection: threshold above the sky in units of its rms."
    )
    detect_bands: Listed[str] = Field(
        (),
        description="Detection: on this band, or on the mean of these bands weighted by depth; "
        "default: the reference band.",
    )
    detect_pixels: int = Field(9, ge=1, description="Detection: connected pixels above it.")
    detect_size_ratio: float = Field(
        1.15,
        ge=0,
        description="Detection: half-light radius over the PSF's, below which it is a star; "
        "0 keeps stars.",
    )
    max_bad_fraction: Fraction = Field(
        0.5, description="Reject a target with more than this fraction of masked pixels."
    )
    resample: bool = Field(
        False,
        description="Resample bands on other pixel grids onto the reference band's, and say so in "
        "the column resampled_bands; without it such tiles are refused.",
    )
    measure_psf: bool = Field(
        False,
        description="Measure the PSF on each tile's stars, where no PSF file or header tells it; "
        "the column psf_source says what was used.",
    )

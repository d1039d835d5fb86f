"""Write the pages of the docs that say what the code says: ``python tests/docs/generate.py``.

`docs/cli.md` from the commands, `docs/known-surveys.md` from the survey files. A test compares
both with what stands in `docs/`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer

from lensfinder import survey
from lensfinder.cli import app
from lensfinder.config import STAGES, RunConfig
from lensfinder.survey import Survey

DOCS = Path(__file__).parent.parent.parent / "docs"
_NOTE = "<!-- Written by tests/docs/generate.py: change the code, then run it again. -->\n"


# -- commands -------------------------------------------------------------------------------------


def cli_page() -> str:
    """Describe every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    parts = [
        _NOTE,
        "# Commands\n",
        "`lensfinder COMMAND --help` says the same. An option of a stage is a key of the TOML "
        "section of the same name: `--mag-max 22` is `mag_max = 22` under `[cutout]`. Tables, such "
        "as `columns` and `ranges`, are given in TOML, or key by key with `--set`.\n",
        "Exit codes: 0 complete · 1 a bug · 2 the request is wrong, or its only unit is bad · "
        "3 finished, some of several units bad · 4 products disagree · 74 disk · 75 interrupted, "
        "run the same command to go on.\n",
    ]
    for name, command in group.commands.items():
        what, _, example = command.help.partition("\n\n")
        shown = [_shown(p) for p in command.params]
        arguments = [usage for usage, is_argument, _ in shown if is_argument]
        parts += [
            f"## lensfinder {name}\n",
            f"{what}\n",
            f"```text\nlensfinder {' '.join([name, *arguments, '[OPTIONS]'])}\n```\n",
            f"Example: `{example.removeprefix('Example: ').strip()}`\n",
            "| | |\n|---|---|",
            *(f"| `{usage}` | {_cell(help_text)} |" for usage, _, help_text in shown),
            "",
        ]
        if name in STAGES:
            shared = ", ".join(f"`{key}`" for key in RunConfig.model_fields)
            parts.append(
                f"Keys of `[run]`: {shared}; of `[{name}]`: all others but `--output` and those "
                "from `--config` to `--quiet`.\n"
            )
    return "\n".join(parts)


_VALUES = {int: "INTEGER", float: "NUMBER", Path: "PATH", list[Path]: "PATH"}


def _shown(parameter: Any) -> tuple[str, bool, str]:
    if parameter.param_type_name == "argument":
        return (parameter.metavar or parameter.name).strip("[]"), True, parameter.help or ""
    names = ", ".join(parameter.opts)
    if parameter.secondary_opts:
        names += " / " + ", ".join(parameter.secondary_opts)
    if not parameter.is_flag and not parameter.count:
        told = _VALUES.get(parameter.type_descriptor.annotation, "TEXT")
        names += f" {parameter.metavar or told}"
    return names, False, parameter.help or ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# -- surveys --------------------------------------------------------------------------------------

# Files as they are called when they are fetched, of one tile or object.
FILES = {
    "kids": tuple(
        f"KiDS_DR4.0_180.0_-0.5_{band}_{kind}.fits"
        for band in "gri"
        for kind in ("sci", "wei", "msk")
    ),
    "lsst": tuple(f"deepCoadd_9813_42_{band}.fits" for band in "gri"),
    "hsc": tuple(f"calexp-HSC-{band}-9813-4,2.fits" for band in "GRI"),
    "des": tuple(f"DES0219-0541_r4907p01_{band}.fits.fz" for band in "gri"),
    "decam": tuple(f"c4d_190902_034518_{kind}_r_v1.fits.fz" for kind in ("ooi", "oow", "ood")),
    "legacy": (
        *(f"legacysurvey-1800p002-image-{band}.fits.fz" for band in "grz"),
        *(f"legacysurvey-1800p002-invvar-{band}.fits.fz" for band in "grz"),
        "legacysurvey-1800p002-maskbits.fits.fz",
    ),
    "legacy_jpeg": ("J142209.3+524653.jpg",),
    "cfhtls": tuple(f"CFHTLS_W_143105+565650_T0007_{band}.fits" for band in "gri"),
    "euclid": ("J175743.0+660345.fits",),
    "euclid_mer": (
        "EUC_MER_BGSUB-MOSAIC-VIS_TILE102018211-ACBD03_20241018T142710.276838Z_00.00.fits",
        "EUC_MER_MOSAIC-VIS-RMS_TILE102018211-4366B6_20241018T143117.774796Z_00.00.fits",
    ),
    "bologna_ground": tuple(f"imageSDSS_{band}-100001.fits" for band in "UGRI"),
    "bologna_space": ("imageEUC_VIS-100001.fits",),
    "lanusse2018": (),
}
_STAMP_ARCSEC = 12.0


def surveys_page() -> str:
    """A how-to for each survey that comes along."""
    parts = [
        _NOTE,
        "# Surveys that come along\n",
        "For each: what its files must be called, what is taken from them, and the commands. "
        "Numbers that were not measured or published say so under *source*. "
        "For another survey see [Your own](surveys.md).\n",
    ]
    for name in sorted(FILES, key=lambda one: (one not in ("kids", "lsst"), one)):
        parts.append(_survey(survey.load(name), FILES[name]))
    return "\n".join(parts)


def bands_of(this: Survey, files: tuple[str, ...]) -> tuple[str, ...]:
    """Return the bands that files of one tile hold: an exposure has one."""
    words = [re.fullmatch(this.files.pattern, file) for file in files]
    named = {match["band"] for match in words if match and match.groupdict().get("band")}
    shown = {this.files.band_of(band) for band in named}
    return tuple(band for band in this.default_bands if band in shown or not named)


def _survey(this: Survey, files: tuple[str, ...]) -> str:
    default, bands = ",".join(this.default_bands), ",".join(bands_of(this, files))
    size = 2 * round(_STAMP_ARCSEC / this.pixel_scale_arcsec / 2) + 1
    lines = [
        f"## {this.name}\n",
        f"{this.title}.\n",
        f"*Source*: {this.source}\n",
        "| | |\n|---|---|",
        f"| bands | {', '.join(this.bands)}; unless others are asked for: {default} |",
        f"| pixel | {this.pixel_scale_arcsec} arcsec |",
        *([f"| HDUs | {_hdus(this)} |"] if this.files.hdus or this.files.cube else []),
        f"| fluxes | {_zero_point(this)} |",
        f"| noise | {_noise(this)} |",
        f"| spoilt pixels | {_spoilt(this)} |",
        f"| PSF | {_psf(this)} |",
        f"| dust | {'`' + this.name + '` has coefficients' if this.dust else 'no coefficients'} |",
        "",
    ]
    if not files:
        lines.append("It has no tiles: its mocks are made by `--population lanusse2018`.\n")
        return "\n".join(lines)
    what = "stamps" if this.stamps else "tiles"
    lines += [
        f"Files of one {'object' if this.stamps else 'tile'}, in any folder below `{what}/`:\n",
        "```text\n" + "\n".join(files) + "\n```\n",
        "```sh",
        f"lensfinder check {what}/ --survey {this.name}" + f" --bands {bands}" * (bands != default),
    ]
    if this.stamps:
        lines.append(f"lensfinder cutout {what}/ -o stamps-{this.name} --survey {this.name}")
    else:
        lines.append(
            f"lensfinder cutout {what}/ -o cutouts --survey {this.name} --bands {bands} "
            f"--catalog targets.csv --size {size}"
        )
        lines.append(
            f"lensfinder simulate -o mocks --survey {this.name} --bands {bands} --size {size}"
        )
    lines.append("```\n")
    return "\n".join(lines)


def _hdus(this: Survey) -> str:
    """Where in a file the planes stand."""
    if this.files.cube:
        return f"planes of a cube: {', '.join(this.files.cube)}"
    words = this.files.band_names
    named = f"; {{band}} is {', '.join(f'{w} for {b}' for b, w in words.items())}" if words else ""
    return ", ".join(f"{kind} `{hdu}`" for kind, hdu in this.files.hdus.items()) + named


def _zero_point(this: Survey) -> str:
    said = this.zero_point
    if this.stretched:
        return "none: pixels are pictures"
    if said.card:
        return f"zero point in the card `{said.card}`"
    if said.flux_card:
        return f"flux of magnitude 0 in the card `{said.flux_card}`"
    return f"AB zero point {said.value}" + (f", unit {said.unit}" if said.unit else "")


def _noise(this: Survey) -> str:
    kinds = {*this.files.kinds.values(), *this.files.hdus} & {"weight", "variance", "rms"}
    return f"from the {' or '.join(sorted(kinds))} plane" if kinds else "not told by the files"


def _spoilt(this: Survey) -> str:
    rules = this.mask
    said = []
    if rules.saturated or rules.bad or rules.no_data:
        said.append("values of the mask" if rules.codes else "bits of the mask")
    if rules.saturation_card:
        said.append(f"above the card `{rules.saturation_card}`")
    if rules.no_data_value is not None:
        said.append(f"the value {rules.no_data_value:g}")
    return ", ".join([*said, "NaN, and no weight where there are weights"])


def _psf(this: Survey) -> str:
    told = f"card `{this.psf.card}`, else " if this.psf.card else ""
    typical = ", ".join(f"{band} {value:g}" for band, value in this.psf_fwhm_arcsec.items())
    return f"{told}typical FWHM in arcsec: {typical}"


PAGES = {"cli.md": cli_page, "known-surveys.md": surveys_page}


def written(name: str) -> str:
    """Return a page as it should stand."""
    return re.sub(r"\n{3,}", "\n\n", PAGES[name]())


def main() -> None:
    for name in PAGES:
        (DOCS / name).write_text(written(name), encoding="utf-8")
        print(DOCS / name, file=sys.stderr)


if __name__ == "__main__":
    main()

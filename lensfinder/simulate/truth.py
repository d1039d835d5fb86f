"""Truth in: a table of systems, checked as a whole and completed by stated defaults.

A table that `simulate` wrote says everything, and gives the same pixels again. One of your own may
say as little as an Einstein radius; `completion` says what fills in the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from lensfinder import schema, tables
from lensfinder.errors import RequestError, nearest
from lensfinder.simulate import naming, population
from lensfinder.simulate.completion import complete_lens, light_problems, value_or
from lensfinder.simulate.families import Row
from lensfinder.simulate.mocks import (
    Mocks,
    Setting,
    as_stored,
    assemble,
    flags_of,
    modelled_row,
    observe,
)
from lensfinder.simulate.noise import LONGEST_CORRELATION_PIXELS
from lensfinder.simulate.observe import narrowest_fwhm
from lensfinder.simulate.recipe import ARTEFACTS, NEGATIVE_KINDS
from lensfinder.simulate.render import CHUNK
from lensfinder.simulate.sections import MAX_CLUMPS
from lensfinder.simulate.splits import split_of

_TAILS = ("arm_count", "arm_re_arcsec", "arm_pitch_deg", "surroundings_seed")
# What a row of each kind needs, beside a galaxy's light; a lens gets all of it from the defaults.
_NEEDS: dict[str, tuple[str, ...]] = {
    "disc": ("disc_re_arcsec", "disc_q", "disc_pa_deg"),
    "edge_on": ("disc_re_arcsec", "disc_q", "disc_pa_deg"),
    "spiral": ("arm_count", "arm_pitch_deg", "arm_phase_deg", "arm_sharpness", "arm_re_arcsec"),
    "ring": ("ring_radius_arcsec", "ring_width_arcsec", "ring_q", "ring_pa_deg"),
    "merger": ("partner_x_arcsec", "partner_y_arcsec", "partner_re_arcsec", "partner_n", *_TAILS),
    "companions": ("companion_1_x_arcsec", "companion_1_y_arcsec", "companion_1_fraction"),
    "group": ("group_count", "surroundings_seed"),
    "irregular": ("disc_re_arcsec", "disc_q", "disc_pa_deg"),
    "artefact": ("artefact_azimuth_deg", "surroundings_seed"),
}

# Bounds of columns by the end of their names: lowest, highest, and whether the lowest is allowed.
_BOUNDS: tuple[tuple[str, float, float, bool], ...] = (
    ("theta_e_arcsec", 0, 60, False),
    ("_re_arcsec", 0, 60, True),
    ("_fwhm_[A-Za-z0-9]+_arcsec", 0, 20, False),
    ("sky_rms_[A-Za-z0-9]+_njy", 0, math.inf, False),
    ("noise_correlation_pixels", 0, LONGEST_CORRELATION_PIXELS, True),
    ("(lens|bulge|disc|source|ring|partner|companion_[0-9])_?q(_lens)?", 0.05, 1, True),
    ("q_lens", 0.05, 1, True),
    ("(bulge|source|partner)_n", 0.3, 8, True),
    ("shear", 0, 1, True),
    ("z_(lens|source|galaxy)", 0, 10, False),
    ("sigma_v_km_s", 0, 2000, False),
    ("d[xy]", -0.5, 0.5, True),
    ("(feature|source)_snr", 0, math.inf, False),
    ("clump_[0-9]_fraction", 0, 1, True),
    ("clump_[0-9]_sigma_arcsec", 1e-5, 60, True),
    ("_[xy]_arcsec", -3600, 3600, True),
    ("(source_stamp|psf_index)", 0, 2**31, True),
    # Sentinels such as -99 are no magnitudes: a cell without one is empty.
    ("mag_.*", 0, 50, True),
    ("lens_slope", 1.05, 2.95, True),
    ("((surroundings|ring|grf|noise)_seed|noise_index)", 0, 2**63, True),
    ("source_stamp_pixel_arcsec", 0, 60, False),
)

_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Truth:
    """Systems to render.

    Attributes
    ----------
    rows : one for each system, with conditions: all that `render` needs
    columns : the contract's columns: id, host_id, source_id, split, ra, dec, tile, x, y, flags,
        noise_seed and noise_index, each of length N
    """

    rows: list[Row]
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def noise(self) -> list[tuple[int, int]]:
        """Seed and index of each system's noise."""
        seeds, indices = (self.columns[f"noise_{name}"].tolist() for name in ("seed", "index"))
        return list(zip(seeds, indices, strict=True))


def read(path: Path) -> dict[str, np.ndarray]:
    """Read a table of systems: Parquet, CSV, ECSV, FITS or VOTable.

    Raises
    ------
    RequestError
        if it can't be read or holds no row
    """
    file = path.stat() if path.exists() else None
    key = (path.absolute(), *((file.st_mtime_ns, file.st_size) if file else ()))
    return dict(_read(path, key))


@lru_cache(maxsize=1)
def _read(path: Path, key: tuple[object, ...]) -> dict[str, np.ndarray]:
    table = tables.read_table(path)
    table.convert()
    if not table or len(next(iter(table.values()))) == 0:
        raise RequestError(f"{path} holds no systems", "at least one row")
    return {name.strip(): values for name, values in table.items()}


def complete(
    table: Mapping[str, np.ndarray],
    setting: Setting,
    origin: str,
    *,
    painted: bool = False,
    as_made: bool = False,
    which: range | None = None,
) -> Truth:
    """Check a table and fill in what it leaves open.

    Parameters
    ----------
    table : as read
    setting : bands and typical conditions; its recipe gives mean relations and colours
    origin : what to call the table in errors
    painted : whether the galaxies are real, so that none needs to be modelled
    as_made : whether bands, stamps and conditions are those that the table was written with: then
        the S/N gives a source's brightness, to the last bit; else its magnitudes do
    which : rows to look at, one after another; default: all

    Raises
    ------
    RequestError
        with every wrong value by row and column
    """
    which = which or range(len(next(iter(table.values()))))
    first, count, bands = which.start, len(which), setting.observation.bands
    problems = naming.unknown_columns(table, bands, setting.population.colours.bands())
    mine = {name: values[first : which.stop] for name, values in table.items()}
    numbers, texts = _parse(mine, first, problems)
    ids = _ids(texts, which, problems)
    rows: list[Row] = []
    for k in range(count):
        given = {name: float(values[k]) for name, values in numbers.items()}
        told = any(math.isfinite(mag) for n, mag in given.items() if n.startswith("mag_source_"))
        if told and not as_made:
            given["feature_snr"] = math.nan
        kind = texts["kind"][k] if "kind" in texts and texts["kind"][k] else "lens"
        row = _row(given, kind, setting, problems, f"row {first + k + 1}", painted=painted)
        row["artefact"] = texts["artefact"][k] if "artefact" in texts else ""
        if kind == "artefact" and row["artefact"] not in ARTEFACTS:
            known = ", ".join(ARTEFACTS)
            problems.append(
                f"row {first + k + 1}, artefact: {row['artefact']!r}; expected one of {known}"
            )
        rows.append(as_stored(row))
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        shown = problems[:_MOST_PROBLEMS] + ([f"… and {more} more"] if more > 0 else [])
        raise RequestError(f"{origin} has {len(problems)} problem(s)\n  " + "\n  ".join(shown))
    noise = {
        name: values[first : which.stop] for name, values in _noise_numbers(table, setting).items()
    }
    return Truth(rows, _contract(rows, ids, numbers, texts, setting) | noise)


def make(truth: Truth, setting: Setting) -> Mocks:
    """Make the modelled mocks of a table.

    The last bit of a pixel depends on what it is rendered with. A system is rendered in the place
    of its chunk that its noise has, in which it once was if `simulate` made it; places that the
    table does not fill are drawn.
    """
    rows, contract = truth.rows, truth.columns
    made: list[Mocks | None] = [None] * len(rows)
    for (seed, chunk, _), slots in _in_old_places(truth.noise).items():
        drawn = replace(setting, seed=seed)
        numbers = [(seed, chunk * CHUNK + slot) for slot in range(CHUNK)]
        filled = [
            rows[slots[slot]] if slot in slots else modelled_row(drawn, *numbers[slot])
            for slot in range(CHUNK)
        ]
        image_NCHW, mask_NCHW, found = observe(filled, setting, numbers)
        for slot, k in slots.items():
            one = slice(slot, slot + 1)
            mine = {name: values[k : k + 1] for name, values in contract.items()}
            mine["flags"] = mine["flags"] | flags_of(mask_NCHW[one])
            measured = {name: values[one] for name, values in found.items()}
            made[k] = assemble(image_NCHW[one], mask_NCHW[one], measured, [rows[k]], mine)
    whole = [mocks for mocks in made if mocks is not None]
    return Mocks(
        np.concatenate([mocks.image_NCHW for mocks in whole]),
        np.concatenate([mocks.mask_NCHW for mocks in whole]),
        {
            name: np.concatenate([mocks.columns[name] for mocks in whole])
            for name in whole[0].columns
        },
    )


def _in_old_places(noise: Sequence[tuple[int, int]]) -> dict[tuple[int, int, int], dict[int, int]]:
    """Which row stands in which place of which chunk (seed, chunk, and a number for twins)."""
    chunks: dict[tuple[int, int, int], dict[int, int]] = {}
    for k, (seed, index) in enumerate(noise):
        twin = 0
        while index % CHUNK in chunks.setdefault((seed, index // CHUNK, twin), {}):
            twin += 1
        chunks[seed, index // CHUNK, twin][index % CHUNK] = k
    return chunks


def _noise_numbers(table: Mapping[str, np.ndarray], setting: Setting) -> dict[str, np.ndarray]:
    """Seed and index of each row's noise; where some row has none the table's do not count."""
    count = len(next(iter(table.values())))
    numbers = {"noise_seed": np.full(count, setting.seed), "noise_index": np.arange(count)}
    told, _ = _parse({name: table[name] for name in numbers if name in table}, 0, [])
    return numbers | {
        name: values.astype(np.int64)
        for name, values in told.items()
        if values.dtype.kind in "iu" or np.isfinite(values).all()
    }


def _parse(
    table: Mapping[str, np.ndarray], first: int, problems: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Numbers and texts of a table whose first row is that of a larger one."""
    numbers: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = {}
    for name, values in table.items():
        if name in naming.TEXT:
            texts[name] = ["" if value is None else str(value) for value in values]
        elif name in naming.CARRIED and values.dtype.kind in "iu":
            numbers[name] = values
        else:
            column = np.full(len(values), math.nan)
            for k, value in enumerate(values):
                try:
                    column[k] = math.nan if value is None or value == "" else float(value)
                except (TypeError, ValueError):
                    problems.append(f"row {first + k + 1}, {name}: {value!r} is no number")
                if math.isinf(column[k]):
                    problems.append(f"row {first + k + 1}, {name}: {value!r} is not finite")
            numbers[name] = column
    return numbers, texts


def _ids(texts: Mapping[str, Sequence[str]], which: range, problems: list[str]) -> list[str]:
    ids = [str(name) for name in texts.get("id", [])] or [f"truth-{k:08d}" for k in which]
    seen: dict[str, int] = {}
    for k, name in zip(which, ids, strict=True):
        if not name or not name.isprintable() or len(name.encode()) > schema.MAX_ID_BYTES:
            problems.append(f"row {k + 1}, id: {name!r}; expected 1 to 64 printable bytes")
        elif name in seen:
            problems.append(f"row {k + 1}, id: {name!r} is that of row {seen[name] + 1}, too")
        seen.setdefault(name, k)
    return ids


def _conditions(given: Mapping[str, float], setting: Setting) -> Row:
    """Seeing and noise that a row states, else the survey's."""
    conditions: Row = {}
    for band in setting.observation.bands:
        fwhm, rms = setting.sky.psf_fwhm_arcsec[band], setting.sky.sky_rms_njy[band]
        conditions[f"psf_fwhm_{band}_arcsec"] = value_or(given.get(f"psf_fwhm_{band}_arcsec"), fwhm)
        conditions[f"sky_rms_{band}_njy"] = value_or(given.get(f"sky_rms_{band}_njy"), rms)
    if "noise_correlation_pixels" in given:
        conditions["noise_correlation_pixels"] = value_or(given["noise_correlation_pixels"], 0.0)
    return conditions


@lru_cache(maxsize=4096)
def _bounds_of(name: str) -> tuple[tuple[float, float, bool], ...]:
    """Lowest and highest value of a column, and whether the lowest is allowed."""
    return tuple(
        (low, high, closed)
        for pattern, low, high, closed in _BOUNDS
        if re.fullmatch(f".*{pattern}" if pattern[0] == "_" else pattern, name)
    )


def _row(
    given: Mapping[str, float],
    kind: str,
    setting: Setting,
    problems: list[str],
    where: str,
    *,
    painted: bool,
) -> Row:
    """One row, complete; what is wrong with it is added to `problems`."""
    bands = setting.observation.bands
    row: Row = dict.fromkeys(population.columns(bands), math.nan)
    row |= {name: value for name, value in given.items() if name in row}
    seed = float(row["surroundings_seed"])
    row["surroundings_seed"] = int(seed) if seed.is_integer() else seed
    row["kind"], row["label"] = kind, int(kind == "lens")
    for name, value in given.items():
        for low, high, closed in _bounds_of(name):
            if value < low or value > high or (value == low and not closed):
                bracket = "[" if closed else "("
                problems.append(f"{where}, {name}: {value:g}; expected {bracket}{low:g}, {high:g}]")
    if kind not in ("lens", *NEGATIVE_KINDS):
        expected = nearest(kind, ("lens", *NEGATIVE_KINDS))
        problems.append(f"{where}, kind: {kind!r} is unknown; expected {expected}")
        return row
    for name in ("dx", "dy", "centre_x_arcsec", "centre_y_arcsec"):
        row[name] = value_or(row[name], 0.0)
    row.update(_conditions(given, setting))
    if setting.material is not None:
        setting.material.measure(row, bands)
    if kind == "lens":
        problems += [
            f"{where}, {problem}" for problem in complete_lens(row, given, setting, painted=painted)
        ]
    for name in _NEEDS.get(kind, ()):
        if math.isnan(float(row[name])):
            problems.append(f"{where}, {name}: missing; a row of kind {kind} needs it")
    problems += [f"{where}, {problem}" for problem in _contradictions(row, given)]
    if not painted and kind != "lens":
        problems += [f"{where}, {problem}" for problem in light_problems(row, kind, bands)]
    stamp = float(row["source_stamp"])
    images = None if setting.material is None else setting.material.sources
    if stamp >= 0 and stamp >= (0 if images is None else len(images)):
        there = 0 if images is None else len(images)
        problems.append(
            f"{where}, source_stamp: {stamp:g} of {there} source images; expected --sources with "
            "those that the table was made with"
        )
    problems += [f"{where}, {problem}" for problem in _seeing_problems(row, setting)]
    if not painted:
        population.add_total_magnitudes(row, bands)
    return row


def _contradictions(row: Row, given: Mapping[str, float]) -> list[str]:
    """What one column says against another."""
    problems = []
    counted = [name for name in ("group_count", "knot_count") if float(row[name]) >= 1]
    if counted and math.isnan(float(row["surroundings_seed"])):
        problems.append(f"surroundings_seed: missing; {counted[0]} needs it")
    shares = [float(row[f"clump_{k + 1}_fraction"]) for k in range(MAX_CLUMPS)]
    together = sum(share for share in shares if share > 0)
    if together > 1 + 1e-6:
        problems.append(f"clump_*_fraction: {together:g} together; expected at most 1")
    label = given.get("label", math.nan)
    if math.isfinite(label) and label != row["label"]:
        problems.append(f"label: {label:g}; kind {row['kind']} has label {row['label']}")
    return problems


def _seeing_problems(row: Row, setting: Setting) -> list[str]:
    """Seeing that is sharper than pixels alone make a point."""
    observation, problems = setting.observation, []
    beta = observation.moffat_beta if observation.psf == "moffat" else None
    for band in observation.bands if observation.psf != "image" else ():
        fwhm = float(row[f"psf_fwhm_{band}_arcsec"])
        least = narrowest_fwhm(observation.pixel_scale_arcsec, beta)
        if 0 < fwhm <= least:
            problems.append(
                f"psf_fwhm_{band}_arcsec: {fwhm:g}; expected more than {least:.3g}, which a pixel "
                "alone gives"
            )
    return problems


def _contract(
    rows: Sequence[Row],
    ids: list[str],
    numbers: Mapping[str, np.ndarray],
    texts: Mapping[str, list[str]],
    setting: Setting,
) -> dict[str, np.ndarray]:
    """The contract's columns: the table's where it has them."""
    count = len(rows)
    host_id = [
        name or f"host-{ids[k]}" for k, name in enumerate(texts.get("host_id", [""] * count))
    ]
    sources = [f"source-{i}" if r["kind"] == "lens" else "" for i, r in zip(ids, rows, strict=True)]
    shares = setting.val_fraction, setting.test_fraction
    split = [
        name if name in schema.SPLITS else split_of(host, *shares)
        for name, host in zip(texts.get("split", [""] * count), host_id, strict=True)
    ]
    columns = {
        "id": np.array(ids),
        "host_id": np.array(host_id),
        "source_id": np.array(texts.get("source_id", sources)),
        "split": np.array(split),
        "tile": np.array(texts.get("tile", [""] * count)),
        "flags": np.nan_to_num(numbers.get("flags", np.zeros(count))).astype(np.int32),
    }
    for name in ("ra", "dec", "x", "y"):
        columns[name] = numbers.get(name, np.full(count, math.nan)).astype(np.float64)
    return columns

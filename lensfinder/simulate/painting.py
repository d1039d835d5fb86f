"""Real hosts for `simulate`: which there are, and mocks painted on a share of them."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensfinder import catalogs, shards, tables
from lensfinder.config import SimulateConfig
from lensfinder.errors import RequestError
from lensfinder.ledger import products_of
from lensfinder.simulate import cosmology, hosts
from lensfinder.simulate.families import Row
from lensfinder.simulate.inputs import check_stamps
from lensfinder.simulate.mocks import (
    Chunk,
    Mocks,
    Setting,
    as_stored,
    assemble,
    contract_columns,
    in_chunks,
    mock_id,
)
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.splits import fraction_of, sky_cell, split_of
from lensfinder.simulate.truth import Truth

_APERTURE_SIGMA_ARCSEC = 1.2
# Within which a galaxy's peak is looked for.
_CORE_ARCSEC = 1.0


@dataclass(frozen=True)
class Host:
    """A stamp that may be painted on: where its pixels are, and what decides its use."""

    path: str
    row: int
    host_id: str
    cell: str


def find_hosts(
    config: SimulateConfig, bands: tuple[str, ...], pixel_scale_arcsec: float, size: int
) -> tuple[list[Host], list[dict[str, Any]]]:
    """List the usable hosts of a cutout folder in an order that owes nothing to the folder.

    Returns
    -------
    found : list of Host
    inputs : identity of the shards they stand in, for the fingerprint

    Raises
    ------
    MismatchError
        if bands or pixel scale differ, or the stamps are smaller than wanted
    RequestError
        if no host is left
    """
    assert config.hosts is not None
    known_ra = known_dec = np.zeros(0)
    if config.known is not None:
        known = tables.read_catalog(config.known)
        known_ra, known_dec = known["ra"], known["dec"]
    found, inputs = [], []
    for path in products_of(config.hosts, "cutout"):
        with shards.read(path) as shard:
            header, catalog = shard.header, shard.catalog
            check_stamps(
                path,
                header,
                size=shard.size,
                wanted_size=size,
                bands=bands,
                pixel_scale_arcsec=pixel_scale_arcsec,
            )
        inputs.append({"name": path.name, "made_from": header.ingredients})
        usable = hosts.away_from(catalog["ra"], catalog["dec"], known_ra, known_dec)
        usable &= catalog["flags"] == 0
        found += [
            Host(
                str(path),
                int(row),
                str(catalog["id"][row]),
                sky_cell(float(catalog["ra"][row]), float(catalog["dec"][row])),
            )
            for row in np.flatnonzero(usable)
        ]
    if not found:
        raise RequestError(
            f"{config.hosts} holds no usable host",
            "unflagged stamps farther than 5 arcsec from known lenses",
        )
    return sorted(found, key=lambda host: fraction_of(f"order/{host.host_id}")), inputs


def make_painted(
    chosen: Sequence[Host], setting: Setting, indices: range, prefix: str = "mock"
) -> Mocks:
    """Paint mocks on real hosts.

    Parameters
    ----------
    chosen : host of each mock; may repeat
    setting : what all of them have in common; its sky serves where a host says nothing
    indices : of the mocks; the first a multiple of 64
    prefix : of their ids
    """
    observation, seed = setting.observation, setting.seed
    shares = setting.val_fraction, setting.test_fraction
    splits = [split_of(host.cell, *shares) for host in chosen]
    pixels, catalog = _read(chosen, observation)
    rows = [
        as_stored(
            _draw_row(
                host,
                pixels["image"][k],
                pixels["mask"][k] == 0,
                catalog[k],
                setting,
                indices[k],
                splits[k],
            )
        )
        for k, host in enumerate(chosen)
    ]
    noise = [(seed, index) for index in indices]
    image_NCHW, truth = _paint(pixels["image"], rows, setting, noise)
    ids = [mock_id(i, prefix) for i in indices]
    contract = contract_columns(
        ids,
        host_id=[host.host_id for host in chosen],
        split=splits,
        noise=noise,
        source_id=[setting.source_id(row, name) for row, name in zip(rows, ids, strict=True)],
        place=_place(catalog),
    )
    return assemble(image_NCHW, pixels["mask"], truth, rows, contract)


def repaint(chosen: Sequence[Host], truth: Truth, setting: Setting, told: Container[str]) -> Mocks:
    """Paint the rows of a table on their hosts.

    Parameters
    ----------
    chosen : host of each row
    told : columns of the table; what else there is to say of a host is taken from its stamp
    """
    pixels, catalog = _read(chosen, setting.observation)
    rows = [
        row | {name: value for name, value in of_host.items() if name not in told}
        for row, of_host in (
            (row, _of_host(_sky_rms(pixels, k), catalog[k], setting))
            for k, row in enumerate(truth.rows)
        )
    ]
    image_NCHW, measured = _paint(pixels["image"], rows, setting, truth.noise)
    contract = truth.columns | _place(catalog)
    return assemble(image_NCHW, pixels["mask"], measured, rows, contract)


def _place(catalog: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = ("ra", "dec", "tile", "x", "y", "flags")
    return {name: np.array([entry[name] for entry in catalog]) for name in names}


def _paint(
    host_NCHW: np.ndarray,
    rows: Sequence[Row],
    setting: Setting,
    noise: Sequence[tuple[int, int]],
) -> Chunk:
    def make(chunk: slice, generators: list[np.random.Generator]) -> Chunk:
        return hosts.paint(host_NCHW[chunk], rows[chunk], setting.observation, generators)

    return in_chunks(make, noise, setting)


def _read(
    chosen: Sequence[Host], observation: Observation
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Pixels (N, C, H, W) and catalogue entries of the hosts, each shard opened once."""
    shape = (len(chosen), len(observation.bands), observation.size, observation.size)
    pixels: dict[str, np.ndarray] = {
        "image": np.empty(shape, np.float32),
        "mask": np.empty(shape, np.uint8),
    }
    catalog: list[dict[str, Any]] = [{} for _ in chosen]
    for path in sorted({host.path for host in chosen}):
        with shards.read(Path(path)) as shard:
            order = [shard.header.bands.index(band) for band in observation.bands]
            margin = (shard.size - observation.size) // 2
            window = slice(margin, margin + observation.size)
            for k, host in enumerate(chosen):
                if host.path == path:
                    for name, stack in (("image", shard.image), ("mask", shard.mask)):
                        pixels[name][k] = stack[host.row][order][:, window, window]
                    catalog[k] = {c: values[host.row] for c, values in shard.catalog.items()}
    return pixels, catalog


def _sky_rms(pixels: Mapping[str, np.ndarray], k: int) -> np.ndarray:
    return hosts.measure_sky(pixels["image"][k], pixels["mask"][k] == 0)[1]


def _of_host(rms_C: np.ndarray, entry: Mapping[str, Any], setting: Setting) -> dict[str, float]:
    """What a host's sky and catalogue say: seeing, noise, magnitudes, and where its centre is."""
    bands, sky = setting.observation.bands, setting.sky
    found = {name: float(entry[name]) for name in ("dx", "dy")}
    for band, rms in zip(bands, rms_C, strict=True):
        fwhm = float(entry.get(f"psf_fwhm_{band}_arcsec", math.nan))
        found[f"psf_fwhm_{band}_arcsec"] = fwhm if fwhm > 0 else sky.psf_fwhm_arcsec[band]
        found[f"sky_rms_{band}_njy"] = float(rms) if rms > 0 else sky.sky_rms_njy[band]
        found[f"mag_{band}"] = float(entry.get(f"mag_{band}", math.nan))
    return found


def _redshift(entry: Mapping[str, Any]) -> float:
    """The best one that is known; a survey's -1 or -99 is none."""
    told = (float(entry[name]) for name in catalogs.REDSHIFT_NAMES if name in entry)
    return next((z for z in told if 0 < z < cosmology.Z_MAX), math.nan)


def _draw_row(
    host: Host,
    image_CYX: np.ndarray,
    good_CYX: np.ndarray,
    entry: dict[str, Any],
    setting: Setting,
    index: int,
    split: str,
) -> Row:
    population, observation = setting.population, setting.observation
    bands, reference = observation.bands, observation.reference_band
    scale = observation.pixel_scale_arcsec
    level_C, rms_C = hosts.measure_sky(image_CYX, good_CYX)
    of_host = _of_host(rms_C, entry, setting)
    c = bands.index(reference)
    centre = observation.size // 2
    shape = hosts.measure_shape(
        image_CYX[c] - level_C[c],
        good_CYX[c],
        centre + float(entry["dx"]),
        centre + float(entry["dy"]),
        psf_fwhm_pixel=of_host[f"psf_fwhm_{reference}_arcsec"] / scale,
        aperture_sigma_pixel=_APERTURE_SIGMA_ARCSEC / scale,
    )
    seen = image_CYX[c] - level_C[c]
    near = good_CYX[c] & (np.hypot(*(np.indices(seen.shape) - centre)) * scale < _CORE_ARCSEC)
    row = hosts.draw_on_host(
        population,
        bands,
        reference,
        setting.seed,
        index,
        positive=hosts.is_positive(host.host_id, population.positive_fraction),
        host=hosts.HostGalaxy(
            mag=float(entry.get(f"mag_{reference}", math.nan)),
            z=_redshift(entry),
            shape=shape,
            peak_njy=float(seen[near].max(initial=0.0)),
        ),
    )
    row |= of_host
    if setting.material is not None:
        setting.material.choose(row, bands, setting.seed, index, setting.sources_of(split))
    return row

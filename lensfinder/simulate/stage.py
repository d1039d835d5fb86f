"""`simulate`: mock lenses and non-lenses with their truth, in shards like those of `cutout`.

A unit is a range of object indices; its product is one shard. What an object is follows from the
seed and its index alone, so units can be done anywhere and in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensfinder import shards, survey
from lensfinder.commit import commit
from lensfinder.config import Config
from lensfinder.errors import RequestError
from lensfinder.ledger import close_ledger
from lensfinder.runs import Receipt, Run, Summary, Unit, fingerprint, ingredients
from lensfinder.simulate import recipe
from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.population import check_bands

if TYPE_CHECKING:
    from lensfinder.simulate.painting import Host

_VERSION = 2
PREVIEW = "preview.png"
_PREVIEW_COUNT = 40


def load_population(name: str) -> recipe.Population:
    """Read a recipe by name, or from a TOML file.

    Raises
    ------
    RequestError
        if there is none, or with everything that is wrong in it
    """
    try:
        if not name.endswith(".toml"):
            return recipe.parse(recipe.shipped_text(name), f"population '{name}'")
        return recipe.parse(Path(name).read_text(encoding="utf-8"), name)
    except RecipeError as error:
        raise RequestError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"population {name} can't be read: {error}") from error


def plan(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Yield the units: ranges of object indices."""
    chosen = config.simulate
    this = survey.load(config.run.survey)
    bands = this.choose_bands(chosen.bands)
    population = load_population(chosen.population)
    try:
        check_bands(population, bands)
    except RecipeError as error:
        raise RequestError(str(error)) from error
    sky = {
        "survey": this.name,
        "pixel_scale_arcsec": this.pixel_scale_arcsec,
        "reference_band": this.reference_of(bands),
        "psf_fwhm_arcsec": {band: this.psf_fwhm_arcsec[band] for band in bands},
        "sky_rms_njy": {band: this.sky_rms_njy[band] for band in bands},
    }
    keys = {
        "bands": list(bands),
        "size": chosen.size,
        "val_fraction": chosen.val_fraction,
        "test_fraction": chosen.test_fraction,
    }
    inputs: dict[str, Any] = {
        "seed": config.run.seed,
        "sky": sky,
        "population": population.model_dump(mode="json"),
    }
    hosts: list[Host] = []
    if chosen.hosts is not None:
        # Imported here because it brings torch along, which planning of modelled mocks spares.
        from lensfinder.simulate.painting import find_hosts

        hosts, inputs["hosts"] = find_hosts(chosen, bands, this.pixel_scale_arcsec)
        # Which hosts there are decides which one an index gets; known lenses are none of them.
        inputs["host_list"] = fingerprint({"ids": [host.host_id for host in hosts]})
    units = []
    for first in range(0, chosen.count, chosen.unit_size):
        last = min(first + chosen.unit_size, chosen.count)
        name = f"mock-{first:08d}-{last:08d}"
        task: dict[str, Any] = {"provenance": run.provenance}
        if hosts:
            task["hosts"] = [asdict(hosts[i % len(hosts)]) for i in range(first, last)]
        units.append(
            Unit(
                stage="simulate",
                name=name,
                product=run.product(f"{name}.h5"),
                ingredients=ingredients("simulate", _VERSION, keys, range=[first, last], **inputs),
                task=task,
                planned=last - first,
            )
        )
    run.units = run.share(units)
    yield run.units


def do(unit: Unit) -> Receipt:
    """Make the mocks of one range, on one thread whatever is at hand."""
    import torch

    from lensfinder.simulate.mocks import Setting, make_modelled

    made_from, task = unit.ingredients, unit.task
    setting, indices = Setting.of(made_from), range(*made_from["range"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if "hosts" in task:
            from lensfinder.simulate.painting import Host, make_painted

            mocks = make_painted([Host(**host) for host in task["hosts"]], setting, indices)
        else:
            mocks = make_modelled(setting, indices)
    except RecipeError as error:
        raise RequestError(str(error)) from error
    finally:
        torch.set_num_threads(threads)
    count = len(mocks.image_NCHW)
    shards.write(
        unit.product,
        shards.Header(
            stage="simulate",
            survey=setting.survey,
            bands=setting.observation.bands,
            pixel_scale_arcsec=setting.observation.pixel_scale_arcsec,
            ingredients=made_from,
            provenance=task["provenance"],
        ),
        mocks.image_NCHW,
        mocks.mask_NCHW,
        mocks.columns,
        ledger={
            "id": list(mocks.columns["id"]),
            "outcome": ["ok"] * count,
            "reason": [""] * count,
        },
    )
    return Receipt(count, count)


def prove(unit: Unit) -> Receipt | None:
    """Open the product: schema and rows must be right."""
    try:
        with shards.read(unit.product) as shard:
            count = len(shard)
            whole = count == unit.planned == len(shard.ledger["outcome"])
    except (RequestError, KeyError):
        return None
    return Receipt(count, count) if whole else None


def made_from(product: Path) -> dict[str, Any] | None:
    """Return the ingredients a product was made from, or None if it can't be read."""
    return shards.made_from(product)


def finish(run: Run) -> Summary:
    """Write index, ledger and, if asked for, the preview."""
    counts = close_ledger(run, prove, _outcomes)
    lines = [f"simulate: {counts['ok']} mocks, {counts['failed']} failed"]
    done = [unit for unit in run.units if unit.product.exists()]
    if run.config.simulate.preview and done:
        lines.append(f"preview: {_write_preview(run, done[0])}")
    return Summary("simulate", run.folder, counts, lines)


def _outcomes(unit: Unit) -> dict[str, Any]:
    with shards.read(unit.product) as shard:
        return {name: list(shard.ledger[name]) for name in ("id", "outcome", "reason")}


def _write_preview(run: Run, unit: Unit) -> Path:
    from lensfinder.simulate.preview import write_mosaic

    path = run.folder / PREVIEW
    with shards.read(unit.product) as shard:
        image = shard.image[:_PREVIEW_COUNT]
        columns = {name: values[:_PREVIEW_COUNT] for name, values in shard.catalog.items()}
        with commit(path) as temporary:
            write_mosaic(
                temporary,
                image,
                columns,
                shard.header.bands,
                reference_band=unit.ingredients["sky"]["reference_band"],
            )
    return path

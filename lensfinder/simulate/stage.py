"""`simulate`: mock lenses and non-lenses with their truth, in shards like those of `cutout`.

A unit is a range of object indices; its product is one shard. What an object is follows from the
seed and its index alone, so units can be done anywhere and in any order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensfinder import shards, tables
from lensfinder.commit import commit
from lensfinder.config import Config
from lensfinder.errors import RequestError, counted
from lensfinder.fingerprints import ingredients
from lensfinder.ledger import close_ledger
from lensfinder.parallel import keep_buffers
from lensfinder.runs import Run, Summary
from lensfinder.simulate.compiled import wait_ahead
from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.planning import load_population, plan_request
from lensfinder.units import Receipt, Unit

if TYPE_CHECKING:
    from lensfinder.simulate.mocks import Mocks, Setting

__all__ = ["do", "finish", "load_population", "made_from", "plan", "prove"]

_VERSION = 9
PREVIEW = "preview.png"
TRUTH = "truth.parquet"


def plan(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Yield the units: ranges of object indices, or of rows of a table of truth."""
    request = plan_request(config)
    run.notices += request.notices
    ahead = wait_ahead() if request.keys.get("compile") else ""
    if ahead and run.execution.verbosity >= 0:
        print(f"simulate: {ahead}", file=sys.stderr, flush=True)
    units = []
    for first in range(0, request.count, config.simulate.unit_size):
        last = min(first + config.simulate.unit_size, request.count)
        name = f"mock-{first:08d}-{last:08d}"
        units.append(
            Unit(
                stage="simulate",
                name=name,
                product=run.product(f"{name}.h5"),
                ingredients=ingredients(
                    "simulate", _VERSION, request.keys, range=[first, last], **request.inputs
                ),
                task={"provenance": run.provenance, **request.task(first, last)},
                planned=last - first,
            )
        )
    run.units = run.share(units)
    run.notes["reference_band"] = request.inputs["sky"]["reference_band"]
    yield run.units


def do(unit: Unit) -> Receipt:
    """Make the mocks of one range, on one thread whatever is at hand."""
    import torch

    from lensfinder.simulate.inputs import load
    from lensfinder.simulate.mocks import Setting

    keep_buffers()
    made_from, task = unit.ingredients, unit.task
    setting = Setting.of(made_from, load(task["material"]) if "material" in task else None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        mocks = _make(unit, setting)
    except RecipeError as error:
        raise RequestError(str(error)) from error
    finally:
        torch.set_num_threads(threads)
    count = len(mocks.image_NCHW)
    digest = shards.write(
        unit.product,
        shards.Header(
            stage="simulate",
            survey=setting.survey,
            bands=setting.observation.bands,
            pixel_scale_arcsec=setting.observation.pixel_scale_arcsec,
            ingredients=made_from,
            provenance=task["provenance"],
            stretched=setting.population.composite is not None,
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
    return Receipt(count, count, sha256=digest)


def _make(unit: Unit, setting: Setting) -> Mocks:
    """Draw or look up the systems of a unit and render them."""
    from lensfinder.simulate import mocks, truth

    task, which = unit.task, range(*unit.ingredients["range"])
    hosts = []
    if "hosts" in task:
        from lensfinder.simulate import painting

        hosts = [painting.Host(**host) for host in task["hosts"]]
    if "truth" not in task:
        if hosts:
            return painting.make_painted(hosts, setting, which)
        return mocks.make_modelled(setting, which)
    path = Path(task["truth"])
    table = truth.read(path)
    systems = truth.complete(
        table, setting, str(path),
        painted=bool(hosts), as_made=unit.ingredients["as_made"], which=which,
    )  # fmt: skip
    if hosts:
        return painting.repaint(hosts, systems, setting, table)
    return truth.make(systems, setting)


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
    """Write index, ledger, the table of truth and, if asked for, the preview."""
    counts = close_ledger(run, prove, _outcomes)
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    lines = [f"simulate: {counted(counts['ok'], 'mock')}{failed}"]
    done = [unit for unit in run.units if unit.product.exists()]
    if done:
        lines.append(f"truth: {_write_truth(run, done)}")
    if run.config.simulate.preview and done:
        lines.append(f"preview: {_write_preview(run, done)}")
    return Summary("simulate", run.folder, counts, lines)


def _write_truth(run: Run, units: list[Unit]) -> Path:
    """Write what all mocks are, and what they were made with: all that makes them again."""
    parts = []
    for unit in units:
        with shards.read(unit.product) as shard:
            parts.append(shard.catalog)
    columns = tables.concatenate(parts)
    # Most columns belong to one kind; what no mock has needs no column.
    kept = {
        name: values
        for name, values in columns.items()
        if values.dtype.kind != "f" or not np.isnan(values).all()
    }
    path = run.folder / TRUTH
    common = {key: value for key, value in units[0].ingredients.items() if key != "range"}
    tables.write_columns(path, kept, {"ingredients": common})
    return path


def _outcomes(unit: Unit) -> dict[str, Any]:
    with shards.read(unit.product) as shard:
        return {name: list(shard.ledger[name]) for name in ("id", "outcome", "reason")}


def _write_preview(run: Run, units: list[Unit]) -> Path:
    from lensfinder.simulate.preview import write_mosaic

    path = run.folder / PREVIEW
    with shards.read(units[0].product) as shard, commit(path) as temporary:
        write_mosaic(
            temporary,
            shard.image,
            shard.catalog,
            shard.header.bands,
            reference_band=run.notes["reference_band"],
            pictures=shard.header.stretched,
        )
    return path

"""The command line: options to configuration to one call.

Each stage's options are made from its configuration section, so that an option, a TOML key and
their description are one thing. This is the only module that prints errors and exits.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lensfinder import __version__
from lensfinder.commit import disk_errors
from lensfinder.config import STAGES, RunConfig, load, section_model
from lensfinder.errors import LensfinderError, RequestError, counted, printable
from lensfinder.options import EXAMPLES, options_of
from lensfinder.runs import BREAKING, Execution, Summary, execute
from lensfinder.signals import listen

app = typer.Typer(
    help="Find strong gravitational lenses in survey images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file with a section named like the command."
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set any key; may be repeated."),
]
Part = Annotated[
    str, typer.Option(metavar="K/N", help="Do the K-th of N shares of the units (job arrays).")
]
Force = Annotated[bool, typer.Option("--force", help="Make products again that differ.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Verbose = Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]


def _folder(text: str) -> Path:
    """Refuse the empty name of a variable that isn't set; it would be this folder."""
    if not text:
        raise typer.BadParameter("an empty name; expected a folder")
    return Path(text)


Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write to.", parser=_folder)
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"lensfinder {__version__}")
        raise typer.Exit


# -- the five stages ----------------------------------------------------------------------------


def _stage_command(stage: str) -> Callable[..., None]:
    def command(
        *,
        output: Output,
        config: ConfigFile = None,
        set_: Sets = None,
        part: Part = "1/1",
        finish: Annotated[bool, typer.Option("--finish", help="Only merge what is done.")] = False,
        force: Force = False,
        dry_run: DryRun = False,
        json_: AsJson = False,
        verbose: Verbose = 0,
        quiet: Quiet = False,
        **keys: Any,
    ) -> None:
        options: dict[str, dict[str, Any]] = {}
        for name, value in keys.items():
            section, key = name.split("__", 1)
            if value not in (None, []):
                options.setdefault(section, {})[key] = value
        loaded = load(config, set_ or (), options)
        execution = Execution(
            engine=loaded.run.engine,
            workers=loaded.run.workers,
            part=_part(part),
            finish_only=finish,
            force=force,
            dry_run=dry_run,
            verbosity=-1 if quiet else verbose,
            command=_command_line(),
        )
        summary = execute(stage, loaded, output, execution)
        _conclude([summary], as_json=json_, quiet=quiet)

    what, example = EXAMPLES[stage]
    command.__doc__ = f"{what}\n\nExample: {example}"
    own = inspect.signature(command, eval_str=True).parameters
    fixed = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    stage_options = options_of(stage, section_model(stage))
    parameters = [*stage_options, *fixed, *options_of("run", RunConfig)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


for _stage in STAGES:
    app.command(_stage)(_stage_command(_stage))


def _part(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise RequestError(f"--part {text}", "K/N with 1 ≤ K ≤ N, such as 3/40")
    return int(part), int(parts)


def _command_line() -> str:
    return shlex.join(["lensfinder", *sys.argv[1:]])


def _conclude(summaries: list[Summary], *, as_json: bool, quiet: bool) -> None:
    """Print what was done and exit with the worst code."""
    if as_json:
        print(json.dumps([_plain(summary) for summary in summaries], indent=1))
    elif not quiet:
        for line in summaries[-1].lines:
            print(printable(line))
    failures = [item for summary in summaries for item in summary.failures.items()]
    for name, failure in failures[:20]:
        print(printable(f"failed: {name} [{failure.reason}] {failure.message}"), file=sys.stderr)
        if failure.traceback:
            print(failure.traceback, file=sys.stderr)
    if len(failures) > 20:
        print(f"failed: … {len(failures) - 20} more, see `lensfinder status`", file=sys.stderr)
    last, *before = (summary.exit_code for summary in reversed(summaries))
    # Where a chain broke off, that is what became of it, whatever was lost on the way.
    code = last if last in BREAKING else max(last, *before, 0)
    if code:
        raise typer.Exit(code)


def _plain(summary: Summary) -> dict[str, Any]:
    return {
        "stage": summary.stage,
        "folder": str(summary.folder),
        "counts": summary.counts,
        "done": summary.done,
        "reused": summary.reused,
        "failures": {name: failure.reason for name, failure in summary.failures.items()},
        "lines": summary.lines,
    }


# -- the chain and what surrounds it ------------------------------------------------------------


@app.command("run")
def run_command(
    pipeline: Annotated[
        Path,
        typer.Argument(
            metavar="PIPELINE.toml",
            help="Pipeline to run; or a product (a shard, scores, a model, report.json, run.json), "
            "whose stage is run again as it was.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Default: the pipeline's name.", parser=_folder
        ),
    ] = None,
    set_: Sets = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; 0: one per core.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="serial | local | slurm (submit jobs) | ADDRESS")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="One stage alone, by its folder.")
    ] = None,
    part: Part = "1/1",
    finish: Annotated[bool, typer.Option("--finish", help="Only merge what is done.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a whole pipeline; what is proven done is skipped.

    Example: lensfinder run pipelines/quickstart.toml
    """
    from lensfinder.pipeline import run_pipeline, submit_pipeline

    given = {"workers": workers, "engine": engine, "seed": seed}
    options = {"run": {k: v for k, v in given.items() if v is not None}}
    stage = ""
    if pipeline.suffix == ".toml":
        loaded = load(pipeline, set_ or (), options)
    else:
        from lensfinder.remake import request_of

        stage, loaded = request_of(pipeline, set_ or (), options)
    output = output or Path(stage or pipeline.stem)
    if not stage and loaded.run.engine == "slurm":
        if part != "1/1" or finish:
            raise RequestError(
                "--part or --finish with --engine slurm",
                "neither: the chain's jobs divide the work, and merge it",
            )
        more = [f"--set={text}" for text in set_ or ()]
        more += [f"--{key}={given[key]}" for key in ("workers", "seed") if given[key] is not None]
        more += ["--force"] if force else []
        lines = submit_pipeline(loaded, pipeline, output, more, only, dry_run=dry_run)
        if json_:
            print(json.dumps(lines, indent=1))
        elif not quiet or dry_run:
            print(*lines, sep="\n")
        return
    execution = Execution(
        engine=loaded.run.engine,
        workers=loaded.run.workers,
        part=_part(part),
        finish_only=finish,
        force=force,
        dry_run=dry_run,
        verbosity=-1 if quiet else 0,
        command=_command_line(),
    )
    if stage:
        summaries = [execute(stage, loaded, output, execution)]
    else:
        summaries = run_pipeline(loaded, output, execution, only)
    _conclude(summaries, as_json=json_, quiet=quiet)


@app.command()
def check(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="[PIPELINE.toml | TILE...]", help="To look at.")
    ] = None,
    survey: Annotated[str, typer.Option(help="Survey of the tiles.")] = "kids",
    bands: Annotated[str, typer.Option(help="Bands in order; default: the survey's.")] = "",
    json_: AsJson = False,
) -> None:
    """Say what would fail, before any work; without arguments, describe this machine.

    Example: lensfinder check pipelines/quickstart.toml
    """
    from lensfinder.preflight import check_inputs, check_machine

    findings, code = (
        check_inputs(inputs, survey, bands) if inputs else (check_machine(Path.cwd()), 0)
    )
    if json_:
        print(json.dumps(findings, indent=1))
    else:
        width = max((len(name) for name in findings), default=0)
        for name, value in findings.items():
            print(printable(f"{name:{width}}  {value}"))
    if code:
        raise typer.Exit(code)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a stage or a pipeline.")],
    id_: Annotated[
        str | None, typer.Option("--id", metavar="X", help="Tell what became of one object.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Open and prove every product.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Compare checksums, too.")] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove temporary files and products no plan has.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Tell how far a run is, and what became of an object.

    Example: lensfinder status quickstart --id KIDSJ120004.06-002909.8
    """
    from lensfinder.status import describe

    lines, content, code = describe(folder, id_, verify=verify or deep, deep=deep, clean=clean)
    print(json.dumps(content, indent=1) if json_ else printable("\n".join(lines)))
    if code:
        raise typer.Exit(code)


@app.command()
def grades(
    files: Annotated[
        list[Path], typer.Argument(metavar="GRADES.csv...", help="One file for each grader.")
    ],
    output: Output,
    lens_from: Annotated[
        float, typer.Option(help="Mean grade from which an object is labelled a lens (A is 3).")
    ] = 2.0,
    not_lens_to: Annotated[
        float, typer.Option(help="Mean grade up to which it is labelled none (X is 0).")
    ] = 0.5,
    stamps: Annotated[
        Path | None,
        typer.Option(metavar="SHARD", help="Also write their stamps, labelled, to train on."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Merge the grades of several people, as exported from a report's page.

    Example: lensfinder grades anna.csv ben.csv -o graded --stamps scores-sky/candidates.h5
    """
    from lensfinder.report.grades import write

    merged = write(output, files, lens_from=lens_from, not_lens_to=not_lens_to, stamps=stamps)
    if json_:
        print(json.dumps(merged, indent=1))
        return
    for grader in merged["graders"]:
        print(printable(f"{grader['name']}: {counted(grader['n'], 'grade')}"))
    for pair in merged["cohen_kappa"]:
        kappa = "not defined" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
        both = " and ".join(pair["graders"])
        of = counted(pair["n"], "object")
        print(printable(f"{both}: Cohen's kappa, quadratic weights, {kappa} ({of})"))
    if merged["fleiss_kappa"] is not None:
        objects = counted(merged["n_by_all"], "object")
        print(f"all: Fleiss' kappa {merged['fleiss_kappa']:.2f} ({objects})")
    print(
        f"{counted(merged['n'], 'object')}: {merged['n_lenses']} labelled a lens, "
        f"{merged['n_negatives']} labelled none, {merged['n_unknown']} unknown; "
        f"see {output / 'grades.csv'}"
    )
    if stamps is not None:
        stamps_there = counted(merged["n_labelled_stamps"], "labelled stamp")
        print(f"{stamps_there}: {output / 'labelled.h5'}")


@app.command()
def surveys(json_: AsJson = False) -> None:
    """List the surveys lensfinder knows.

    Example: lensfinder surveys
    """
    from lensfinder import listings

    _print_list(*listings.surveys(), as_json=json_)


@app.command()
def networks(
    bands: Annotated[int, typer.Option(min=1, max=64, help="Number of bands.")] = 3,
    size: Annotated[int, typer.Option(min=9, max=1023, help="Side of a stamp, pixels.")] = 101,
    models: Annotated[
        bool, typer.Option("--models", help="List trained models that come along instead.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """List the networks with their size and cost, or the trained models that come along.

    Example: lensfinder networks --bands 1 --size 45
    """
    from lensfinder import listings

    listed = listings.models() if models else listings.networks(bands, size)
    _print_list(*listed, as_json=json_)


def _print_list(content: list[dict[str, Any]], lines: list[str], *, as_json: bool) -> None:
    print(json.dumps(content, indent=1) if as_json else "\n".join(lines))


def main() -> None:
    """Entry point: run the command, turn what is wrong into a sentence and an exit code."""
    # OpenMP threads that spin without end while they wait make a busy machine ten times slower;
    # threads that never spin, an idle one by a quarter. Read when torch is loaded, also in workers.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        # A terminal that lacks a letter is no reason to fail.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        with listen(at_once=True), disk_errors():
            app()
    except LensfinderError as error:
        print(printable(f"lensfinder: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:  # the command-line boundary: a bug is shown whole
        traceback.print_exc()
        print("lensfinder: this is a bug; please report it with the lines above", file=sys.stderr)
        sys.exit(1)

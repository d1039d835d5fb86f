"""Laws of the house: who may import what, and who may catch everything."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensfinder.config import STAGES

PACKAGE = Path(__file__).parent.parent / "lensfinder"
FILES = sorted(PACKAGE.rglob("*.py"))
# What a stage's folder holds beside kernels: whatever turns a request into units and products.
ABOVE_KERNELS = {
    *("stage", "planning", "detection", "moved", "inputs", "products", "painting", "grades"),
    *("data", "distribute", "loop", "states"),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def is_for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(tree: ast.AST, *, lazy: bool = True) -> Iterator[str]:
    """Yield what is imported; without `lazy`, only what is imported at once."""
    for node in ast.iter_child_nodes(tree):
        if is_for_types_alone(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in MODULES else str(node.module)
        elif lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports_of(node, lazy=lazy)


IMPORTS = {name: set(imports_of(ast.parse(path.read_text()))) for name, path in MODULES.items()}
AT_ONCE = {
    name: set(imports_of(ast.parse(path.read_text()), lazy=False)) for name, path in MODULES.items()
}


def users_of(*packages: str) -> set[str]:
    return {
        name
        for name, imported in IMPORTS.items()
        if any(one.split(".")[0] in packages for one in imported)
    }


@pytest.mark.parametrize(
    ("packages", "owner"),
    [
        (("h5py",), {"lensfinder.shards"}),
        (("dask", "distributed"), {"lensfinder.parallel"}),
        (("pyarrow",), {"lensfinder.tables"}),
        (("typer", "click"), {"lensfinder.cli", "lensfinder.options"}),
        (("yaml", "dill", "joblib"), set()),
    ],
)
def test_each_heavy_dependency_has_one_owner(packages: tuple[str, ...], owner: set[str]) -> None:
    assert users_of(*packages) <= owner


def test_stages_meet_in_files_only() -> None:
    for stage in STAGES:
        others = {f"lensfinder.{other}.stage" for other in STAGES if other != stage}
        assert not IMPORTS[f"lensfinder.{stage}.stage"] & others
        for name in MODULES:
            if name.startswith(f"lensfinder.{stage}."):
                assert not IMPORTS[name] & others, name


KERNELS = sorted(
    name
    for name in MODULES
    if (name.startswith(tuple(f"lensfinder.{stage}." for stage in (*STAGES, "networks"))))
    and name.rpartition(".")[2] not in ABOVE_KERNELS
)


@pytest.mark.parametrize("name", [*KERNELS, "lensfinder.stamps", "lensfinder.pixels"])
def test_kernels_know_nothing_of_runs(name: str) -> None:
    forbidden = {
        f"lensfinder.{core}"
        for core in (
            "config",
            "runs",
            "fingerprints",
            "commit",
            "ledger",
            "parallel",
            "cli",
            "shards",
        )
    }
    forbidden |= {f"lensfinder.{stage}.stage" for stage in STAGES}
    assert not IMPORTS[name] & forbidden
    assert not {one.split(".")[0] for one in IMPORTS[name]} & {
        "dask",
        "distributed",
        "h5py",
        "logging",
    }


def test_imports_point_downward() -> None:
    core = {name for name in MODULES if name.count(".") == 1} - {
        f"lensfinder.{top}" for top in ("cli", "__main__", "pipeline", "preflight", "status")
    }
    for name in core:
        above = {
            "lensfinder.cli",
            "lensfinder.pipeline",
            "lensfinder.preflight",
            "lensfinder.status",
        }
        assert not IMPORTS[name] & above, name
        assert not any(
            f"lensfinder.{stage}." in one for one in IMPORTS[name] for stage in STAGES
        ), name


# `report --write-model` scores the golden stamps again; nothing else of it needs a network.
ON_DEMAND = {"lensfinder.report.stage": {"lensfinder.checkpoint"}}


@pytest.mark.parametrize("stage", ["cutout", "report"])
def test_a_stage_without_networks_never_loads_torch(stage: str) -> None:
    reached, left = set(), [f"lensfinder.{stage}.stage", "lensfinder.cli"]
    while left:
        name = left.pop()
        if name in reached:
            continue
        reached.add(name)
        # The command line reaches every command lazily; all else counts wherever it stands.
        imported = (AT_ONCE if name == "lensfinder.cli" else IMPORTS)[name]
        assert "torch" not in {one.split(".")[0] for one in imported}, name
        left += [one for one in imported - ON_DEMAND.get(name, set()) if one in MODULES]


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    return set(done.stderr.split())


def test_help_loads_nothing_heavy() -> None:
    run = "sys.argv = ['lensfinder', '--help']\nfrom lensfinder.cli import main"
    loaded = loaded_by(f"{run}\ntry:\n    main()\nexcept SystemExit:\n    pass")
    assert "lensfinder.cli" in loaded
    heavy = {"torch", "numpy", "astropy", "dask", "distributed", "h5py", "pyarrow", "scipy", "rich"}
    assert not loaded & heavy


def test_everything_is_caught_at_two_boundaries_only() -> None:
    found = set()
    for name, path in MODULES.items():
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, (ast.FunctionDef, ast.Module)):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and (
                    node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                ):
                    found.add((name, getattr(function, "name", "")))
    boundaries = {("lensfinder.cli", "main"), ("lensfinder.parallel", "attempt")}
    assert {place for place in found if place[1]} == boundaries


def test_nothing_runs_a_strangers_code() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), name
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("allow_pickle", "False") == "False", name
                if called == "torch.load":
                    assert given.get("weights_only", "True") == "True", name


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [
        path for path in FILES if path.stem in ("utils", "util", "helpers", "common", "misc")
    ]

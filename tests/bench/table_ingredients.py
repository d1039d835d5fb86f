"""What each ingredient of the mocks does for the sky: trains a model a recipe, prints a table.

    python tests/bench/table_ingredients.py FOLDER [--count 16000] [--epochs 8] [--only NAME ...]

Each row changes one thing of `base`, which is the population `rgb_composite` with few mocks and
epochs: the rows are for comparison with each other, not with the shipped model. `probe` is the
AUROC with which a linear probe tells embeddings of mock negatives from those of graded pictures:
0.5 where they look alike. `disputed` are pictures that experts disagreed on, by which recipes may
be chosen; `--space-warps` also looks at those kept for measuring. The last row averages the logits
of all models. Stopped, it goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import bench_real

from lensfinder import checkpoint, tables
from lensfinder.report import audits

PIPELINE = Path(__file__).resolve().parents[2] / "pipelines" / "models" / "rgb-composite.toml"


def without(*kinds: str) -> dict[str, Any]:
    """Return negatives without some kinds, all others in their proportions."""
    text = resources.files("lensfinder.simulate").joinpath("populations/rgb_composite.toml")
    fractions = tomllib.loads(text.read_text(encoding="utf-8"))["negatives"]
    kept = {kind: 0.0 if kind in kinds else share for kind, share in fractions.items()}
    total = sum(kept.values())
    return {"negatives": {kind: share / total for kind, share in kept.items()}}


# Tables of the population, by ingredient; `pipeline` holds keys of the pipeline, which fractions
# multiply.
INGREDIENTS: dict[str, dict[str, Any]] = {
    "base": {},
    "another seed": {"pipeline": {"run.seed": 7}},
    "white noise": {
        "conditions": {"noise_correlation_pixels": {"distribution": "constant", "value": 0.0}}
    },
    "few neighbours, no groups": {
        "surroundings": {"density_per_arcmin2": 45.0},
        "group": {"of_early_types": 0.0},
    },
    "easy negatives": {"negatives": {"galaxy": 0.5, "disc": 0.3, "edge_on": 0.1, "star": 0.1}},
    "no rings": without("ring"),
    "no spirals": without("spiral"),
    "no companions, no groups": without("companions", "group"),
    "a quarter of the companions": {
        "negatives": {
            "galaxy": 0.14,
            "disc": 0.10,
            "spiral": 0.27,
            "ring": 0.07,
            "companions": 0.06,
            "edge_on": 0.04,
            "merger": 0.14,
            "star": 0.02,
            "group": 0.02,
            "irregular": 0.13,
            "artefact": 0.01,
        }
    },
    "no mergers, no irregulars": without("merger", "irregular"),
    "more variety": {
        "conditions": {
            "psf_scatter": 0.2,
            "sky_scatter": 0.4,
            "noise_correlation_pixels": {"distribution": "uniform", "low": 0.2, "high": 1.8},
        },
        "surroundings": {"density_per_arcmin2": 160.0},
        "group": {"of_early_types": 0.35},
        "source": {"clump_fraction": {"distribution": "uniform", "low": 0.05, "high": 0.3}},
    },
    "one stretch": {
        "composite": {
            "sky_level": {"distribution": "uniform", "low": 8.8, "high": 9.6},
            "softening": {"distribution": "uniform", "low": 0.95, "high": 1.05},
            "level_scatter_dex": 0.01,
            "clipped": 0.0,
            "lifted": 0.0,
        }
    },
    "smooth sources": {
        "source": {"clump_count": {"distribution": "choice", "values": [0], "weights": [1]}}
    },
    "HST galaxies as sources": {
        "pipeline": {
            "simulate.sources": str(
                bench_real.DATA / "sources/hst_cosmos/real_galaxy_images_extension.fits"
            ),
            "simulate.source_pixel_arcsec": "0.03",
        }
    },
    "colours of sources free": {"colours": {"source": {"sigma": 0.45}}},
    "one PSF, one sky, no shifts": {
        "conditions": {"psf_scatter": 0.0, "sky_scatter": 0.0, "centroid_scatter_arcsec": 0.0},
        "pipeline": {"train.shift_pixels": 0},
    },
    "brighter arcs": {
        "source": {"snr": {"distribution": "log_uniform", "low": 60.0, "high": 400.0}}
    },
    "fainter arcs": {
        "source": {"snr": {"distribution": "log_uniform", "low": 12.0, "high": 120.0}}
    },
    "theta_E to 2.5": {
        "lens": {"theta_e_arcsec": {"distribution": "log_uniform", "low": 0.8, "high": 2.5}}
    },
    "61 pixels": {"pipeline": {"simulate.size": 61}},
    "three times the mocks": {"pipeline": {"simulate.count": 3.0}},
    "three times the epochs": {"pipeline": {"train.epochs": 3.0}},
    "petrillo2019, one view": {"pipeline": {"train.network": "petrillo2019"}},
}


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def make(name: str, folder: Path, count: int, epochs: int) -> Path:
    """Simulate, train, score and report; return the run's folder."""
    tables_of = dict(INGREDIENTS[name])
    # For a TPR at 1e-3 there must be 3,000 negatives.
    keys: dict[str, Any] = {"simulate.count": count, "simulate.test_fraction": 0.4}
    keys["train.epochs"] = epochs
    for key, value in tables_of.pop("pipeline", {}).items():
        keys[key] = round(keys[key] * value) if isinstance(value, float) else value
    word = name.replace(" ", "-").replace(",", "")
    recipe = folder / f"{word}.population.toml"
    lines = ['base = "rgb_composite"', f'name = "{word}"', f'description = "{name}"']
    for table, entries in tables_of.items():
        lines += [f"\n[{table}]", *(f"{key} = {toml(value)}" for key, value in entries.items())]
    text = "\n".join(lines) + "\n"
    if not recipe.exists() or recipe.read_text() != text:
        recipe.write_text(text)
    keys["simulate.population"] = recipe
    out = folder / word
    keys["report.write_model"] = out / "train"
    command = [sys.executable, "-m", "lensfinder", "run", PIPELINE, "-o", out, "-q"]
    command += [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    subprocess.run([str(part) for part in command], check=True)
    return out


def figures(out: Path, pictures: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Return mock figures and what the model says of real pictures; add its logits to `pictures`.

    `pictures` has a list for "disputed", and one for "Space Warps" where those are looked at.
    """
    report = json.loads((out / "report" / "report.json").read_text())
    tpr = [p["tpr"]["value"] for p in report["thresholds"] if p["fpr_asked"] == 1e-3]
    model = out / "train" / "products" / "model.safetensors"
    header = checkpoint.read_header(model)
    spec, limit = header["spec"], bench_real.threshold_of(header, 1e-2)
    arcsec = spec["size"] * spec["pixel_scale_arcsec"]

    def scored(given: bench_real.Set) -> dict[str, np.ndarray]:
        return bench_real.scores(given, spec, model, views=1)

    def flagged(given: bench_real.Set) -> str:
        as_picture = bench_real.as_pictures(given, bench_real.sky_rms(given.image_NCHW))
        logit = scored(as_picture)["logit"]
        return f"{(logit > limit).sum()}/{len(logit)}"

    disputed = [scored(given) for given in bench_real.space_warps(disputed=True)]
    pictures["disputed"].append(logits_of(disputed))
    if "Space Warps" in pictures:
        pictures["Space Warps"].append(logits_of([scored(g) for g in bench_real.space_warps()]))
    parts = sorted((out / "infer-mocks" / "products").glob("*.parquet"))
    columns = [tables.read_columns(part) for part in parts]
    mocks = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    negative = {name: mocks[name][mocks["label"] == 0] for name in mocks}
    names = ["logit", *audits.embedding_names(negative)]
    sky = {name: np.concatenate([part[name] for part in disputed]) for name in names}
    gap, _ = audits.mocks_against_sky(negative, sky, seed=1)
    return {
        "AUROC": report["metrics"]["auroc"]["value"],
        "TPR at 1e-3": tpr[0],
        "probe": gap.auroc.value,
        "DES": flagged(bench_real.des_lrgs(arcsec)),
        "HSC": flagged(bench_real.hsc_galaxies(arcsec)),
        **{name: area(each[-1]) for name, each in pictures.items()},
    }


def logits_of(sets: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Return (2, N): labels, and logits of lenses and others."""
    logit_N = np.concatenate([part["logit"] for part in sets])
    return np.stack([np.repeat([1.0, 0.0], [len(part["logit"]) for part in sets]), logit_N])


def area(pictures_2N: np.ndarray) -> tuple[float, float, float]:
    label_N, logit_N = pictures_2N
    return bench_real.area(logit_N[label_N == 1], logit_N[label_N == 0])


def cell(value: Any) -> str:
    if isinstance(value, tuple):
        middle, low, high = value
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=16_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=list(INGREDIENTS), default=list(INGREDIENTS))
    parser.add_argument("--space-warps", action="store_true", help="look at those, too")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, list[np.ndarray]] = {"disputed": []}
    if chosen.space_warps:
        pictures["Space Warps"] = []
    for name in chosen.only:
        out = make(name, chosen.folder.resolve(), chosen.count, chosen.epochs)
        found = figures(out, pictures)
        if name == chosen.only[0]:
            print("| ingredient | " + " | ".join(found) + " |")
            print("|---" * (1 + len(found)) + "|")
        print(f"| {name} | " + " | ".join(map(cell, found.values())) + " |", flush=True)
    means = [cell(area(np.mean(each, axis=0))) for each in pictures.values()]
    print("| mean of all logits | " + " | ".join(["-"] * 5 + means) + " |")


if __name__ == "__main__":
    main()

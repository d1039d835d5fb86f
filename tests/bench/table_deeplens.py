"""Completeness of two networks on the same mocks: prints a table over Einstein radius and S/N.

    lensfinder run pipelines/deeplens.toml -o deeplens
    lensfinder run pipelines/deeplens-lensnet.toml -o lensnet
    python tests/bench/table_deeplens.py deeplens/infer-mocks lensnet/infer-mocks

Thresholds are those of each network's own test negatives; completeness is of test lenses, with
exact 95 % intervals. The last line of each rate is the region that Lanusse et al. (2018) quote.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensfinder import tables
from lensfinder.ledger import products_of
from lensfinder.report.estimates import fraction
from lensfinder.report.thresholds import threshold_at_fpr

THETA_E_EDGES_ARCSEC = (0.5, 1.0, 1.4, 2.0, 3.0)
SNR_EDGES = (5.0, 10.0, 20.0, 50.0, 200.0)
REGION = (1.4, 20.0)  # theta_E, S/N
FEWEST = 100  # lenses in a cell that counts as well filled


def of_test(folder: Path) -> dict[str, NDArray]:
    columns = tables.concatenate([tables.read_columns(path) for path in products_of(folder)])
    chosen = (columns["split"].astype(str) == "test") & np.isfinite(columns["logit"])
    return {name: values[chosen] for name, values in columns.items()}


def shown(found: NDArray[np.bool_]) -> str:
    share = fraction(int(found.sum()), len(found), "lenses")
    if share.value is None or share.low is None or share.high is None:
        return f"{'-':>22}"
    per_cent = 100 * np.array([share.value, share.low, share.high])
    return "{:6.1f} [{:5.1f}, {:5.1f}]".format(*per_cent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scores", nargs="+", type=Path, help="folders of `infer`")
    parser.add_argument("--fpr", type=float, nargs="+", default=[1e-2, 1e-3])
    chosen = parser.parse_args()
    scored = [of_test(folder) for folder in chosen.scores]
    for fpr in chosen.fpr:
        passed = []
        for folder, columns in zip(chosen.scores, scored, strict=True):
            is_lens, logit = columns["label"] == 1, columns["logit"]
            point = threshold_at_fpr(logit[~is_lens], logit[is_lens], fpr, prevalence=1e-4)
            passed.append(logit > (np.inf if point.logit is None else point.logit))
            rate = point.fpr
            said = point.reason or f"FPR {rate.value:.2e} [{rate.low:.2e}, {rate.high:.2e}]"
            print(f"{folder}: {said}, {(~is_lens).sum()} negatives")
        print(f"\ncompleteness, %, at FPR {fpr:g}; best per cell of at least {FEWEST} marked")
        names = [folder.parent.name for folder in chosen.scores]
        print("theta_E      S/N        lenses  " + "  ".join(f"{name:>22}" for name in names))
        theta, snr = scored[0]["theta_e_arcsec"], scored[0]["source_snr"]
        is_lens = scored[0]["label"] == 1
        cells = [
            (is_lens & (theta >= t0) & (theta < t1) & (snr >= s0) & (snr < s1),
             f"{t0:3.1f}-{t1:3.1f}   {s0:5.0f}-{s1:5.0f}")
            for t0, t1 in itertools.pairwise(THETA_E_EDGES_ARCSEC)
            for s0, s1 in itertools.pairwise(SNR_EDGES)
        ]  # fmt: skip
        region = is_lens & (theta > REGION[0]) & (snr > REGION[1])
        cells += [(is_lens, "all" + " " * 16), (region, "> 1.4     > 20     ")]
        for inside, name in cells:
            found = [one[inside] for one in passed]
            best = np.argmax([one.mean() if len(one) else 0 for one in found])
            mark = f"  {names[best]}" if inside.sum() >= FEWEST and len(found) > 1 else ""
            print(f"{name}  {inside.sum():7}  " + "  ".join(map(shown, found)) + mark)
        print()


if __name__ == "__main__":
    main()

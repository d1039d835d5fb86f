"""Tables of docs/populations.md: percentiles of `collett2015`, and rank correlations.

    python tests/bench/table_populations.py [COUNT]

Draws follow from the seed; magnifications are measured on rendered images.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from scipy.stats import spearmanr

from lensfinder.config import load
from lensfinder.simulate import recipe
from lensfinder.simulate.mocks import Setting, modelled_row, observe
from lensfinder.simulate.planning import plan_request

PERCENTILES = (5, 16, 50, 84, 95)
PUBLISHED = {
    "z_lens": ((0.17, 0.27, 0.49, 0.83, 1.12), "z of the lens"),
    "z_source": ((0.83, 1.24, 2.06, 2.96, 3.69), "z of the source"),
    "theta_e_arcsec": ((0.61, 0.82, 1.15, 1.61, 2.02), "Einstein radius, arcsec"),
    "sigma_v_km_s": ((194, 220, 258, 302, 332), "velocity dispersion, km/s"),
    "q_lens": ((0.44, 0.56, 0.73, 0.86, 0.93), "axis ratio of the lens"),
    "bulge_re_arcsec": ((0.38, 0.49, 0.72, 1.13, 1.59), "R_e of the lens, arcsec"),
    "source_re_arcsec": ((0.04, 0.07, 0.18, 0.37, 0.59), "R_e of the source, arcsec"),
    "feature_mag_r": ((24.1, 25.0, 26.0, 27.1, 27.6), "r of the source, unlensed"),
    "mag_r": ((16.3, 17.7, 19.9, 22.5, 24.3), "r of the lens"),
    "feature_g_minus_r": ((-0.20, -0.09, 0.04, 0.52, 1.09), "g - r of the source"),
    "lens_g_minus_r": ((1.27, 1.64, 1.91, 2.36, 2.78), "g - r of the lens"),
    "magnification": ((3.3, 3.9, 7.1, 15, 26), "magnification"),
    "beta_over_theta_e": ((0.08, 0.14, 0.33, 0.59, 0.73), "place of the source, beta / theta_E"),
}
RANKED = (
    *("sigma_v_km_s", "z_lens", "z_source", "theta_e_arcsec", "mag_r", "lens_g_minus_r"),
    *("bulge_re_arcsec", "q_lens", "feature_mag_r", "source_re_arcsec", "feature_g_minus_r"),
)


def main(count: int) -> None:
    torch.set_num_threads(1)
    request = plan_request(load(options={"simulate": {"population": "collett2015"}}))
    population = recipe.parse(recipe.shipped_text("collett2015"), "collett2015")
    only_lenses = population.model_copy(update={"positive_fraction": 1.0})
    setting = Setting.of(
        {"simulate": request.keys, **request.inputs, "population": only_lenses.model_dump()}
    )
    rows = [modelled_row(setting, 1, i) for i in range(count)]
    # The first 512 are enough for magnifications, which cost a rendering each.
    rendered = min(count, 512)
    *_, truth = observe(rows[:rendered], setting, [(1, i) for i in range(rendered)])
    c = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    c["lens_g_minus_r"] = c["mag_g"] - c["mag_r"]
    beta = np.hypot(c["source_x_arcsec"], c["source_y_arcsec"])
    c["beta_over_theta_e"] = beta / c["theta_e_arcsec"]
    c["magnification"] = truth["magnification"]
    print(f"{count} lenses of collett2015, seed 1; magnification of {rendered}\n")
    print("| | published | here | off by |\n|---|---|---|---|")
    for name, (published, title) in PUBLISHED.items():
        ours = np.percentile(c[name], PERCENTILES)
        in_mag = ("mag" in name and name != "magnification") or "minus" in name
        if in_mag:
            off = " ".join(f"{a - b:+.2f}" for a, b in zip(ours, published, strict=True))
        else:
            off = " ".join(f"{a / b - 1:+.0%}" for a, b in zip(ours, published, strict=True))
        digits = 0 if name == "sigma_v_km_s" else 1 if name in ("mag_r", "feature_mag_r") else 2
        here = " ".join(f"{value:.{digits}f}" for value in ours)
        print(f"| {title} | {' '.join(f'{p:g}' for p in published)} | {here} | {off} |")
    print("\n| Spearman's rank correlation | " + " | ".join(RANKED[:-1]) + " |")
    print("|---" * len(RANKED) + "|")
    for k, a in enumerate(RANKED[1:], start=1):
        line = [f"{spearmanr(c[a], c[b]).statistic:+.2f}" for b in RANKED[:k]]
        print(f"| {a} | " + " | ".join(line + [""] * (len(RANKED) - 1 - k)) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)

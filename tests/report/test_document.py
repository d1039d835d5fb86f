"""Laws of what is measured, of the numbers in words, and of the page that shows them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import numpy as np
import pytest
from scored import (
    ADAPTED,
    KEPT_OUT,
    SEEN,
    measured_of,
    mock_columns,
    sky_columns,
    sky_measured_of,
)

from lensfinder.report import (
    bandpixels,
    candidates,
    document,
    illustrate,
    measure,
    metrics,
    page,
    words,
)


def report_of(
    mocks: dict[str, np.ndarray], on_sky: dict[str, np.ndarray] | None, **keys: Any
) -> dict[str, Any]:
    measured, used = measured_of(mocks)
    listed = sky_measured = None
    if on_sky is not None:
        sky_measured = sky_measured_of(on_sky, measured, used, **keys)
        cut = measured.operating_logit
        n_above = 0 if cut is None else int(np.sum(on_sky["logit"] > cut))
        rows = candidates.rows(
            on_sky, candidates.rank(on_sky["logit"], on_sky["id"]), threshold=cut,
            n_listed=n_above or 20, name_prefix="LF",
            flag_names=lambda bits: ["edge"] if bits & 1 else [],
        )  # fmt: skip
        listed = {"n_above": n_above, "rows": rows}
    return document.build(
        measured=measured, sky=sky_measured, candidates=listed, known=None,
        leakage={"n_train": 0, "n_test": 1, "n_hosts": 0, "n_sources": 0},
        histograms=histograms_of(mocks, on_sky),
        simulated=True,
        settings={"model_id": "m", "prevalence": 1e-3, "bands": ["r"], "stamp_bands": ["r"],
                  "inspect_per_hour": 500.0, "calibration": None},
        provenance={"command": "lensfinder report x", "seed": 0, "versions": {"a": "1"},
                    "inputs": [{"role": "mocks", "path": "x", "rows": 1}]},
    )  # fmt: skip


def histograms_of(
    mocks: dict[str, np.ndarray], on_sky: dict[str, np.ndarray] | None
) -> dict[str, Any]:
    logits = {
        "lenses": mocks["logit"][mocks["label"] == 1],
        "negatives": mocks["logit"][mocks["label"] == 0],
    }
    return metrics.histograms(logits if on_sky is None else {**logits, "sky": on_sky["logit"]})


def figures_of(
    mocks: dict[str, np.ndarray], on_sky: dict[str, np.ndarray] | None
) -> list[page.Illustration]:
    content = report_of(mocks, on_sky)
    return illustrate.illustrations(measured_of(mocks)[0], content, histograms_of(mocks, on_sky))


def page_of(
    mocks: dict[str, np.ndarray],
    on_sky: dict[str, np.ndarray] | None,
    drawn: list[page.Illustration] | None = None,
    **keys: Any,
) -> str:
    content = report_of(mocks, on_sky, **keys)
    n = len(content["candidates"]["rows"]) if content["candidates"] else 0
    stamp = bandpixels.encode(np.random.default_rng(0).normal(size=(1, 9, 9)))
    return page.render(content, drawn or [], [stamp] * n)


def test_only_scored_labelled_test_objects_unknown_to_the_model_count() -> None:
    columns = mock_columns(100, 300)
    columns["split"] = columns["split"].astype("<U5")
    columns["split"][:3] = "train"
    columns["logit"][3:5] = np.nan
    columns["label"][5:6] = -1
    columns["flags"][6:10] = SEEN
    # Each is counted once, also where several causes apply.
    columns["flags"][0] = ADAPTED
    columns["flags"][9:15] |= ADAPTED
    used_N, left_out = measure.select_test(columns, SEEN, ADAPTED)
    assert left_out == measure.LeftOut(3, 2, 1, 4, 5)
    assert used_N.sum() + 15 == 400
    assert not used_N[:15].any()
    measured, used = measured_of(columns)
    assert measured.n_lenses + measured.n_negatives == len(used["id"]) == 385


def test_other_splits_change_no_figure() -> None:
    columns = mock_columns(100, 400)
    other = mock_columns(100, 400, seed=9)
    other["split"] = np.full(500, "val")
    both = {name: np.concatenate([columns[name], other[name]]) for name in columns}
    alone, together = measured_of(columns)[0], measured_of(both)[0]
    assert together.left_out.other_split == 500
    assert together.points == alone.points
    assert (together.auroc, together.tpr10) == (alone.auroc, alone.tpr10)


def test_operating_threshold_is_the_strictest_that_the_negatives_support() -> None:
    measured, _ = measured_of(mock_columns(50, 3000))
    assert measured.operating is not None
    assert measured.points[measured.operating].fpr_asked == 1e-3
    assert sum(kind.n_above or 0 for kind in measured.kinds) == 3
    assert measured_of(mock_columns(50, 299))[0].operating is None


def test_objects_seen_in_training_bound_nothing_and_stay_candidates() -> None:
    measured, used = measured_of(mock_columns(100, 300))
    columns = sky_columns(1000, 4)
    before = sky_measured_of(columns, measured, used)
    columns["flags"][:2] = SEEN
    columns["flags"][2] = ADAPTED
    after = sky_measured_of(columns, measured, used)
    assert (after.n_scored, after.n_seen_in_training, after.n_adapted) == (1000, 2, 1)
    assert before.above_operating.n == 1000
    assert after.above_operating.n == 997
    assert (
        round(after.above_operating.value * 997) == round(before.above_operating.value * 1000) - 3
    )  # type: ignore[operator]
    assert after.workloads == before.workloads


@pytest.mark.parametrize("name", ["host_id", "source_id"])
def test_leaking_ids_are_those_of_both_train_and_test(name: str) -> None:
    columns = {
        name: np.array(["a", "b", "a", "", "", "c"]),
        "split": np.array(["train", "test", "test", "train", "test", "val"]),
    }
    assert measure.leaking_ids(columns, name).tolist() == ["a"]


def test_json_has_no_nan_and_no_infinity() -> None:
    on_sky = sky_columns(400, 3)
    on_sky["mag_r"][0] = np.nan
    on_sky["ra"][1] = np.nan
    content = report_of(mock_columns(100, 400), on_sky)
    text = json.dumps(content, allow_nan=False)
    assert json.loads(text) == content
    row = content["candidates"]["rows"][1]
    assert (row["ra"], row["name"]) == (None, "")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0 %"), (1.0, "100 %"), (0.5, "50 %"), (0.987, "98.7 %"), (0.9, "90 %"),
     (0.95, "95.0 %"), (0.0123, "1.2 %"), (1e-4, "0.01 %"),
     (2.84e-5, "0.0028 %"), (0.9996, "99.96 %"), (0.995, "99.5 %"), (3e-9, "0.0000003 %")],
)  # fmt: skip
def test_percentages_never_round_to_none_or_all(value: float | None, text: str) -> None:
    assert words.percent(value).replace("\u00a0", " ") == text


def test_an_auroc_below_one_is_never_shown_as_one() -> None:
    assert words.area(0.99996).replace("\u00a0", " ") == "> 0.9999"
    assert (words.area(1.0), words.area(0.95678)) == ("1.0000", "0.9568")


def test_powers_of_ten() -> None:
    assert words.power(1e-4) == "10⁻⁴"
    assert words.power(3.7e-4) == "3.7 × 10⁻⁴"


def test_summary_tells_candidates_refusals_and_their_absence() -> None:
    words = " ".join(report_of(mock_columns(100, 400), sky_columns(400, 3))["summary"])
    assert "3 of 400 sky objects are candidates" in words
    assert "takes 3,000" in words
    assert "takes 30,000" in words
    words = " ".join(report_of(mock_columns(100, 400), sky_columns(400, 0))["summary"])
    assert "None of 400 sky objects is a candidate" in words
    words = " ".join(report_of(mock_columns(10, 20), sky_columns(40, 2))["summary"])
    assert "no threshold to call any of them a candidate" in words
    assert "mocks alone" in report_of(mock_columns(10, 20), None)["summary"][0]


@pytest.mark.parametrize(("lenses", "negatives"), [(0, 400), (100, 0), (0, 0), (5, 5)])
@pytest.mark.parametrize("n_sky", [None, 30])
def test_every_shortage_has_its_page(lenses: int, negatives: int, n_sky: int | None) -> None:
    on_sky = None if n_sky is None else sky_columns(n_sky, 0)
    mocks = mock_columns(lenses, negatives)
    drawn = figures_of(mocks, on_sky)
    both = bool(lenses and negatives)
    there = {
        "roc": both, "precision": both, "reliability": both,
        "scores": bool(lenses or negatives or n_sky), "completeness": both and negatives >= 300,
    }  # fmt: skip
    assert [figure.name for figure in drawn] == [
        name for name, is_there in there.items() if is_there
    ]
    html = page_of(mocks, on_sky, drawn)
    assert "Not supported." in html
    assert "30,000 negatives" in html
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", html))


def test_an_id_stays_text_wherever_it_stands() -> None:
    on_sky = sky_columns(400, 4)
    evil = [
        "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</script><b>", "\x1b[31m&",
    ]  # fmt: skip
    on_sky["id"][:4] = evil
    mocks = mock_columns(100, 400)
    mocks["kind"] = np.where(mocks["label"] == 1, "lens", "<i>ring</i>")
    html = page_of(mocks, on_sky)
    for text in (*evil, "<i>ring</i>"):
        assert text not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "\x1b" not in html
    # The page's own data block and script are the only ones, each closed once.
    assert html.count("<script") == html.count("</script>") == 4
    block = re.search(r'id="page-data">(.*?)</script>', html, re.DOTALL)
    assert block is not None
    assert {key["id"] for key in json.loads(block[1])["cards"]} == set(evil)


def test_the_page_runs_and_loads_nothing_but_its_own() -> None:
    mocks, on_sky = mock_columns(100, 400), sky_columns(400, 3)
    html = page_of(mocks, on_sky, figures_of(mocks, on_sky))
    assert html.count("<figure>") == 5
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy[1]
    for tag, n in (("style", 1), ("script", 3)):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        allowed = re.search(rf"{tag}-src ([^;]*);", policy[1])
        assert allowed is not None
        digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts]
        assert len(texts) == n
        assert allowed[1].split() == [f"'sha256-{digest}'" for digest in digests]
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert not re.search(r"\son\w+=|\sstyle=", html)
    assert re.findall(r"<img(?![^>]*alt=\"[^\"]+\")[^>]*>", html) == []


def test_below_the_threshold_is_said_plainly() -> None:
    html = page_of(mock_columns(100, 400), sky_columns(400, 0))
    assert "No object above the threshold" in html
    assert html.count("below threshold</span>") == 20


def test_without_a_threshold_the_heading_does_not_speak_of_one() -> None:
    html = page_of(mock_columns(20, 30), sky_columns(400, 0))
    assert "No threshold, the best-ranked objects" in html
    assert "No object above the threshold" not in html


def test_candidates_and_thumbnails_must_match() -> None:
    content = report_of(mock_columns(100, 400), sky_columns(400, 3))
    with pytest.raises(ValueError, match="3 candidates, 1 stamps"):
        page.render(content, [], [None])


def test_the_page_leads_with_the_sky_where_the_mocks_do_not_tell_its_rate() -> None:
    mocks, like, unlike = mock_columns(100, 400), sky_columns(400, 3), sky_columns(400, 30)
    assert not report_of(mocks, like)["leads_with_sky"]
    content = report_of(mocks, unlike)
    assert content["leads_with_sky"]
    assert "do not tell the sky's false positive rate" in content["summary"][0]
    assert content["sky"]["comparison"]["ratio"] == pytest.approx(
        (30 / 400) / content["thresholds"][0]["fpr"]["value"]
    )
    html = page_of(mocks, unlike)
    assert html.index("Sky’s own threshold</th>") < html.index("True FPR on mocks</th>")
    html = page_of(mocks, like)
    assert html.index("Sky’s own threshold</th>") > html.index("True FPR on mocks</th>")


def test_the_sky_is_compared_with_the_mocks_in_its_own_proportions_of_kinds() -> None:
    mocks = mock_columns(100, 400)
    mocks["logit"][mocks["kind"] == "spiral"] -= 30.0
    measured, used = measure.measure_labelled(
        mocks, fprs=(1e-2,), prevalence=1e-3, seed=0, sky_fraction={"spiral": 0.9, "ring": 0.1},
        **KEPT_OUT,
    )  # fmt: skip
    # All false positives are rings, half of the mocks and a tenth of the sky.
    assert measured.operating_fpr.value == pytest.approx(0.1 * 4 / 200)
    found = sky_measured_of(sky_columns(1000, 2), measured, used)
    assert (found.comparison.is_weighted, found.comparison.differs) == (True, False)
    assert found.comparison.ratio == pytest.approx((2 / 1000) / (0.1 * 4 / 200))


def test_purity_on_the_sky_is_prevalence_times_completeness_over_the_fraction_above() -> None:
    measured, used = measured_of(mock_columns(100, 400))
    found = sky_measured_of(sky_columns(1000, 10), measured, used)
    tpr = measured.points[0].tpr.value
    assert tpr is not None
    assert found.purities[0].value == pytest.approx(1e-3 * tpr / (10 / 1000))
    assert sky_measured_of(sky_columns(1000, 0), measured, used).purities[0].value is None


def test_a_budget_of_hours_is_said_in_words_and_on_the_page() -> None:
    keys = {"hours": 0.01, "per_hour": 500.0}
    content = report_of(mock_columns(100, 400), sky_columns(400, 3), **keys)
    assert content["sky"]["budget"]["n_candidates"] == 5
    assert "A budget of 1 minute pays for 5 objects" in " ".join(content["summary"])
    assert "A budget of 1 minute</strong>" in page_of(
        mock_columns(100, 400), sky_columns(400, 3), **keys
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 minutes"), (0.001, "1 minute"), (0.5, "30 minutes"), (1.0, "1 hour"),
     (1.5, "1.5 hours"), (2000.0, "2,000 hours")],
)  # fmt: skip
def test_hours_are_told_as_people_tell_them(value: float, text: str) -> None:
    assert words.hours(value) == text


def test_numbers_need_no_power_of_ten() -> None:
    assert [words.number(x) for x in (0.0, 0.06061, 12.34, 1063.4)] == [
        "0",
        "0.0606",
        "12.3",
        "1,060",
    ]


def test_what_was_never_a_target_lowers_the_completeness_and_no_rate() -> None:
    columns = mock_columns(100, 400)
    before, _ = measured_of(columns)
    columns["logit"][:20] = np.nan
    after, _ = measured_of(columns)
    assert before.completeness.selected.value == 1.0
    assert after.completeness.selected.value == 0.8
    assert after.n_lenses == 80
    (cells,) = after.completeness.maps
    assert (cells.n_simulated_ST.sum(), cells.n_selected_ST.sum()) == (100, 80)
    assert after.completeness.total.value == cells.n_recovered_ST.sum() / 100
    columns["selected"] = np.arange(500) >= 50
    assert measured_of(columns)[0].completeness.selected.value == 0.5


def test_a_source_magnitude_gives_a_second_map() -> None:
    columns = mock_columns(100, 400)
    columns["mag_source_r"] = np.where(columns["label"] == 1, 24.5, np.nan)
    # The magnitude of a negative's companions is nothing a lens has.
    columns["feature_mag_r"] = np.where(columns["label"] == 1, np.nan, 24.5)
    maps = measured_of(columns)[0].completeness.maps
    assert [cells.against for cells in maps] == ["source_snr", "mag_source_r"]
    assert maps[1].n_simulated_ST.sum(axis=1).tolist() == [0, 0, 0, 100, 0, 0, 0]


def test_a_suspected_shortcut_stands_in_the_summary_and_on_the_page() -> None:
    columns = mock_columns(200, 400)
    rng = np.random.default_rng(0)
    columns["stamp_flux_r_njy"] = rng.lognormal(8, 0.3, 600) * (1 + (columns["label"] == 1))
    on_sky = sky_columns(600, 3) | {"stamp_flux_r_njy": rng.lognormal(9, 0.3, 600)}
    content = report_of(columns, on_sky)
    assert content["audits"]["shortcut"]["flagged"]
    assert content["audits"]["separability"]["flagged"]
    assert content["audits"]["drifts"][0]["drifts"]
    text = " ".join(content["summary"])
    assert "Beware of a shortcut" in text
    assert "do not look like the sky" in text
    assert page_of(columns, on_sky).count("suspicious</span>") == 2

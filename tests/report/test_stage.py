"""Laws of the stage: products that vouch for themselves, refusals, joins by id, round trips."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from scored import MODEL, draw_no_figures, mock_scores, report, write_scores

from lensfinder import schema, shards, tables
from lensfinder.errors import MismatchError, RequestError

SIZE = 9
SKY_IDS = ["<script>alert(1)</script>", "=cmd()", "é} b", "plain", "also plain", "last"]


def sky_scores(logits: list[float] | None = None) -> dict[str, Any]:
    n = len(SKY_IDS)
    logit_N = np.array(logits or [9.0, 8.0, 7.0, 7.0, -5.0, np.nan])
    return {
        "id": SKY_IDS,
        "ra": 180.0 + 0.01 * np.arange(n), "dec": np.full(n, -0.5), "tile": ["t"] * n,
        "x": np.arange(n) * 1.0, "y": np.arange(n) * 2.0,
        "logit": logit_N, "score": 1 / (1 + np.exp(-logit_N)), "outcome": ["ok"] * n,
        "reason": [""] * n, "flags": [0, schema.FLAG_EDGE, 0, 0, 0, 0], "label": [-1] * n,
        "mag_g": np.full(n, 20.5), "mag_r": np.full(n, 19.5), "model_id": [MODEL] * n,
    }  # fmt: skip


def write_stamps(path: Path, ids: list[str]) -> None:
    """Stamps in this order, object k with all its signal in corner pixel (0, k)."""
    n = len(ids)
    image_NCHW = np.random.default_rng(1).normal(0, 1, (n, 1, SIZE, SIZE)).astype(np.float32)
    for row, name in enumerate(ids):
        image_NCHW[row, 0, 0, SKY_IDS.index(name)] = 1000.0
    blank = {name: [schema.empty_value(name)] * n for name in schema.REQUIRED_COLUMNS}
    header = shards.Header("infer", "kids", ("r",), 0.2, {"made": "stamps"}, {})
    shards.write(
        path, header, image_NCHW, np.zeros(image_NCHW.shape, np.uint8), {**blank, "id": ids}
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tmp_path = tmp_path_factory.mktemp("inputs")
    mocks = write_scores(tmp_path / "mocks", mock_scores())
    sky = write_scores(tmp_path / "sky", sky_scores())
    write_stamps(sky / "candidates.h5", SKY_IDS[4::-1])
    known = tmp_path / "known.csv"
    known.write_text("id,ra,dec\nhit,180.0300001,-0.5\nfaint,180.04,-0.5001\nelsewhere,10,10\n")
    return {"mocks": mocks, "sky": sky, "known": known}


@pytest.fixture(scope="module")
def made(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("made")
    summary = report(tmp_path / "out", [inputs["mocks"]], sky=inputs["sky"], known=inputs["known"])
    assert summary.exit_code == 0
    assert summary.counts == {"planned": 367, "ok": 365, "flagged": 0, "rejected": 2, "failed": 0}
    assert summary.lines[-1] == f"Open {tmp_path / 'out' / 'index.html'}"
    # Four of five objects of the sky pass what a hundredth of the mock negatives does.
    assert "do not tell the sky's false positive rate" in summary.lines[0]
    assert "4 of 5 sky objects are candidates" in summary.lines[1]
    return tmp_path / "out"


def test_report_json_holds_numbers_provenance_and_no_time(made: Path) -> None:
    content = json.loads((made / "report.json").read_text())
    assert content["mocks"]["left_out"]["not_scored"] == 1
    assert content["mocks"]["n_negatives"] == 300
    assert content["operating"]["fpr_asked"] == 0.01
    assert [row["n_negatives_needed"] for row in content["thresholds"]] == [300, 3000, 30000]
    assert {entry["role"] for entry in content["provenance"]["inputs"]} == {"mocks", "sky"}
    assert content["provenance"]["versions"]["lensfinder"]
    # Those of the stamps come first, in their order; here the stamps have r alone.
    assert content["settings"]["bands"] == ["r", "g"]


def test_two_runs_give_equal_products(made: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    report(tmp_path / "again", [inputs["mocks"]], sky=inputs["sky"], known=inputs["known"])
    names = json.loads((made / "report.json").read_text())["products"]
    for name in ["report.json", *names]:
        assert (made / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_finished_report_is_reused_and_a_damaged_product_made_again(
    made: Path, inputs: dict[str, Path]
) -> None:
    keys = {"sky": inputs["sky"], "known": inputs["known"]}
    assert report(made, [inputs["mocks"]], **keys).reused == 1
    whole = (made / "index.html").read_bytes()
    (made / "index.html").write_bytes(whole[:-1])
    assert report(made, [inputs["mocks"]], **keys).done == 1
    assert (made / "index.html").read_bytes() == whole
    with pytest.raises(MismatchError, match="name_prefix"):
        report(made, [inputs["mocks"]], name_prefix="KiDS", **keys)


def test_tables_round_trip_with_ids_that_each_format_can_carry(made: Path) -> None:
    order = ["<script>alert(1)</script>", "=cmd()", "plain", "é} b"]  # tie at 7.0: by id
    parquet = tables.read_columns(made / "candidates.parquet")
    assert parquet["id"].tolist() == order
    assert parquet["rank"].tolist() == [1, 2, 3, 4]
    assert parquet["name"][0] == "LF J120000.00-003000.0"
    fits = Table.read(made / "candidates.fits")
    assert [str(name) for name in fits["id"]] == [*order[:3], "\\xe9} b"]
    ecsv = Table.read(made / "candidates.ecsv", format="ascii.ecsv")
    assert ecsv["id"].tolist() == [order[0], "'=cmd()", *order[2:]]
    votable = Table.read(made / "candidates.vot", format="votable")
    assert [str(name) for name in votable["id"]] == order
    assert votable["ra"].meta["ucd"] == "pos.eq.ra;meta.main"
    for table in (fits, ecsv, votable):
        for name in ("ra", "dec", "logit", "score", "mag_g", "mag_r", "x", "y"):
            np.testing.assert_array_equal(np.asarray(table[name]), parquet[name])
        assert str(table["ra"].unit) == "deg"
    assert ecsv["flags"][1] == "edge"
    regions = (made / "candidates.reg").read_text().splitlines()
    assert len(regions) == 3 + 4
    assert regions[-1].endswith("text={4 é%7D b}")


def test_stamps_are_joined_by_id_and_ids_stay_text(made: Path) -> None:
    html = (made / "index.html").read_text()
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "no stamp for this object" not in html


def test_a_stamp_is_read_for_its_id_in_whatever_order(inputs: dict[str, Path]) -> None:
    from lensfinder.report.inputs import read_stamps

    stamps, width_arcsec, bands = read_stamps(
        inputs["sky"] / "candidates.h5", ["plain", "absent", "=cmd()"]
    )
    assert (stamps[1], width_arcsec, bands) == (None, pytest.approx(1.8), ("r",))
    for stamp, name in ((stamps[0], "plain"), (stamps[2], "=cmd()")):
        assert stamp is not None
        assert stamp[0, 0].argmax() == SKY_IDS.index(name)


def test_known_lenses_are_found_within_two_arcsec_with_their_rank(made: Path) -> None:
    known = json.loads((made / "report.json").read_text())["known"]
    assert (known["n"], known["n_covered"], known["n_targets"], known["n_above"]) == (3, 2, 2, 1)
    hit, faint = known["rows"]
    assert (hit["id"], hit["object_id"], hit["rank"]) == ("hit", "plain", 3)
    assert (faint["object_id"], faint["rank"], faint["above"]) == ("also plain", 5, False)


def test_scores_of_two_models_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    other = sky_scores() | {"model_id": ["b" * 64] * len(SKY_IDS)}
    sky = write_scores(tmp_path / "other", other)
    summary = report(tmp_path / "out", [inputs["mocks"]], sky=sky)
    assert summary.exit_code == 4
    (failure,) = summary.failures.values()
    assert "2 models" in failure.message
    assert "aaaaaaaaaaaa (mocks)" in failure.message
    assert "bbbbbbbbbbbb (sky)" in failure.message
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("name", ["host_id", "source_id"])
@pytest.mark.fault
def test_leakage_between_splits_is_refused_by_name(name: str, tmp_path: Path) -> None:
    columns = mock_scores()
    columns["split"][0] = "train"
    columns[name][0] = columns[name][1] = "NGC 1"
    summary = report(tmp_path / "out", [write_scores(tmp_path / "mocks", columns)])
    assert summary.exit_code == 4
    assert "'NGC 1'" in next(iter(summary.failures.values())).message


def test_mocks_alone_give_a_report_without_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_no_figures(monkeypatch)
    mocks = write_scores(tmp_path / "mocks", mock_scores(60, 400))
    summary = report(tmp_path / "out", [mocks])
    assert summary.exit_code == 0
    assert "mocks alone" in summary.lines[0]
    assert not list((tmp_path / "out").glob("candidates.*"))


def test_no_candidate_gives_empty_tables_and_the_twenty_best_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_no_figures(monkeypatch)
    mocks = write_scores(tmp_path / "mocks", mock_scores(60, 400))
    sky = write_scores(tmp_path / "sky", sky_scores([-20.0 - i for i in range(6)]))
    assert report(tmp_path / "out", [mocks], sky=sky).exit_code == 0
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["candidates"]["n_above"] == 0
    assert len(content["candidates"]["rows"]) == 6
    assert tables.rows_of(tmp_path / "out" / "candidates.parquet") == 0
    assert len(Table.read(tmp_path / "out" / "candidates.fits")) == 0
    assert len(Table.read(tmp_path / "out" / "candidates.ecsv", format="ascii.ecsv")) == 0
    html = (tmp_path / "out" / "index.html").read_text()
    assert html.count("no stamp for this object") == 6
    assert "Below the threshold." in html


def test_what_cannot_be_read_is_refused_in_a_sentence(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RequestError, match="no scores"):
        report(out, [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"index\.json"):
        report(out, [tmp_path / "empty"])
    with pytest.raises(RequestError, match="no such folder"):
        report(tmp_path / "out", [tmp_path / "nowhere"])
    with pytest.raises(RequestError, match="no such score file"):
        report(out, [tmp_path / "gone.parquet"])
    with pytest.raises(RequestError, match="known"):
        report(out, [inputs["mocks"]], known=tmp_path / "gone.csv")
    bare = tmp_path / "bare.parquet"
    tables.write_columns(bare, {"id": ["a"], "logit": [1.0]})
    summary = report(out, [bare])
    assert summary.exit_code == 2
    assert "no column score, flags" in next(iter(summary.failures.values())).message
    twice = sky_scores() | {"id": ["same", "same", *SKY_IDS[2:]]}
    sky = write_scores(tmp_path / "twice", twice)
    summary = report(tmp_path / "out2", [inputs["mocks"]], sky=sky)
    assert "'same' 2 times" in next(iter(summary.failures.values())).message


def test_report_never_loads_torch(inputs: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["lensfinder", "report", inputs["mocks"], "-o", tmp_path / "out", "--sky",
                 inputs["sky"], "--known", inputs["known"], "--engine", "serial", "-q"]  # fmt: skip
    code = (
        f"import sys; sys.argv = {[str(part) for part in arguments]}; from lensfinder import cli; "
        "cli.app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "out" / "report.json").is_file()


def test_candidates_have_probabilities_at_the_stated_prevalence(made: Path) -> None:
    parquet = tables.read_columns(made / "candidates.parquet")
    # The scores' model is calibrated by a temperature of 2 at a prevalence of one half.
    odds = np.exp(parquet["logit"] / 2.0) * 1e-3 / (1 - 1e-3)
    assert parquet["probability"] == pytest.approx(odds / (1 + odds))
    settings = json.loads((made / "report.json").read_text())["settings"]
    assert settings["calibration"] == {"temperature": 2.0, "training_prevalence": 0.5}


def test_without_a_calibration_there_is_no_probability(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_no_figures(monkeypatch)
    bare = tmp_path / "mocks.parquet"
    tables.write_columns(bare, mock_scores(), {"ingredients": {"made": "bare"}})
    assert report(tmp_path / "out", [bare], sky=inputs["sky"]).exit_code == 0
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {row["probability"] for row in content["candidates"]["rows"]} == {None}
    assert "P(lens)</dt>" not in (tmp_path / "out" / "index.html").read_text()


def test_the_skys_proportions_come_from_the_scores_or_from_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_no_figures(monkeypatch)
    columns = mock_scores(60, 401)
    half = np.arange(461) % 2 == 0
    columns["kind"] = np.where(columns["label"] == 1, "lens", np.where(half, "ring", "spiral"))
    columns["sky_fraction"] = np.select(
        [columns["kind"] == "ring", columns["kind"] == "spiral"], [0.1, 0.9], np.nan
    )
    mocks = write_scores(tmp_path / "mocks", columns)
    rates = []
    for number, given in enumerate(({}, {"ring": 0.1, "spiral": 0.9}, {"ring": 1.0})):
        out = tmp_path / str(number)
        assert report(out, [mocks], sky_fraction=given).exit_code == 0
        content = json.loads((out / "report.json").read_text())
        kinds = {row["kind"]: row["rate"]["value"] for row in content["kinds"]}
        weights = given or {"ring": 0.1, "spiral": 0.9}
        wanted = sum(weights[kind] * kinds[kind] for kind in weights) / sum(weights.values())
        rates.append(content["weighted"]["rate"]["value"])
        assert rates[-1] == pytest.approx(wanted)
    assert rates[0] == rates[1] != rates[2]


def test_labelled_stamps_of_ones_own_have_no_split_and_test(
    inputs: dict[str, Path], made: Path, tmp_path: Path
) -> None:
    columns = tables.read_columns(inputs["mocks"] / "products" / "scores.parquet")
    whole = columns["split"] == "test"
    own = {name: values[whole] for name, values in columns.items() if name != "kind"}
    unknown = own["label"] == schema.UNKNOWN
    assert report(
        tmp_path / "out",
        [write_scores(tmp_path / "own", own | {"split": np.full(whole.sum(), "", dtype=object)})],
    ).exit_code == 0  # fmt: skip
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    before = json.loads((made / "report.json").read_text())
    assert told["mocks"]["n_negatives"] == before["mocks"]["n_negatives"]
    assert told["thresholds"][0]["logit"] == before["thresholds"][0]["logit"]
    assert told["mocks"]["left_out"]["other_split"] == int(unknown.sum())
    said = "None of the labelled stamps was simulated"
    assert any(line.startswith(said) for line in told["summary"])
    assert not any(line.startswith(said) for line in before["summary"])


def test_scores_given_twice_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="given before"):
        report(tmp_path / "out", [inputs["mocks"], inputs["mocks"]])


def test_a_damaged_table_of_scores_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RequestError, match="can't be read as Parquet"):
        report(tmp_path / "out", [tmp_path / "broken.parquet"])


def test_intervals_are_those_of_as_many_negatives_as_there_are_galaxies(tmp_path: Path) -> None:
    """Each mock fifty times on its galaxy tells no more than once."""
    once = mock_scores(60, 400)
    often = {name: np.repeat(np.asarray(values), 50) for name, values in once.items()}
    often["id"] = np.array([f"{name}-{k}" for k, name in enumerate(often["id"])])
    sky = sky_scores()
    found = []
    for name, scores in (("once", once), ("often", often)):
        folders = [write_scores(tmp_path / name / "mocks", scores)]
        beside = write_scores(tmp_path / name / "sky", sky)
        report(tmp_path / name / "out", folders, sky=beside, fpr=(0.02,), inspect_hours=0.01,
               sky_fraction={"ring": 1.0})  # fmt: skip
        found.append(json.loads((tmp_path / name / "out" / "report.json").read_text()))
    few, many = found

    def ends(content: dict[str, Any]) -> list[float]:
        point = next(row for row in content["thresholds"] if row["operating"])
        budget, weighted = content["sky"]["budget"], content["weighted"]
        told = [content["metrics"]["tpr0"], content["completeness"]["total"], budget["tpr"]]
        told += [budget["fpr"], weighted["rate"], point["sky_purity"]]
        return [end for one in told for end in (one["low"], one["high"])]

    assert ends(many) == pytest.approx(ends(few), rel=1e-6)


def test_scores_made_in_two_ways_are_refused(tmp_path: Path) -> None:
    ways = [{"views": 1, "precision": "float32"}, {"views": 8, "precision": "float32"}]
    mocks = write_scores(tmp_path / "mocks", mock_scores(), how=ways[0])
    sky = write_scores(tmp_path / "sky", sky_scores(), how=ways[1])
    refused = report(tmp_path / "out", [mocks], sky=sky)
    assert refused.exit_code == 4
    (failure,) = refused.failures.values()
    assert "--views 1 --precision float32 (mocks), --views 8" in failure.message
    alike = write_scores(tmp_path / "alike", sky_scores(), how=ways[0])
    assert report(tmp_path / "again", [mocks], sky=alike).exit_code == 0


def test_what_people_graded_is_not_called_simulated(tmp_path: Path) -> None:
    scores = mock_scores()
    scores["kind"] = np.where(np.asarray(scores["label"]) == 1, *schema.GRADED_KINDS)
    summary = report(tmp_path / "out", [write_scores(tmp_path / "graded", scores)])
    assert "about the labelled stamps alone" in summary.lines[0]
    assert any("None of the labelled stamps was simulated" in line for line in summary.lines)


def test_no_threshold_is_applied_to_a_sky_that_was_adapted(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    sky = sky_scores()
    sky["flags"] = [schema.FLAG_ADAPTED] * 6
    adapted = write_scores(tmp_path / "all", sky)
    text = "\n".join(report(tmp_path / "out", [inputs["mocks"]], sky=adapted).lines)
    assert "All of 5 sky objects were adapted" in text
    assert "are candidates" not in text
    assert "such candidates" not in text
    page = (tmp_path / "out" / "index.html").read_text()
    assert "No threshold for adapted stamps" in page
    assert "strong lens candidates" not in page
    sky["flags"] = [schema.FLAG_ADAPTED, 0, 0, 0, 0, 0]
    one = write_scores(tmp_path / "one", sky)
    text = "\n".join(report(tmp_path / "some", [inputs["mocks"]], sky=one).lines)
    assert "1 of them was adapted" in text

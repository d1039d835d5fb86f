"""Laws of merging grades: worked examples, published kappas, files that round trip."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from lensfinder import schema, shards, tables
from lensfinder.errors import RequestError
from lensfinder.report import grades
from lensfinder.train import data


def write_grades(path: Path, rows: list[tuple[str, str]], grader: str = "") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "ra", "dec", "grade", "grader"])
        writer.writerows([name, 10.5, -0.25, grade, grader] for name, grade in rows)
    return path


def person(grader: str, **grade_of: int) -> grades.Graded:
    return grades.Graded(grader, grade_of, dict.fromkeys(grade_of, (1.0, 2.0)))


def test_mean_spread_and_label_by_hand() -> None:
    people = [person("a", x=3, y=0, z=3), person("b", x=2, y=0, z=0, w=1), person("c", x=1, z=0)]
    merged = grades.merge(people, lens_from=2.0, not_lens_to=0.5)
    rows = {name: i for i, name in enumerate(merged["id"])}
    assert merged["id"].tolist() == ["x", "w", "z", "y"]  # means 2, 1, 1, 0; ties by id
    assert merged["n_graders"].tolist() == [3, 1, 3, 2]
    assert merged["label"].tolist() == [1, -1, -1, 0]
    assert merged["spread"][rows["x"]] == pytest.approx(np.sqrt(2 / 3))
    assert merged["spread"][rows["w"]] == 0.0
    assert [int(merged[f"grade_{k}"][rows["w"]]) for k in (1, 2, 3)] == [-1, 1, -1]


def test_fleiss_kappa_of_the_published_example() -> None:
    # Fleiss (1971) as retold in Wikipedia's article: 14 raters, 10 subjects, 5 categories.
    counts_NK = np.array(
        [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
         [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
    )  # fmt: skip
    assert grades.fleiss_kappa(counts_NK) == pytest.approx(0.210, abs=5e-4)


def test_agreement_is_scikit_learns_over_what_both_graded() -> None:
    one, other = person("a", x=3, y=0, z=2, only=1), person("b", x=3, y=1, z=2, more=0)
    found = grades.agreement([one, other])
    ((_, _, n, kappa),) = found.pairs
    assert (n, found.n_by_all) == (3, 3)
    assert kappa == pytest.approx(
        cohen_kappa_score([3, 0, 2], [3, 1, 2], labels=[0, 1, 2, 3], weights="quadratic")
    )


def test_agreement_that_is_not_defined_is_none_and_perfect_agreement_one() -> None:
    same = [person("a", x=3, y=3), person("b", x=3, y=3)]
    found = grades.agreement(same)
    assert (found.pairs[0][3], found.fleiss) == (None, None)
    apart = grades.agreement([person("a", x=3), person("b", y=3)])
    assert (apart.pairs[0][2:], apart.fleiss) == ((0, None), None)
    perfect = grades.agreement([person("a", x=3, y=0), person("b", x=3, y=0)])
    assert (perfect.pairs[0][3], perfect.fleiss) == (1.0, 1.0)
    assert grades.agreement([person("a", x=3)]).fleiss is None


def test_ids_round_trip_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    # As the page writes them: what begins a formula, or with a quote, has a quote before it.
    cells = ["'=cmd()", "''quoted", "plain, with comma", 'say "hi"', "<script>alert(1)</script>"]
    ids = ["=cmd()", "'quoted", *cells[2:]]
    one = write_grades(tmp_path / "one.csv", [(cell, "a") for cell in cells], "anna")
    two = write_grades(tmp_path / "two.csv", [(cell, "3") for cell in cells[:4]], "ben")
    content = grades.write(tmp_path / "out", [one, two], lens_from=2.0, not_lens_to=0.5)
    assert content["n_lenses"] == 5
    labels = tables.read_columns(tmp_path / "out" / "labels.parquet")
    assert sorted(labels["id"]) == sorted(ids)
    assert set(labels["label"]) == {1}
    assert labels["ra"].tolist() == [10.5] * 5
    with (tmp_path / "out" / "grades.csv").open(encoding="utf-8", newline="") as file:
        written = [row["id"] for row in csv.DictReader(file)]
    assert sorted(written) == sorted(cells)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in written)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,grade\nx,A\n", "no column id"),
        ("id,grade\nx,D\n", "line 2: grade 'D'"),
        ("id,grade\nx,A\nx,B\n", "line 3: the id 'x' stands there twice"),
        ("id,grade,grader\nx,A,anna\ny,A,ben\n", "grades of 2 people"),
        ("id,grade\n\x1b[31m,A\n", "control characters"),
        ("", "no column grade, id"),
    ],
)
def test_what_is_no_file_of_grades_is_refused_with_its_line(
    text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"bad\.csv") as refusal:
        grades.read(path)
    assert words in str(refusal.value)


def test_objects_without_a_grade_are_nobodys(tmp_path: Path) -> None:
    read = grades.read(write_grades(tmp_path / "one.csv", [("x", "A"), ("y", "")]))
    assert (read.grader, read.grade_of) == ("one", {"x": 3})


def test_two_files_of_one_grader_and_crossed_limits_are_refused() -> None:
    with pytest.raises(RequestError, match="one grader"):
        grades.merge([person("a", x=1), person("a", y=1)], lens_from=2.0, not_lens_to=0.5)
    with pytest.raises(RequestError, match="below the second"):
        grades.merge([person("a", x=1)], lens_from=1.0, not_lens_to=1.0)


def test_the_command_says_what_it_merged(command: Callable[..., Any], tmp_path: Path) -> None:
    one = write_grades(tmp_path / "one.csv", [("x", "A"), ("y", "X"), ("z", "B")], "anna")
    two = write_grades(tmp_path / "two.csv", [("x", "A"), ("y", "C"), ("z", "X")], "ben")
    said = command("grades", one, two, "-o", tmp_path / "out")
    assert said.code == 0
    assert "anna and ben: Cohen's kappa" in said.out
    assert "3 objects: 1 labelled a lens, 1 labelled none, 1 unknown" in said.out
    stored = json.loads((tmp_path / "out" / "grades.json").read_text())
    again = command("grades", one, two, "-o", tmp_path / "out", "--json")
    assert json.loads(again.out) == stored
    assert command("grades", tmp_path / "none.csv", "-o", tmp_path / "out").code == 2


def test_labelled_stamps_are_a_shard_that_training_takes(tmp_path: Path) -> None:
    n = 40
    ids = np.array([f"object {i}" for i in range(n)], dtype=object)
    catalog = {c: np.array([schema.empty_value(c)] * n) for c in schema.REQUIRED_COLUMNS}
    rng = np.random.default_rng(1)
    catalog |= {"id": ids, "ra": rng.uniform(0, 360, n), "dec": rng.uniform(-60, 60, n)}
    image_NCHW = rng.normal(size=(n, 1, 25, 25)).astype(np.float32)
    header = shards.Header("infer", "kids", ("r",), 0.2, {"of": "test"}, {})
    mask_NCHW = np.zeros(image_NCHW.shape, np.uint8)
    shards.write(tmp_path / "candidates.h5", header, image_NCHW, mask_NCHW, catalog)
    given = ["A" if i % 2 else "X" for i in range(n - 4)]
    rows = "".join(f"{ids[i]},{grade}\n" for i, grade in enumerate(given))
    (tmp_path / "anna.csv").write_text("id,grade\n" + rows)
    said = grades.write(
        tmp_path,
        [tmp_path / "anna.csv"],
        lens_from=2.0,
        not_lens_to=0.5,
        stamps=tmp_path / "candidates.h5",
    )
    assert said["n_labelled_stamps"] == n - 4
    with shards.read(tmp_path / "labelled.h5") as shard:
        labels = dict(zip(shard.catalog["id"], shard.catalog["label"], strict=True))
        np.testing.assert_array_equal(shard.image[:], image_NCHW[: n - 4])
    assert labels == {ids[i]: i % 2 for i in range(n - 4)}
    taken = data.open_set([tmp_path / "labelled.h5"])
    assert len(taken.members("train")) > len(taken.members("val")) > 0

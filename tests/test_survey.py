"""Laws of surveys: a user's own file works the same, and all that is wrong with it is said."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from lensfinder import survey
from lensfinder.errors import RequestError


@pytest.mark.parametrize("name", survey.names())
def test_a_copy_of_a_shipped_survey_is_the_same_survey(tmp_path: Path, name: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text((resources.files("lensfinder") / "surveys" / f"{name}.toml").read_text())
    assert survey.load(str(path)) == survey.load(name)


def test_an_unknown_survey_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(RequestError, match="unknown survey 'kdis'; expected 'kids'"):
        survey.load("kdis")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    shipped = (resources.files("lensfinder") / "surveys" / "kids.toml").read_text()
    bad = shipped.replace("pixel_scale_arcsec = 0.2", "pixel_scale_arcsec = -1\ncolour = 1")
    bad = bad.replace("(?P<tile>", "(?P<tlie>").replace("value = 0.0", "")
    bad = bad.replace("saturated = 2", "satrated = 2")
    (tmp_path / "own.toml").write_text(bad)
    with pytest.raises(RequestError) as caught:
        survey.load(str(tmp_path / "own.toml"))
    for part in (
        "pixel_scale_arcsec: expected more than 0 (got -1)",
        "colour: unknown key; expected one of",
        "mask.satrated: unknown key; expected 'saturated'",
        "needs the groups",
        "either value or card",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("value = { u = 0.0, g = 0.0, r = 0.0, I = 0.0 }", "zero_point.value has ['I']"),
        ("value = { u = 0.0, g = 0.0, r = 0.0 }", "zero_point.value lacks ['i']"),
        ("value = 0.0\n[mask]\nbad = { g = 2, R = 2 }", "mask.bad has ['R']"),
    ],
)
def test_a_band_that_is_none_is_told(tmp_path: Path, given: str, said: str) -> None:
    shipped = (resources.files("lensfinder") / "surveys" / "kids.toml").read_text()
    before, _, after = shipped.partition("value = 0.0")
    rest = after if "[mask]" not in given else after.partition("[mask]")[0]
    (tmp_path / "own.toml").write_text(before + given + rest)
    with pytest.raises(RequestError) as caught:
        survey.load(str(tmp_path / "own.toml"))
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"name = ", None])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=r"own\.toml"):
        survey.load(str(path))


def test_kinds_and_their_group_go_together(tmp_path: Path) -> None:
    shipped = (resources.files("lensfinder") / "surveys" / "kids.toml").read_text()
    (tmp_path / "own.toml").write_text(shipped.replace('kinds = { sci = "image"', "kinds = {} #"))
    with pytest.raises(RequestError, match="go together"):
        survey.load(str(tmp_path / "own.toml"))


def test_bands_are_those_asked_for_or_the_default_ones() -> None:
    kids = survey.load("kids")
    assert kids.choose_bands(()) == ("g", "r", "i")
    assert kids.choose_bands(("i", "g")) == ("i", "g")
    assert kids.reference_of(("g", "r", "i")) == "r"
    assert kids.reference_of(("g", "i")) == "i"
    for asked in (("y",), ("g", "g")):
        with pytest.raises(RequestError):
            kids.choose_bands(asked)

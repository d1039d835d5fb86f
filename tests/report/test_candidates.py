"""Laws of ranking, names and cross-matches, and of text that others' programs will open."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.coordinates import Angle
from hypothesis import assume, given
from hypothesis import strategies as st

from lensfinder import catalogs
from lensfinder.report import candidates


def test_rank_is_by_logit_and_ties_by_id_in_any_order_of_rows() -> None:
    id_N = np.array(["b", "c", "a", "d"])
    logit_N = np.array([1.0, 3.0, 1.0, -2.0], dtype=np.float32)
    for shuffle in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        order = candidates.rank(logit_N[shuffle], id_N[shuffle])
        assert id_N[shuffle][order].tolist() == ["c", "a", "b", "d"]


def test_an_object_without_a_logit_has_no_rank() -> None:
    with pytest.raises(ValueError, match="1 logits are not finite"):
        candidates.rank(np.array([1.0, np.nan]), np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "name"),
    [
        (180.013375, -0.50341667, "LF J120003.21-003012.3"),
        # 23:59:59.999 is truncated: it becomes neither .00 of the next minute nor 24 h.
        (359.99999583333, 0.0, "LF J235959.99+000000.0"),
        (360.0, 0.0, "LF J000000.00+000000.0"),
        (-0.0000041, 0.0, "LF J235959.99+000000.0"),
        # The sign of a declination within an arcsecond of the equator is kept.
        (0.0, -0.0001, "LF J000000.00-000000.3"),
        (0.0, -0.00001, "LF J000000.00-000000.0"),
        (12.5, 89.99999, "LF J005000.00+895959.9"),
        (12.5, -90.0, "LF J005000.00-900000.0"),
    ],
)
def test_iau_names_are_truncated(ra_deg: float, dec_deg: float, name: str) -> None:
    assert candidates.iau_name(ra_deg, dec_deg) == name


@given(st.floats(0, 359.999999), st.floats(-89.9999, 89.9999))
def test_iau_names_agree_with_astropys_digits_cut_off(ra_deg: float, dec_deg: float) -> None:
    longer = [
        Angle(angle, "deg").to_string(unit=unit, sep="", pad=True, precision=9, alwayssign=signed)
        for angle, unit, signed in ((ra_deg, "hourangle", False), (dec_deg, "deg", True))
    ]
    # A value that rounds up at the ninth digit stands on a step, which the law leaves open.
    assume(not any("999999" in text or "60.0" in text for text in longer))
    ra_text = re.sub(r"(\.\d\d)\d+$", r"\1", longer[0])
    dec_text = re.sub(r"(\.\d)\d+$", r"\1", longer[1])
    assume(dec_deg <= -1e-9 or dec_text.startswith("+"))
    assert candidates.iau_name(ra_deg, dec_deg, "") == f"J{ra_text}{dec_text}"


@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(np.nan, 0.0), (0.0, np.nan), (0.0, 91.0)])
def test_a_position_off_the_sky_has_no_name(ra_deg: float, dec_deg: float) -> None:
    with pytest.raises(ValueError, match="no position on the sky"):
        candidates.iau_name(ra_deg, dec_deg)


def test_nearest_within_takes_the_nearest_also_across_zero_hours() -> None:
    arcsec = 1 / 3600
    ra_N = np.array([359.99999, 0.5 * arcsec, 10.0])
    dec_N = np.array([0.0, 0.0, 3 * arcsec])
    index_K, separation_arcsec_K = candidates.nearest_within(
        np.array([0.0, 10.0]), np.array([0.0, 0.0]), ra_N, dec_N, 2.0
    )
    assert index_K.tolist() == [0, -1]
    assert separation_arcsec_K[0] == pytest.approx(0.036)
    assert np.isnan(separation_arcsec_K[1])


def test_nearest_within_of_nothing_is_nothing() -> None:
    none = np.empty(0)
    index_K, _ = candidates.nearest_within(np.zeros(2), np.zeros(2), none, none, 2.0)
    assert index_K.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", "' =1"),
        ("\t=1", "'=1"),
        ("\x1b[31m=1", "'=1"),
        ("\x1b]0;title\x07red", "red"),
        ("\x9b2Jgone", "gone"),
        ("a\rb\nc", "abc"),
        ("evil\u202etxt", "eviltxt"),
        ("KiDS J1=2, é", "KiDS J1=2, é"),
    ],
)
def test_cells_carry_neither_formulas_nor_escapes(text: str, cell: str) -> None:
    assert catalogs.safe_cell(text) == cell


@given(st.text(max_size=40))
def test_no_text_becomes_a_command(text: str) -> None:
    cell = catalogs.safe_cell(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", cell)
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
    assert catalogs.from_cell(cell) == catalogs.printable(text)


def test_ds9_labels_cannot_leave_their_braces() -> None:
    text = candidates.ds9_regions(
        np.array([10.0]), np.array([-0.5]), ["a} # color=red\nfk5; {b 5%"], 5.0
    )
    assert text.splitlines()[2:] == [
        "icrs",
        'circle(10.0000000,-0.5000000,5") # text={a%7D # color=red%0Afk5; %7Bb 5%25}',
    ]

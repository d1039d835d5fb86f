"""Laws of errors: they keep their parts wherever they travel, and name what was meant."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensfinder import errors

KINDS = [
    errors.RequestError,
    errors.MismatchError,
    errors.DiskError,
    errors.Interrupted,
]


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.tuples(st.text(min_size=1), st.text(), st.text()))
def test_an_error_survives_the_way_back_from_a_worker(
    kind: type[errors.LensfinderError], parts: tuple[str, str, str]
) -> None:
    error = kind(*parts)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.what, again.expected, again.remedy) == parts
    failed = pickle.loads(pickle.dumps(errors.UnitError("truncated", *parts)))
    assert (failed.reason, str(failed)) == ("truncated", str(error))


def test_exit_codes_are_those_of_the_manual() -> None:
    codes = [kind.exit_code for kind in (*KINDS, errors.UnitError, errors.LensfinderError)]
    assert codes == [2, 4, 74, 75, 3, 1]


def test_the_nearest_known_name_is_offered() -> None:
    assert errors.nearest("lensnt", ["lensnet", "deeplens"]) == "'lensnet'"
    assert errors.nearest("q", ["b", "a"]) == "one of 'a', 'b'"


def test_only_what_a_terminal_obeys_is_spelt_out() -> None:
    assert errors.printable("1\N{NO-BREAK SPACE}% of\n\u2009\u2033") == "1\xa0% of\n\u2009\u2033"
    assert errors.printable("\x1b[31mred\x9b") == r"\x1b[31mred\x9b"

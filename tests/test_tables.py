"""Laws of catalogues: the same columns out of every kind of file, and no row that can't be used."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lensfinder import catalogs, schema, tables
from lensfinder.errors import RequestError

IDS = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn")).filter(str.isprintable),
    min_size=1,
    max_size=64,
).filter(lambda text: len(text.encode()) <= schema.MAX_ID_BYTES)


def write_csv(path: Path, rows: list[tuple[str, float, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["id", "ra", "dec"])
        writer.writerows(rows)


@settings(deadline=None, max_examples=40)
@given(
    ids=st.lists(IDS, min_size=1, max_size=6, unique=True),
    ra=st.floats(0, 360),
    dec=st.floats(-90, 90),
    suffix=st.sampled_from([".csv", ".parquet", ".ecsv"]),
)
def test_any_printable_id_comes_back_as_it_was(
    tmp_path_factory: Any, ids: list[str], ra: float, dec: float, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("ids") / f"c{suffix}"
    n = len(ids)
    if suffix == ".csv":
        write_csv(path, [(name, ra, dec) for name in ids])
    elif suffix == ".ecsv":
        # Space at the end of a cell is no part of it in this format, and astropy writes a row that
        # begins with # as the comment that it then is.
        ids = list(dict.fromkeys(name.strip().lstrip("#").strip() or "x" for name in ids))
        n = len(ids)
        Table({"id": ids, "ra": [ra] * n, "dec": [dec] * n}).write(path, format="ascii.ecsv")
    else:
        tables.write_columns(path, {"id": ids, "ra": [ra] * n, "dec": [dec] * n})
    read = tables.read_catalog(path)
    assert read["id"].tolist() == ids
    assert read["ra"].tolist() == [ra] * n
    assert read["dec"].tolist() == [dec] * n


COLUMNS = {
    "objID": ["007", "b-1", "c 2"],
    "RA": [10.25, 359.5, 0.0],
    "Dec": [-89.5, 0.0, 45.125],
    "mag_r": [20.5, 21.25, 19.0],
    "e_mag_r": [9.0, 9.0, 9.0],
}


@pytest.mark.parametrize(
    "suffix", [".csv", ".tsv", ".ecsv", ".fits", ".vot", ".xml", ".parquet", ".fits.gz"]
)
def test_every_kind_of_file_gives_the_same_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    if suffix == ".parquet":
        tables.write_columns(path, COLUMNS)
    else:
        kinds = {".csv": "ascii.csv", ".tsv": "ascii.tab", ".ecsv": "ascii.ecsv"}
        kinds |= {".fits": "fits", ".fits.gz": "fits"}
        Table(COLUMNS).write(path, format=kinds.get(suffix, "votable"))
    read = tables.read_catalog(path)
    assert {name: values.tolist() for name, values in read.items()} == {
        "id": COLUMNS["objID"],
        "ra": COLUMNS["RA"],
        "dec": COLUMNS["Dec"],
        "mag_r": COLUMNS["mag_r"],
    }


def test_a_csv_cell_is_not_taken_for_what_it_resembles(tmp_path: Path) -> None:
    ids = ["007", "1e5", "NA", "null", "true", "2020-01-01", "123456789012345678901", "-0"]
    for name, columns in (("id", None), ("odd", {"id": "odd"})):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([f"{name},ra,dec", *(f"{one},1,2" for one in ids)]))
        assert tables.read_catalog(path, columns)["id"].tolist() == ids


def test_a_number_that_stands_for_no_magnitude_is_none(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("id, ra, dec, mag_r, kept\na,1,2,-99,-99\nb,1,2,99,1\nc,1,2,20,1\n")
    read = tables.read_catalog(path, {"kept": "kept"})
    assert np.isnan(read["mag_r"][:2]).all()
    assert read["mag_r"][2] == 20
    assert read["kept"].tolist() == [-99, 1, 1]


def test_columns_under_unusual_names(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("label,lon,lat,brightness\nx,1,2,20\n")
    named = {"id": "label", "ra": "lon", "dec": "lat", "mag_r": "brightness"}
    assert tables.read_catalog(path, named)["mag_r"].tolist() == [20]
    with pytest.raises(RequestError, match="no column 'nowhere'"):
        tables.read_catalog(path, {**named, "ra": "nowhere"})


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("MAG_AUTO_r", "mag_r"),
        ("modelMag_g", "mag_g"),
        ("mag_VIS", "mag_VIS"),
        ("mag_F814W", "mag_F814W"),
        ("mag_i2", "mag_i2"),
        ("magnitude", None),
        ("mag_error", None),
    ],
)
def test_magnitudes_are_known_by_what_catalogues_call_them(tmp_path, column, name):
    path = tmp_path / "t.csv"
    path.write_text(f"id,ra,dec,{column}\na,1,2,20\n")
    read = tables.read_catalog(path)
    assert {key for key in read if key.startswith("mag_")} == ({name} if name else set())


def test_angles_with_a_unit_become_degrees(tmp_path: Path) -> None:
    table = Table({"id": ["a"], "ra": [1.0], "dec": [0.5]})
    table["ra"].unit, table["dec"].unit = "hourangle", "rad"
    table.write(tmp_path / "c.ecsv")
    read = tables.read_catalog(tmp_path / "c.ecsv")
    assert read["ra"][0] == pytest.approx(15)
    assert read["dec"][0] == pytest.approx(np.degrees(0.5))


@pytest.mark.parametrize(
    ("unit", "ra_deg"),
    [
        ("deg", 1.0),
        *((hours, 15.0) for hours in ("h", "hr", "hours", "hourangle", "h:m:s")),
        *((radians, np.degrees(1)) for radians in ("rad", "radian", "rads")),
        ("arcmin", 1 / 60),
        ("deg (J2000)", 1.0),
        ("none", 1.0),
        ("kpc", None),
        ("km", None),
    ],
)
def test_a_unit_of_positions_is_heeded_however_it_is_spelt(
    tmp_path: Path, unit: str, ra_deg: float | None
) -> None:
    position = [fits.Column(name, "D", array=[1.0], unit=unit) for name in ("ra", "dec")]
    position[1].unit = "deg"
    columns = [fits.Column("id", "1A", array=["a"]), *position]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    (tmp_path / "c.csv").write_text(f"id,RA[{unit}],Dec[deg]\na,1,1\n")
    for path in (tmp_path / "c.fits", tmp_path / "c.csv"):
        if ra_deg is None:
            with pytest.raises(RequestError, match=f"is in '{unit}'; expected an angle"):
                tables.read_catalog(path)
        else:
            assert tables.read_catalog(path)["ra"][0] == pytest.approx(ra_deg)


def test_only_positions_become_degrees(tmp_path: Path) -> None:
    table = Table({"id": ["a"], "ra": [1.0], "dec": [0.5], "size": [2.0]})
    table["size"].unit = "arcsec"
    for name in ("c.fits", "c.ecsv", "c.vot"):
        table.write(tmp_path / name, **({"format": "votable"} if name == "c.vot" else {}))
        assert tables.read_catalog(tmp_path / name, {"size": "size"})["size"][0] == 2.0


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([("a", 1, 2), ("b", 360.5, 2)], r"row 2: RA is not within"),
        ([("a", 1, 2), ("b", -1, 2)], r"row 2: RA"),
        ([("a", 1, 2), ("b", 1, 91)], r"row 2: Dec"),
        ([("a", float("nan"), 2)], r"row 1: RA"),
        ([("a", 1, 2), ("b", 1, 2), ("a", 3, 4)], r"row 3: the id stands there twice"),
        ([("a", 1, 2), ("", 1, 2)], r"row 2: the id is empty"),
        ([("a", 1, 2), ("b\tc", 1, 2)], r"row 2: the id .* control characters"),
        ([("a", 1, 2), ("b\x1b[31m", 1, 2)], r"row 2: the id .* control characters"),
        ([("a\0b", 1, 2)], r"row 1: the id .* control characters"),
        ([("x" * 65, 1, 2)], r"row 1: the id is too long"),
        ([("ß" * 33, 1, 2)], r"row 1: the id is too long"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, rows: list[tuple[str, float, float]], complaint: str, suffix: str
) -> None:
    path = tmp_path / f"c{suffix}"
    if suffix == ".csv":
        write_csv(path, rows)
    else:
        tables.write_columns(
            path, dict(zip(("id", "ra", "dec"), zip(*rows, strict=True), strict=True))
        )
    with pytest.raises(RequestError, match=complaint):
        tables.read_catalog(path)


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".ecsv"])
@pytest.mark.parametrize("column", ["ra", "id"])
def test_a_masked_cell_is_missing_and_not_what_lies_beneath(
    tmp_path: Path, suffix: str, column: str
) -> None:
    table = Table({"id": ["a", "b"], "ra": [1.0, 2.0], "dec": [3.0, 4.0]}, masked=True)
    table[column] = MaskedColumn(table[column], mask=[False, True])
    path = tmp_path / f"c{suffix}"
    table.write(path, format={".vot": "votable", ".ecsv": "ascii.ecsv"}.get(suffix, "fits"))
    with pytest.raises(RequestError, match="row 2"):
        tables.read_catalog(path)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("c.csv", "id,flux\na,1\n", "no column for ra and dec"),
        ("c.csv", "", "can't be read"),
        ("c.csv", "id,ra,dec\na,1\n", "can't be read"),
        ("c.csv", "id,ra,dec\na,12:30:00,2\n", "not numeric"),
        ("c.csv", "id,ra,ra,dec\na,1,1,2\n", "can't be read"),
        ("c.fits", "no FITS", "can't be read"),
        ("c.vot", "<html", "can't be read"),
        ("c.vot", "<?xml version='1.0' encoding='unf-8'?><VOTABLE/>", "unknown encoding: unf-8"),
        ("c.ecsv", "# nothing", "can't be read"),
        ("c.parquet", "PAR1", "can't be read"),
        ("c.txt", "id ra dec", "unknown kind"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=complaint):
        tables.read_catalog(tmp_path / name)


def test_of_several_tables_in_a_file_none_is_guessed(tmp_path: Path) -> None:
    objects = Table({"id": ["a"], "ra": [1.0], "dec": [2.0]})
    header = Table({"Field Header Card": ["SIMPLE"]})
    hdus = [fits.PrimaryHDU(), *(fits.table_to_hdu(each) for each in (header, objects))]
    hdus[1].name, hdus[2].name = "LDAC_IMHEAD", "LDAC_OBJECTS"
    fits.HDUList(hdus).writeto(tmp_path / "c.fits")
    with pytest.raises(RequestError, match=r"2 tables, HDUs 1 \(LDAC_IMHEAD\), 2 \(LDAC_OBJECTS\)"):
        tables.read_catalog(tmp_path / "c.fits")


@pytest.mark.fault
def test_text_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    names = pa.array(["aaaaaaa1", "aaaaaaa2"])
    parquet.write_table(
        pa.table({"id": names, "ra": [1.0, 2.0], "dec": [3.0, 4.0]}), path,
        compression="none", use_dictionary=False, write_statistics=False,
    )  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"aaaaaaa2", b"aaa\xb2\xa2aa2"))
    with pytest.raises(RequestError, match="can't be read"):
        tables.read_catalog(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_votable_may_not_send_its_reader_elsewhere(tmp_path: Path, encoding: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 64)
    text = f"""<?xml version="1.0" encoding="{encoding}"?>
    <v:VOTABLE version="1.4" xmlns:v="http://www.ivoa.net/xml/VOTable/v1.3"><v:RESOURCE><v:TABLE>
    <v:FIELD name="id" datatype="char" arraysize="1"/><v:FIELD name="ra" datatype="double"/>
    <v:FIELD name="dec" datatype="double"/>
    <v:DATA><v:BINARY><v:STREAM href="{secret.as_uri()}"/></v:BINARY></v:DATA>
    </v:TABLE></v:RESOURCE></v:VOTABLE>"""
    (tmp_path / "c.vot").write_bytes(text.encode(encoding))
    with pytest.raises(RequestError, match="refers to data elsewhere"):
        tables.read_catalog(tmp_path / "c.vot")


def test_a_table_comes_back_wherever_it_lies(tmp_path: Path) -> None:
    # Other readers make a column of a folder with an equals sign.
    path = tmp_path / "seed=2" / "t.parquet"
    columns = {"id": ["a", "b"], "logit": [1.5, np.nan], "label": [1, -1], "free_text": ["x", "y"]}
    tables.write_columns(path, columns, {"made": [1, {"from": None}]})
    read = tables.read_columns(path)
    assert list(read) == list(columns)
    assert read["id"].tolist() == ["a", "b"]
    assert read["label"].dtype == np.int8
    assert read["logit"][0] == 1.5
    assert np.isnan(read["logit"][1])
    assert tables.read_metadata(path) == {"made": [1, {"from": None}]}
    assert tables.rows_of(path) == 2
    assert tables.read_columns(path, ["label"]).keys() == {"label"}
    path.write_bytes(path.read_bytes()[:-20])
    assert tables.read_metadata(path) is None
    with pytest.raises(RequestError, match="can't be read"):
        tables.read_columns(path)


def test_column_sets_are_stacked_with_empty_values() -> None:
    parts = [
        {"id": np.array(["a"], dtype=object), "mag_r": np.array([20.0], np.float32)},
        {"id": np.array(["b"], dtype=object), "label": np.array([1], np.int8)},
        {"id": np.array([], dtype=object)},
    ]
    stacked = tables.concatenate(parts)
    assert stacked["id"].tolist() == ["a", "b"]
    assert stacked["label"].tolist() == [schema.UNKNOWN, 1]
    assert np.isnan(stacked["mag_r"][1])


LARGE = [2**63 - 1, 2**63 - 2, 2**53 + 1, -(2**63), 0]


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".fits", ".vot", ".parquet"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.fault
def test_the_largest_ids_stay_exact(tmp_path: Path, suffix: str, masked: bool) -> None:
    from astropy.table import MaskedColumn, Table

    path = tmp_path / f"t{suffix}"
    ids = np.array(LARGE, np.int64)
    if suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        listed = pa.array([None if masked and k == 4 else value for k, value in enumerate(LARGE)])
        columns = {"objID": listed, "ra": np.arange(5.0), "dec": np.zeros(5)}
        parquet.write_table(pa.table(columns), path)
    else:
        named = MaskedColumn(ids, mask=[False] * 4 + [masked])
        table = Table({"objID": named, "ra": np.arange(5.0), "dec": np.zeros(5)})
        formats = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".vot": "votable"}
        table.write(path, format=formats.get(suffix, "fits"))
    if masked:
        # What has no name is refused, by its row, and the others are none the worse for it.
        with pytest.raises(RequestError, match="row 5: the id is empty"):
            tables.read_catalog(path)
        return
    assert tables.read_catalog(path)["id"].tolist() == [str(value) for value in LARGE]


@pytest.mark.parametrize("name", ["E(B-V)", "EBV", "sfd_ebv", "E_BV [mag]"])
def test_reddening_is_known_by_its_usual_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_text(f'id,ra,dec,mag_r,"{name}"\na,1,2,20,0.05\n')
    assert tables.read_catalog(tmp_path / "t.csv")["ebv"] == pytest.approx(0.05)


def test_every_export_carries_any_text(tmp_path: Path) -> None:
    columns = {"id": np.array(["Äpfel", "=1+1", "a\x1b[2Jb"], object), "ra": np.zeros(3)}
    columns["dec"] = columns["ra"]
    expected = {
        ".fits": ["\\xc4pfel", "=1+1", "ab"],
        ".ecsv": ["Äpfel", "'=1+1", "ab"],
        ".vot": ["Äpfel", "=1+1", "ab"],
    }
    for suffix, form in ((".ecsv", "ascii.ecsv"), (".fits", "fits"), (".vot", "votable")):
        tables.write_astropy(tmp_path / f"t{suffix}", columns, form)
        read = tables.read_table(tmp_path / f"t{suffix}")["id"]
        assert [catalogs.text(value) for value in read] == expected[suffix]


def test_an_id_like_a_comment_survives_every_export(tmp_path: Path) -> None:
    """Astropy takes a row of an ECSV file that begins with # for a comment."""
    ids = np.array(["#1", "b"], object)
    for suffix, form in ((".ecsv", "ascii.ecsv"), (".fits", "fits"), (".vot", "votable")):
        path = tmp_path / f"t{suffix}"
        tables.write_astropy(path, {"id": ids, "ra": np.zeros(2), "dec": np.zeros(2)}, form)
        assert tables.read_catalog(path)["id"].tolist() == ["#1", "b"]


def test_of_two_magnitudes_of_a_band_the_exact_name_wins_and_others_are_refused(tmp_path):
    where, head = tmp_path / "two.csv", "id,ra,dec"
    where.write_text(f"{head},mag_r,MAG_AUTO_r\na,10,1,20.1,19.5\n")
    assert tables.read_catalog(where)["mag_r"] == pytest.approx([20.1])
    where.write_text(f"{head},MAG_GAAP_r,MAG_AUTO_r\na,10,1,20.1,19.5\n")
    with pytest.raises(RequestError, match="2 columns for mag_r: MAG_GAAP_r, MAG_AUTO_r"):
        tables.read_catalog(where)
    named = tables.read_catalog(where, {"mag_r": "MAG_AUTO_r"})
    assert named["mag_r"] == pytest.approx([19.5])


def test_axes_of_an_ellipse_are_no_extinction(tmp_path):
    where = tmp_path / "axes.csv"
    where.write_text("id,ra,dec,mag_r,a_r,b_r\na,10,1,20,3.5,2\n")
    assert "extinction_r" not in tables.read_catalog(where)
    where.write_text("id,ra,dec,mag_r,a_r\na,10,1,20,0.3\n")
    assert tables.read_catalog(where)["extinction_r"] == pytest.approx([0.3])


def test_labels_that_contradict_one_another_are_refused(tmp_path):
    where = tmp_path / "classifications.csv"
    where.write_text("id,is_lens\na,0\nb,1\na,0\n")
    assert tables.read_labels(where) == ({"a": 0, "b": 1}, {})
    where.write_text("id,is_lens\na,0\nb,1\na,1\n")
    with pytest.raises(RequestError, match="row 3: is_lens is 0 and 1 of one id"):
        tables.read_labels(where)

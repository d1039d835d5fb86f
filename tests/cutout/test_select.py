"""Laws of selection: who is a target, by what numbers, and how many that are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import sky_YX, tan_wcs, write_kids_tile

from lensfinder import shards, tables
from lensfinder.cutout.select import dereddened, lrg_petrillo2017, respelled, within
from lensfinder.errors import RequestError
from lensfinder.ledger import products_of, read_index

magnitudes = st.floats(14, 25)


def columns(**given: object) -> dict[str, np.ndarray]:
    found = {name: np.atleast_1d(np.asarray(value, float)) for name, value in given.items()}
    return {"ra": np.zeros(len(next(iter(found.values())))), **found}


@settings(deadline=None)
@given(g=magnitudes, r=magnitudes, i=magnitudes)
def test_the_lrg_cut_is_the_published_one(g: float, r: float, i: float) -> None:
    (chosen,) = lrg_petrillo2017(columns(mag_g=g, mag_r=r, mag_i=i))
    c_par = 0.7 * (g - r) + 1.2 * (r - i - 0.18)
    c_perp = r - i - (g - r) / 4 - 0.18
    assert chosen == (r < 20 and abs(c_perp) < 0.2 and r < 14 + c_par / 0.3)


def test_a_red_galaxy_is_chosen_and_a_blue_or_unknown_one_is_not() -> None:
    listed = columns(mag_g=[19.9, 18.6, np.nan], mag_r=[18.2, 18.2, 18.2], mag_i=[17.6, 18.0, 17.6])
    assert lrg_petrillo2017(listed).tolist() == [True, False, False]
    with pytest.raises(RequestError, match="needs mag_g, which the targets lack"):
        lrg_petrillo2017(columns(mag_r=[18.0], mag_i=[17.0]))


def test_ranges_are_of_columns_and_differences() -> None:
    listed = columns(mag_g=[20.0, 21.0, np.nan, 20.5], mag_r=[19.0, 19.0, 19.0, 20.5])
    assert within(listed, {}).all()
    assert within(listed, {"mag_g": (20, 20.5)}).tolist() == [True, False, False, True]
    assert within(listed, {"mag_g - mag_r": (0.5, 1.5)}).tolist() == [True, False, False, False]
    for name in ("size", "mag_g-size", "__import__('os')"):
        with pytest.raises(RequestError, match="which the targets lack"):
            within(listed, {name: (0, 1)})


def test_extinction_is_taken_off_once() -> None:
    listed = columns(mag_g=[20.0], mag_R=[19.0], extinction_G=[0.3], extinction_r=[0.2], size=[1.0])
    named = respelled(listed, ["u", "g", "r"])
    assert sorted(named) == sorted([name.lower() for name in listed])
    corrected, bands, unknown = dereddened(named, ["u", "g", "r"], {})
    assert bands == ["g", "r"]
    assert unknown == 0
    assert corrected["mag_g"][0] == pytest.approx(19.7)
    assert corrected["mag_r"][0] == pytest.approx(18.8)
    assert not any("extinction" in name for name in corrected)
    again, bands, _ = dereddened(corrected, ["u", "g", "r"], {})
    assert bands == []
    assert again["mag_g"][0] == corrected["mag_g"][0]


def test_the_selected_share_stands_in_summary_and_index(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    shape_YX = (60, 60)
    wcs = tan_wcs(10.0, 0.0, shape_YX)
    images = {band: sky_YX(shape_YX, [(30, 30)], n) for n, band in enumerate("gri")}
    write_kids_tile(tmp_path / "tiles", "10_0", images, wcs)
    rows = ["ID,RA,DEC,MAG_GAAP_g,MAG_GAAP_r,MAG_GAAP_i,EXTINCTION_r,FLUX_RADIUS,petro"]
    rows += [
        f"t{n},10.0,{d},{m},{m - 1.7},{m - 2.3},0.1,{n},{m}"
        for n, (d, m) in enumerate([(0.0, 19.9), (5e-4, 20.0), (-5e-4, 27.0), (40.0, 19.9)])
    ]
    (tmp_path / "c.csv").write_text("\n".join(rows) + "\n")
    arguments = ["cutout", tmp_path / "tiles", "--catalog", tmp_path / "c.csv", "--size", 21]
    arguments += ["--engine", "serial", "--set", 'cutout.columns.size="FLUX_RADIUS"']
    said = command(
        *arguments, "-o", tmp_path / "out", "--set", 'cutout.selection="lrg-petrillo2017"',
        "--set", "cutout.ranges={size = [0, 0.5], 'mag_g-mag_i' = [1, 3]}",
    )  # fmt: skip
    assert said.code == 0, said.err
    index = read_index(tmp_path / "out")
    assert index["selection"] == {
        **{"catalogue": 4, "inside": 3, "selected": 1},
        "selected_fraction": pytest.approx(1 / 3),
        "dereddened": ["r"],
        "from": "catalogue",
    }
    assert "cutout: 4 objects listed, 3 of them inside tiles, 1 selected (33.3% of those); " in (
        said.out
    )
    (product,) = products_of(tmp_path / "out", "cutout")
    with shards.read(product) as shard:
        assert shard.catalog["id"].tolist() == ["t0"]
        assert shard.catalog["mag_r"][0] == pytest.approx(18.1)
    assert tables.rows_of(tmp_path / "out" / "ledger.parquet") == 1


def test_a_missing_band_is_masked_on_request(tmp_path: Path, command: Callable[..., Any]) -> None:
    shape_YX = (60, 60)
    images = {band: sky_YX(shape_YX, [(30, 30)], n) for n, band in enumerate("gr")}
    write_kids_tile(tmp_path / "tiles", "10_0", images, tan_wcs(10.0, 0.0, shape_YX))
    (tmp_path / "c.csv").write_text("id,ra,dec\na,10.0,0.0\n")
    arguments = ["cutout", tmp_path / "tiles", "--catalog", tmp_path / "c.csv", "--size", 21]
    arguments += ["--engine", "serial"]
    refused = command(*arguments, "-o", tmp_path / "no")
    assert refused.code == 2
    assert "[missing_band]" in refused.err
    said = command(*arguments, "-o", tmp_path / "out", "--set", 'cutout.missing_band="mask"')
    assert said.code == 0, said.err
    (product,) = products_of(tmp_path / "out", "cutout")
    with shards.read(product) as shard:
        assert np.isnan(shard.image[0, 2]).all()
        assert (shard.mask[0, 2] == 1).all()
        assert np.isfinite(shard.image[0, :2]).all()
        assert np.isnan(shard.catalog["psf_fwhm_i_arcsec"][0])


@settings(deadline=None, max_examples=20)
@given(ebv=st.floats(0, 2), coefficient=st.floats(0.1, 6))
def test_reddening_and_extinction_say_the_same(ebv: float, coefficient: float) -> None:
    magnitude = np.full(3, 20.0, np.float32)
    by_ebv, bands, _ = dereddened(
        {"mag_r": magnitude, "mag_g": magnitude, "ebv": np.full(3, ebv)}, ["r"], {"r": coefficient}
    )
    extinction = np.full(3, coefficient * ebv)
    by_extinction, *_ = dereddened({"mag_r": magnitude, "extinction_r": extinction}, ["r"], {})
    assert bands == ["r"]
    np.testing.assert_allclose(by_ebv["mag_r"], by_extinction["mag_r"], atol=1e-5)
    assert (by_ebv["mag_g"] == 20).all(), "a band without a coefficient stays as it was"
    # An extinction that is listed is the better one.
    both, *_ = dereddened(
        {"mag_r": magnitude, "extinction_r": np.full(3, 0.5), "ebv": np.ones(3)}, ["r"], {"r": 9.0}
    )
    assert both["mag_r"] == pytest.approx(19.5)


def test_what_is_not_known_of_dust_takes_nothing_off(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "id,ra,dec,mag_r,mag_g,extinction_r,ebv\n"
        "a,1,2,20,21,0.3,0.1\nb,1,3,20,21,-99,0.1\nc,1,4,20,21,99,-99\nd,1,5,20,21,,\n"
    )
    listed = tables.read_catalog(tmp_path / "c.csv")
    by_ebv = {"r": 2.0, "g": 3.0}
    corrected, bands, unknown = dereddened(listed, ["g", "r"], by_ebv)
    assert bands == ["g", "r"]
    assert unknown == 2
    np.testing.assert_allclose(corrected["mag_r"], [19.7, 19.8, 20, 20], rtol=1e-6)
    np.testing.assert_allclose(corrected["mag_g"], [20.7, 20.7, 21, 21], rtol=1e-6)

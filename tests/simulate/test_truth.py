"""Truth in, images out: the same pixels from a table, and lenses of one's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from mockfolders import contents

from lensfinder import config, ledger, runs, schema, shards, tables
from lensfinder.errors import MismatchError, RequestError
from lensfinder.simulate import cosmology, recipe, stage, truth

SMALL = {"count": 100, "size": 21, "unit_size": 64, "val_fraction": 0.2, "bands": ("g", "r")}


def run(folder: Path, **options: Any) -> runs.Summary:
    execution = runs.Execution(engine="serial", verbosity=-1)
    return runs.execute("simulate", config.load(options={"simulate": options}), folder, execution)


def all_kinds(folder: Path) -> Path:
    """A recipe with every kind of negative in it."""
    weights = "\n".join(f"{kind} = 1" for kind in recipe.NEGATIVE_KINDS)
    path = folder / "all.toml"
    path.write_text(
        f"base = 'collett2015'\nname = 'all'\ndescription = ''\npositive_fraction = 0.3\n"
        f"[stamps]\nsurvey = 'kids'\nbands = ['g', 'r']\nsize = 21\n[negatives]\n{weights}\n"
        "[observing]\nbad_pixel_fraction = 0.01\nbad_columns = 0.5\noff_edge_fraction = 0.3\n"
    )
    return path


@pytest.fixture(scope="module")
def mocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    run(folder / "mocks", **SMALL, population=str(all_kinds(folder)))
    return folder / "mocks"


def test_a_table_it_wrote_renders_bit_for_bit(mocks: Path, tmp_path: Path) -> None:
    """All of it with other units, and some rows of it in another order."""
    image, catalog = contents(mocks)
    assert set(catalog["kind"]) == {"lens", *recipe.NEGATIVE_KINDS}
    missing = np.isnan(image)
    assert missing.any(axis=(1, 2, 3)).mean() == pytest.approx(0.3, abs=0.15)
    assert (missing == missing[:, :1]).all()
    np.testing.assert_array_equal(
        catalog["flags"] & schema.FLAG_EDGE != 0, missing.any(axis=(1, 2, 3))
    )
    assert (image == 0).mean() == pytest.approx(0.01 + 0.5 / 21, abs=0.01)
    whole = {"truth": str(mocks / stage.TRUTH), "val_fraction": 0.2, "unit_size": 128}
    run(tmp_path / "again", **whole)
    again, other = contents(tmp_path / "again")
    assert again.tobytes() == image.tobytes()
    for name, values in catalog.items():
        np.testing.assert_array_equal(other[name], values)

    table = tables.read_columns(mocks / stage.TRUTH)
    order = np.random.default_rng(1).permutation(100)[:37]
    metadata = tables.read_metadata(mocks / stage.TRUTH)
    some = tmp_path / "some.parquet"
    tables.write_columns(some, {name: v[order] for name, v in table.items()}, metadata)
    run(tmp_path / "some", **whole | {"truth": str(some)})
    part, ids = contents(tmp_path / "some")
    assert list(ids["id"]) == [catalog["id"][k] for k in order]
    assert part.tobytes() == image[order].tobytes()


def test_one_lens_of_ones_own_needs_little(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text(
        "id,theta_e_arcsec,sigma_v_km_s,z_lens,mag_r,mag_source_r,source_x_arcsec\n"
        "mine,1.4,,0.3,18.7,,\n"
        "yours,,260,0.4,,23.5,0.0\n"
    )
    run(tmp_path / "own", truth=str(own), size=41, bands=("g", "r"))
    image, catalog = contents(tmp_path / "own")
    assert image.shape == (2, 2, 41, 41)
    assert list(catalog["id"]) == ["mine", "yours"]
    assert catalog["theta_e_arcsec"][1] == pytest.approx(
        cosmology.theta_e_arcsec(260, 0.4, 2.0), rel=1e-6
    )
    assert catalog["source_snr"][0] == pytest.approx(50, rel=1e-3)
    assert catalog["mag_source_r"][1] == pytest.approx(23.5, abs=1e-3)
    assert (catalog["label"] == 1).all()
    assert catalog["mag_r"][0] == pytest.approx(18.7, abs=1e-5)
    assert np.isfinite(catalog["mag_r"]).all()


def test_units_and_text_of_a_fits_table_are_understood(tmp_path: Path) -> None:
    table = Table({"kind": ["lens"], "theta_e_arcsec": [0.02], "pa_lens_deg": [1.0]})
    table["theta_e_arcsec"].unit, table["pa_lens_deg"].unit = "arcmin", "rad"
    table.write(tmp_path / "own.fits")
    read = truth.read(tmp_path / "own.fits")
    assert read["kind"].tolist() == ["lens"]
    assert read["theta_e_arcsec"][0] == pytest.approx(1.2)
    assert read["pa_lens_deg"][0] == pytest.approx(np.degrees(1))


def test_all_that_is_wrong_in_a_table_is_named_at_once(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text(
        "id,kind,theta_e,theta_e_arcsec,q_lens,z_lens,z_source,shear,psf_fwhm_r_arcsec\n"
        "a,lens,1,1.2,1.3,0.5,2,0,0.7\n"
        "a,lens,1,-1,0.8,0.5,0.3,0,0.7\n"
        "b,rings,1,1,0.8,0.5,2,x,0\n"
        "c,ring,1,1,0.8,0.5,2,0,0.7\n"
        "d,lens,1,,0.8,0.5,2,0,0.7\n"
    )
    with pytest.raises(RequestError) as caught:
        run(tmp_path / "out", truth=str(own))
    for part in (
        "column theta_e: unknown; expected theta_e_arcsec, or none",
        "row 2, id: 'a' is that of row 1, too",
        "row 1, q_lens: 1.3; expected [0.05, 1]",
        "row 2, theta_e_arcsec: -1; expected (0, 60]",
        "row 2, z_source: 0.3 with z_lens 0.5; expected a source behind the lens",
        "row 3, kind: 'rings' is unknown",
        "row 3, shear: 'x' is no number",
        "row 3, psf_fwhm_r_arcsec: 0; expected (0, 20]",
        "row 4, ring_radius_arcsec: missing; a row of kind ring needs it",
        "row 5, theta_e_arcsec: missing; a lens needs it, or sigma_v_km_s",
    ):
        assert part in str(caught.value), part


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("z_s", "z_source"),
        ("z_l", "z_lens"),
        ("sigma", "sigma_v_km_s"),
        ("source_mag_r", "mag_source_r"),
        ("mag_sourc_r", "mag_source_r"),
        ("mag", "mag_g"),
        ("host", "host_id"),
        ("dec_deg", "dec"),
        ("einstein_radius", "a column of truth.parquet"),
    ],
)
def test_an_unknown_column_is_told_what_it_may_stand_for(
    tmp_path: Path, name: str, meant: str
) -> None:
    own = tmp_path / "own.csv"
    own.write_text(f"id,theta_e_arcsec,{name}\na,1.2,1\n")
    with pytest.raises(RequestError) as caught:
        run(tmp_path / "out", truth=str(own))
    assert f"column {name}: unknown; expected {meant}" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"theta_e_arcsec": [1.0], "mag_r": [-99.0]}, "mag_r: -99; expected [0, 50]"),
        ({"theta_e_arcsec": [1.0], "mag_disc_r": [19.0]}, "disc_re_arcsec: missing"),
        ({"theta_e_arcsec": [1.0], "lens_slope": [3.5]}, "lens_slope: 3.5"),
        ({"theta_e_arcsec": [1.0], "noise_seed": [-1]}, "noise_seed: -1"),
        ({"id": ["a", "b"], "noise_seed": [-1.0, math.nan]}, "row 1, noise_seed: -1"),
        ({"theta_e_arcsec": [1.0], "noise_index": [1e30]}, "noise_index: 1e+30"),
        ({"theta_e_arcsec": [1.0], "centre_x_arcsec": [1e19]}, "centre_x_arcsec: 1e+19"),
        ({"theta_e_arcsec": [1.0], "clump_1_sigma_arcsec": [-0.05]}, "clump_1_sigma_arcsec: -0.05"),
        (
            {"theta_e_arcsec": [1.0], "clump_1_fraction": [0.6], "clump_2_fraction": [0.6]},
            "clump_*_fraction: 1.2 together",
        ),
        ({"theta_e_arcsec": [1.0], "group_count": [3.0]}, "surroundings_seed: missing"),
        ({"theta_e_arcsec": [1.0], "label": [0]}, "label: 0; kind lens has label 1"),
        ({"theta_e_arcsec": [1.0], "mag_lens": [19.0]}, "column mag_lens: unknown"),
        ({"kind": ["artefact"], "mag_bulge_r": [18.0]}, "artefact: ''; expected one of spikes"),
        ({"kind": ["galaxy"], "mag_bulge_r": [18.0]}, "bulge_re_arcsec: missing"),
        ({"kind": ["galaxy"], "mag_bulge_r": [18.0]}, "mag_bulge_g: missing"),
        ({"psf_fwhm_r_arcsec": [0.1]}, "psf_fwhm_r_arcsec: 0.1; expected more than 0.1"),
        ({"source_stamp": [2.0]}, "source_stamp: 2 of 0 source images"),
        (
            {"kind": ["companions"], "companion_1_x_arcsec": [1.0], "companion_1_y_arcsec": [0.0],
             "companion_1_fraction": [1.0]},
            "companion_1_n: missing",
        ),
    ],
)  # fmt: skip
def test_what_would_be_rendered_dark_or_not_at_all_is_refused(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    tables.write_columns(tmp_path / "own.parquet", {"id": ["a"], **columns})
    with pytest.raises(RequestError) as caught:
        run(tmp_path / "out", truth=str(tmp_path / "own.parquet"), size=21, bands=("g", "r"))
    assert said in str(caught.value)


def test_what_the_user_says_wins_over_the_table(mocks: Path, tmp_path: Path) -> None:
    run(tmp_path / "larger", truth=str(mocks / stage.TRUTH), size=31)
    image, _ = contents(tmp_path / "larger")
    assert image.shape == (100, 2, 31, 31)
    with pytest.raises(MismatchError, match="size: 31 → 21"):
        run(tmp_path / "larger", truth=str(mocks / stage.TRUTH))


def test_what_stays_of_the_table_beside_another_survey_and_seed_is_told(
    mocks: Path, tmp_path: Path
) -> None:
    """And a table that leaves it out gets what was asked for."""
    where = mocks / stage.TRUTH

    def said(folder: str, truth: Path, **keys: Any) -> list[str]:
        asked = {"simulate": {"truth": str(truth)}, "run": {"survey": "des", "seed": 7} | keys}
        execution = runs.Execution(engine="serial", verbosity=-1)
        summary = runs.execute("simulate", config.load(options=asked), tmp_path / folder, execution)
        return [line for line in summary.lines if " stay" in line]

    conditions, noise = said("kept", where)
    assert "in g,r stand in" in conditions
    assert "survey 'des' are pixel scale and other bands" in conditions
    assert "seed 7" in noise
    assert said("same", where, survey="kids", seed=config.load().run.seed) == []
    drawn = ("psf_fwhm_", "sky_rms_", "noise_seed", "noise_index")
    table = tables.read_columns(where)
    cut = {name: values for name, values in table.items() if not name.startswith(drawn)}
    tables.write_columns(tmp_path / "cut.parquet", cut, tables.read_metadata(where))
    assert said("own", tmp_path / "cut.parquet") == []
    made = tables.read_columns(tmp_path / "own" / stage.TRUTH)
    assert set(made["noise_seed"]) == {7}
    assert np.unique(made["sky_rms_r_njy"]) == pytest.approx([12.05])


def test_a_table_keeps_its_survey_whatever_bands_are_asked_for(tmp_path: Path) -> None:
    """Also a survey whose bands or pixels are not those of the default one."""

    def make(folder: str, survey: str | None, **keys: Any) -> Path:
        asked: dict[str, Any] = {"simulate": keys, "run": {"survey": survey} if survey else {}}
        execution = runs.Execution(engine="serial", verbosity=-1)
        runs.execute("simulate", config.load(options=asked), tmp_path / folder, execution)
        return tmp_path / folder / stage.TRUTH

    small = {"count": 64, "size": 21}
    vis = make("vis", "euclid", **small)
    make("again", None, truth=str(vis))
    assert contents(tmp_path / "again")[0].tobytes() == contents(tmp_path / "vis")[0].tobytes()
    gri = make("gri", "cfhtls", bands=("g", "r", "i"), **small)
    make("one", None, truth=str(gri), bands=("g",))
    with shards.read(ledger.products_of(tmp_path / "one")[0]) as shard:
        assert (shard.header.survey, shard.header.bands) == ("cfhtls", ("g",))
        assert shard.header.pixel_scale_arcsec == 0.186


def test_a_magnitude_in_r_tells_those_of_bands_that_are_rendered_without_it(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("id,theta_e_arcsec,z_lens,mag_r\na,1.0,0.4,18.2\n")
    for folder, bands in (("both", ("g", "r")), ("one", ("g",))):
        run(tmp_path / folder, truth=str(own), size=21, bands=bands)
    both, one = (tables.read_columns(tmp_path / f / stage.TRUTH)["mag_g"] for f in ("both", "one"))
    assert both == pytest.approx(one)


def test_light_that_is_told_in_one_band_is_known_in_all(tmp_path: Path) -> None:
    """Of bulge, disc and source, whether that band is rendered or not."""
    own = tmp_path / "own.csv"
    own.write_text(
        "id,theta_e_arcsec,z_lens,mag_bulge_i,disc_re_arcsec,disc_q,disc_pa_deg,mag_disc_i,"
        "mag_source_i\na,1.0,0.35,18.6,1.5,0.6,30,18.9,23.5\n"
    )
    run(tmp_path / "all", truth=str(own), size=31, bands=("g", "r", "i"))
    run(tmp_path / "some", truth=str(own), size=31, bands=("g", "r"))
    whole, part = (tables.read_columns(tmp_path / f / stage.TRUTH) for f in ("all", "some"))
    for band in "gr":
        for name in (f"mag_{band}", f"mag_disc_{band}", f"mag_bulge_{band}", f"mag_source_{band}"):
            assert part[name] == pytest.approx(whole[name], abs=2e-3), name
    assert whole["mag_disc_g"] - whole["mag_disc_i"] == pytest.approx(
        whole["mag_bulge_g"] - whole["mag_bulge_i"]
    )


def test_arcs_beyond_the_stamp_are_told(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text(
        "id,kind,theta_e_arcsec,mag_bulge_r,bulge_re_arcsec,bulge_q,bulge_pa_deg,bulge_n\n"
        "b,galaxy,,19,1,0.8,10,4\na,lens,3.0,,,,,\n"
    )
    summary = run(tmp_path / "small", truth=str(own), size=21, bands=("r",))
    assert any('Einstein radii reach 3"' in line for line in summary.lines)
    summary = run(tmp_path / "large", truth=str(own), size=61, bands=("r",))
    assert not any("Einstein radii" in line for line in summary.lines)


def test_sources_keep_their_magnitudes_in_other_bands_stamps_and_conditions(
    mocks: Path, tmp_path: Path
) -> None:
    where = mocks / stage.TRUTH
    made = tables.read_columns(where)
    lenses = made["label"] == 1
    metadata = tables.read_metadata(where)
    some = {name: values[lenses] for name, values in made.items()}
    tables.write_columns(tmp_path / "some.parquet", some, metadata)
    cut = {n: v for n, v in some.items() if not n.startswith(("psf_fwhm_", "sky_rms_"))}
    tables.write_columns(tmp_path / "cut.parquet", cut, metadata)
    asked: dict[str, dict[str, Any]] = {
        "band": {"simulate": {"truth": str(tmp_path / "some.parquet"), "bands": ("g",)}},
        "size": {"simulate": {"truth": str(tmp_path / "some.parquet"), "size": 31}},
        "survey": {
            "simulate": {"truth": str(tmp_path / "cut.parquet")},
            "run": {"survey": "lsst"},
        },
    }
    for name, options in asked.items():
        execution = runs.Execution(engine="serial", verbosity=-1)
        runs.execute("simulate", config.load(options=options), tmp_path / name, execution)
        again = tables.read_columns(tmp_path / name / stage.TRUTH)
        np.testing.assert_allclose(again["mag_source_g"], some["mag_source_g"], atol=1e-3)
        np.testing.assert_allclose(again["mag_g"], some["mag_g"], atol=1e-3)

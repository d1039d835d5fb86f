"""The stage: shards by the contract, the same whoever does a unit, nothing shared by splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mockfolders import contents

from lensfinder import config, runs, shards
from lensfinder.commit import write_json
from lensfinder.errors import MismatchError, RequestError
from lensfinder.ledger import INDEX, products_of, read_index
from lensfinder.simulate import stage

OPTIONS: dict[str, Any] = {"count": 200, "size": 21, "unit_size": 128, "val_fraction": 0.2}


def run(folder: Path, **options: Any) -> runs.Summary:
    execution = runs.Execution(engine="serial", verbosity=-1)
    given = {name: value for name, value in (OPTIONS | options).items() if value is not None}
    chosen = config.load(options={"simulate": given})
    return runs.execute("simulate", chosen, folder, execution)


@pytest.fixture(scope="module")
def mocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mocks")
    assert run(folder, preview=True).exit_code == 0
    return folder


def test_shards_obey_the_contract(mocks: Path) -> None:
    image, catalog = contents(mocks)
    assert image.shape == (200, 3, 21, 21)
    assert np.isfinite(image).all()
    assert list(catalog["id"][[0, 199]]) == ["mock-00000000", "mock-00000199"]
    assert len(set(catalog["host_id"])) == 200
    sources = [s for s in catalog["source_id"] if s]
    assert len(set(sources)) == len(sources) == int(catalog["label"].sum())
    assert set(catalog["split"]) == {"train", "val", "test"}
    assert np.isnan(catalog["ra"]).all()
    assert (np.abs(catalog["dx"]) <= 0.5).all()
    lens = catalog["label"] == 1
    assert (catalog["kind"][lens] == "lens").all()
    assert (catalog["kind"][~lens] != "lens").all()
    assert (catalog["source_snr"][lens] > 20).all()
    assert np.isnan(catalog["source_snr"][~lens]).all()
    assert (mocks / stage.PREVIEW).read_bytes().startswith(b"\x89PNG")


def test_a_mock_depends_on_seed_and_index_alone(mocks: Path, tmp_path: Path) -> None:
    """Other unit sizes and a smaller count write the same mocks."""
    run(tmp_path, unit_size=64, count=130)
    image, catalog = contents(mocks)
    again, other = contents(tmp_path)
    assert again.tobytes() == image[:130].tobytes()
    for name, values in other.items():
        np.testing.assert_array_equal(values, catalog[name][:130])


def test_the_same_command_again_does_nothing(mocks: Path) -> None:
    before = read_index(mocks)
    summary = run(mocks)
    assert (summary.done, summary.reused) == (0, 2)
    assert read_index(mocks) == before


def test_another_seed_is_refused_by_name(mocks: Path) -> None:
    chosen = config.load(options={"simulate": OPTIONS, "run": {"seed": 2}})
    with pytest.raises(MismatchError, match="seed: 1 → 2"):
        runs.execute("simulate", chosen, mocks, runs.Execution(engine="serial", verbosity=-1))


def test_bad_populations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'generel' is unknown"):
        run(tmp_path / "a", population="generel")
    with pytest.raises(RequestError, match="can't be read"):
        run(tmp_path / "b", population=str(tmp_path / "none.toml"))
    (tmp_path / "mine.toml").write_text("name = 'mine'\ncolour = 1\n")
    with pytest.raises(RequestError, match=r"has \d+ error\(s\)"):
        run(tmp_path / "c", population=str(tmp_path / "mine.toml"))


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cutout folder of noise with a blob, one host in each of 90 cells of the sky."""
    folder = tmp_path_factory.mktemp("cutouts")
    rng = np.random.default_rng(1)
    n = 90
    y, x = np.indices((31, 31)) - 15.0
    blob = 300 * np.exp(-(x**2 + 2 * y**2) / 18)
    image = (blob + rng.normal(0, 6, (n, 3, 31, 31))).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    image[0, :, :, 0], mask[0, :, :, 0] = np.nan, 1
    catalog: dict[str, Any] = {
        "id": [f"G{i}" for i in range(n)],
        "tile": ["T"] * n,
        "ra": 150 + np.arange(n) * 0.2,
        "dec": np.zeros(n),
        "x": np.arange(n),
        "y": np.arange(n),
        "dx": np.where(np.arange(n) == 3, 0.4, 0.0),
        "dy": np.zeros(n),
        "flags": np.where(np.arange(n) == 5, 4, 0),
        "label": np.full(n, -1),
        **{name: [""] * n for name in ("kind", "split", "host_id", "source_id")},
        **{f"psf_fwhm_{b}_arcsec": np.full(n, 0.8) for b in "gri"},
        "mag_r": np.full(n, 19.5),
    }
    path = folder / "products" / "T.h5"
    header = shards.Header("cutout", "kids", ("g", "r", "i"), 0.2, {"tile": "T"}, {})
    shards.write(path, header, image, mask, catalog)
    write_json(folder / INDEX, {"stage": "cutout", "products": [{"product": "products/T.h5"}]})
    return folder


def test_painting_shares_no_host_between_splits_or_classes(cutouts: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("id,ra,dec\nL1,150.4,0.0005\n")
    run(tmp_path / "painted", hosts=str(cutouts), known=str(known), test_fraction=0.3)
    image, catalog = contents(tmp_path / "painted")
    assert image.shape == (200, 3, 21, 21)
    used = set(catalog["host_id"])
    assert len(used) == 88
    assert not used & {"G2", "G5"}  # a known lens, and a flagged stamp
    for column in ("split", "label"):
        for host in used:
            assert len(set(catalog[column][catalog["host_id"] == host])) == 1
    assert set(catalog["kind"]) == {"lens", "galaxy", "companions"}
    assert np.isfinite(catalog["ra"]).all()
    sources = [s for s in catalog["source_id"] if s]
    assert len(set(sources)) == len(sources)


def test_a_lens_of_ones_own_is_painted_where_its_host_stands(cutouts: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("id,host_id,theta_e_arcsec,source_snr\na,G3,1.0,60\n")
    painted = {"truth": str(own), "hosts": str(cutouts), "count": None}
    run(tmp_path / "own", **painted)
    _, catalog = contents(tmp_path / "own")
    found = {name: float(catalog[name][0]) for name in ("dx", "psf_fwhm_r_arcsec", "mag_r")}
    assert found == pytest.approx({"dx": 0.4, "psf_fwhm_r_arcsec": 0.8, "mag_r": 19.5})
    assert catalog["sky_rms_r_njy"][0] == pytest.approx(6.0, rel=0.3)
    assert catalog["sky_rms_r_njy"][0] != 6.25
    own.write_text("id,host_id,kind\na,G3,star\n")
    with pytest.raises(RequestError, match="star, whose light is all modelled"):
        run(tmp_path / "star", **painted)


def test_hosts_that_do_not_match_are_refused(cutouts: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="at least 41 pixels"):
        run(tmp_path / "a", hosts=str(cutouts), size=41)
    with pytest.raises(MismatchError, match="have no band u"):
        run(tmp_path / "b", hosts=str(cutouts), bands=("u", "r"))


def test_any_worker_in_any_order_writes_the_same_bytes(mocks: Path, tmp_path: Path) -> None:
    """Two processes, last unit first; and one that renders what the table of truth says."""
    image, catalog = contents(mocks)
    engine = runs.Execution(engine="local", workers=2, verbosity=-1)
    options = OPTIONS | {"unit_size": 64}
    runs.execute("simulate", config.load(options={"simulate": options}), tmp_path / "two", engine)
    run(tmp_path / "truth", truth=str(mocks / stage.TRUTH), unit_size=64, test_fraction=0.2)
    for folder in ("two", "truth"):
        again, other = contents(tmp_path / folder)
        assert again.tobytes() == image.tobytes()
        for name, values in catalog.items():
            np.testing.assert_array_equal(other[name], values)


def test_a_recipe_says_what_nobody_asked_for(tmp_path: Path) -> None:
    """Survey, bands and size follow from it, and the user's word wins."""
    summary = run(tmp_path / "a", population="lanusse2018", size=None, count=64)
    assert any("survey lanusse2018, bands g, size 45" in line for line in summary.lines)
    with shards.read(products_of(tmp_path / "a")[0]) as shard:
        assert (shard.size, shard.header.bands) == (45, ("g",))
        assert shard.header.pixel_scale_arcsec == 0.18
    stacked = run(tmp_path / "b", population="lanusse2018_stack", size=21, count=64)
    assert stacked.exit_code == 0
    with shards.read(products_of(tmp_path / "b")[0]) as shard:
        assert shard.size == 21
        noise = float(np.median(shard.catalog["sky_rms_g_njy"]))
        assert noise == pytest.approx(11.3 / np.sqrt(83), rel=0.1)


def test_runs_share_names_of_hosts_and_sources_only_where_they_share_them(tmp_path: Path) -> None:
    names = []
    for seed in (1, 2):
        options = {"simulate": {"count": 64, "size": 21, "bands": ("r",)}, "run": {"seed": seed}}
        run = runs.Execution(engine="serial", verbosity=-1)
        runs.execute("simulate", config.load(options=options), tmp_path / str(seed), run)
        _, catalog = contents(tmp_path / str(seed))
        names.append({*catalog["host_id"], *catalog["source_id"]} - {""})
    assert names[0]
    assert not names[0] & names[1]

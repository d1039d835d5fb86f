"""Laws of scoring: where the pixels come from and how the work is cut up changes no score."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from skies import tan_wcs, write_kids_tile, write_targets

from lensfinder import checkpoint, networks, schema, shards, tables
from lensfinder.commit import write_json
from lensfinder.config import load
from lensfinder.errors import MismatchError, RequestError
from lensfinder.fingerprints import fingerprint
from lensfinder.infer import inputs
from lensfinder.infer.products import CANDIDATES
from lensfinder.infer.score import Scorer
from lensfinder.ledger import INDEX, products_of
from lensfinder.model import Model, Spec, create
from lensfinder.pixels import RECIPES, PixelTransform
from lensfinder.report.audits import embedding_names
from lensfinder.report.inputs import not_kept, read_scores
from lensfinder.report.inspection import area_of_targets
from lensfinder.runs import Execution, Summary, execute

SIZE = 41
BANDS = ("g", "r", "i")
TOLERANCE = 1e-4


def run(stage: str, folder: Path, **sections: dict[str, Any]) -> Summary:
    keys = sections.pop("execution", {})
    return execute(
        stage,
        load(None, (), sections),
        folder,
        Execution(**{"engine": "serial", **keys}, verbosity=-1),
    )


@pytest.fixture(scope="module")
def sample(request: pytest.FixtureRequest) -> dict[str, Any]:
    folder = request.config.rootpath / "sample_data"
    return {"tiles": (folder / "tiles",), "catalog": folder / "targets.csv"}


@pytest.fixture(scope="module")
def cutouts(sample: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cutouts")
    run("cutout", folder, cutout={**sample, "size": SIZE, "bands": BANDS})
    return folder


@pytest.fixture(scope="module")
def model(cutouts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """Make an untrained model: the laws hold for any weights."""
    torch.manual_seed(1)
    with shards.read(products_of(cutouts)[0]) as shard:
        image, mask = torch.from_numpy(shard.image[:64]), torch.from_numpy(shard.mask[:64])
        places = np.column_stack([shard.catalog["ra"][:3], shard.catalog["dec"][:3]])
    made = create(
        Spec("lensnet", BANDS, SIZE, 0.2),
        networks.build("lensnet", len(BANDS), SIZE),
        PixelTransform.fit(RECIPES["sky"], [(image, mask)]),
        temperature=2.0,
        training_prevalence=0.5,
        provenance={},
        training_radec_deg_N2=torch.from_numpy(places),
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    checkpoint.save(path, made)
    return made, path


def scores_of(folder: Path) -> dict[str, float]:
    columns = tables.concatenate([tables.read_columns(path) for path in products_of(folder)])
    assert len(set(columns["id"])) == len(columns["id"])
    return dict(zip(columns["id"], columns["logit"], strict=True))


@pytest.fixture(scope="module")
def scored(
    cutouts: Path, model: tuple[Model, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    run("infer", folder, infer={"inputs": (cutouts,), "model": (model[1],)})
    return folder


def assert_same(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    assert max(abs(one[name] - other[name]) for name in one) <= TOLERANCE


def test_tiles_give_the_scores_of_their_cutouts(
    sample: dict[str, Any], model: tuple[Model, Path], scored: Path, tmp_path: Path
) -> None:
    run(
        "infer",
        tmp_path,
        infer={"inputs": sample["tiles"], "catalog": sample["catalog"], "model": (model[1],)},
    )
    assert_same(scores_of(scored), scores_of(tmp_path))


def test_bands_are_resampled_and_psfs_measured_as_for_cutouts(
    model: tuple[Model, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    side, apart = 280, 40
    places = np.mgrid[30 : side - 30 : apart, 30 : side - 30 : apart].reshape(2, -1).T
    places = places + rng.uniform(-0.5, 0.5, places.shape)
    y, x = np.mgrid[:side, :side]
    wcs, beside = tan_wcs(10.0, 0.0, (side, side)), tan_wcs(10.0, 0.0, (side, side))
    beside.wcs.crpix = beside.wcs.crpix + 2.5
    for band, own, shift in (("g", beside, 2.5), ("r", wcs, 0.0), ("i", wcs, 0.0)):
        image = rng.normal(size=(side, side))
        for x0, y0 in places + shift:
            image += 300 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 1.8**2))
        write_kids_tile(tmp_path / "tiles", "10_0", {band: image * 2e-12}, own)
    write_targets(tmp_path / "targets.csv", *wcs.all_pix2world(places, 0).T)
    how = {"catalog": tmp_path / "targets.csv", "resample": True, "measure_psf": True}
    tiles = (tmp_path / "tiles",)
    run("cutout", tmp_path / "c", cutout={**how, "tiles": tiles, "size": SIZE, "bands": BANDS})
    infer = {"model": (model[1],), "candidates": 5}
    run("infer", tmp_path / "a", infer={**infer, "inputs": (tmp_path / "c",)})
    run("infer", tmp_path / "b", infer={**infer, **how, "inputs": tiles})
    assert_same(scores_of(tmp_path / "a"), scores_of(tmp_path / "b"))
    a, b = (tables.read_columns(products_of(tmp_path / name)[0]) for name in "ab")
    for name in ("psf_fwhm_g_arcsec", "psf_fwhm_r_arcsec", "psf_source", "resampled_bands"):
        by_id = dict(zip(a["id"], a[name], strict=True))
        assert [by_id[one] for one in b["id"]] == b[name].tolist()
    assert set(b["psf_source"]) == {"stars"}
    assert set(b["resampled_bands"]) == {"g"}
    without = {**infer, **how, "resample": False, "inputs": tiles}
    assert run("infer", tmp_path / "refused", infer=without).exit_code == 2


@pytest.mark.parametrize(
    ("keys", "execution"),
    [({"batch_size": 1}, {}), ({"batch_size": 7}, {"engine": "local", "workers": 2})],
)
def test_batches_and_workers_change_no_score(
    cutouts: Path,
    model: tuple[Model, Path],
    scored: Path,
    tmp_path: Path,
    keys: dict[str, Any],
    execution: dict[str, Any],
) -> None:
    run(
        "infer",
        tmp_path,
        infer={"inputs": (cutouts,), "model": (model[1],), **keys},
        execution=execution,
    )
    assert_same(scores_of(scored), scores_of(tmp_path))


def test_parts_make_up_the_whole(
    cutouts: Path, model: tuple[Model, Path], scored: Path, tmp_path: Path
) -> None:
    infer = {"inputs": (cutouts,), "model": (model[1],)}
    for part in ((1, 2), (2, 2)):
        run("infer", tmp_path, infer=infer, execution={"part": part})
    run("infer", tmp_path, infer=infer, execution={"finish_only": True})
    assert scores_of(scored) == scores_of(tmp_path)


def test_parts_of_folders_whose_shards_share_names_make_up_the_whole(
    cutouts: Path, model: tuple[Model, Path], tmp_path: Path
) -> None:
    run("cutout", tmp_path / "other", cutout={**_half(cutouts), "size": SIZE, "bands": BANDS})
    infer = {"inputs": (cutouts, tmp_path / "other"), "model": (model[1],), "ranked": 0}
    infer |= {"candidates": 0}
    for part in ((1, 2), (2, 2)):
        run("infer", tmp_path / "parts", infer=infer, execution={"part": part})
    run("infer", tmp_path / "parts", infer=infer, execution={"finish_only": True})
    run("infer", tmp_path / "whole", infer=infer)
    parts, whole = (
        [path.name for path in products_of(tmp_path / name)] for name in ("parts", "whole")
    )
    assert parts == whole
    with pytest.raises(RequestError, match="is given twice"):
        run("infer", tmp_path / "twice", infer={**infer, "inputs": (cutouts, cutouts)})


def _half(cutouts: Path) -> dict[str, Any]:
    """Tiles and every second target of the cutouts."""
    sample = Path(__file__).parents[2] / "sample_data"
    targets = tables.read_catalog(sample / "targets.csv")
    path = cutouts.parent / "half.parquet"
    tables.write_columns(path, {name: values[::2] for name, values in targets.items()})
    return {"tiles": (sample / "tiles",), "catalog": path}


def test_more_candidates_are_other_stamps(
    cutouts: Path, model: tuple[Model, Path], tmp_path: Path
) -> None:
    infer = {"inputs": (cutouts,), "model": (model[1],)}
    found = set()
    for count in (3, 5):
        run("infer", tmp_path, infer={**infer, "candidates": count})
        found.add(fingerprint(shards.made_from(tmp_path / CANDIDATES)))
    assert len(found) == 2


def test_eight_views_do_not_see_how_a_stamp_is_turned(
    cutouts: Path, model: tuple[Model, Path]
) -> None:
    with shards.read(products_of(cutouts)[0]) as shard:
        image, mask = shard.image[:20], shard.mask[:20]
    # lensnet would not see it anyway.
    other = create(
        Spec("lenet5", BANDS, SIZE, 0.2), networks.build("lenet5", len(BANDS), SIZE),
        model[0].transform, temperature=1.0, training_prevalence=0.5, provenance={},
    )  # fmt: skip
    scorer = Scorer([other], 8, views=8)
    upright = scorer(image, mask).logit_N
    turned = scorer(
        np.rot90(image[..., ::-1], axes=(2, 3)), np.rot90(mask[..., ::-1], axes=(2, 3))
    ).logit_N
    assert np.abs(upright - turned).max() <= TOLERANCE
    assert np.abs(upright - Scorer([other], 8)(image, mask).logit_N).max() > TOLERANCE


def test_candidates_are_the_best_with_their_own_pixels(
    cutouts: Path, model: tuple[Model, Path], tmp_path: Path
) -> None:
    run("infer", tmp_path, infer={"inputs": (cutouts,), "model": (model[1],), "candidates": 15})
    logit = scores_of(tmp_path)
    with shards.read(tmp_path / CANDIDATES) as best:
        ids, image = list(best.catalog["id"]), best.image[:]
    assert ids == sorted(logit, key=lambda name: (-logit[name], name))[:15]
    for path in products_of(cutouts):
        with shards.read(path) as shard:
            for row, name in enumerate(shard.catalog["id"]):
                if name in ids:
                    np.testing.assert_array_equal(shard.image[row], image[ids.index(name)])


def test_training_objects_are_flagged(scored: Path, model: tuple[Model, Path]) -> None:
    columns = tables.concatenate([tables.read_columns(path) for path in products_of(scored)])
    seen = (columns["flags"] & 8) != 0
    assert seen.sum() == len(model[0].training_radec_deg_N2) == 3


def test_scores_are_calibrated_logits(scored: Path) -> None:
    columns = tables.concatenate([tables.read_columns(path) for path in products_of(scored)])
    np.testing.assert_allclose(columns["score"], 1 / (1 + np.exp(-columns["logit"] / 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("cutout", "named"),
    [({"size": 39}, "39"), ({"bands": ("r", "g", "i")}, "r,g,i"), ({"bands": ("g", "r")}, "g,r")],
)
def test_other_stamps_than_the_model_takes_are_refused(
    sample: dict[str, Any],
    model: tuple[Model, Path],
    tmp_path: Path,
    cutout: dict[str, Any],
    named: str,
) -> None:
    run("cutout", tmp_path / "c", cutout={**sample, "size": SIZE, "bands": BANDS, **cutout})
    with pytest.raises(MismatchError, match=named):
        run("infer", tmp_path / "s", infer={"inputs": (tmp_path / "c",), "model": (model[1],)})


@pytest.mark.fault
def test_another_model_does_not_reuse_scores(
    cutouts: Path, model: tuple[Model, Path], scored: Path, tmp_path: Path
) -> None:
    other = create(
        model[0].spec,
        model[0].network,
        model[0].transform,
        temperature=3.0,
        training_prevalence=0.5,
        provenance={},
    )
    checkpoint.save(tmp_path / "other.safetensors", other)
    with pytest.raises(MismatchError, match="model_id"):
        run(
            "infer",
            scored,
            infer={"inputs": (cutouts,), "model": (tmp_path / "other.safetensors",)},
        )


def test_only_what_is_above_is_kept_and_all_is_counted(
    cutouts: Path, model: tuple[Model, Path], scored: Path, tmp_path: Path
) -> None:
    all_of = scores_of(scored)
    limit = float(np.median(list(all_of.values())))
    infer = {"inputs": (cutouts,), "model": (model[1],), "keep_above": limit}
    summary = run("infer", tmp_path, infer=infer)
    kept = scores_of(tmp_path)
    assert kept == {name: logit for name, logit in all_of.items() if logit > limit}
    assert f"kept: {len(kept)} objects with a logit above {limit:g}" in summary.lines
    assert summary.counts["planned"] == len(all_of)
    whole, part = (tables.read_metadata(f / "ranked.parquet") for f in (scored, tmp_path))
    assert whole is not None
    assert part is not None
    assert whole["histogram"] == part["histogram"]
    assert sum(whole["histogram"]["scored"]) == len(all_of)
    assert run("infer", tmp_path, infer=infer).done == 0
    columns = read_scores(products_of(tmp_path), "sky")
    left = not_kept(products_of(tmp_path), columns)
    assert left is not None
    assert left.scored.count_B.sum() + len(columns["id"]) == len(all_of)
    every = tables.concatenate([tables.read_columns(path) for path in products_of(scored)])
    whole_area, area = area_of_targets(every).deg2, left.area.deg2
    assert whole_area is not None
    assert area == pytest.approx(whole_area)
    assert left.n_seen_in_training + ((columns["flags"] & 8) != 0).sum() == 3


def test_the_ranked_list_merges_all_units_and_exports_hold_the_same(
    cutouts: Path, model: tuple[Model, Path], tmp_path: Path
) -> None:
    infer = {"inputs": (cutouts,), "model": (model[1],), "export": ("fits", "ecsv", "votable")}
    run("infer", tmp_path, infer={**infer, "candidates": 0})
    ranked = tables.read_columns(tmp_path / "ranked.parquet")
    logit = scores_of(tmp_path)
    assert list(ranked["id"]) == sorted(logit, key=lambda name: (-logit[name], name))
    assert ranked["rank"].tolist() == list(range(1, len(logit) + 1))
    for name in ("ranked.fits", "ranked.ecsv", "ranked.vot"):
        assert list(tables.read_catalog(tmp_path / name)["id"]) == list(ranked["id"])


def test_an_ensemble_adds_the_spread_and_embedding_the_features(
    cutouts: Path, model: tuple[Model, Path], scored: Path, tmp_path: Path
) -> None:
    infer = {"inputs": (cutouts,), "candidates": 0}
    # A folder that `train` wrote stands for all its members; these differ in calibration alone.
    shutil.copy(model[1], tmp_path / "a.safetensors")
    checkpoint.save(tmp_path / "b.safetensors", replace(model[0], temperature=1.0))
    members = [{"product": "a.safetensors"}, {"product": "b.safetensors"}]
    write_json(tmp_path / INDEX, {"stage": "train", "products": members})
    run("infer", tmp_path / "twice", infer={**infer, "model": (tmp_path,)})
    assert_same(scores_of(scored), scores_of(tmp_path / "twice"))
    columns = tables.read_columns(products_of(tmp_path / "twice")[0])
    assert not columns["logit_std"].any()
    with pytest.raises(RequestError, match=r"a\.safetensors is the model that .* is"):
        run("infer", tmp_path / "no", infer={**infer, "model": (model[1], tmp_path)})
    run("infer", tmp_path / "seen", infer={**infer, "model": (model[1],), "embed": True})
    columns = tables.read_columns(products_of(tmp_path / "seen")[0])
    features = np.column_stack([columns[name] for name in embedding_names(columns)])
    head = model[0].network.head
    with torch.no_grad():
        again = head(torch.from_numpy(features))[:, 0].numpy()  # type: ignore[operator]
    np.testing.assert_allclose(again, columns["logit"], atol=TOLERANCE)


def test_other_pixels_are_adapted_where_asked_and_flagged(
    sample: dict[str, Any], cutouts: Path, model: tuple[Model, Path], tmp_path: Path
) -> None:
    coarse = create(
        Spec("lensnet", BANDS, 25, 0.32),
        networks.build("lensnet", len(BANDS), 25),
        model[0].transform,
        temperature=1.0,
        training_prevalence=0.5,
        provenance={"psf_fwhm_arcsec": dict.fromkeys(BANDS, 1.2)},
    )
    path = tmp_path / "coarse.safetensors"
    checkpoint.save(path, coarse)
    infer = {"inputs": (cutouts,), "model": (path,), "candidates": 3}
    with pytest.raises(MismatchError, match=r'pixel scale 0\.2".*0\.32".*41 px.*25 px'):
        run("infer", tmp_path / "refused", infer=infer)
    run("infer", tmp_path / "shards", infer={**infer, "adapt": True})
    tiles = {"inputs": sample["tiles"], "catalog": sample["catalog"]}
    run("infer", tmp_path / "tiles", infer={**infer, **tiles, "adapt": True})
    for name in ("shards", "tiles"):
        for product in products_of(tmp_path / name):
            assert (tables.read_columns(product, ["flags"])["flags"] & schema.FLAG_ADAPTED).all()
        with shards.read(tmp_path / name / CANDIDATES) as best:
            assert (best.size, best.header.pixel_scale_arcsec) == (25, 0.32)


def test_nothing_to_score_is_no_error(
    sample: dict[str, Any], model: tuple[Model, Path], tmp_path: Path
) -> None:
    cutout = {"tiles": sample["tiles"], "catalog": sample["catalog"], "size": SIZE, "mag_max": 5.0}
    run("cutout", tmp_path / "cut", cutout=cutout)
    infer = {"inputs": (tmp_path / "cut",), "model": (model[1],)}
    assert "infer: 0 objects scored" in run("infer", tmp_path / "out", infer=infer).lines[-1]


def test_other_noise_than_in_training_is_told_for_the_units_that_have_it(
    cutouts: Path, model: tuple[Model, Path], tmp_path: Path
) -> None:
    infer = {"inputs": (cutouts,), "model": (model[1],)}
    alike = run("infer", tmp_path / "alike", infer=infer)
    assert not [line for line in alike.lines if line.startswith("noise")]
    fitted = model[0].transform
    scale = (fitted.scale_njy_C[0], fitted.scale_njy_C[1] / 10, fitted.scale_njy_C[2])
    path = tmp_path / "deeper.safetensors"
    made = create(
        model[0].spec,
        model[0].network,
        replace(fitted, scale_njy_C=scale),
        temperature=2.0,
        training_prevalence=0.5,
        provenance={},
    )
    checkpoint.save(path, made)
    deeper = run("infer", tmp_path / "deeper", infer={**infer, "model": (path,)})
    (said,) = [line for line in deeper.lines if line.startswith("noise")]
    told = re.findall(r"([\d.]+(?:e\+\d+)?) times as much in (\w)", said)
    times = {band: float(ratio) for ratio, band in told}
    assert times == pytest.approx({"g": 1.0, "r": 10.0, "i": 1.0}, rel=0.2)
    run("infer", tmp_path / "few", infer={**infer, "model": (path,), "batch_size": 3})
    whole, few = (
        [(tables.read_metadata(p) or {})["noise_over_training"] for p in products_of(tmp_path / n)]
        for n in ("deeper", "few")
    )
    assert whole == few


def test_a_damaged_tile_fails_alone_and_its_targets_are_listed(
    sample: dict[str, Any], model: tuple[Model, Path], scored: Path, tmp_path: Path
) -> None:
    for path in sample["tiles"][0].iterdir():
        shutil.copy(path, tmp_path / path.name)
    os.truncate(next(tmp_path.glob("*180.000*_g_sci.fits")), 40_000)
    infer = {"inputs": (tmp_path,), "catalog": sample["catalog"], "model": (model[1],)}
    summary = run("infer", tmp_path / "out", infer=infer)
    assert summary.exit_code == 3
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    assert set(ledger["id"]) == set(scores_of(scored))
    lost = ledger["outcome"] == "failed"
    assert lost.any()
    assert len(scores_of(tmp_path / "out")) == (~lost).sum()


@pytest.mark.fault
def test_damaged_stamps_end_as_damaged_tiles_do(model: tuple[Model, Path], tmp_path: Path) -> None:
    survey = tmp_path / "cubes.toml"
    survey.write_text(
        "name = 'cubes'\ntitle = 'cubes'\nsource = 'made up'\nstamps = true\n"
        "pixel_scale_arcsec = 0.2\nbands = ['g', 'r', 'i']\ndefault_bands = ['g', 'r', 'i']\n"
        "reference_band = 'r'\npsf_fwhm_arcsec = { g = 0.8, r = 0.7, i = 0.8 }\n"
        "sky_rms_njy = { g = 6.0, r = 6.0, i = 20.0 }\n"
        "[files]\npattern = '(?P<tile>.+)\\.fits'\ncube = ['g', 'r', 'i']\n"
        "[zero_point]\nvalue = 31.4\n"
    )
    folder = tmp_path / "stamps"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        cube = rng.normal(0, 6, (3, SIZE, SIZE)).astype(np.float32)
        fits.writeto(folder / f"{name}.fits", cube)
    asked = {"run": {"survey": str(survey)}, "infer": {"inputs": (folder,), "model": (model[1],)}}

    def ends(out: str) -> tuple[int, dict[str, int]]:
        execution = Execution(engine="serial", verbosity=-1)
        summary = execute("infer", load(None, (), asked), tmp_path / out, execution)
        return summary.exit_code, summary.counts

    assert ends("whole")[0] == 0
    os.truncate(folder / "a.fits", 3000)
    code, counts = ends("one")
    assert (code, counts["ok"], counts["rejected"]) == (3, 1, 1)
    os.truncate(folder / "b.fits", 3000)
    assert ends("none")[0] == 2


@pytest.mark.parametrize("stretched", [False, True])
def test_other_pixels_keep_flux_or_a_pictures_level(stretched: bool) -> None:
    image = np.full((1, 3, 21, 21), 100, np.float32)
    columns = {
        "dx": np.zeros(1),
        "dy": np.zeros(1),
        "flags": np.zeros(1, np.int32),
        "outcome": np.array(["ok"], object),
        "reason": np.array([""], object),
    }
    how = {
        "resample": True,
        "data_pixel_scale_arcsec": 0.2,
        "pixel_scale_arcsec": 0.1,
        "size": 9,
        "psf_fwhm_arcsec": {},
        "bands": ["g", "r", "i"],
        "stretched": stretched,
    }
    chunk = inputs.Chunk(image, np.zeros(image.shape, np.uint8), columns)
    adapted = inputs._adapted(chunk, how)
    np.testing.assert_allclose(adapted.image_NCHW, 100 if stretched else 25, rtol=1e-5)

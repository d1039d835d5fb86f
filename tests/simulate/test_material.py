"""Mocks made with real images: sources, PSFs and sky go where they should, and come again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from mockfolders import contents

from lensfinder import config, runs, shards
from lensfinder.commit import write_json
from lensfinder.errors import MismatchError, RequestError
from lensfinder.ledger import INDEX
from lensfinder.train import data

BANDS = ("g", "r")
SIZE, SCALE = 25, 0.2
SERIAL = runs.Execution(engine="serial", verbosity=-1)


def run(folder: Path, **options: Any) -> runs.Summary:
    given = {"count": 40, "size": SIZE, "bands": BANDS} | options
    if "sources" in given:
        # Two images are too few for three splits.
        given = {"val_fraction": 0.0, "test_fraction": 0.0} | given
    return runs.execute("simulate", config.load(options={"simulate": given}), folder, SERIAL)


def galaxies(path: Path, pixel: float | None = 0.05) -> Path:
    """Write two images of galaxies, one twice as large as the other, in one file."""
    y, x = np.indices((61, 61)) - 30
    rng = np.random.default_rng(1)
    hdus = []
    for size in (4, 8):
        image = np.exp(-np.hypot(x, 1.5 * y) / size) + rng.normal(0, 1e-4, x.shape)
        hdus.append(fits.ImageHDU(image))
        if pixel:
            hdus[-1].header["PIXSCALE"] = pixel
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def psfs(folder: Path, sigmas_pixel: tuple[float, ...] = (1.5, 2.0)) -> str:
    """Write cubes of Gaussians at the survey's pixels for each band."""
    y, x = np.indices((25, 25)) - 12
    for c, band in enumerate(BANDS):
        cube = [np.exp(-(x**2 + y**2) / 2 / (sigma + 0.1 * c) ** 2) for sigma in sigmas_pixel]
        fits.writeto(folder / f"psf_{band}.fits", np.array(cube))
    return str(folder / "psf_{band}.fits")


def sky(folder: Path, size: int = 31, n: int = 3) -> Path:
    """Write a cutout folder of striped sky, one stamp of it with a bad pixel."""
    stripes = np.where(np.indices((size, size))[0] % 2, 5.0, -5.0)
    image = np.broadcast_to(stripes + 7, (n, 2, size, size)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[0, 1, 3, 3] = 1
    nothing = np.zeros(n)
    catalog = {
        "id": [f"s{k}" for k in range(n)],
        **dict.fromkeys(("ra", "dec", "x", "y", "dx", "dy", "flags", "label"), nothing),
        **{name: [""] * n for name in ("tile", "kind", "source_id", "host_id", "split")},
    }
    path = folder / "products" / "sky.h5"
    path.parent.mkdir(parents=True)
    shards.write(path, shards.Header("cutout", "kids", BANDS, SCALE, {}, {}), image, mask, catalog)
    products = [{"product": "products/sky.h5"}]
    write_json(folder / INDEX, {"stage": "cutout", "counts": {}, "products": products})
    return folder


def test_mocks_of_real_sources_psfs_and_sky_are_made_again_from_their_truth(tmp_path: Path) -> None:
    """Bit for bit, and what their columns say of them is what they were made with."""
    given = {
        "sources": galaxies(tmp_path / "galaxies.fits"),
        "psf": psfs(tmp_path),
        "sky": sky(tmp_path / "sky"),
    }
    assert run(tmp_path / "first", **given).exit_code == 0
    image, catalog = contents(tmp_path / "first")
    assert run(tmp_path / "again", truth=tmp_path / "first" / "truth.parquet", **given)
    again, said = contents(tmp_path / "again")
    assert again.tobytes() == image.tobytes()
    assert {n: v.dtype for n, v in said.items()} == {n: v.dtype for n, v in catalog.items()}

    lens = catalog["label"] == 1
    assert set(catalog["source_stamp"][lens]) == {0, 1}
    assert np.isnan(catalog["source_stamp"][~lens]).all()
    # The larger image is placed with smaller pixels behind a lens of the same size.
    pixel = catalog["source_stamp_pixel_arcsec"] / catalog["source_re_arcsec"]
    small, large = (pixel[lens & (catalog["source_stamp"] == k)] for k in (0, 1))
    assert np.allclose(small / small[0], 1, rtol=1e-5)
    assert small[0] / large[0] == pytest.approx(2, rel=0.15)

    assert set(catalog["psf_index"]) == {0, 1}
    for c, band in enumerate(BANDS):
        for which, sigma in enumerate((1.5, 2.0)):
            fwhm = catalog[f"psf_fwhm_{band}_arcsec"][catalog["psf_index"] == which]
            expected = (sigma + 0.1 * c) * np.sqrt(8 * np.log(2)) * SCALE
            assert np.allclose(fwhm, expected, rtol=0.03)

    # The sky is striped along one axis, whichever way a patch was turned.
    corner = image[:, 1, :6, :6]
    rms = catalog["sky_rms_r_njy"][:, None, None]
    steps = [np.abs(np.diff(corner / rms, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    assert (np.max(steps, axis=0) > 0.9).mean() > 0.5
    assert (np.min(steps, axis=0) < 0.5).mean() > 0.5


def test_splits_share_no_source_image(tmp_path: Path) -> None:
    given = {"sources": galaxies(tmp_path / "galaxies.fits"), "val_fraction": 0.0}
    assert run(tmp_path / "out", **given, test_fraction=0.3).exit_code == 0
    _, catalog = contents(tmp_path / "out")
    split_of = dict(zip(catalog["source_id"], catalog["split"], strict=True))
    lens = catalog["label"] == 1
    assert set(catalog["split"][lens]) == {"train", "test"}
    assert len(set(catalog["source_id"][lens])) == 2
    assert (np.vectorize(split_of.get)(catalog["source_id"][lens]) == catalog["split"][lens]).all()
    with pytest.raises(RequestError, match="2 source images for 3 splits, which share none"):
        run(tmp_path / "few", **given | {"val_fraction": 0.1}, test_fraction=0.3)


def test_only_what_is_given_changes_a_mock(tmp_path: Path) -> None:
    """Negatives know nothing of source images; positives keep lens and place of the source."""
    run(tmp_path / "plain")
    run(tmp_path / "real", sources=galaxies(tmp_path / "galaxies.fits"))
    (plain, before), (real, after) = (contents(tmp_path / name) for name in ("plain", "real"))
    negative = before["label"] == 0
    assert real[negative].tobytes() == plain[negative].tobytes()
    assert (real[~negative] != plain[~negative]).any(axis=(1, 2, 3)).all()
    for name in ("theta_e_arcsec", "source_x_arcsec", "source_re_arcsec", "psf_fwhm_r_arcsec"):
        np.testing.assert_array_equal(before[name], after[name])
    np.testing.assert_allclose(before["source_snr"], after["source_snr"], rtol=1e-3)


def test_images_that_do_not_fit_are_refused_in_words(tmp_path: Path) -> None:
    unscaled = galaxies(tmp_path / "unscaled.fits", pixel=None)
    with pytest.raises(RequestError, match=r"how large its pixels are.*--source-pixel-arcsec"):
        run(tmp_path / "a", sources=unscaled)
    assert run(tmp_path / "b", sources=unscaled, source_pixel_arcsec=0.03).exit_code == 0
    fits.writeto(tmp_path / "empty.fits", np.zeros((40, 40)))
    with pytest.raises(RequestError, match="no usable image of a galaxy"):
        run(tmp_path / "c", sources=tmp_path / "empty.fits", source_pixel_arcsec=0.03)
    with pytest.raises(RequestError, match=r"there is no PSF .*psf_g.fits"):
        run(tmp_path / "d", psf=str(tmp_path / "psf_{band}.fits"))
    fits.writeto(tmp_path / "psf_g.fits", np.full((2, 9, 9), np.nan))
    fits.writeto(tmp_path / "psf_r.fits", np.ones((2, 9, 9)))
    with pytest.raises(RequestError, match="holds NaN"):
        run(tmp_path / "e", psf=str(tmp_path / "psf_{band}.fits"))
    fits.writeto(tmp_path / "psf_r.fits", np.ones((3, 9, 9)), overwrite=True)
    with pytest.raises(RequestError, match="2, 3 PSFs; expected the same in all bands"):
        run(tmp_path / "f", psf=str(tmp_path / "psf_{band}.fits"))
    with pytest.raises(MismatchError, match=r"sky in .* have 31 pixels a side"):
        run(tmp_path / "g", sky=sky(tmp_path / "sky"), size=33)
    with pytest.raises(RequestError, match="--hosts with --sky"):
        run(tmp_path / "h", sky=tmp_path / "sky", hosts=tmp_path / "sky")


def test_mocks_of_real_images_are_not_streamed(tmp_path: Path) -> None:
    run(tmp_path / "mocks", sky=sky(tmp_path / "sky"))
    stamps = data.open_set(sorted((tmp_path / "mocks" / "products").glob("*.h5")))
    with pytest.raises(RequestError, match="made from real sources, PSFs or sky"):
        data.recipe_of(stamps)


def test_psfex_models_serve_as_psfs(tmp_path: Path, real_data: Path) -> None:
    (tmp_path / "psf_r.psf").symlink_to(real_data / "psf" / "DECam_00154912_12_psfcat.psf")
    summary = run(
        tmp_path / "mocks", psf=str(tmp_path / "psf_{band}.psf"), bands=("r",), population="general"
    )
    assert summary.exit_code == 0
    image, catalog = contents(tmp_path / "mocks")
    assert np.isfinite(image).all()
    assert len(set(catalog["psf_index"])) > 5
    assert ((catalog["psf_fwhm_r_arcsec"] > 0.4) & (catalog["psf_fwhm_r_arcsec"] < 2)).all()

"""What a model says of real stamps: prints a table per object, and the figures of labelled sets.

    python tests/bench/bench_real.py --model kids-gri        # fluxes: known lenses, real galaxies
    python tests/bench/bench_real.py --model lsst-g          # one band, from space images
    python tests/bench/bench_real.py --model euclid-vis      # the same, as sharp as VIS
    python tests/bench/bench_real.py --model lsst-i          # a deep band, and i of others
    python tests/bench/bench_real.py --model rgb-composite   # pictures graded by experts

Reads ../shared/data beside the project. Each set becomes an ordinary shard, at its own pixel scale
and seeing, and goes through `lensfinder infer --adapt`; what is flagged lies above the threshold
that the model's own mocks set for `--fpr`, which stands in the model file. No model was trained on
any of it.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from lensfinder import checkpoint, schema, shards, shipped, survey, tables
from lensfinder.commit import write_json
from lensfinder.ledger import INDEX
from lensfinder.simulate import composite

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
GRI = ("g", "r", "i")
# Einstein radii of SLACS lenses, arcsec: Auger et al. 2009 (ApJ 705, 1099).
THETA_E_ARCSEC = {
    "J0008-0004": 1.16, "J0029-0055": 0.96, "J0157-0056": 0.79, "J0216-0813": 1.16,
    "J0252+0039": 1.04, "J0330-0020": 1.10, "J0728+3835": 1.25, "J0737+3216": 1.00,
    "J0822+2652": 1.17, "J0841+3824": 1.41, "J1525+3327": 1.31, "J1627-0053": 1.23,
    "J1630+4520": 1.78, "J2238-0754": 1.27, "J2300+0022": 1.24, "J2303+1422": 1.62,
    "J2341+0000": 1.44,
}  # fmt: skip
FWHM_PER_SIGMA = 2.3548


@dataclass(frozen=True)
class Set:
    """Stamps of one origin.

    Attributes
    ----------
    name : what they are called in the table
    scale_arcsec : of a pixel
    ids : of each
    image_NCHW : nJy, or levels; NaN where there is nothing
    label_N : 1 lens, 0 not
    fwhm_arcsec : seeing of each band, NaN where nobody knows
    """

    name: str
    scale_arcsec: float
    ids: list[str]
    image_NCHW: np.ndarray
    label_N: np.ndarray
    fwhm_arcsec: tuple[float, ...]


def njy(flux: np.ndarray, zero_point: float) -> np.ndarray:
    return np.asarray(flux, np.float32) * np.float32(10 ** (0.4 * (31.4 - zero_point)))


def placed(image_CYX: np.ndarray, size: int, y: float, x: float) -> np.ndarray:
    """Cut a stamp about a position; NaN beyond the image."""
    out = np.full((len(image_CYX), size, size), np.nan, np.float32)
    top, left = round(y) - size // 2, round(x) - size // 2
    height, width = image_CYX.shape[1:]
    rows = slice(max(top, 0), min(top + size, height))
    columns = slice(max(left, 0), min(left + size, width))
    out[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
        image_CYX[:, rows, columns]
    )
    return out


def centred(image_CYX: np.ndarray, size: int) -> np.ndarray:
    return placed(image_CYX, size, image_CYX.shape[1] // 2, image_CYX.shape[2] // 2)


def odd_side(arcsec: float, scale_arcsec: float) -> int:
    side = int(np.ceil(arcsec / scale_arcsec)) + 2
    return side + 1 - side % 2


# -- fluxes in gri --------------------------------------------------------------------------------


def des_lrgs(arcsec: float) -> Set:
    planes = [fits.getdata(DATA / f"negatives/des_lrg/{band}.fits") for band in GRI]
    image_NCHW = njy(np.stack(planes, axis=1), 30.0)
    size = min(odd_side(arcsec, 0.263), image_NCHW.shape[-1])
    image = np.stack([centred(one, size) for one in image_NCHW])
    ids = [f"LRG {k}" for k in range(len(image))]
    return Set("DES LRGs", 0.263, ids, image, np.zeros(len(image), int), (1.12, 0.96, 0.88))


def bologna(arcsec: float) -> Iterator[Set]:
    for folder, label in (("lens", 1), ("nolens", 0)):
        root = DATA / "labelled/bologna_lfc1/ground_based" / folder
        names = sorted(p.stem.rpartition("-")[2] for p in (root / "Band1").glob("*.fits"))
        images = []
        for name in names:
            files = [(3, "G"), (1, "R"), (2, "I")]
            image = np.stack([fits.getdata(root / f"Band{k}/imageSDSS_{b}-{name}.fits")
                              for k, b in files])  # fmt: skip
            image = np.where(image == 100, np.nan, image)
            images.append(centred(njy(image, 0.0), odd_side(arcsec, 0.2)))
        labels = np.full(len(images), label)
        word = "lenses" if label else "non-lenses"
        yield Set(f"Bologna {word}", 0.2, names, np.stack(images), labels, (0.84, 0.70, 0.78))


def hsc_galaxies(arcsec: float, mags_r: tuple[float, float] = (18.5, 23.5)) -> Set:
    """Cut the galaxies of blends, each once, that are seen whole and without a bad pixel.

    Stars, which are as narrow as the PSF, are left out, and what is saturated, as most objects
    brighter than 18.5 are, or bleeds. A bad pixel has weight 0 in one band and not in all: where
    all have, another blend begins.
    """
    found: dict[tuple[int, ...], tuple[str, np.ndarray]] = {}
    size = odd_side(arcsec, 0.168)
    for path in sorted((DATA / "negatives/hsc_cosmos_blends").glob("*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            image_CYX, peaks = njy(stored["images"][:3], 27.0), stored["peaks"]
            missing_CYX, psf_YX = stored["weights"][:3] == 0, stored["psfs"][1]
        bad_YX = missing_CYX.any(axis=0) & ~missing_CYX.all(axis=0)
        for k, peak in enumerate(peaks):
            y, x = _nearest_peak(image_CYX, peak)
            near, core = np.s_[y - 8 : y + 9, x - 8 : x + 9], np.s_[y - 3 : y + 4, x - 3 : x + 4]
            if min(y, x, image_CYX.shape[1] - 1 - y, image_CYX.shape[2] - 1 - x) < 8:
                continue
            if bad_YX[near].any() or _concentration(image_CYX[1], y, x) > 0.85 * _concentration(
                psf_YX, psf_YX.shape[0] // 2, psf_YX.shape[1] // 2
            ):
                continue
            flux_C = image_CYX[:, y - 6 : y + 7, x - 6 : x + 7].sum(axis=(1, 2))
            # Peaks on the wings of something brighter are not about a galaxy of their own.
            own = image_CYX[1, y - 1 : y + 2, x - 1 : x + 2].max() == image_CYX[1][core].max()
            if own and mags_r[0] < 31.4 - 2.5 * np.log10(max(flux_C[1], 1e-9)) < mags_r[1]:
                # Blends that overlap show the same object, to the last digit.
                same = tuple(np.rint(image_CYX[:, y, x] * 10).astype(int))
                found.setdefault(same, (f"{path.stem[-6:]}/{k}", placed(image_CYX, size, y, x)))
    ids, images = zip(*found.values(), strict=True)
    return Set("HSC galaxies", 0.168, list(ids), np.stack(images), np.zeros(len(ids), int),
               (0.75, 0.7, 0.6))  # fmt: skip


def of_band(given: Set, band: str) -> Set:
    """Take one of g, r and i alone."""
    k = GRI.index(band)
    return replace(given, image_NCHW=given.image_NCHW[:, k : k + 1],
                   fwhm_arcsec=given.fwhm_arcsec[k : k + 1])  # fmt: skip


def as_shallow_as(given: Set, like: survey.Survey, seed: int = 1) -> Set:
    """Add white noise until the sky is as noisy as a survey's."""
    pixels = (given.scale_arcsec / like.pixel_scale_arcsec) ** 2
    wanted_C = np.array([like.sky_rms_njy[band] for band in GRI]) * np.sqrt(pixels)
    more_C = np.sqrt(np.maximum(wanted_C**2 - np.array(sky_rms(given.image_NCHW)) ** 2, 0))
    drawn = np.random.default_rng(seed).normal(0, 1, given.image_NCHW.shape)
    image = (given.image_NCHW + drawn * more_C[:, None, None]).astype(np.float32)
    return replace(given, name=f"{given.name}, {like.name}'s depth", image_NCHW=image)


def _concentration(image_YX: np.ndarray, y: int, x: int) -> float:
    """Light of the inner 3 x 3 pixels by that of 9 x 9."""
    inner = image_YX[y - 1 : y + 2, x - 1 : x + 2].sum()
    return float(inner / max(image_YX[y - 4 : y + 5, x - 4 : x + 5].sum(), 1e-9))


def _nearest_peak(image_CYX: np.ndarray, peak: np.ndarray) -> tuple[int, int]:
    """Take (x, y) or (y, x), whichever stands on the brighter pixel."""
    shape = image_CYX.shape[1:]
    ways = [(int(peak[a]), int(peak[b])) for a, b in ((1, 0), (0, 1))]
    inside = [(y, x) for y, x in ways if 0 <= y < shape[0] and 0 <= x < shape[1]]
    return max(inside, key=lambda yx: image_CYX[1][yx])


def known_lenses(arcsec: float) -> Iterator[Set]:
    folder = DATA / "lenses/cfhtls_SL2SJ0214"
    planes = [fits.getdata(folder / f"SL2SJ021411-040502_{band}_sci.fits") for band in GRI]
    yield Set(
        "SL2SJ0214", 0.186, ["SL2SJ021411-040502"],
        centred(njy(np.stack(planes), 30.0), odd_side(arcsec, 0.186))[None], np.ones(1, int),
        (0.78, 0.72, 0.73),
    )  # fmt: skip
    for path in sorted((DATA / "lenses/euclid_q1").glob("1*.fits")):
        with fits.open(path) as file:
            hdus = [file[f"DES_{band.upper()}_BGSUB"] for band in GRI]
            planes = [njy(hdu.data, hdu.header["MAGZERO"]) for hdu in hdus]
        yield Set(
            "Euclid Q1 (DES gri)", 0.1, [path.stem], centred(np.stack(planes), 99)[None],
            np.ones(1, int),
            (1.12, 0.96, 0.88),
        )  # fmt: skip
    images, names = [], []
    for path in sorted((DATA / "lenses/holismokes_mock").glob("*.fits")):
        with fits.open(path) as file:
            planes = [file[k].data for k in (1, 2, 3)]
        images.append(centred(njy(np.stack(planes), 27.0), odd_side(arcsec, 0.168)))
        names.append(path.stem)
    yield Set("HOLISMOKES mocks", 0.168, names, np.stack(images), np.ones(len(names), int),
              (0.75, 0.7, 0.6))  # fmt: skip
    folder = DATA / "lenses/hsc_cosmos_lenses/COSJ100024+021749"
    planes = [fits.getdata(folder / f"HSC-{band.upper()}_data.fits") for band in GRI]
    yield Set("HSC COSJ100024", 0.168, ["COSJ100024+021749"],
              centred(njy(np.stack(planes), 27.0), odd_side(arcsec, 0.168))[None],
              np.ones(1, int), (0.75, 0.7, 0.6))  # fmt: skip


# -- one band -------------------------------------------------------------------------------------


def space_images() -> Iterator[tuple[str, float, float, int, str, np.ndarray]]:
    """Set, pixel scale, FWHM, label, name and image (nJy) of what space telescopes saw."""
    for path in sorted((DATA / "lenses/euclid_q1").glob("1*.fits")):
        with fits.open(path) as file:
            image = njy(file["VIS_BGSUB"].data, file["VIS_BGSUB"].header["MAGZERO"])
        yield "Euclid Q1 VIS", 0.1, 0.16, 1, path.stem, image
    for path in sorted((DATA / "lenses/slacs_hst").glob("*_image.fits")):
        image = njy(np.nan_to_num(fits.getdata(path)), 25.94)
        yield "SLACS", 0.05, 0.1, 1, path.stem.removesuffix("_image"), image
    # Faint galaxies, made as bright as lenses are: a control of real shapes.
    with fits.open(DATA / "sources/hst_cosmos/real_galaxy_images_extension.fits") as file:
        for k, hdu in enumerate(file):
            image = np.asarray(hdu.data, float)
            image *= 10 ** (0.4 * (31.4 - 20.0)) / image.sum()
            yield "HST COSMOS galaxies", 0.03, 0.09, 0, f"galaxy {k}", image


def one_band(arcsec: float, scale: float, fwhm: float, sky_rms_njy: float) -> Iterator[Set]:
    """Degrade space images to a survey's pixels, seeing and noise; nothing is beyond their edge.

    Images with the survey's own pixels and seeing stay as they are.
    """
    rng = np.random.default_rng(1)
    size = odd_side(arcsec, scale) - 2
    found: dict[tuple[str, int], list[tuple[str, np.ndarray]]] = {}
    for name, given_scale, given_fwhm, label, this, image in space_images():
        if (given_scale, given_fwhm) == (scale, fwhm):
            found.setdefault((name, label), []).append((this, centred(image[None], size)))
            continue
        sigma = np.sqrt(fwhm**2 - given_fwhm**2) / FWHM_PER_SIGMA / given_scale
        smooth = ndimage.gaussian_filter(image.astype(float), sigma, mode="constant")
        at = (np.arange(size) - size // 2) * scale / given_scale
        grid = np.meshgrid(at + image.shape[0] // 2, at + image.shape[1] // 2, indexing="ij")
        coarse = ndimage.map_coordinates(smooth, grid, order=1) * (scale / given_scale) ** 2
        noisy = (coarse + rng.normal(0, sky_rms_njy, coarse.shape)).astype(np.float32)
        found.setdefault((f"{name}, degraded", label), []).append((this, noisy[None]))
    for (name, label), members in found.items():
        images = np.stack([image for _, image in members])
        yield Set(name, scale, [this for this, _ in members], images,
                  np.full(len(members), label), (fwhm,))  # fmt: skip


def bologna_space(arcsec: float) -> Iterator[Set]:
    for folder, label in (("lens", 1), ("nolens", 0)):
        paths = sorted((DATA / "labelled/bologna_lfc1/space_based" / folder).glob("*.fits"))
        images = [centred(njy(fits.getdata(path), 0.0)[None], odd_side(arcsec, 0.1))
                  for path in paths]  # fmt: skip
        names = [path.stem.rpartition("-")[2] for path in paths]
        word = "lenses" if label else "non-lenses"
        yield Set(f"Bologna space {word}", 0.1, names, np.stack(images),
                  np.full(len(paths), label), (0.16,))  # fmt: skip


# -- pictures -------------------------------------------------------------------------------------


def space_warps(*, disputed: bool = False) -> Iterator[Set]:
    """Lenses (grade 2 and more) and non-lenses (0.3), or what experts disagreed on.

    Of the disputed, grades from 1.3 stand for lenses and those up to 0.7 for non-lenses. Recipes
    may be compared by these; the others are for measuring.
    """
    folder = DATA / "labelled/spacewarps_cfhtls"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for word, label in (("lens", 1), ("nonlens", 0)):
        names = [row["file"] for row in rows if _label(row, disputed=disputed) == label]
        image = np.stack([fits.getdata(folder / "stamps" / name) for name in names])
        ids = [name.removesuffix(".fits.gz") for name in names]
        name = f"Space Warps, {'disputed, ' if disputed else ''}{word}"
        yield Set(name, 0.2, ids, image.astype(np.float32), np.full(len(names), label),
                  (np.nan,) * 3)  # fmt: skip


def _label(row: dict[str, str], *, disputed: bool) -> int | None:
    word, grade = row["suggested_label"], float(row["expert_grade"])
    if not disputed:
        return {"lens": 1, "nonlens": 0}.get(word)
    if word != "ambiguous":
        return None
    return 1 if grade > 1.2 else 0 if grade < 0.8 else None


def as_pictures(given: Set, sky_rms_njy: tuple[float, ...]) -> Set:
    """Make composites as HumVI does for CFHTLS: sky noise at levels 12.8, 9.2 and 8.5."""
    how = composite.Stretch(
        np.array([12.8, 9.2, 8.5]) / np.array(sky_rms_njy), 1.0, "folded", 0.0, white=True
    )
    pictures = np.stack([composite.compose(one, how) for one in given.image_NCHW])
    return Set(given.name, given.scale_arcsec, given.ids, pictures, given.label_N,
               (np.nan,) * 3)  # fmt: skip


def sky_rms(image_NCHW: np.ndarray) -> tuple[float, ...]:
    """Noise of a set's pixels, from differences of neighbours."""
    steps = np.diff(image_NCHW, axis=-1)
    return tuple(1.4826 * np.nanmedian(np.abs(steps), axis=(0, 2, 3)) / np.sqrt(2))


# -- through the command --------------------------------------------------------------------------


def write(folder: Path, given: Set, bands: tuple[str, ...], stretched: bool) -> None:
    n = len(given.ids)
    image = given.image_NCHW
    mask = np.where(np.isfinite(image), 0, schema.MASK_NO_DATA).astype(np.uint8)
    catalog: dict[str, Any] = {
        "id": given.ids,
        **{name: np.full(n, np.nan) for name in ("ra", "dec", "x", "y")},
        **{name: np.zeros(n) for name in ("dx", "dy", "flags")},
        **{name: [""] * n for name in ("tile", "kind", "split", "host_id", "source_id")},
        "label": given.label_N,
        **{f"psf_fwhm_{b}_arcsec": np.full(n, f)
           for b, f in zip(bands, given.fwhm_arcsec, strict=True)},
    }  # fmt: skip
    path = folder / "products" / "stamps.h5"
    path.parent.mkdir(parents=True)
    header = shards.Header("cutout", "mixed", bands, given.scale_arcsec, {"seed": 0}, {}, stretched)
    shards.write(path, header, np.ascontiguousarray(image, np.float32), mask, catalog)
    write_json(folder / INDEX, {"stage": "cutout", "counts": {},
                                "products": [{"product": "products/stamps.h5"}]})  # fmt: skip


def scores(given: Set, spec: dict[str, Any], model: Path, views: int) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "stamps"
        write(folder, given, tuple(spec["bands"]), spec["stretched"])
        command = [sys.executable, "-m", "lensfinder", "infer", folder, "-o", folder / "scores"]
        command += ["--model", model, "--adapt", "--embed", "--views", views]
        command += ["-q", "--engine", "serial"]
        subprocess.run([str(part) for part in command], check=True)
        return tables.read_columns(folder / "scores" / "products" / "stamps.parquet")


def area(lens_L: np.ndarray, other_M: np.ndarray, seed: int = 1) -> tuple[float, float, float]:
    """AUROC and its 95 % bootstrap interval."""
    label_N = np.repeat([1, 0], [len(lens_L), len(other_M)])
    rng = np.random.default_rng(seed)
    areas = [
        roc_auc_score(label_N, np.concatenate([rng.choice(lens_L, len(lens_L)),
                                               rng.choice(other_M, len(other_M))]))
        for _ in range(2000)
    ]  # fmt: skip
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(roc_auc_score(label_N, np.concatenate([lens_L, other_M]))), low, high


def threshold_of(header: dict[str, Any], fpr: float) -> float:
    points = header["thresholds"].get("points", [])
    found = [p["logit"] for p in points if p["fpr_asked"] == fpr and p["logit"] is not None]
    return found[0] if found else np.nan


def sets_of(spec: dict[str, Any]) -> Iterator[Set]:
    arcsec = spec["size"] * spec["pixel_scale_arcsec"]
    if spec["bands"] == ["VIS"]:
        yield from one_band(arcsec, spec["pixel_scale_arcsec"], 0.16, 2.2)
        yield from bologna_space(arcsec)
        return
    if len(spec["bands"]) == 1 and spec["bands"] != ["i"]:
        yield from one_band(arcsec, spec["pixel_scale_arcsec"], 0.77, 11.3)
        return
    fluxes = [des_lrgs(arcsec), hsc_galaxies(arcsec), *bologna(arcsec), *known_lenses(arcsec)]
    if len(spec["bands"]) == 1:
        # A coadd's depth; and of the others this band alone.
        yield from one_band(arcsec, spec["pixel_scale_arcsec"], 0.71, 2.58)
        yield from (of_band(one, "i") for one in fluxes)
        return
    for one in fluxes:
        yield as_pictures(one, sky_rms(one.image_NCHW)) if spec["stretched"] else one
        if one.name == "HSC galaxies" and not spec["stretched"]:
            yield as_shallow_as(one, survey.load("kids"))
    if spec["stretched"]:
        yield from space_warps(disputed=True)
        yield from space_warps()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a file, or the name of a shipped model")
    parser.add_argument("--fpr", type=float, default=1e-2)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--objects", action="store_true", help="also list non-lenses one by one")
    parser.add_argument("--without-space-warps", action="store_true", help="no look at those")
    chosen = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"no real data at {DATA}")
    model = shipped.model_path(Path(chosen.model))
    header = checkpoint.read_header(model)
    spec, limit = header["spec"], threshold_of(header, chosen.fpr)
    print(f"{chosen.model}: logit {limit:.3f} at the mocks' FPR {chosen.fpr:g}")
    warps: dict[bool, list[np.ndarray]] = {}
    for given in sets_of(spec):
        disputed = "disputed" in given.name
        if chosen.without_space_warps and "Space Warps" in given.name and not disputed:
            continue
        found = scores(given, spec, model, chosen.views)
        logit = found["logit"]
        above, scored = int((logit > limit).sum()), int(np.isfinite(logit).sum())
        middle = np.nanmedian(logit)
        print(f"{given.name:32} {above:4} of {scored:4} above; median logit {middle:7.3f}")
        if "Space Warps" in given.name:
            warps.setdefault(disputed, []).append(logit)
        elif given.label_N[0] == 1 or chosen.objects:
            for name, value in zip(found["id"], logit, strict=True):
                about = f"theta_E {THETA_E_ARCSEC[name]:.2f}" if name in THETA_E_ARCSEC else ""
                print(f"    {name:40} {about:12} {value:8.3f}{'  *' if value > limit else ''}")
    for disputed, (lens, other) in warps.items():
        middle, low, high = area(lens, other)
        print(f"Space Warps{', disputed' if disputed else ''}: AUROC {middle:.3f} "
              f"[{low:.3f}, {high:.3f}], {len(lens)} lenses, {len(other)} others")  # fmt: skip


if __name__ == "__main__":
    main()

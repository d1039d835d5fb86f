"""Whatever is injected, it fails alone with its reason, or is done by rule; no score is NaN."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from balance import OBJECTS_XY, check_ledger, write_tile
from skies import sky_YX, tan_wcs, write_kids_tile, write_targets

from lensfinder import checkpoint, networks, shards, tables
from lensfinder.ledger import products_of, read_index

pytestmark = pytest.mark.fault
Command = Callable[..., Any]

# 80 rows of 90 pixels fill the blocks of a FITS file to the last byte.
SHAPE_YX = (80, 90)
R_IMAGE = "KiDS_DR4.0_10_0_r_sci.fits"


def write_full_tile(folder: Path, name: str, ra: float) -> list[tuple[float, float]]:
    """Write three bands without padding; return where their galaxies are."""
    wcs = tan_wcs(ra, 0.0, SHAPE_YX)
    images = {band: sky_YX(SHAPE_YX, OBJECTS_XY, n) for n, band in enumerate("gri")}
    write_kids_tile(folder, name, images, wcs)
    return [tuple(map(float, wcs.all_pix2world(x, y, 0))) for x, y in OBJECTS_XY]


def cut(command: Command, sky: Path, out: Path, *options: object) -> Any:
    return command("cutout", sky, "--size", 21, "--engine", "serial", "-o", out, *options)


def pack(path: Path, kind: str) -> Path:
    """Make a .gz or .fz of a plain file; return its bytes' path."""
    if kind == "fits":
        return path
    packed = path.with_name(f"{path.name}.{kind}")
    if kind == "gz":
        packed.write_bytes(gzip.compress(path.read_bytes()))
    else:
        with fits.open(path) as hdus:
            fits.CompImageHDU(hdus[0].data, hdus[0].header).writeto(packed)
    path.unlink()
    return packed


@pytest.mark.parametrize("share", [0.99, 0.9, 0.5, 0.01])
@pytest.mark.parametrize("kind", ["fits", "gz", "fz"])
def test_a_truncated_tile_fails_alone(
    tmp_path: Path, command: Command, kind: str, share: float
) -> None:
    sky = tmp_path / "tiles"
    broken, fine = write_full_tile(sky, "10_0", 10.0), write_full_tile(sky, "20_0", 20.0)
    path = pack(sky / R_IMAGE, kind)
    # Of what is not padding.
    content = path.read_bytes() if kind == "gz" else path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(len(content) * share)])
    ids = write_targets(tmp_path / "t.csv", *np.array([*broken, *fine]).T)
    said = cut(command, sky, tmp_path / "out", "--catalog", tmp_path / "t.csv")
    assert said.code == 3, said.err
    assert "Traceback" not in said.err
    assert check_ledger(tmp_path / "out", ids) == {"ok": 3, "failed": 3}
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    reasons = set(ledger["reason"][ledger["outcome"] == "failed"])
    # Of a gzipped file that begins well, only reading it through tells that it ends too soon.
    assert len(reasons) == 1
    assert reasons <= {"truncated", "unreadable", "damaged"}
    (line,) = [line for line in said.err.splitlines() if line.startswith("failed:")]
    assert f"KiDS_DR4.0_10_0 [{reasons.pop()}]" in line
    assert path.name in line


def test_a_tile_that_may_not_be_read_fails_alone(tmp_path: Path) -> None:
    sky = tmp_path / "tiles"
    broken, fine = write_tile(sky, "10_0", 10.0), write_tile(sky, "20_0", 20.0)
    (sky / R_IMAGE).chmod(0)
    ids = write_targets(tmp_path / "t.csv", *np.array([*broken, *fine]).T)
    without: list[str] = []
    if os.geteuid() == 0:
        # The superuser may read everything, unless the right to is taken away.
        if not shutil.which("setpriv"):
            pytest.skip("nobody takes the superuser's rights away")
        without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    arguments = [
        *("cutout", sky, "--catalog", tmp_path / "t.csv", "--size", 21),
        *("--engine", "serial", "-o", tmp_path / "out"),
    ]
    try:
        said = subprocess.run(
            [*without, sys.executable, "-P", "-m", "lensfinder", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        (sky / R_IMAGE).chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert said.returncode == 3, said.stderr
    assert "KiDS_DR4.0_10_0 [unreadable]" in said.stderr
    assert "Permission denied" in said.stderr
    assert check_ledger(tmp_path / "out", ids) == {"ok": 3, "failed": 3}


def spoil(share: float, value: float) -> Callable[[np.ndarray], object]:
    """Put a value over a share of the pixels, the same ones each time, and on no object's own."""

    def change(data: np.ndarray) -> None:
        chosen = np.random.default_rng(7).uniform(size=data.shape) < share
        if share < 1:
            for x, y in OBJECTS_XY:
                chosen[int(y), int(x)] = False
        data[chosen] = value

    return change


def scaled(path: Path) -> None:
    """Store counts, with BSCALE and BZERO, and BLANK on one object."""
    image, header = fits.getdata(path), fits.getheader(path)
    scale = float(np.ptp(image)) / 60000
    counts = np.round((image - image.min()) / scale - 30000).astype(np.int16)
    x, y = map(int, OBJECTS_XY[0])
    counts[y - 1 : y + 2, x - 1 : x + 2] = -32768
    fits.PrimaryHDU(counts, header).writeto(path, overwrite=True)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[0].header["BSCALE"] = scale
        hdus[0].header["BZERO"] = float(image.min()) + 30000 * scale
        hdus[0].header["BLANK"] = -32768


def doubled(path: Path) -> None:
    data = fits.getdata(path).astype(">f8")
    fits.writeto(path, data, fits.getheader(path), overwrite=True)


def in_pixels(change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with fits.open(path, mode="update") as hdus:
            change(hdus[0].data)

    return damage


# What is done to the r image's pixels, and what becomes of its three objects.
PIXELS: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "NaN over 0 %": (in_pixels(spoil(0, np.nan)), {"ok": 3}),
    "NaN over 5 %": (in_pixels(spoil(0.05, np.nan)), {"ok": 3}),
    "NaN over 50 %": (in_pixels(spoil(0.5, np.nan)), {"flagged masked": 1, "rejected masked": 2}),
    "NaN over 100 %": (in_pixels(spoil(1, np.nan)), {"rejected no_data": 3}),
    "infinite over 5 %": (in_pixels(spoil(0.05, np.inf)), {"ok": 3}),
    "infinite over 100 %": (in_pixels(spoil(1, -np.inf)), {"rejected no_data": 3}),
    "constant": (in_pixels(spoil(1, 1.0)), {"rejected constant": 3}),
    "sentinel over 5 %": (in_pixels(spoil(0.05, 100)), {"ok": 3}),
    "sentinel over 100 %": (in_pixels(spoil(1, 100)), {"rejected no_data": 3}),
    "big-endian doubles": (doubled, {"ok": 3}),
    "scaled counts with blanks": (scaled, {"ok": 2, "rejected no_data": 1}),
}


def tiny_model(folder: Path) -> Path:
    """Write an untrained model for 21 pixels of g, r and i."""
    import torch

    from lensfinder.model import Spec, create
    from lensfinder.pixels import RECIPES, PixelTransform

    torch.manual_seed(3)
    noise = torch.randn(16, 3, 25, 25)
    made = create(
        Spec("lenet5", ("g", "r", "i"), 25, 0.2),
        networks.build("lenet5", 3, 25),
        PixelTransform.fit(RECIPES["sky"], [(noise, torch.zeros(noise.shape, dtype=torch.uint8))]),
        temperature=1.0,
        training_prevalence=0.5,
        provenance={},
    )
    checkpoint.save(folder / "model.safetensors", made)
    return folder / "model.safetensors"


def test_whatever_the_pixels_no_score_is_nan(tmp_path: Path, command: Command) -> None:
    sky, places = tmp_path / "tiles", []
    for number, (damage, _) in enumerate(PIXELS.values()):
        places += write_tile(sky, f"{10 + number}_0", 10.0 + number)
        damage(sky / f"KiDS_DR4.0_{10 + number}_0_r_sci.fits")
    ids = write_targets(tmp_path / "t.csv", *np.array(places).T)
    own = (Path(shards.__file__).parent / "surveys" / "kids.toml").read_text()
    (tmp_path / "own.toml").write_text(own.replace("[mask]", "[mask]\nno_data_value = 100"))
    arguments = [
        *("--survey", tmp_path / "own.toml", "--catalog", tmp_path / "t.csv"),
        *("--engine", "serial", "--max-bad-fraction", 0.5, "-q"),
    ]
    said = command("cutout", sky, *arguments, "--size", 25, "-o", tmp_path / "out")
    assert said.code == 0, said.err
    check_ledger(tmp_path / "out", ids)
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    ended = {
        name: f"{outcome} {reason}".strip()
        for name, outcome, reason in zip(*map(ledger.get, ("id", "outcome", "reason")), strict=True)
    }
    expected = {name: counts for name, (_, counts) in PIXELS.items()}
    found = {
        name: dict(Counter(ended[one] for one in ids[3 * number : 3 * number + 3]))
        for number, name in enumerate(PIXELS)
    }
    assert found == expected

    said = command(
        *("infer", sky, *arguments, "--model", tiny_model(tmp_path), "-o", tmp_path / "scores")
    )
    assert said.code == 0, said.err
    counts = read_index(tmp_path / "scores")["counts"]
    assert counts["planned"] == sum(n for name, n in counts.items() if name != "planned")
    parts = [tables.read_columns(path) for path in products_of(tmp_path / "scores", "infer")]
    scores = tables.concatenate(parts)
    assert sorted(scores["id"]) == sorted(ids)
    kept = np.isin(scores["outcome"], ["ok", "flagged"])
    assert {name for name, how in ended.items() if not how.startswith("rejected")} == set(
        scores["id"][kept]
    )
    for name in ("logit", "score"):
        assert np.isfinite(scores[name][kept]).all()
    # The others have none, rather than a wrong one; and none of them is ranked.
    assert np.isnan(scores["logit"][~kept]).all()
    ranked = tables.read_columns(tmp_path / "scores" / "ranked.parquet")
    assert set(ranked["id"]) <= set(scores["id"][kept])


STRANGE_IDS = [
    *("a/b", "../../etc/passwd", "..", ".", "/", 'say "x"', "<script>", "k=v", "=1+1", "%2e%2e"),
    *("café ☕", str(2**63 - 1), "x" * 64, "a b", "C:\\x", "$HOME", "-o", "é" * 32),
]


def test_ids_never_become_names_of_files_or_groups(tmp_path: Path, command: Command) -> None:
    sky = tmp_path / "tiles"
    (ra, dec), *_ = write_tile(sky, "10_0", 10.0)
    step = 1e-5
    columns = {
        "id": STRANGE_IDS,
        "ra": [ra + number * step for number in range(len(STRANGE_IDS))],
        "dec": [dec] * len(STRANGE_IDS),
    }
    tables.write_columns(tmp_path / "t.parquet", columns)
    said = cut(command, sky, tmp_path / "out", "--catalog", tmp_path / "t.parquet")
    assert said.code == 0, said.err
    check_ledger(tmp_path / "out", STRANGE_IDS)
    (product,) = products_of(tmp_path / "out", "cutout")
    with shards.read(product) as shard:
        assert sorted(shard.catalog["id"]) == sorted(STRANGE_IDS)
        names: list[str] = []
        shard.image.file.visit(names.append)
    written = {path.name for path in tmp_path.rglob("*")} | {
        part for name in names for part in name.split("/")
    }
    assert not written & set(STRANGE_IDS)
    assert {path.name for path in tmp_path.iterdir()} == {"tiles", "out", "t.parquet"}
    for one in ("../../etc/passwd", "=1+1", "<script>"):
        assert command("status", tmp_path / "out", "--id", one).code == 0


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("a", 10.0, 0.0), "row 3: the id stands there twice"),
        (("c", np.nan, 0.0), "row 3: RA is not within 0–360"),
        (("c", 10.0, 91.0), "row 3: Dec is not within ±90"),
        (("a\0b", 10.0, 0.0), "row 3: the id is empty or holds control characters"),
        (("x" * 300, 10.0, 0.0), "row 3: the id is too long"),
    ],
)
def test_a_catalogue_is_refused_by_its_row_before_any_work(
    tmp_path: Path, command: Command, row: tuple[str, float, float], complaint: str
) -> None:
    write_tile(tmp_path / "tiles", "10_0", 10.0)
    rows = [("a", 10.0, 0.0), ("b", 10.0, 0.0), row]
    columns = dict(zip(("id", "ra", "dec"), zip(*rows, strict=True), strict=True))
    tables.write_columns(tmp_path / "t.parquet", columns)
    said = cut(command, tmp_path / "tiles", tmp_path / "out", "--catalog", tmp_path / "t.parquet")
    assert said.code == 2
    assert complaint in said.err
    assert not list((tmp_path / "out").rglob("*.h5"))


def test_a_stale_reference_pixel_is_said_and_its_targets_are_refused(
    tmp_path: Path, command: Command
) -> None:
    # A cutout that kept its tile's header: the WCS puts it elsewhere on the sky.
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    write_full_tile(tmp_path / "tiles", "10_0", 10.0)
    for path in (tmp_path / "tiles").iterdir():
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["CRPIX1"] += 4000
    ra, dec = wcs.all_pix2world(*np.array(OBJECTS_XY).T, 0)
    write_targets(tmp_path / "t.csv", ra, dec)
    said = cut(command, tmp_path / "tiles", tmp_path / "out", "--catalog", tmp_path / "t.csv")
    assert said.code == 2
    assert "none of the 3 targets" in said.err
    found = command("check", tmp_path / "tiles").out
    assert "reference pixel of the WCS lies outside the image" in found


def test_four_overlapping_tiles_lose_and_double_nothing(tmp_path: Path, command: Command) -> None:
    rng = np.random.default_rng(11)
    side, scale_deg = 160, 0.2 / 3600
    # Objects on a grid of 7 arcsec over four tiles that overlap by a third.
    steps = np.arange(-4, 5) * 35 * scale_deg
    true = np.array([(a, b) for a in steps for b in steps]) + rng.uniform(-2, 2, (81, 2)) * (
        scale_deg
    )
    seen_somewhere = np.zeros(len(true), bool)
    for number in range(4):
        centre = (np.array([number % 2, number // 2]) - 0.5) * side * 2 / 3 * scale_deg
        wcs = tan_wcs(centre[0] % 360, centre[1], (side, side), rotation_deg=rng.uniform(-5, 5))
        # Each tile sees each object up to 0.3 arcsec elsewhere.
        x, y = np.array(wcs.all_world2pix(true[:, 0] % 360, true[:, 1], 0))
        x, y = x + rng.uniform(-1, 1, len(x)), y + rng.uniform(-1, 1, len(x))
        near = (np.abs([x, y] - np.array(side / 2)) < side / 2 + 10).all(axis=0)
        whole = (np.abs([x, y] - np.array(side / 2)) < side / 2 - 8).all(axis=0)
        seen_somewhere |= whole
        image = sky_YX((side, side), list(zip(x[near], y[near], strict=True)), number)
        write_kids_tile(tmp_path / "tiles", f"{number}_0", {"r": image}, wcs)
    said = cut(command, tmp_path / "tiles", tmp_path / "out", "--bands", "r")
    assert said.code == 0, said.err
    found = []
    for product in products_of(tmp_path / "out", "cutout"):
        with shards.read(product) as shard:
            found += zip(shard.catalog["ra"], shard.catalog["dec"], strict=True)
    at = np.array(found)
    at[:, 0] = (at[:, 0] + 180) % 360 - 180
    apart = np.hypot(*(true[:, None] - at[None]).T) * 3600
    assert (apart.T[seen_somewhere].min(axis=1) < 1).all(), "lost"
    assert ((apart.T < 1.5).sum(axis=1) <= 1).all(), "doubled"

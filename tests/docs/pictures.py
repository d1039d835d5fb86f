"""Make the tutorial's pictures anew, from its folder: ``python tests/docs/pictures.py tutorial``.

Type the tutorial's commands first, or `lensfinder run pipelines/quickstart.toml --set
simulate.preview=true`, whose folder will do as well. Takes playwright and Debian's chromium for the
page's pictures. With ``--mocks lsst-i/simulate``, the folder of that model's mocks, the picture of
what half a turn changes is made instead.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lensfinder import shards
from lensfinder.ledger import products_of
from lensfinder.pixels import RECIPES, PixelTransform

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
QUALITY = 85
# Width in pixels of what the stages themselves draw, and the share of its height from the top: the
# preview shows the same mocks in three stretches.
DRAWN = {
    "preview": ("*/preview.png", 780, 1 / 3),
    "curve": ("*/curve.png", 620, 1.0),
    "roc": ("report/figures/roc.png", 560, 1.0),
}


def drawn(folder: Path) -> Iterator[tuple[str, Image.Image, int]]:
    """Yield name, picture and width of each figure."""
    for name, (pattern, width, share) in DRAWN.items():
        (file,) = folder.glob(pattern)
        with Image.open(file) as picture:
            shown = picture.convert("RGB").crop(
                (0, 0, picture.width, round(share * picture.height))
            )
            yield name, shown, width


def seen(page_html: Path) -> Iterator[tuple[str, Image.Image, int]]:
    """Yield what a browser shows of the report: its beginning, and candidates being graded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1100, "height": 1150}, color_scheme="light")
        page.goto(page_html.as_uri())
        yield "report", _picture(page.screenshot()), 820
        page.set_viewport_size({"width": 1000, "height": 720})
        page.locator("#grader").fill("anna")
        to_it = "element => element.scrollIntoView({behavior: 'instant'})"
        page.locator("#candidates").evaluate(to_it)
        yield "candidates", _picture(page.screenshot()), 1000
        browser.close()


def turned(mocks: Path) -> Iterator[tuple[str, Image.Image, int]]:
    """Yield mocks of bright hosts above, and below what half a turn changes of them."""
    with shards.read(products_of(mocks, "simulate")[0]) as shard:
        (band,), catalog = shard.header.bands, shard.catalog
        bright_N = np.fmin(catalog[f"mag_bulge_{band}"], catalog[f"mag_disc_{band}"]) < 18.0
        rows = []
        for kind, count in (("lens", 6), ("galaxy", 1), ("companions", 1), ("spiral", 1)):
            of_kind_N = bright_N & (catalog["kind"] == kind) & (catalog["flags"] == 0)
            if kind == "lens":
                of_kind_N &= catalog["feature_snr"] > 300
            found = np.flatnonzero(of_kind_N)
            rows += found[:count].tolist()
        image_NCHW = torch.from_numpy(np.stack([shard.image[k] for k in rows]))
        mask_NCHW = torch.from_numpy(np.stack([shard.mask[k] for k in rows]))
    transform = PixelTransform.fit(RECIPES["sky-turned"], [(image_NCHW, mask_NCHW)])
    seen_NCHW = transform(image_NCHW, mask_NCHW).numpy()
    lines = []
    for channel, low, high in ((0, 0.0, float(seen_NCHW[:, 0].max())), (1, -2.5, 2.5)):
        grey_NHW = np.clip((seen_NCHW[:, channel] - low) / (high - low), 0, 1) * 255
        # North, and the last line, is up.
        framed = [np.pad(one[::-1].repeat(3, 0).repeat(3, 1), 2) for one in grey_NHW]
        lines.append(np.hstack(framed))
    picture = Image.fromarray(np.vstack(lines).astype(np.uint8)).convert("RGB")
    yield "turned", picture, 1000


def _picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("folder", type=Path, nargs="?", help="the tutorial's or the quickstart's")
    given.add_argument("--mocks", type=Path, help="those of `lsst-i`")
    chosen = parser.parse_args()
    if chosen.mocks is not None:
        pictures = [turned(chosen.mocks)]
    else:
        page_html = (chosen.folder / "report" / "index.html").resolve()
        pictures = [drawn(chosen.folder), seen(page_html)]
    for made in pictures:
        for name, picture, width in made:
            height = round(picture.height * width / picture.width)
            small = picture.resize((width, height), Image.Resampling.LANCZOS)
            small.save(IMAGES / f"{name}.jpg", quality=QUALITY, optimize=True)
            print(IMAGES / f"{name}.jpg", file=sys.stderr)


if __name__ == "__main__":
    main()

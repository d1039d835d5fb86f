"""Make the tutorial's pictures anew, from its folder: ``python tests/docs/pictures.py tutorial``.

Type the tutorial's commands first, or `lensfinder run pipelines/quickstart.toml --set
simulate.preview=true`, whose folder will do as well. Takes playwright and Debian's chromium for the
page's pictures.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

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
        page.locator("#candidates").evaluate("element => element.scrollIntoView()")
        yield "candidates", _picture(page.screenshot()), 1000
        browser.close()


def _picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the tutorial's or the quickstart's")
    folder = parser.parse_args().folder
    for made in (drawn(folder), seen((folder / "report" / "index.html").resolve())):
        for name, picture, width in made:
            height = round(picture.height * width / picture.width)
            small = picture.resize((width, height), Image.Resampling.LANCZOS)
            small.save(IMAGES / f"{name}.jpg", quality=QUALITY, optimize=True)
            print(IMAGES / f"{name}.jpg", file=sys.stderr)


if __name__ == "__main__":
    main()

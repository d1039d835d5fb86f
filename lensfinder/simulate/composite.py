"""Composites: three bands of fluxes as one 8-bit colour picture, stretched as its makers liked.

The stretch is Lupton et al.'s (2004, PASP 116, 133): all bands of a pixel are multiplied by one
number that depends on their mean, so that colours survive. What surveys, viewers and competitions
publish differs in its scale, its softening, and in what became of pixels below the sky and above
white; each mock's are drawn from its own generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.sections import Composite

WHITE = 255
Floor = Literal["folded", "clipped", "lifted"]


@dataclass(frozen=True)
class Stretch:
    """How one picture was made.

    Attributes
    ----------
    level_per_njy : by band, 8-bit levels that a faint nJy makes
    softening : Q; the mean of the bands turns from linear to logarithmic at white / Q
    floor : pixels below the sky are turned over, set to 0, or the sky is lifted above 0
    lift : level of a lifted sky
    white : what is brighter than white becomes white; otherwise it keeps its colour
    """

    level_per_njy: np.ndarray
    softening: float
    floor: Floor
    lift: float
    white: bool


def check_bands(bands: Sequence[str], recipe: Composite) -> None:
    """Refuse bands that make no colour picture.

    Raises
    ------
    RecipeError
        unless there are three, all of which the recipe knows
    """
    missing = [band for band in bands if band not in recipe.level_ratio]
    if len(bands) != 3 or missing:
        raise RecipeError(
            f"a composite of bands {', '.join(bands)}; expected three among "
            f"{', '.join(recipe.level_ratio)} (composite.level_ratio)"
        )


def draw(
    rng: np.random.Generator, recipe: Composite, bands: Sequence[str], sky_rms_njy_C: np.ndarray
) -> Stretch:
    """One picture's stretch.

    Parameters
    ----------
    rng : of the object
    sky_rms_njy_C : typical noise of a pixel, by which a survey's pictures are scaled
    """
    sky_level = recipe.sky_level.sample(rng)
    ratio = np.array([recipe.level_ratio[band] for band in bands])
    scatter = 10 ** rng.normal(0, recipe.level_scatter_dex, len(bands))
    softening = recipe.softening.sample(rng)
    weights = np.array([recipe.folded, recipe.clipped, recipe.lifted])
    floors: tuple[Floor, ...] = ("folded", "clipped", "lifted")
    floor = floors[int(rng.choice(3, p=weights / weights.sum()))]
    lift = recipe.lift_level.sample(rng)
    white = bool(rng.random() < recipe.white_fraction)
    return Stretch(sky_level * ratio * scatter / sky_rms_njy_C, softening, floor, lift, white)


def compose(image_CYX: np.ndarray, stretch: Stretch) -> np.ndarray:
    """Make the picture.

    Parameters
    ----------
    image_CYX : nJy; NaN where there are no data
    stretch : whose `level_per_njy` has an entry for each band

    Returns
    -------
    level_CYX : float32, whole numbers from 0 to 255; NaN stays NaN
    """
    share = image_CYX * (stretch.level_per_njy / WHITE)[:, None, None]
    if stretch.floor == "folded":
        share = np.abs(share)
    elif stretch.floor == "clipped":
        share = np.maximum(share, 0)
    brightness = stretch.softening * np.maximum(share.mean(axis=0), 1e-9)
    share = share * (np.arcsinh(brightness) / brightness)
    if stretch.floor == "lifted":
        share = np.maximum(share + stretch.lift / WHITE, 0)
    if not stretch.white:
        share = share / np.maximum(share.max(axis=0), 1)
    level: np.ndarray = np.rint(WHITE * np.minimum(share, 1)).astype(np.float32)
    return level

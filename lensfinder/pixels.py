"""PixelTransform: from calibrated pixels to what a network sees, frozen into the model file.

A stamp's transformed values depend on that stamp and on constants fitted once on the training
split, never on the batch it came in. Bad pixels become zero, which stands for the sky level, and
no NaN or infinity comes out, whatever went in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch

from lensfinder.errors import RequestError
from lensfinder.turned import half_turned

# Width of the frame whose pixels give a stamp's own background and noise, as a share of its side.
BORDER_FRACTION = 0.07
MAD_TO_SIGMA = 1.4826
# Share of its light by which a galaxy may differ from itself after half a turn.
LOPSIDED = 0.02


_LESS_TURNED = " less turned"


def is_turned(channel: str) -> bool:
    """Whether a channel of `Recipe.channels` is what half a turn changes."""
    return channel.endswith(_LESS_TURNED)


@dataclass(frozen=True)
class Recipe:
    """What is chosen before fitting.

    Parameters
    ----------
    background : {"none", "border"}
        Whether the median of a frame of good pixels is subtracted, per stamp and band.
    scale : {"sky", "set"}
        The unit of a band: the median over stamps of the robust sky sigma, or the standard
        deviation of all training pixels.
    mean_image : bool
        Subtract the training set's mean image.
    clip : float
        Largest absolute value, in units of the scale, before the stretch.
    stretch : {"linear", "sqrt", "arcsinh"}
        Odd functions that look like x / softening near zero.
    softening : float
        Where the stretch turns over, in units of the scale.
    over_maximum : bool
        Negative pixels become 0, and each stretched stamp is divided by its largest pixel, over
        all bands.
    turned : bool
        After the bands come as many channels of what half a turn about the galaxy's centre
        changes, in units of what noise and `LOPSIDED` light would change, as arcsinh(ratio / 2).
        For the sky's scale and arcsinh alone.
    """

    background: Literal["none", "border"]
    scale: Literal["sky", "set"]
    mean_image: bool
    clip: float
    stretch: Literal["linear", "sqrt", "arcsinh"]
    softening: float
    over_maximum: bool = False
    turned: bool = False

    def channels(self, bands: Sequence[str]) -> tuple[str, ...]:
        """Name what a network sees of stamps in these bands, in its order."""
        return (*bands, *(f"{band}{_LESS_TURNED}" for band in bands if self.turned))


RECIPES = {
    # Sky sigma as the unit keeps colours, and the arcsinh keeps faint arcs beside bright cores.
    "sky": Recipe("border", "sky", False, 5000.0, "arcsinh", 2.0),
    # Faint arcs in bright galaxies, which half a turn leaves as they are but for the arcs.
    "sky-turned": Recipe("border", "sky", False, 5000.0, "arcsinh", 2.0, turned=True),
    # Somebody has stretched them already; a picture's sky need not be black.
    "picture": Recipe("border", "set", False, 1e3, "linear", 1.0),
    # Lanusse et al. (2018), section 3.2: mean image, sigma of the set, clipped at 250 sigma.
    "deeplens": Recipe("none", "set", True, 250.0, "linear", 1.0),
    # Petrillo et al. (2017): clipped at 0, square root, divided by the image's maximum. In these
    # units the stretch is a square root to a part in a thousand.
    "petrillo": Recipe("none", "sky", False, 1e30, "sqrt", 1e-6, over_maximum=True),
}


def name_of(recipe: Recipe) -> str | None:
    """Name one of `RECIPES`; None for any other."""
    return next((name for name, known in RECIPES.items() if known == recipe), None)


@dataclass(frozen=True, eq=False)
class PixelTransform:
    """Pixels in nJy with their mask to the float input of a network.

    Parameters
    ----------
    recipe : Recipe
        Choices made before fitting.
    scale_njy_C : tuple of float
        Unit of each band, nJy, > 0.
    mean_njy_CHW : torch.Tensor or None
        Mean training image, nJy; None where the recipe has none.
    """

    recipe: Recipe
    scale_njy_C: tuple[float, ...]
    mean_njy_CHW: torch.Tensor | None = None

    @property
    def channel_count(self) -> int:
        """How many a network sees of a stamp."""
        return len(self.recipe.channels([""] * len(self.scale_njy_C)))

    @torch.no_grad()
    def __call__(self, image_NCHW: torch.Tensor, mask_NCHW: torch.Tensor) -> torch.Tensor:
        """Transform stamps.

        Parameters
        ----------
        image_NCHW : torch.Tensor
            Floating-point pixels, nJy (levels of stretched ones); the result has its precision and
            device.
        mask_NCHW : torch.Tensor
            uint8, 0 where a pixel is good.

        Returns
        -------
        torch.Tensor
            Channels as `Recipe.channels` names them, each as large; finite; 0 at bad pixels and at
            the sky level.
        """
        recipe = self.recipe
        good_NCHW = good_pixels(image_NCHW, mask_NCHW)
        per_unit_C11 = 1 / torch.tensor(self.scale_njy_C).to(image_NCHW)[:, None, None]
        level = torch.zeros_like(per_unit_C11)  # nJy, of what becomes zero
        if recipe.background == "border":
            level = level + _border_median(image_NCHW, good_NCHW)[..., None, None]
        if self.mean_njy_CHW is not None:
            level = level + self.mean_njy_CHW.to(image_NCHW)
        x_NCHW = torch.addcmul(-level * per_unit_C11, image_NCHW, per_unit_C11)
        # Bad pixels first: clamp and the stretches would carry a NaN on.
        bad_NCHW = good_NCHW.logical_not()
        x_NCHW.masked_fill_(bad_NCHW, 0.0).clamp_(-recipe.clip, recipe.clip)
        if recipe.turned:
            x_NCHW = _stretch(x_NCHW, recipe)
            return torch.cat([x_NCHW, _less_turned(x_NCHW, bad_NCHW, recipe)], dim=1)
        if not recipe.over_maximum:
            return _stretch(x_NCHW, recipe)
        x_NCHW = _stretch(x_NCHW.clamp_(min=0.0), recipe)
        largest_N111 = x_NCHW.amax(dim=(1, 2, 3), keepdim=True)
        return x_NCHW / torch.where(largest_N111 > 0, largest_N111, 1)

    def noise_over_fitted(
        self, image_NCHW: torch.Tensor, mask_NCHW: torch.Tensor
    ) -> torch.Tensor | None:
        """Noise of stamps over the median noise of those that the scale was fitted on, (N, C).

        By the same measure, so that crowded frames count alike; NaN where no pixel tells. None for
        a scale that is no noise. Parameters as of `__call__`.
        """
        if self.recipe.scale != "sky":
            return None
        sigma_NC = _border_sigma(image_NCHW, good_pixels(image_NCHW, mask_NCHW))
        return sigma_NC / torch.tensor(self.scale_njy_C).to(sigma_NC)

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ) -> PixelTransform:
        """Fit scale and mean image in one pass over training stamps, or over a sample of them.

        Parameters
        ----------
        recipe : Recipe
            One of `RECIPES`.
        batches : iterable of (image_NCHW, mask_NCHW)
            Pixels in nJy and masks, at most a few hundred stamps at a time.

        Raises
        ------
        RequestError
            If a band has no good pixel, or no scatter, in all of the stamps.
        """
        moments = _Moments()
        sigmas_NC: list[torch.Tensor] = []
        for image_NCHW, mask_NCHW in batches:
            good_NCHW = good_pixels(image_NCHW, mask_NCHW)
            if recipe.scale == "set":
                moments.add(image_NCHW, good_NCHW)
            else:
                sigmas_NC.append(_border_sigma(image_NCHW, good_NCHW))
        if recipe.scale == "set":
            scale_C = moments.sigma_C()
        elif sigmas_NC:
            scale_C = torch.cat(sigmas_NC).double().nanmedian(dim=0).values
        else:
            scale_C = torch.zeros(0)
        if len(scale_C) == 0 or not bool((torch.isfinite(scale_C) & (scale_C > 0)).all()):
            raise RequestError(
                f"the training stamps give no noise level in some band: {scale_C.tolist()} nJy",
                "good pixels with some scatter in each band",
                "Look at the stamps; `lensfinder cutout` masks pixels without data.",
            )
        mean_CHW = moments.mean_CHW().float() if recipe.mean_image else None
        return cls(recipe, tuple(float(s) for s in scale_C), mean_CHW)

    def to_dict(self) -> dict[str, Any]:
        """Return what is JSON; `arrays` holds the rest."""
        choices = {field.name: getattr(self.recipe, field.name) for field in fields(Recipe)}
        if not self.recipe.turned:
            del choices["turned"]  # older models have no such choice, and ids that don't know it
        return {**choices, "scale_njy": list(self.scale_njy_C)}

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the fitted arrays by name; empty where the recipe has none."""
        return {} if self.mean_njy_CHW is None else {"mean_njy_CHW": self.mean_njy_CHW}

    @classmethod
    def from_dict(
        cls, choices: Mapping[str, Any], arrays: Mapping[str, torch.Tensor]
    ) -> PixelTransform:
        """Undo `to_dict` and `arrays`."""
        chosen = {
            field.name: choices[field.name] for field in fields(Recipe) if field.name in choices
        }
        recipe = Recipe(**chosen)
        scale_njy_C = tuple(float(s) for s in choices["scale_njy"])
        return cls(recipe, scale_njy_C, arrays.get("mean_njy_CHW"))


def good_pixels(image_NCHW: torch.Tensor, mask_NCHW: torch.Tensor) -> torch.Tensor:
    """Say which pixels are finite and not masked, bool.

    On a CPU torch.isfinite takes four times as long.
    """
    # A finite number less itself is 0; what infinity or NaN leaves is NaN, which counts as true.
    return (image_NCHW - image_NCHW).logical_not().logical_and_(mask_NCHW.logical_not())


def _stretch(x_NCHW: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Compress the range; odd, monotonic, slope 1 / softening at zero for all three."""
    x_NCHW = x_NCHW.div_(recipe.softening)
    if recipe.stretch == "arcsinh":
        return _arcsinh(x_NCHW)
    if recipe.stretch == "sqrt":
        return 2 * torch.sign(x_NCHW) * (torch.sqrt(1 + x_NCHW.abs()) - 1)
    return x_NCHW


def _less_turned(x_NCHW: torch.Tensor, bad_NCHW: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return what half a turn changes of stretched pixels, see `Recipe`."""
    turned_NCHW, known_NCHW = half_turned(x_NCHW, bad_NCHW)
    level_NCHW = (x_NCHW + turned_NCHW) / 2
    # By how much an arcsinh grows with the light, in units of the noise, and with its logarithm.
    noise_NCHW = 1 / (recipe.softening * torch.cosh(level_NCHW))
    of_light_NCHW = LOPSIDED * torch.tanh(level_NCHW)
    expected_NCHW = noise_NCHW.square_().mul_(2).addcmul_(of_light_NCHW, of_light_NCHW).sqrt_()
    ratio_NCHW = (x_NCHW - turned_NCHW).div_(expected_NCHW)
    return _arcsinh(ratio_NCHW.masked_fill_(~known_NCHW, 0.0).div_(2))


def _arcsinh(x_NCHW: torch.Tensor) -> torch.Tensor:
    """Return arcsinh(x) = ±log1p(|x| + x² / (1 + √(1 + x²))), good to rounding.

    On a CPU torch's own takes each number by itself, and six times as long.
    """
    size_NCHW = x_NCHW.abs()
    # √(1 + x²) without the square, which would overflow.
    root_NCHW = torch.hypot(size_NCHW, torch.ones_like(size_NCHW[:1, :1, :1, :1]))
    size_NCHW.addcmul_(size_NCHW, size_NCHW / root_NCHW.add_(1))
    return size_NCHW.log1p_().copysign_(x_NCHW)


def _border(stamps_NCHW: torch.Tensor) -> torch.Tensor:
    """Return the pixels of the stamps' frame, (N, C, pixels)."""
    height, width = stamps_NCHW.shape[-2:]
    thick = max(2, round(BORDER_FRACTION * min(height, width)))
    inside = slice(thick, height - thick)
    return torch.cat(
        [
            stamps_NCHW[..., :thick, :].flatten(2),
            stamps_NCHW[..., height - thick :, :].flatten(2),
            stamps_NCHW[..., inside, :thick].flatten(2),
            stamps_NCHW[..., inside, width - thick :].flatten(2),
        ],
        dim=2,
    )


def _border_with_nan(image_NCHW: torch.Tensor, good_NCHW: torch.Tensor) -> torch.Tensor:
    return torch.where(_border(good_NCHW), _border(image_NCHW), torch.nan)


def _border_median(image_NCHW: torch.Tensor, good_NCHW: torch.Tensor) -> torch.Tensor:
    """Median of the frame's good pixels (N, C); 0 where there is none."""
    return _nanmedian(_border_with_nan(image_NCHW, good_NCHW)).nan_to_num(nan=0.0)


def _border_sigma(image_NCHW: torch.Tensor, good_NCHW: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the frame's good pixels by the MAD (N, C); NaN where none is good."""
    frame_NCP = _border_with_nan(image_NCHW, good_NCHW)
    median_NC1 = _nanmedian(frame_NCP)[..., None]
    return MAD_TO_SIGMA * _nanmedian((frame_NCP - median_NC1).abs())


def _nanmedian(x_NCP: torch.Tensor) -> torch.Tensor:
    """Return the (lower) median of what is not NaN, (N, C); NaN where all is.

    On a CPU numpy's selection takes an eighth of the time; it knows nothing of NaN, so that rows
    with some are left to torch.
    """
    if x_NCP.device.type != "cpu" or x_NCP.shape[2] == 0:
        return x_NCP.nanmedian(dim=2).values
    middle = (x_NCP.shape[2] - 1) // 2
    median_NC = torch.from_numpy(np.partition(x_NCP.numpy(), middle, axis=2)[..., middle])
    some_NC = x_NCP.sum(dim=2).isnan()
    median_NC[some_NC] = x_NCP[some_NC].nanmedian(dim=1).values
    return median_NC


class _Moments:
    """Sums for the mean image and the standard deviation of the set, in float64."""

    def __init__(self) -> None:
        self.count_CHW = self.sum_CHW = self.squares_CHW = torch.zeros(())

    def add(self, image_NCHW: torch.Tensor, good_NCHW: torch.Tensor) -> None:
        x_NCHW = torch.where(good_NCHW, image_NCHW, 0).double()
        self.count_CHW = self.count_CHW + good_NCHW.sum(dim=0)
        self.sum_CHW = self.sum_CHW + x_NCHW.sum(dim=0)
        self.squares_CHW = self.squares_CHW + (x_NCHW**2).sum(dim=0)

    def mean_CHW(self) -> torch.Tensor:
        return self.sum_CHW / self.count_CHW.clamp(min=1)

    def sigma_C(self) -> torch.Tensor:
        """Standard deviation of a band's pixels about the mean image."""
        if self.count_CHW.dim() == 0:
            return torch.zeros(0)
        about_mean_CHW = self.squares_CHW - self.count_CHW * self.mean_CHW() ** 2
        total_C = self.count_CHW.sum(dim=(1, 2))
        return (about_mean_CHW.sum(dim=(1, 2)).clamp(min=0) / total_C.clamp(min=1)).sqrt()

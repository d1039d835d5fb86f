"""One model, or several that vote: what they take, and what their mean logit means."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lensfinder import checkpoint
from lensfinder.errors import MismatchError, RequestError
from lensfinder.infer import forward
from lensfinder.model import Model, Spec


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Models that take the same stamps.

    Attributes
    ----------
    members : tuple of Model
    model_id : str
        The only member's, or the sha256 of all of theirs, in whatever order they were given.
    """

    members: tuple[Model, ...]
    model_id: str

    @property
    def spec(self) -> Spec:
        """What data all members take."""
        return self.members[0].spec

    @property
    def temperature(self) -> float:
        """What divides the mean logit: the harmonic mean of the members' temperatures.

        Where these are equal, the quotient is the mean of the members' calibrated log-odds.
        """
        return len(self.members) / sum(1 / member.temperature for member in self.members)

    @property
    def training_prevalence(self) -> float:
        """Prevalence at the mean log-odds of the members' prevalences, as for the logits."""
        shares = [member.training_prevalence for member in self.members]
        if len(shares) == 1 or not all(0 < share < 1 for share in shares):
            return shares[0]
        log_odds = sum(math.log(share / (1 - share)) for share in shares) / len(shares)
        return 1 / (1 + math.exp(-log_odds))

    def scores(self, logit_N: NDArray[np.floating]) -> NDArray[np.float32]:
        """Turn mean logits into probabilities of a lens at the training prevalence, (N,)."""
        with np.errstate(over="ignore"):
            odds_against = np.exp(-np.asarray(logit_N, np.float64) / self.temperature)
        return (1 / (1 + odds_against)).astype(np.float32)

    def seen_in_training(
        self, ra_deg_N: NDArray[np.float64], dec_deg_N: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Flag targets within 1 arcsec of a galaxy that trained any member, (N,)."""
        seen = [member.seen_in_training(ra_deg_N, dec_deg_N) for member in self.members]
        found: NDArray[np.bool_] = np.logical_or.reduce(seen)
        return found

    def noise_over_training(
        self, image_NCHW: NDArray[np.float32], mask_NCHW: NDArray[np.uint8]
    ) -> list[NDArray[np.float32]]:
        """Compare the noise of each stamp with the first member's training stamps, (C,) each.

        Nothing for models whose pixels have no noise as their unit.
        """
        member = self.members[0]
        ratio_NC = member.transform.noise_over_fitted(
            torch.as_tensor(np.ascontiguousarray(image_NCHW)),
            torch.as_tensor(np.ascontiguousarray(mask_NCHW)),
        )
        return [] if ratio_NC is None else list(ratio_NC.numpy())

    @property
    def psf_fwhm_arcsec(self) -> dict[str, float]:
        """Median FWHM by band of the stamps that trained the first member; empty if not known."""
        known = self.members[0].provenance.get("psf_fwhm_arcsec")
        return {b: float(w) for b, w in known.items()} if isinstance(known, dict) else {}


def load(paths: Sequence[Path], *, verify: bool = True) -> Ensemble:
    """Open model files.

    Raises
    ------
    RequestError
        If one is missing, damaged, or not a model, or given twice: its vote would count double.
    MismatchError
        If the members take different stamps, or golden logits differ.
    """
    members = tuple(checkpoint.load(path, verify=verify) for path in paths)
    first = members[0]
    known: dict[str, Path] = {}
    for path, member in zip(paths, members, strict=True):
        if (same := known.setdefault(member.model_id, path)) is not path:
            raise RequestError(f"{path} is the model that {same} is", "each model once")
        differing = [
            f"{name} {getattr(member.spec, name)} and {getattr(first.spec, name)}"
            for name in ("bands", "size", "pixel_scale_arcsec", "stretched")
            if getattr(member.spec, name) != getattr(first.spec, name)
        ]
        if differing:
            raise MismatchError(
                f"{path} and {paths[0]} take different stamps: {'; '.join(differing)}",
                "models of one kind of stamp in an ensemble",
            )
    return Ensemble(members, identity([member.model_id for member in members]))


def identity(model_ids: Sequence[str]) -> str:
    """Name an ensemble after its members."""
    if len(model_ids) == 1:
        return model_ids[0]
    return hashlib.sha256("\n".join(sorted(model_ids)).encode()).hexdigest()


@lru_cache(maxsize=1)
def prepared(
    paths: tuple[str, ...], model_id: str, *, half: bool, compiled: bool
) -> tuple[Ensemble, tuple[str, ...]]:
    """Load and prepare models once a process.

    Returns
    -------
    ensemble : Ensemble
        Its members' networks are made for speed, so that only `model_id` still names them.
    notices : tuple of str

    Raises
    ------
    MismatchError
        If a file is no longer the one that the run was planned with.
    """
    ensemble = load([Path(path) for path in paths])
    if ensemble.model_id != model_id:
        raise MismatchError(
            f"{', '.join(paths)} is now model {ensemble.model_id[:12]}",
            f"{model_id[:12]} as planned",
        )
    made = [forward.prepare(member, half=half, compiled=compiled) for member in ensemble.members]
    notices = dict.fromkeys(word for _, said in made for word in said)
    return Ensemble(tuple(model for model, _ in made), model_id), tuple(notices)

"""Real images that mocks can be made with: galaxies as sources, PSFs, pieces of sky. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lensfinder.simulate.families import Row
from lensfinder.simulate.population import generator
from lensfinder.simulate.psfs import PsfImages
from lensfinder.simulate.sources import SourceImages


@dataclass(frozen=True)
class Material:
    """Real images to make mocks with.

    Attributes
    ----------
    sources : galaxies that stand in for modelled sources, or None
    source_re_arcsec : (S,) half-light radius of each
    psf : PSF images of the survey's bands, or None
    psf_fwhm_arcsec : (P, C) of each
    sky_PCYX : pieces of sky with level 0, nJy, or None
    notices : what was left out
    """

    sources: SourceImages | None
    source_re_arcsec: np.ndarray
    psf: PsfImages | None
    psf_fwhm_arcsec: np.ndarray
    sky_PCYX: np.ndarray | None
    notices: tuple[str, ...]

    @cached_property
    def source_ids(self) -> tuple[str, ...]:
        """Names of the source images by their pixels, the same wherever their files lie."""
        images_SYX = () if self.sources is None else self.sources.images_SYX
        digests = (hashlib.sha256(np.float32(image_YX).tobytes()) for image_YX in images_SYX)
        return tuple(f"source-image-{digest.hexdigest()[:16]}" for digest in digests)

    def sources_of(self, split: str, val_fraction: float, test_fraction: float) -> np.ndarray:
        """Which source images belong to a split, one at least where it takes part.

        Images stand in an order of their own, by their pixels: test has the first of them, val the
        last. Where there are fewer images than splits, none; `simulate` refuses that beforehand.
        """
        count = len(self.source_ids)
        if count == 0:
            return np.zeros(0, dtype=int)
        order = np.argsort(self.source_ids)
        shares = {"test": test_fraction, "val": val_fraction}
        taken = {name: max(round(share * count), 1) * (share > 0) for name, share in shares.items()}
        kept = count - sum(taken.values())
        if kept < 1:
            return order[:0]
        first = taken["test"]
        parts = {"test": order[:first], "train": order[first : first + kept]}
        return parts.get(split, order[first + kept :])

    def choose(
        self, row: Row, bands: Sequence[str], seed: int, index: int, usable: np.ndarray
    ) -> None:
        """Give a mock its source image and PSF, in place.

        An image is scaled to the half-light radius that was drawn for the source.

        Parameters
        ----------
        usable : images of the mock's split
        """
        rng = generator(seed, 10, index)
        # All are drawn, so that what one mock gets does not depend on what else is given.
        of_source, of_psf = rng.random(2)
        if self.sources is not None and len(usable) and row["kind"] == "lens":
            which = int(usable[int(of_source * len(usable))])
            pixel = self.sources.pixel_arcsec[which] / self.source_re_arcsec[which]
            row["source_stamp"] = which
            row["source_stamp_pixel_arcsec"] = float(pixel) * float(row["source_re_arcsec"])
            for name in row:
                if name in ("source_n", "source_q") or name.startswith("clump_"):
                    row[name] = math.nan
        if self.psf is not None:
            row["psf_index"] = float(int(of_psf * len(self.psf)))
            self.measure(row, bands)

    def measure(self, row: Row, bands: Sequence[str]) -> None:
        """Write the widths of a mock's PSF image, in place; the first where it names none."""
        if self.psf is not None:
            index = float(row["psf_index"])
            which = 0 if math.isnan(index) else int(index)
            for band, fwhm in zip(bands, self.psf_fwhm_arcsec[which], strict=True):
                row[f"psf_fwhm_{band}_arcsec"] = float(fwhm)

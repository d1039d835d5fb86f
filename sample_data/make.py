"""Write the sample sky: two overlapping KiDS-like tiles with ten planted strong lenses.

    python sample_data/make.py                 # write everything beside this script
    python sample_data/make.py --output DIR    # ... or below DIR
    python sample_data/make.py --check         # prove that what stands there is what this writes

Written, all from one seed:

- ``tiles/KiDS_DR4.0_<RA>_<DEC>_<band>_{sci,wei,msk}.fits`` in g, r, i: fluxes with AB zero point 0,
  weights 1/variance of the sky (0 where there are no data), masks with the bits of KiDS DR4. The
  science images of the second tile are RICE-compressed; weights and masks always are compressed;
- ``targets.csv``: what a survey catalogue would list, the galaxies brighter than r = 21.5;
- ``lenses.csv``: the planted lenses, with the ids that they have among the targets.

The sky is invented; depth, PSF, masks and names are those of KiDS. It is denser in bright galaxies
than a real field, so that two small tiles hold enough to rank. Noise is white: the sky's rms plus
the shot noise of the sources at an estimated gain. This script shares no code with the package: the
lenses that the quickstart finds are not drawn by the simulator that trained its network.
"""

import argparse
import csv
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter
from sky import (
    BANDS,
    PIXEL_ARCSEC,
    PSF_FWHM_ARCSEC_B,
    SKY_RMS_B,
    STAR_MAG_B,
    STAR_RADEC,
    Array,
    Glow,
    Row,
    draw_scene,
    render,
)

SEED = 20180321
SHAPE_YX = (800, 816)  # not square, so that swapped axes show
# Electrons per unit of flux, estimated from exposure times (900, 1800, 1200 s) and the VST's
# throughput: the counts they imply agree with SKY_RMS_B.
GAIN_B = np.array([1.9e13, 2.9e13, 1.2e13])

# Pixels are rounded far below the noise, so that another CPU's last bit does not change a file;
# powers of two are exact in float32.
QUANTUM = 2.0**-45
RICE_QUANTUM = 2.0**-42  # 0.13 of the sky's rms in r

READOUT, SATURATED, SPIKE, HALO, BAD = 1, 2, 4, 8, 64  # mask bits of KiDS DR4
SATURATION_B = np.array([2.2e-8, 2.5e-8, 4.0e-8])
CORE_PIX, HALO_PIX, SPIKE_PIX, BLEED_PIX = 9, 90, 130, 60
LENS_MARGIN_PIX = 40  # 8 arcsec: unmasked around every lens


@dataclass(frozen=True)
class Tile:
    """One tile: centre (deg), its reference pixel (1-based), and its flaws in pixels."""

    ra: float
    dec: float
    crpix: tuple[float, float]
    compressed: bool
    bad_columns: list[int]
    gap: tuple[slice, slice]  # (y, x) where two of five exposures are missing
    empty: tuple[slice, slice]  # (y, x) without data

    @property
    def name(self) -> str:
        return f"KiDS_DR4.0_{self.ra:.3f}_{self.dec:.3f}"

    def header(self) -> fits.Header:
        """Gnomonic, north up, east to the left, as KiDS tiles are."""
        header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "RADESYS": "ICRS"})
        header.update({"CRVAL1": self.ra, "CRVAL2": self.dec, "CUNIT1": "deg", "CUNIT2": "deg"})
        header.update({"CRPIX1": self.crpix[0], "CRPIX2": self.crpix[1]})
        header.update({"CD1_1": -PIXEL_ARCSEC / 3600, "CD2_2": PIXEL_ARCSEC / 3600})
        header["INSTRUME"] = ("NONE", "synthetic: written by sample_data/make.py")
        return header

    @cached_property
    def wcs(self) -> WCS:
        return WCS(self.header())

    def pixels(self, radec_N2: Array) -> Array:
        """Sky positions (deg) → 0-based pixels (x, y)."""
        return np.asarray(self.wcs.wcs_world2pix(radec_N2, 0))

    def holds(self, at_YX: NDArray[np.bool_], radec: Array) -> bool:
        """Whether a position lies in the tile, and there on a True pixel."""
        x, y = np.round(self.pixels(radec[None])[0]).astype(int)
        return 0 <= y < SHAPE_YX[0] and 0 <= x < SHAPE_YX[1] and bool(at_YX[y, x])

    @cached_property
    def star_xyr(self) -> tuple[Array, Array, Array]:
        """Each pixel's offset from the saturated star along x and y, and its distance."""
        x, y = self.pixels(np.array([STAR_RADEC]))[0]
        dy, dx = np.mgrid[: SHAPE_YX[0], : SHAPE_YX[1]] - np.array([y, x])[:, None, None]
        return dx, dy, np.hypot(dx, dy)

    @cached_property
    def mask_YX(self) -> NDArray[np.int32]:
        """KiDS mask bits, the same in all bands."""
        dx, dy, r = self.star_xyr
        mask = np.zeros(SHAPE_YX, np.int32)
        mask[(np.abs(dx) <= 2) & (np.abs(dy) <= BLEED_PIX)] |= READOUT
        mask[r <= CORE_PIX] |= SATURATED
        mask[(np.abs(np.abs(dx) - np.abs(dy)) <= 6) & (r <= SPIKE_PIX)] |= SPIKE
        mask[r <= HALO_PIX] |= HALO
        mask[:, self.bad_columns] |= BAD
        return mask

    @cached_property
    def coverage_YX(self) -> Array:
        """Fraction of the exposures that reach each pixel: less at the edges and in the gap."""
        coverage = np.pad(np.ones((SHAPE_YX[0] - 20, SHAPE_YX[1] - 20)), 10, constant_values=0.6)
        coverage[self.gap] = 0.6
        coverage[self.empty] = 0.0
        coverage[:, self.bad_columns] = 0.0
        return coverage


TILES = (
    Tile(180.0, -0.5, (408.5, 400.5), False, [178, 179, 741], np.s_[:, 262:280], np.s_[:0, :]),
    Tile(180.037, -0.5, (410.2, 398.9), True, [505], np.s_[330:346, :], np.s_[:14, :]),
)


def observe(tile: Tile, scene: list[Glow], rng: np.random.Generator) -> Array:
    """The tile as delivered (band, y, x): light, what a saturated star leaves, noise."""
    flux_BYX = render(scene, tile.pixels(np.array([glow.radec for glow in scene])), SHAPE_YX)
    dx, dy, r = tile.star_xyr
    aureole = 5e-11 / (1 + (r / 20) ** 2) * np.exp(-((r / HALO_PIX) ** 4))
    ghost = 4e-12 * np.exp(-((r / (HALO_PIX - 8)) ** 20))
    spikes = 4e-10 / (1 + (r / 12) ** 2) * np.exp(-((np.abs(dx) - np.abs(dy)) ** 2) / 6)
    extra_YX = aureole + ghost + spikes * (r <= SPIKE_PIX)
    flux_BYX += 10 ** (-0.4 * (STAR_MAG_B - STAR_MAG_B[1]))[:, None, None] * extra_YX
    bleed = (np.abs(dx) <= 1) & (np.abs(dy) <= BLEED_PIX)
    full_B11 = SATURATION_B[:, None, None]
    flux_BYX = np.clip(flux_BYX, np.where(bleed, 0.4 * full_B11, 0), full_B11)
    seen = np.maximum(tile.coverage_YX, 0.2)  # bad columns hold junk, not nothing
    variance_BYX = (SKY_RMS_B[:, None, None] ** 2 + flux_BYX / GAIN_B[:, None, None]) / seen
    flux_BYX += rng.standard_normal(flux_BYX.shape) * np.sqrt(variance_BYX)
    flux_BYX[:, :, tile.bad_columns] += 15 * SKY_RMS_B[:, None, None]
    flux_BYX[(slice(None), *tile.empty)] = 0
    return np.round(flux_BYX / QUANTUM) * QUANTUM


# Files ------------------------------------------------------------------------------------------


def write_tile(tile: Tile, glows: list[Glow], rng: np.random.Generator, folder: Path) -> None:
    """Science, weight and mask of every band; compressed images stand in the first extension."""
    flux_BYX = observe(tile, glows, rng).astype(np.float32)
    for b, band in enumerate(BANDS):
        header = tile.header()
        header["FILTER"] = band
        header["GAIN"] = (GAIN_B[b], "electrons per unit of flux")
        header["PSF_FWHM"] = (PSF_FWHM_ARCSEC_B[b], "arcsec, Moffat, with the pixel's response")
        weight_YX = (tile.coverage_YX / SKY_RMS_B[b] ** 2).astype(np.float32)
        lossless = {"compression_type": "GZIP_2", "quantize_level": 0}
        # A negative level is the step itself: no noise estimate that could vary. The second
        # dither keeps zeros, which say that there are no data.
        rice = {
            "quantize_level": -RICE_QUANTUM,
            "quantize_method": fits.hdu.compressed.SUBTRACTIVE_DITHER_2,
            "dither_seed": 1,
        }
        sci = fits.PrimaryHDU(flux_BYX[b], header)
        if tile.compressed:
            sci = fits.CompImageHDU(flux_BYX[b], header, compression_type="RICE_1", **rice)
        wei = fits.CompImageHDU(weight_YX, header, **lossless)
        msk = fits.CompImageHDU(tile.mask_YX, header, compression_type="RICE_1")
        for kind, hdu in (("sci", sci), ("wei", wei), ("msk", msk)):
            path = folder / f"{tile.name}_{band}_{kind}.fits"
            first = [] if isinstance(hdu, fits.PrimaryHDU) else [fits.PrimaryHDU()]
            fits.HDUList([*first, hdu]).writeto(path, overwrite=True)


def write_table(path: Path, rows: list[Row]) -> None:
    """CSV ordered by id, so that the order tells nothing about the kind."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: str(row["id"])))


def name_of(radec: Array) -> str:
    """A name from the position, as surveys give them: KIDSJhhmmss.ss-ddmmss.s."""
    sky = SkyCoord(*radec, unit="deg")
    ra = sky.ra.to_string(unit="hour", sep="", precision=2, pad=True)
    return f"KIDSJ{ra}{sky.dec.to_string(sep='', precision=1, pad=True, alwayssign=True)}"


def make(folder: Path) -> None:
    """Write tiles and tables below ``folder``."""
    size = 2 * LENS_MARGIN_PIX + 1
    safe = [minimum_filter(tile.mask_YX == 0, size, mode="constant", cval=0) for tile in TILES]
    allowed = list(zip(TILES, safe, strict=True))
    scene = draw_scene(SEED, lambda radec: sum(t.holds(at_YX, radec) for t, at_YX in allowed))
    (folder / "tiles").mkdir(parents=True, exist_ok=True)
    for k, tile in enumerate(TILES):
        write_tile(tile, scene.glows, np.random.default_rng([SEED, k]), folder / "tiles")
    target_rows: list[Row] = []
    lens_rows: list[Row] = []
    for k, glows in enumerate(scene.targets):
        radec = glows[0].radec
        row: Row = {"id": name_of(radec), "ra": float(radec[0]), "dec": float(radec[1])}
        if k < len(scene.truths):
            lens_rows.append(row | scene.truths[k])
        # A catalogue's magnitude is that of the whole blend, arcs included.
        for band, flux in zip(BANDS, np.sum([glow.flux_B for glow in glows], axis=0), strict=True):
            row[f"mag_{band}"] = round(float(-2.5 * np.log10(flux)), 3)
        if any(tile.holds(tile.coverage_YX > 0, radec) for tile in TILES):
            target_rows.append(row)
    write_table(folder / "targets.csv", target_rows)
    write_table(folder / "lenses.csv", lens_rows)


def differences(found: Path, made: Path) -> list[str]:
    """What distinguishes the files below ``found`` from freshly made ones, one line a file."""
    products = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    strangers = {path.relative_to(found) for path in found.glob("tiles/*")} - products
    lines = [f"{name}: not written by make.py" for name in sorted(strangers)]
    for name in sorted(products):
        if not (found / name).is_file():
            lines.append(f"{name}: missing")
        elif name.suffix == ".fits":
            lines += [f"{name}: {what}" for what in fits_differences(found / name, made / name)]
        elif (found / name).read_bytes() != (made / name).read_bytes():
            lines.append(f"{name}: another table")
    return lines


def fits_differences(found: Path, made: Path) -> list[str]:
    """Headers must be equal, pixels too within the step to which they were rounded."""
    with fits.open(found) as old, fits.open(made) as new:
        if len(old) != len(new) or old[-1].header.tostring() != new[-1].header.tostring():
            return ["another header"]
        step = RICE_QUANTUM if isinstance(new[-1], fits.CompImageHDU) else QUANTUM
        if not made.stem.endswith("_sci"):
            step = 0.0  # weights and masks are exact
        worst = np.abs(old[-1].data.astype(float) - new[-1].data).max()
        # A tenth more: decoded RICE pixels carry float32 rounding of their own.
        return [] if worst <= 1.1 * step else [f"pixels differ by up to {worst:.3g}"]


def main() -> int:
    """Command line: 0 when written or proven, 1 when --check found a difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    if not options.check:
        make(options.output)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        lines = differences(options.output, Path(folder))
    for line in lines:
        print(line, file=sys.stderr)
    print(f"{len(lines)} files differ" if lines else "the files are what make.py writes")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

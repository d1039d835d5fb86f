"""From truth rows to images: scene, PSF, pixels, noise, in fixed chunks by object index.

The last bit of an elementwise result depends on the shape of its batch. A chunk always holds the
same 64 consecutive objects, so that an object's pixels don't depend on how work was shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import backends, noise, observe, scene, sersics
from lensfinder.simulate import light as profiles
from lensfinder.simulate.backends import Kernels
from lensfinder.simulate.families import Row
from lensfinder.simulate.grid import Columns, FineGrid
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.sersics import Galaxies

CHUNK = 64
# Of which at most so many planes are worked on at a time: they stay in a core's cache.
_BLOCK = 16
# Samples along the side of a cell near the centre of a host, and of what is near it.
_HOST_REFINEMENT, _NEIGHBOUR_REFINEMENT = 5, 3


@dataclass(frozen=True)
class Rendered:
    """Noiseless images of a chunk, float32, nJy, and what was measured on them.

    Attributes
    ----------
    background_NCHW : hosts and surroundings
    feature_NCHW : lensed sources of positives; companions, rings, arms of negatives
    truth : columns of length N: source_snr, magnification, image_separation_arcsec,
        mag_source_<band> (unlensed); NaN for negatives
    """

    background_NCHW: np.ndarray
    feature_NCHW: np.ndarray
    truth: dict[str, np.ndarray]


def render(
    rows: Sequence[Row],
    surroundings: Sequence[dict[str, np.ndarray]],
    observation: Observation,
    dtype: torch.dtype = torch.float32,
) -> Rendered:
    """Render a chunk without noise.

    Parameters
    ----------
    rows : up to 64 truth rows with their conditions (psf_fwhm_<band>_arcsec, sky_rms_<band>_njy)
    surroundings : of each row, as from `population.draw_surroundings`
    dtype : of the computation; float64 for checks

    Raises
    ------
    ValueError
        for more rows than a chunk holds, or none; for float64 of compiled kernels
    """
    if observation.compiled and dtype != torch.float32:
        raise ValueError(f"compiled kernels are float32; dtype is {dtype}")
    kernels = backends.chosen(compiled=observation.compiled)
    n = len(rows)
    if not 0 < n <= CHUNK:
        raise ValueError(f"{n} rows; a chunk holds 1 to {CHUNK}")
    # A plain grid is for checks: there, a short chunk need not cost as much as a whole one.
    count = n if observation.supersampling is not None else CHUNK
    filled = list(rows) + [rows[0]] * (count - n)
    nearby = list(surroundings) + [surroundings[0]] * (count - n)
    table = Table.of(filled, dtype)
    needed = observation.grids_needed(_sharpest_fwhm(table.columns, observation))
    shape = (count, len(observation.bands), observation.size, observation.size)
    background = np.empty(shape, np.float64 if dtype == torch.float64 else np.float32)
    feature = np.empty_like(background)
    truth = {name: np.full(count, np.nan) for name in _truth_names(observation.bands)}
    for points in np.unique(needed).tolist():
        alike = np.flatnonzero(needed == points)
        part = _render_alike(
            table.take(alike), [nearby[i] for i in alike], observation, points, kernels
        )
        background[alike], feature[alike] = part.background_NCHW, part.feature_NCHW
        for name, values in part.truth.items():
            truth[name][alike] = values
    lenses = np.flatnonzero(table.kinds == "lens")
    if len(lenses):
        separation = kernels.image_separation_arcsec(table.take(lenses).columns)
        truth["image_separation_arcsec"][lenses] = separation.double().numpy()
    return Rendered(
        background[:n], feature[:n], {name: values[:n] for name, values in truth.items()}
    )


@dataclass(frozen=True)
class Table:
    """Rows as tensors, and the kind of each."""

    columns: Columns
    kinds: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row], dtype: torch.dtype) -> Table:
        names = [name for name, value in rows[0].items() if not isinstance(value, str)]
        table = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)
        columns = Columns(dict(zip(names, table.T.contiguous().to(dtype), strict=True)))
        return cls(columns, np.array([row["kind"] for row in rows]))

    def take(self, rows: np.ndarray) -> Table:
        """Some of the rows."""
        return Table(self.columns.take(torch.from_numpy(rows)), self.kinds[rows])


def _truth_names(bands: tuple[str, ...]) -> list[str]:
    measured = ["source_snr", "magnification", "image_separation_arcsec"]
    return measured + [f"mag_source_{band}" for band in bands]


def _sharpest_fwhm(c: Columns, observation: Observation) -> np.ndarray:
    """FWHM of the sharpest PSF of each mock in any band and exposure, arcsec."""
    if observation.psf_images is not None:
        images = observation.psf_images.fwhm_arcsec(observation.pixel_scale_arcsec)
        index = c.get("psf_index", 0).long().numpy()
        sharpest: np.ndarray = images.min(axis=1)[index]
        return sharpest
    widths = [
        torch.nan_to_num(value, nan=torch.inf)
        for name, value in c.values.items()
        if name.startswith("psf_fwhm_") and name.endswith("_arcsec")
    ]
    return torch.stack(widths).min(dim=0).values.double().numpy()


def _render_alike(
    table: Table,
    surroundings: Sequence[dict[str, np.ndarray]],
    observation: Observation,
    points: int,
    kernels: Kernels,
) -> Rendered:
    """Render those of a chunk that need the same grid."""
    columns = table.columns
    grid = observation.grid(points, columns["dx"].dtype)
    scale, bands = observation.pixel_scale_arcsec, observation.bands
    x = columns["dx"] * scale + columns["centre_x_arcsec"]
    y = columns["dy"] * scale + columns["centre_y_arcsec"]

    sky_rms_NC = torch.stack([columns[f"sky_rms_{b}_njy"] for b in bands], dim=1)
    light = Galaxies.join(
        _hosts(columns, x, y, bands) + _neighbours(columns, surroundings, sky_rms_NC, scale)
    )
    lit = (light.flux_RC > 0).any(dim=1)
    galaxies = kernels.prepare(light.take(lit & (light.shape[0] > 0)), grid)
    stars = light.take(lit & (light.shape[0] == 0))
    features = []
    for draw, of in _FEATURES:
        rows = torch.from_numpy(np.flatnonzero(np.isin(table.kinds, of)))
        if len(rows):
            mine = columns.take(rows)
            image = draw(grid, mine, x[rows], y[rows], observation, kernels)
            features.append((rows, image, _relative_colours(mine, bands, image.shape[1])))

    n_fine = len(grid.axis_arcsec)
    background_NCHW = torch.empty(
        len(x), len(bands), observation.size, observation.size, dtype=x.dtype
    )
    unit_NCHW = torch.zeros_like(background_NCHW)
    psf = Columns({k: v for k, v in columns.values.items() if k == "dx" or k.startswith("psf_")})
    for first in range(0, len(x), _BLOCK):
        block = torch.arange(first, min(first + _BLOCK, len(x)))
        otf_NCFH = observe.transfer_function(psf.take(block), observation, grid, points)
        scene_NCFF = torch.zeros(len(block), len(bands), n_fine, n_fine, dtype=x.dtype)
        kernels.draw(scene_NCFF, grid, galaxies, first)
        sersics.add_points(scene_NCFF, grid, stars, first)
        background_NCHW[first : first + len(block)] = _observed(
            scene_NCFF, otf_NCFH, observation, points
        )
        for rows, image, relative in features:
            begin, end = torch.searchsorted(rows, torch.tensor([first, first + _BLOCK])).tolist()
            if begin < end:
                these = rows[begin:end]
                otf = otf_NCFH if len(these) == len(block) else otf_NCFH[these - first]
                fft = _spectrum(image[begin:end], relative[begin:end])
                unit_NCHW[these] = observation.stamp(observe.convolve_and_sample(fft, otf, points))
    magnification = torch.full_like(x, torch.nan)
    if (table.kinds == "lens").any():
        rows, image, _ = features[0]
        magnification[rows] = image.sum(dim=(1, 2, 3))
    flux_NC, snr = _feature_flux(columns, unit_NCHW, observation)

    truth = {"source_snr": snr, "magnification": magnification}
    whole_NC = flux_NC * _whole_over_smooth(columns, bands)
    for band, flux in zip(bands, whole_NC.T, strict=True):
        truth[f"mag_source_{band}"] = 31.4 - 2.5 * torch.log10(flux)
    is_lens = torch.from_numpy(table.kinds == "lens")
    unit_NCHW *= flux_NC[:, :, None, None]
    return Rendered(
        background_NCHW.numpy(),
        unit_NCHW.numpy(),
        {
            name: torch.where(is_lens, value, torch.nan).double().numpy()
            for name, value in truth.items()
        },
    )


def _lensed_source(
    grid: FineGrid, c: Columns, x: Tensor, y: Tensor, observation: Observation, kernels: Kernels
) -> Tensor:
    return kernels.lensed_source(grid, c, x, y, observation.sources)


def _companions(
    grid: FineGrid, c: Columns, x: Tensor, y: Tensor, observation: Observation, kernels: Kernels
) -> Tensor:
    return scene.companions(grid, c, x, y, kernels.prepare, kernels.draw)[:, None]


def _unlensed(draw: Callable[[FineGrid, Columns, Tensor, Tensor], Tensor]) -> _Draw:
    return lambda grid, c, x, y, observation, kernels: draw(grid, c, x, y)[:, None]


# Gives R features of P parts, (R, P, F, F); the parts differ in colour.
_Draw = Callable[[FineGrid, Columns, Tensor, Tensor, Observation, Kernels], Tensor]
_FEATURES: tuple[tuple[_Draw, tuple[str, ...]], ...] = (
    (_lensed_source, ("lens",)),
    (_companions, ("companions",)),
    (_unlensed(scene.rings), ("ring",)),
    (_unlensed(scene.arms), ("spiral",)),
)


def _relative_colours(c: Columns, bands: tuple[str, ...], parts: int) -> Tensor:
    """Flux of each part of a feature in each band over that in r, relative to the first, (R, P, C).

    The second part of a source are its clumps; where nothing is said they have its colours.
    """
    relative = torch.ones(len(c["dx"]), parts, len(bands), dtype=c["dx"].dtype)
    if parts > 1:
        for b, band in enumerate(bands):
            bluer = c[f"feature_{band}_minus_r"] - c.get(f"clump_{band}_minus_r", math.nan)
            relative[:, 1, b] = torch.nan_to_num(torch.exp(bluer * (0.4 * math.log(10))), nan=1.0)
    return relative


def _whole_over_smooth(c: Columns, bands: tuple[str, ...]) -> Tensor:
    """Flux of a source in each band over what it would be in the colours of its smooth part."""
    count = c.count("clump_{}_fraction")
    share = sum((c.get(f"clump_{k + 1}_fraction", 0.0) for k in range(count)), c["dx"] * 0)
    return 1 + share[:, None] * (_relative_colours(c, bands, 2)[:, 1] - 1)


def _spectrum(image_RPFF: Tensor, relative_RPC: Tensor) -> Tensor:
    """Transform of a feature's parts, each in its colours, (R, C, F, H); (R, 1, F, H) if grey."""
    first: Tensor = torch.fft.rfft2(image_RPFF[:, :1])
    if image_RPFF.shape[1] == 1:
        return first
    # Few sources have a second part.
    both = image_RPFF[:, 1].flatten(1).any(dim=1)
    if not both.any():
        return first
    mixed: Tensor = first.repeat(1, relative_RPC.shape[2], 1, 1)
    mixed[both] += torch.fft.rfft2(image_RPFF[both, 1:]) * relative_RPC[both, 1, :, None, None]
    return mixed


def _observed(
    scene_NCFF: Tensor, otf_NCFH: Tensor, observation: Observation, points: int
) -> Tensor:
    fft = torch.fft.rfft2(scene_NCFF)
    return observation.stamp(observe.convolve_and_sample(fft, otf_NCFH, points))


def _hosts(c: Columns, x: Tensor, y: Tensor, bands: tuple[str, ...]) -> list[Galaxies]:
    """Bulge, disc and partner of each mock, also those without light."""
    nothing, exponential = torch.zeros_like(x), torch.ones_like(x)
    rows = torch.arange(len(x))
    return [
        Galaxies(
            rows,
            x + dx,
            y + dy,
            (c[f"{part}_re_arcsec"], n, c[f"{part}_q"], c.phi(f"{part}_pa_deg")),
            scene.flux_njy(torch.stack([c[f"mag_{part}_{b}"] for b in bands], dim=1)),
            _all_but_exponentials(n, c[f"{part}_re_arcsec"], c[f"{part}_q"]),
            torch.full_like(rows, _HOST_REFINEMENT),
        )
        for part, dx, dy, n in (
            ("bulge", nothing, nothing, c["bulge_n"]),
            ("disc", nothing, nothing, exponential),
            ("partner", c["partner_x_arcsec"], c["partner_y_arcsec"], c["partner_n"]),
        )
    ]


def _all_but_exponentials(n: Tensor, r_e_arcsec: Tensor, q: Tensor) -> Tensor:
    """How far hosts reach, arcsec: an exponential holds 2e-5 of its flux beyond 8 r_e."""
    return torch.where(n <= 1, 8 * r_e_arcsec / torch.sqrt(q), torch.inf)


def _neighbours(
    c: Columns,
    surroundings: Sequence[dict[str, np.ndarray]],
    sky_rms_NC: Tensor,
    pixel_scale_arcsec: float,
) -> list[Galaxies]:
    """The field objects of each mock, if there are any."""
    rows = torch.tensor([i for i, f in enumerate(surroundings) for _ in f["x_arcsec"]]).long()
    if len(rows) == 0:
        return []
    joined = {
        name: torch.from_numpy(np.concatenate([f[name] for f in surroundings])).to(c["dx"].dtype)
        for name in surroundings[0]
    }
    r_e, n, q, phi = (joined[name] for name in ("re_arcsec", "n", "q", "phi_rad"))
    return [
        Galaxies(
            rows,
            joined["x_arcsec"] + c["dx"][rows] * pixel_scale_arcsec,
            joined["y_arcsec"] + c["dy"][rows] * pixel_scale_arcsec,
            (r_e, n, q, phi),
            joined["flux_njy"],
            _visible_extent(joined, sky_rms_NC[rows], pixel_scale_arcsec),
            torch.full_like(rows, _NEIGHBOUR_REFINEMENT),
        )
    ]


def _visible_extent(field: dict[str, Tensor], sky_rms_RC: Tensor, pixel_arcsec: float) -> Tensor:
    """Radius along the major axis of each galaxy beyond which nobody sees it, (R,), arcsec.

    An exponential holds 2e-5 of its flux beyond 8 r_e, a Gaussian 1e-6 beyond 4.5. The wings of a
    steeper profile may end where they are 2 % of the noise of a pixel in every band.
    """
    r_e, n, q, flux = (field[name] for name in ("re_arcsec", "n", "q", "flux_njy"))
    zero, one = torch.zeros_like(r_e), torch.ones_like(r_e)
    centre = profiles.sersic(zero, zero, r_e, n, one, zero)
    contrast = (flux / (0.02 * sky_rms_RC)).max(dim=1).values * centre * pixel_arcsec**2
    wings = r_e * (torch.log(contrast.clamp(min=math.e)) / profiles.sersic_b(n)) ** n
    smooth = torch.where(n <= 0.5, 4.5 * r_e, 8 * r_e)
    return torch.where(n <= 1, smooth, wings) / torch.sqrt(q)


def _feature_flux(c: Columns, unit_NCHW: Tensor, observation: Observation) -> tuple[Tensor, Tensor]:
    """Flux of each feature in each band (N, C), nJy, and its S/N in the reference band (N,).

    Where `feature_snr` is finite the flux follows from it, else from `feature_mag_r`.
    """
    bands, reference = observation.bands, observation.bands.index(observation.reference_band)
    colour = torch.stack([c[f"feature_{b}_minus_r"] for b in bands], dim=1)
    relative = torch.nan_to_num(torch.exp(colour * (-0.4 * np.log(10))), nan=0.0)
    sky_rms = c[f"sky_rms_{observation.reference_band}_njy"]
    unit_snr = torch.sqrt((unit_NCHW[:, reference] ** 2).sum(dim=(1, 2))) / sky_rms
    flux_from_snr = c["feature_snr"] / (unit_snr * relative[:, reference])
    flux_r = torch.where(
        torch.isfinite(c["feature_snr"]), flux_from_snr, scene.flux_njy(c["feature_mag_r"])
    )
    flux_NC = flux_r[:, None] * relative
    return flux_NC, unit_snr * flux_NC[:, reference]


def add_noise(
    image_NCHW: np.ndarray,
    rows: Sequence[Row],
    observation: Observation,
    generators: Sequence[np.random.Generator],
) -> np.ndarray:
    """Noisy images of a chunk: each object has its own generator.

    Parameters
    ----------
    image_NCHW : noiseless, nJy
    rows : with sky_rms_<band>_njy, and noise_correlation_pixels where noise is not white
    generators : one for each row, seeded by its index

    Returns
    -------
    image_NCHW : float32, nJy
    """
    gain = observation.electrons_per_njy
    electrons_per_njy = None if gain is None else np.array(gain)
    result = np.empty(image_NCHW.shape, dtype=np.float32)
    draw = backends.chosen(compiled=observation.compiled).normals
    for k, (row, rng) in enumerate(zip(rows, generators, strict=True)):
        sky_rms = np.array([row[f"sky_rms_{b}_njy"] for b in observation.bands])
        rules = observation.noise
        if length := float(row.get("noise_correlation_pixels", 0.0)):
            rules = replace(rules, correlation_pixels=length)
        result[k] = noise.add_noise(rng, image_NCHW[k], sky_rms, electrons_per_njy, rules, draw)
    return result

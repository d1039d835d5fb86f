"""From truth rows to images: scene, PSF, pixels, noise, in fixed chunks by object index.

The last bit of an elementwise result depends on the shape of its batch. A chunk always holds the
same 64 consecutive objects, so that an object's pixels don't depend on how work was shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import observe, scene
from lensfinder.simulate.families import Row
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.scene import Columns, FineGrid

CHUNK = 64
# Of which so many are worked on at a time: their planes stay in a core's cache.
_BLOCK = 8


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
        for more rows than a chunk holds, or none
    """
    n = len(rows)
    if not 0 < n <= CHUNK:
        raise ValueError(f"{n} rows; a chunk holds 1 to {CHUNK}")
    filled = list(rows) + [rows[0]] * (CHUNK - n)
    nearby = list(surroundings) + [surroundings[0]] * (CHUNK - n)
    blocks = [
        _render_block(filled[k : k + _BLOCK], nearby[k : k + _BLOCK], observation, dtype)
        for k in range(0, n, _BLOCK)
    ]
    return Rendered(
        np.concatenate([block.background_NCHW for block in blocks])[:n],
        np.concatenate([block.feature_NCHW for block in blocks])[:n],
        {
            name: np.concatenate([block.truth[name] for block in blocks])[:n]
            for name in blocks[0].truth
        },
    )


def _render_block(
    rows: Sequence[Row],
    surroundings: Sequence[dict[str, np.ndarray]],
    observation: Observation,
    dtype: torch.dtype,
) -> Rendered:
    names = [name for name, value in rows[0].items() if not isinstance(value, str)]
    table = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)
    columns = Columns(dict(zip(names, table.T.to(dtype), strict=True)))
    kinds = np.array([row["kind"] for row in rows])
    grid = observation.grid(dtype)
    scale = observation.pixel_scale_arcsec
    x = columns["dx"] * scale + columns["centre_x_arcsec"]
    y = columns["dy"] * scale + columns["centre_y_arcsec"]

    otf_NCFH = _otf(columns, observation, grid)
    background = _hosts(columns, grid, x, y, observation.bands)
    _add_surroundings(background, grid, columns, surroundings, scale)
    background_NCHW = _observed(background, otf_NCFH, observation)
    feature, magnification, separation = _features(columns, kinds, grid, x, y)
    unit_NCHW = _observed(feature[:, None], otf_NCFH, observation)
    flux_NC, snr = _feature_flux(columns, unit_NCHW, observation)

    truth = {
        "source_snr": snr,
        "magnification": magnification,
        "image_separation_arcsec": separation,
    }
    for band, flux in zip(observation.bands, flux_NC.T, strict=True):
        truth[f"mag_source_{band}"] = 31.4 - 2.5 * torch.log10(flux)
    is_lens = torch.from_numpy(kinds == "lens")
    return Rendered(
        background_NCHW.numpy(),
        (unit_NCHW * flux_NC[:, :, None, None]).numpy(),
        {
            name: torch.where(is_lens, value, torch.nan).double().numpy()
            for name, value in truth.items()
        },
    )


def _otf(columns: Columns, observation: Observation, grid: FineGrid) -> Tensor:
    """Transfer function of PSF and pixel in each band, (N, C, F, F // 2 + 1).

    Its value at zero is supersampling^2: a pixel collects that many fine pixels.
    """
    dtype = grid.axis_arcsec.dtype
    ky, kx = observe.frequencies(len(grid.axis_arcsec), grid.scale_arcsec, dtype)
    observed = torch.stack([columns[f"psf_fwhm_{b}_arcsec"] for b in observation.bands], dim=1)
    scale, beta = observation.pixel_scale_arcsec, observation.moffat_beta
    if observation.psf == "gaussian":
        fwhm = observe.unbroadened_fwhm(observed, scale)
        otf = observe.gaussian_otf(ky, kx, fwhm[:, :, None, None])
    else:
        fwhm = observe.unbroadened_fwhm(observed, scale, beta)
        otf = observe.moffat_otf(ky, kx, fwhm[:, :, None, None], beta)
    pixel = observe.pixel_response(ky, kx, scale)
    return otf * (pixel * observation.supersampling**2)


def _observed(scene_NCFF: Tensor, otf_NCFH: Tensor, observation: Observation) -> Tensor:
    fft = torch.fft.rfft2(scene_NCFF)
    return observation.stamp(observe.convolve_and_sample(fft, otf_NCFH, observation.supersampling))


def _hosts(c: Columns, grid: FineGrid, x: Tensor, y: Tensor, bands: tuple[str, ...]) -> Tensor:
    """Bulge, disc and partner of each mock, (N, C, F, F)."""
    n_fine = len(grid.axis_arcsec)
    image = torch.zeros(len(x), len(bands), n_fine, n_fine, dtype=x.dtype)
    nothing, exponential = torch.zeros_like(x), torch.ones_like(x)
    for part, dx, dy, n in (
        ("bulge", nothing, nothing, c["bulge_n"]),
        ("disc", nothing, nothing, exponential),
        ("partner", c["partner_x_arcsec"], c["partner_y_arcsec"], c["partner_n"]),
    ):
        r_e, q, phi = c[f"{part}_re_arcsec"], c[f"{part}_q"], c.phi(f"{part}_pa_deg")
        flux_NC = scene.flux_njy(torch.stack([c[f"mag_{part}_{b}"] for b in bands], dim=1))
        lit = (flux_NC > 0).any(dim=1)
        some = torch.nonzero(lit & (r_e > 0))[:, 0]
        shape = (r_e[some], n[some], q[some], phi[some])
        scene.add_sersic(image, grid, some, (x + dx)[some], (y + dy)[some], shape, flux_NC[some])
        some = torch.nonzero(lit & (r_e == 0))[:, 0]
        scene.add_points(image, grid, some, (x + dx)[some], (y + dy)[some], flux_NC[some])
    return image


def _add_surroundings(
    image: Tensor,
    grid: FineGrid,
    c: Columns,
    surroundings: Sequence[dict[str, np.ndarray]],
    pixel_scale_arcsec: float,
) -> None:
    """Add the field objects of each mock, in place."""
    rows = torch.tensor([i for i, f in enumerate(surroundings) for _ in f["x_arcsec"]]).long()
    if len(rows) == 0:
        return
    joined = {
        name: torch.from_numpy(np.concatenate([f[name] for f in surroundings])).to(image.dtype)
        for name in surroundings[0]
    }
    x = joined["x_arcsec"] + c["dx"][rows] * pixel_scale_arcsec
    y = joined["y_arcsec"] + c["dy"][rows] * pixel_scale_arcsec
    r_e, n, q, phi = (joined[name] for name in ("re_arcsec", "n", "q", "phi_rad"))
    flux = joined["flux_njy"]
    stars = torch.nonzero(r_e == 0)[:, 0]
    scene.add_points(image, grid, rows[stars], x[stars], y[stars], flux[stars])
    # An exponential holds 2e-5 of its flux beyond 8 r_e, if its axis ratio is not small. Steeper
    # profiles have wings that would end in a visible edge.
    extent = torch.where(n <= 1, 8 * r_e / torch.sqrt(q), torch.inf)
    for low, high in ((0.0, 3.0), (3.0, 6.0), (6.0, torch.inf)):
        some = torch.nonzero((r_e > 0) & (extent > low) & (extent <= high))[:, 0]
        scene.add_sersic(
            image,
            grid,
            rows[some],
            x[some],
            y[some],
            (r_e[some], n[some], q[some], phi[some]),
            flux[some],
            high if np.isfinite(high) else None,
        )


def _features(
    c: Columns, kinds: np.ndarray, grid: FineGrid, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of unit flux (N, F, F), and magnification and image separation of lenses (N,)."""
    n_fine = len(grid.axis_arcsec)
    image = torch.zeros(len(x), n_fine, n_fine, dtype=x.dtype)
    magnification = torch.full_like(x, torch.nan)
    separation = torch.full_like(x, torch.nan)
    for draw, of in (
        (scene.lensed_source, ("lens",)),
        (scene.companions, ("companions",)),
        (scene.rings, ("ring",)),
        (scene.arms, ("spiral", "merger")),
    ):
        rows = torch.from_numpy(np.flatnonzero(np.isin(kinds, of)))
        if len(rows) == 0:
            continue
        image[rows] = draw(grid, c.take(rows), x[rows], y[rows])
        if draw is scene.lensed_source:
            magnification[rows] = image[rows].sum(dim=(1, 2))
            separation[rows] = scene.image_separation_arcsec(c.take(rows))
    return image, magnification, separation


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
    rows : with sky_rms_<band>_njy
    generators : one for each row, seeded by its index

    Returns
    -------
    image_NCHW : float32, nJy
    """
    gain = observation.electrons_per_njy
    electrons_per_njy = None if gain is None else np.array(gain)
    result = np.array(image_NCHW, dtype=np.float32)
    for k, (row, rng) in enumerate(zip(rows, generators, strict=True)):
        sky_rms = np.array([row[f"sky_rms_{b}_njy"] for b in observation.bands])
        result[k] += observe.noise(rng, result[k], sky_rms, electrons_per_njy)
    return result

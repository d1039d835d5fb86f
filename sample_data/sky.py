"""What stands on the sample sky, and how it looks through a telescope.

Galaxies, stars and lenses are drawn from one random generator and rendered on a grid three times
finer than the pixels. All of it is independent of the package, the ray-tracer above all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve

Array = NDArray[np.float64]
Light = Callable[[Array, Array], Array]  # (x, y) in arcsec from the object → relative brightness
Row = dict[str, str | float]  # of a table

BANDS = ("g", "r", "i")
PIXEL_ARCSEC = 0.2
SKY_RMS_B = np.array([1.84e-12, 1.72e-12, 6.86e-12])  # measured in real KiDS pixels
PSF_FWHM_ARCSEC_B = (0.84, 0.70, 0.78)
MOFFAT_BETA = 3.0
TARGET_MAG_R = 21.5
FIELD_RADEC = (180.0185, -0.5)
FIELD_HALF_ARCSEC = (152, 84)
STAR_RADEC = (179.9892, -0.4895)  # the saturated one
STAR_MAG_B = np.array([11.5, 11.0, 10.8])
STAR_COLOURS = ((0.3, 0.1), (0.5, 0.2), (0.8, 0.3), (1.3, 0.6), (1.5, 1.2))  # g − r, r − i

OVERSAMPLE = 3  # odd, so that a fine pixel sits on every pixel's centre
FINE_ARCSEC = PIXEL_ARCSEC / OVERSAMPLE
PAD_PIX = 20  # sky drawn beyond the image's edges, whose light reaches in

# θ_E (arcsec), q, S/N in r, lens r, z_lens, z_source, β/θ_E: from a near-complete ring to a faint
# double, each with a θ_E that a galaxy of its luminosity may have (Faber & Jackson 1976).
LENSES = (
    (1.45, 0.78, 130, 19.0, 0.33, 1.6, 0.08),
    (2.10, 0.72, 100, 18.7, 0.34, 2.1, 0.30),
    (1.10, 0.85, 110, 19.9, 0.45, 2.4, 0.30),
    (1.75, 0.66, 85, 19.1, 0.42, 1.9, 0.35),
    (1.40, 0.80, 70, 19.9, 0.48, 2.4, 0.25),
    (1.90, 0.58, 145, 18.8, 0.40, 1.6, 0.12),
    (1.60, 0.74, 90, 19.5, 0.48, 2.0, 0.40),
    (1.50, 0.90, 80, 19.7, 0.46, 1.9, 0.05),
    (2.20, 0.70, 65, 18.9, 0.44, 2.6, 0.25),
    (1.25, 0.70, 35, 20.3, 0.55, 2.4, 0.35),
)
OVERLAP_LENS = 2  # this one stands in both tiles


@dataclass(frozen=True)
class Glow:
    """Light on the sky: one component of a galaxy, or a star (``light`` is None)."""

    radec: Array
    flux_B: Array
    light: Light | None = None
    radius_arcsec: float = 0.0  # where it ends; its flux is what lies inside


@dataclass(frozen=True)
class Scene:
    """All light, and what catalogues say: targets by their components, truth of the lenses."""

    glows: list[Glow]
    targets: list[list[Glow]]  # the lenses stand first, in the order of ``truths``
    truths: list[Row]


# Profiles ---------------------------------------------------------------------------------------


def rotate(x: Array, y: Array, angle_deg: float) -> tuple[Array, Array]:
    """Coordinates along and across an axis ``angle_deg`` counter-clockwise from +x."""
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return cos * x + sin * y, cos * y - sin * x


def ellipse(q: float, angle_deg: float, brightness: Callable[[Array, Array], Array]) -> Light:
    """A profile of circularised radius (arcsec) and azimuth in the galaxy's own plane."""

    def light(x: Array, y: Array) -> Array:
        u, v = rotate(x, y, angle_deg)
        return brightness(np.sqrt(q * u**2 + v**2 / q), np.arctan2(v / q, u))

    return light


def sersic(re_arcsec: float, n: float, q: float, angle_deg: float) -> Light:
    """Sérsic profile; ``re_arcsec`` is circularised, b_n as Ciotti & Bertin (1999), eq. 18."""
    b_n = 2 * n - 1 / 3 + 4 / (405 * n)
    return ellipse(q, angle_deg, lambda r, _: np.exp(-b_n * (r / re_arcsec) ** (1 / n)))


def arms(re_arcsec: float, q: float, angle_deg: float, pitch_deg: float) -> Light:
    """Two logarithmic spiral arms in an exponential disc."""
    winding = 2 / np.tan(np.deg2rad(pitch_deg))

    def brightness(r: Array, phi: Array) -> Array:
        r = r / re_arcsec + 1e-3  # the logarithm needs r > 0
        arm: Array = (0.5 + 0.5 * np.cos(2 * phi - winding * np.log(r))) ** 3
        arm *= np.exp(-1.2 * r) * np.minimum(r, 1.0)
        return arm

    return ellipse(q, angle_deg, brightness)


def lensed(
    source: Light,
    *,
    theta_e_arcsec: float,
    q: float,
    angle_deg: float,
    gamma: float,
    phi_deg: float,
) -> Light:
    """The source seen through a singular isothermal ellipsoid with external shear.

    Deflection: Kormann, Schneider & Bartelmann (1994), eq. 27a, in the form of Keeton (2001,
    astro-ph/0102341), eqs. 33-34 without core, for κ = θ_E / (2 √(q u² + v²/q)): θ_E is
    circularised. Surface brightness is conserved, so the image is the source at the traced point.
    """
    e = np.sqrt(1 - q**2)
    cos2, sin2 = np.cos(np.deg2rad(2 * phi_deg)), np.sin(np.deg2rad(2 * phi_deg))

    def light(x: Array, y: Array) -> Array:
        u, v = rotate(x, y, angle_deg)
        psi = np.sqrt((q * u) ** 2 + v**2) + 1e-9  # the centre maps to a finite place
        alpha_u = theta_e_arcsec * np.sqrt(q) / e * np.arctan(e * u / psi)
        alpha_v = theta_e_arcsec * np.sqrt(q) / e * np.arctanh(e * v / psi)
        alpha_x, alpha_y = rotate(alpha_u, alpha_v, -angle_deg)
        shear_x, shear_y = gamma * (cos2 * x + sin2 * y), gamma * (sin2 * x - cos2 * y)
        return source(x - alpha_x - shear_x, y - alpha_y - shear_y)

    return light


# Pixels -----------------------------------------------------------------------------------------


def sample(light: Light, start_xy: Array, n: int, subsample: int) -> Array:
    """Mean brightness in n × n fine pixels, the first at ``start_xy`` from the object's centre."""
    step = np.arange(n * subsample) / subsample + (1 / subsample - 1) / 2
    x, y = np.meshgrid((start_xy[0] + step) * FINE_ARCSEC, (start_xy[1] + step) * FINE_ARCSEC)
    mean_YX: Array = light(x, y).reshape(n, subsample, n, subsample).mean(axis=(1, 3))
    return mean_YX


def draw(canvas_BYX: Array, glow: Glow, xy: Array) -> None:
    """Add one component, not yet blurred, at the fine pixel ``xy``."""
    half = int(np.ceil(glow.radius_arcsec / FINE_ARCSEC))
    low_xy = np.round(xy).astype(int) - half
    if glow.light is None:  # a point: shared among four fine pixels
        low_xy = np.floor(xy).astype(int)
        fx, fy = xy - low_xy
        stamp_YX = np.outer([1 - fy, fy], [1 - fx, fx])
    else:
        stamp_YX = sample(glow.light, low_xy - xy, 2 * half + 1, 2)
        core = slice(half - 3, half + 4)  # a de Vaucouleurs core is steep inside one fine pixel
        stamp_YX[core, core] = sample(glow.light, low_xy - xy + half - 3, 7, 11)
        y, x = np.mgrid[-half : half + 1, -half : half + 1]
        stamp_YX *= np.hypot(x, y) <= half
        stamp_YX /= stamp_YX.sum()
    x0, y0 = np.maximum(low_xy, 0)
    x1, y1 = np.minimum(low_xy + stamp_YX.shape[::-1], canvas_BYX.shape[:0:-1])
    if x1 > x0 and y1 > y0:
        cut = stamp_YX[y0 - low_xy[1] : y1 - low_xy[1], x0 - low_xy[0] : x1 - low_xy[0]]
        canvas_BYX[:, y0:y1, x0:x1] += glow.flux_B[:, None, None] * cut


@cache
def moffat_YX(fwhm_arcsec: float) -> Array:
    """Kernel on the fine grid whose FWHM is the stated one once pixels have blurred it too."""
    fwhm_arcsec = np.sqrt(fwhm_arcsec**2 - 8 * np.log(2) * PIXEL_ARCSEC**2 / 12)
    alpha = fwhm_arcsec / (2 * np.sqrt(2 ** (1 / MOFFAT_BETA) - 1))
    y, x = np.mgrid[-120:121, -120:121] * FINE_ARCSEC
    kernel_YX = (1 + (x**2 + y**2) / alpha**2) ** -MOFFAT_BETA
    return np.asarray(kernel_YX / kernel_YX.sum())


def render(glows: list[Glow], xy_N2: Array, shape_YX: tuple[int, int]) -> Array:
    """Noiseless flux (band, y, x) of components at pixels ``xy_N2``, with PSF and pixel."""
    ny, nx = (n + 2 * PAD_PIX for n in shape_YX)
    canvas_BYX = np.zeros((len(BANDS), ny * OVERSAMPLE, nx * OVERSAMPLE))
    for glow, xy in zip(glows, xy_N2, strict=True):
        draw(canvas_BYX, glow, (xy + PAD_PIX + 0.5) * OVERSAMPLE - 0.5)
    for band_YX, fwhm_arcsec in zip(canvas_BYX, PSF_FWHM_ARCSEC_B, strict=True):
        band_YX[:] = oaconvolve(band_YX, moffat_YX(fwhm_arcsec), mode="same")
    flux_BYX: Array = canvas_BYX.reshape(len(BANDS), ny, OVERSAMPLE, nx, OVERSAMPLE).sum(
        axis=(2, 4)
    )
    return flux_BYX[:, PAD_PIX:-PAD_PIX, PAD_PIX:-PAD_PIX]


# The scene --------------------------------------------------------------------------------------


def fluxes(mag_r: float, g_r: float, r_i: float) -> Array:
    """Flux in g, r, i from the r magnitude and two colours."""
    return np.asarray(10 ** (-0.4 * (mag_r + np.array([g_r, 0.0, -r_i]))))


def steep(rng: np.random.Generator, bright: float, faint: float) -> float:
    """A magnitude from counts that grow as 10^(0.3 m)."""
    return float(np.log10(rng.uniform(10 ** (0.3 * bright), 10 ** (0.3 * faint))) / 0.3)


def galaxy(
    radec: Array, flux_B: Array, re_arcsec: float, n: float, *, q: float, angle_deg: float
) -> Glow:
    """A Sérsic component that ends where it has sunk to a twentieth of the sky's rms in r."""
    at_re = flux_B[1] * (PIXEL_ARCSEC / re_arcsec) ** 2 / (3 * np.pi)  # roughly, per pixel
    depth = max(np.log(at_re / (0.05 * SKY_RMS_B[1])), 0.5)
    radius_arcsec = re_arcsec / np.sqrt(q) * (1 + depth / (2 * n - 1 / 3)) ** n
    return Glow(radec, flux_B, sersic(re_arcsec, n, q, angle_deg), radius_arcsec)


def early_type(
    rng: np.random.Generator, radec: Array, mag_r: float, z: float, *, q: float, angle_deg: float
) -> Glow:
    """A red elliptical on the size-magnitude and colour-redshift relations of field galaxies."""
    re_arcsec = 0.75 * 10 ** (-0.14 * (mag_r - 20) + rng.normal(0, 0.08))
    g_r = min(0.75 + 2.0 * z, 1.75) + rng.normal(0, 0.05)
    flux_B = fluxes(mag_r, g_r, 0.35 + 0.5 * z)
    return galaxy(radec, flux_B, re_arcsec, rng.uniform(3, 5), q=q, angle_deg=angle_deg)


def disc_galaxy(rng: np.random.Generator, radec: Array, mag_r: float) -> list[Glow]:
    """A red bulge in a blue disc at a random inclination; many with spiral arms."""
    re_arcsec = 0.95 * 10 ** (-0.11 * (mag_r - 20) + rng.normal(0, 0.1))
    cos_i, angle_deg, bulge = rng.uniform(0, 1), rng.uniform(0, 180), rng.uniform(0.02, 0.4)
    q = np.sqrt(0.13**2 + (1 - 0.13**2) * cos_i**2)
    blue_B = fluxes(mag_r, rng.normal(0.5, 0.15), rng.normal(0.28, 0.06))
    red_B = fluxes(mag_r, rng.normal(1.1, 0.15), 0.45)
    disc = galaxy(radec, (1 - bulge) * blue_B, re_arcsec, 1.0, q=q, angle_deg=angle_deg)
    core = galaxy(radec, bulge * red_B, 0.35 * re_arcsec, 3.0, q=max(q, 0.6), angle_deg=angle_deg)
    glows = [core, disc]
    if q > 0.4 and rng.uniform() < 0.5:
        light = arms(re_arcsec, q, angle_deg, rng.uniform(14, 28) * rng.choice([-1, 1]))
        glows.append(Glow(radec, blue_B * [0.8, 0.6, 0.5], light, 1.3 * disc.radius_arcsec))
    return glows


def ring_galaxy(rng: np.random.Generator, radec: Array, mag_r: float) -> list[Glow]:
    """A red bulge in a blue ring, brighter on one side: no lens, and hard to tell from one."""
    radius, angle_deg = rng.uniform(1.4, 2.4), rng.uniform(0, 360)
    light = ellipse(
        rng.uniform(0.5, 0.9),
        angle_deg,
        lambda r, phi: (1 + 0.4 * np.cos(phi)) * np.exp(-0.5 * ((r - radius) / 0.3) ** 2),
    )
    bulge = early_type(rng, radec, mag_r, 0.12, q=0.85, angle_deg=angle_deg)
    return [bulge, Glow(radec, 0.3 * fluxes(mag_r, 0.35, 0.2), light, 3 * radius)]


def faint_galaxy(rng: np.random.Generator, radec: Array, mag_r: float) -> Glow:
    """A small, mostly blue galaxy below the targets' limit."""
    re_arcsec = 0.55 * 10 ** (-0.1 * (mag_r - 22.5) + rng.normal(0, 0.15))
    flux_B = fluxes(mag_r, rng.normal(0.4, 0.3), rng.normal(0.25, 0.15))
    return galaxy(
        radec, flux_B, re_arcsec, 1.0, q=rng.uniform(0.3, 1), angle_deg=rng.uniform(0, 180)
    )


def clumpy(rng: np.random.Generator, offset_xy: Array) -> Light:
    """A star-forming source: a small exponential disc with a few knots, off the lens's axis."""
    re_arcsec = rng.uniform(0.14, 0.3)
    disc = sersic(re_arcsec, 1.0, rng.uniform(0.4, 0.9), rng.uniform(0, 180))
    knot = sersic(0.2 * re_arcsec, 1.0, 0.8, 0.0)
    knots_N2 = offset_xy + rng.normal(0, 0.8 * re_arcsec, (rng.integers(1, 4), 2))

    def light(x: Array, y: Array) -> Array:
        clumps = np.sum([knot(x - kx, y - ky) for kx, ky in knots_N2], axis=0)
        return np.asarray(disc(x - offset_xy[0], y - offset_xy[1]) + 2.0 * clumps)

    return light


def planted_lens(
    rng: np.random.Generator, radec: Array, row: tuple[float, ...]
) -> tuple[list[Glow], Row]:
    """An early-type galaxy and the lensed source behind it, with the truth about them."""
    theta_e_arcsec, q, snr, mag_r, z_lens, z_source, beta = row
    angle_deg, phi_deg, gamma = rng.uniform(0, 180), rng.uniform(0, 180), rng.uniform(0, 0.06)
    # Light follows mass in shape and direction, not exactly (as in measured lenses).
    q_light = float(np.clip(q + rng.normal(0, 0.05), 0.5, 0.97))
    lens = early_type(rng, radec, mag_r, z_lens, q=q_light, angle_deg=angle_deg + rng.normal(0, 6))
    direction = rng.uniform(0, 2 * np.pi)
    offset_xy = beta * theta_e_arcsec * np.array([np.cos(direction), np.sin(direction)])
    image = lensed(
        clumpy(rng, offset_xy),
        theta_e_arcsec=theta_e_arcsec,
        q=q,
        angle_deg=angle_deg,
        gamma=gamma,
        phi_deg=phi_deg,
    )
    unit_B = fluxes(0.0, np.clip(rng.normal(0.05, 0.1), -0.15, 0.25), rng.normal(0.1, 0.05))
    arc = Glow(radec, unit_B, image, 3 * theta_e_arcsec)
    # S/N is linear in the flux: draw the source once at magnitude 0, then scale it.
    unit_snr = np.linalg.norm(render([arc], np.array([[40, 40]]), (81, 81))[1]) / SKY_RMS_B[1]
    arc = Glow(radec, unit_B * snr / unit_snr, image, arc.radius_arcsec)
    truth: Row = {"theta_e_arcsec": theta_e_arcsec, "q": q}
    truth["pa_deg"] = round((angle_deg - 90) % 180, 2)  # +x is west: east of north = angle − 90°
    truth |= {"shear": round(gamma, 4), "shear_pa_deg": round((phi_deg - 90) % 180, 2)}
    truth |= {"beta_over_theta_e": beta, "source_snr": snr, "z_lens": z_lens, "z_source": z_source}
    for kind, glow in (("lens", lens), ("source", arc)):
        for band, flux in zip(BANDS, glow.flux_B, strict=True):
            truth[f"mag_{kind}_{band}"] = round(float(-2.5 * np.log10(flux)), 3)
    return [lens, arc], truth


def draw_scene(seed: int, lens_tiles: Callable[[Array], int]) -> Scene:
    """Everything on the sky; ``lens_tiles`` counts the tiles that allow a lens at (ra, dec)."""
    rng = np.random.default_rng(seed)
    taken = [np.array(STAR_RADEC)]

    def place(apart_arcsec: float, tiles: int | None = None) -> Array:
        """A new position, that far from all earlier ones, allowed for lenses in so many tiles."""
        while True:
            offset_arcsec = rng.uniform(-1, 1, 2) * FIELD_HALF_ARCSEC  # near the equator: flat
            radec = np.round(FIELD_RADEC + offset_arcsec / 3600, 6)
            if np.hypot(*(np.array(taken) - radec).T).min() * 3600 < apart_arcsec:
                continue
            if tiles is None or lens_tiles(radec) == tiles:
                taken.append(radec)
                return radec

    targets: list[list[Glow]] = []
    truths: list[Row] = []
    for k, row in enumerate(LENSES):
        glows, truth = planted_lens(rng, place(14, tiles=2 if k == OVERLAP_LENS else 1), row)
        targets.append(glows)
        truths.append(truth)
    targets += [ring_galaxy(rng, place(7), rng.uniform(18.8, 20.2)) for _ in range(4)]
    companions = []
    for k in range(90):
        radec, mag_r = place(5.5), steep(rng, 17.8, TARGET_MAG_R)
        z = float(np.clip(0.25 + 0.08 * (mag_r - 19) + rng.normal(0, 0.06), 0.08, 0.6))
        q, angle_deg = rng.uniform(0.5, 0.98), rng.uniform(0, 180)
        targets.append([early_type(rng, radec, mag_r, z, q=q, angle_deg=angle_deg)])
        if k % 6 == 0:  # an unlensed neighbour where an arc could be
            angle, apart = rng.uniform(0, 2 * np.pi), rng.uniform(1.4, 3.2) / 3600
            beside = radec + apart * np.array([np.cos(angle), np.sin(angle)])
            companions.append(faint_galaxy(rng, beside, rng.uniform(21.6, 23.2)))
    targets += [disc_galaxy(rng, place(5.5), steep(rng, 18.0, TARGET_MAG_R)) for _ in range(120)]
    faint = [faint_galaxy(rng, place(1.5), steep(rng, 21.6, 25.3)) for _ in range(380)]
    stars = [
        Glow(place(4), fluxes(steep(rng, 16.5, 22.5), *STAR_COLOURS[rng.integers(5)]))
        for _ in range(40)
    ]
    stars.append(Glow(taken[0], 10 ** (-0.4 * STAR_MAG_B)))
    every = [glow for target in targets for glow in target] + companions + faint + stars
    return Scene(every, targets, truths)

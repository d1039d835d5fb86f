"""What a request to `simulate` comes down to: recipe, survey, stamps, and where systems come from.

What the user did not say is taken from the table of truth, then from the recipe, then from the
configuration's defaults; whatever was taken from elsewhere is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensfinder import survey, tables
from lensfinder.commit import sha256_of
from lensfinder.config import Config, SimulateConfig
from lensfinder.errors import MismatchError, RequestError, counted
from lensfinder.fingerprints import fingerprint
from lensfinder.simulate import recipe
from lensfinder.simulate.compiled import require_numba
from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.population import check_bands

if TYPE_CHECKING:
    from lensfinder.simulate.painting import Host


# What can be added to a real galaxy, or is one as it is.
_PAINTED = ("lens", "companions", "ring", "spiral", "galaxy")


@dataclass(frozen=True)
class Request:
    """What is to be made, resolved.

    Attributes
    ----------
    count : of mocks
    keys : of the section [simulate], with what was resolved
    inputs : sky, seed, population and what identifies hosts and truth, for the fingerprint
    notices : what was taken from elsewhere, in words
    truth : path of a table of systems, or None
    hosts : of each mock, or in turn; empty for modelled ones
    material : where real images lie that mocks are made with; empty without any
    """

    count: int
    keys: dict[str, Any]
    inputs: dict[str, Any]
    notices: list[str]
    truth: Path | None
    hosts: list[Host]
    material: dict[str, Any]

    def task(self, first: int, last: int) -> dict[str, Any]:
        """What a unit needs beside its ingredients."""
        task: dict[str, Any] = {}
        if self.material:
            task["material"] = self.material
        if self.truth is not None:
            task["truth"] = str(self.truth)
        if self.hosts:
            turn = len(self.hosts)
            task["hosts"] = [asdict(self.hosts[i % turn]) for i in range(first, last)]
        return task


def load_population(name: str) -> recipe.Population:
    """Read a recipe by name, or from a TOML file.

    Raises
    ------
    RequestError
        if there is none, or with everything that is wrong in it
    """
    try:
        if not name.endswith(".toml"):
            return recipe.parse(recipe.shipped_text(name), f"population '{name}'")
        return recipe.parse(Path(name).read_text(encoding="utf-8"), name)
    except RecipeError as error:
        raise RequestError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"population {name} can't be read: {error}") from error


def plan_request(config: Config) -> Request:
    """Resolve a configuration.

    Raises
    ------
    RequestError, MismatchError
        for whatever makes the request impossible
    """
    chosen = config.simulate
    stored = _stored_with(chosen.truth)
    if stored is not None and "population" not in chosen.model_fields_set:
        population = recipe.Population.model_validate(stored["population"])
    else:
        population = load_population(chosen.population)
    sky, keys, notices = _stamps(config, population, stored)
    bands = tuple(keys["bands"])
    try:
        check_bands(population, bands)
    except RecipeError as error:
        raise RequestError(str(error)) from error
    inputs: dict[str, Any] = {
        "seed": config.run.seed,
        "sky": sky,
        "population": population.model_dump(mode="json"),
    }
    if stored is not None and "seed" not in config.run.model_fields_set:
        inputs["seed"] = stored["seed"]
    if chosen.hosts is None:
        painted = population.stamps is not None and population.stamps.hosts
        if painted or (stored is not None and "hosts" in stored):
            raise RequestError(
                f"population '{population.name}' is painted on real galaxies",
                "--hosts CUTOUTS, a folder that `lensfinder cutout` has written",
            )
    hosts: list[Host] = []
    if chosen.hosts is not None:
        # Imported here because it brings torch along, which planning of modelled mocks spares.
        from lensfinder.simulate.painting import find_hosts

        hosts, inputs["hosts"] = find_hosts(chosen, bands, sky["pixel_scale_arcsec"], keys["size"])
    real: dict[str, Any] = {}
    if any(given is not None for given in (chosen.sources, chosen.psf, chosen.sky)):
        from lensfinder.simulate.inputs import find, load

        scale = sky["pixel_scale_arcsec"]
        real, identity, left_out = find(chosen, bands, scale, keys["size"])
        inputs["material"] = identity
        notices += left_out
        shares = keys["val_fraction"], keys["test_fraction"]
        images = load(real).source_ids
        if images and not len(load(real).sources_of("train", *shares)):
            raise RequestError(
                f"{counted(len(images), 'source image')} for {1 + sum(s > 0 for s in shares)} "
                "splits, which share none",
                "at least one image each",
                "Give more images, or --val-fraction 0 and --test-fraction 0.",
            )
    count = chosen.count
    if chosen.truth is not None:
        count, hosts = _plan_truth(chosen.truth, stored, inputs, keys, hosts, real, notices)
        notices += _kept(chosen, count, stored, inputs)
    drawn = chosen.truth is None and population.forecast is None
    largest = population.lens.theta_e_arcsec.support()[1] if drawn else math.nan
    notices += _too_large(largest, keys["size"], sky["pixel_scale_arcsec"])
    if hosts and chosen.truth is None and count > len(hosts):
        notices.append(
            f"note: {count} mocks on {counted(len(hosts), 'host')}, which stand in about "
            f"{count / len(hosts):.0f} mocks each: they are no {count} independent galaxies"
        )
    if hosts:
        # Which hosts there are decides which one an index gets; known lenses are none of them.
        inputs["host_list"] = fingerprint({"ids": [host.host_id for host in hosts]})
    return Request(count, keys, inputs, notices, chosen.truth, hosts, real)


def _stored_with(path: Path | None) -> Mapping[str, Any] | None:
    """What a table that `simulate` wrote says of how its mocks were made."""
    if path is None or path.suffix.lower() != ".parquet":
        return None
    metadata = tables.read_metadata(path) or {}
    stored: Mapping[str, Any] | None = metadata.get("ingredients")
    return stored if stored is not None and "population" in stored else None


def _kept(
    chosen: SimulateConfig, count: int, stored: Mapping[str, Any] | None, inputs: Mapping[str, Any]
) -> list[str]:
    """What a table says of each system against what the user asked for all of them."""
    path, notices = chosen.truth, []
    assert path is not None
    if "count" in chosen.model_fields_set and chosen.count != count:
        notices.append(
            f"note: {path} has {counted(count, 'system')}, and as many mocks are made: --count "
            "does not count"
        )
    if stored is None:
        return notices
    asked, survey_name, columns = inputs["seed"], inputs["sky"]["survey"], tables.names_of(path)
    told = [band for band in inputs["sky"]["sky_rms_njy"] if f"sky_rms_{band}_njy" in columns]
    if survey_name != stored["sky"]["survey"] and told:
        notices.append(
            f"note: PSF and noise of each system in {','.join(told)} stand in {path} and stay; of "
            f"survey '{survey_name}' are pixel scale and other bands. A table without the columns "
            f"psf_fwhm_* and sky_rms_* gets all of '{survey_name}'"
        )
    if asked != stored["seed"] and "noise_seed" in columns:
        notices.append(
            f"note: the noise of each system stands in {path} and stays, whatever the seed. A "
            f"table without the columns noise_seed and noise_index gets that of seed {asked}"
        )
    return notices


def _stamps(
    config: Config, population: recipe.Population, stored: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Survey conditions, keys and notices: the user's word first, then truth's, then recipe's."""
    chosen, notices = config.simulate, []
    implied: dict[str, Any] = {}
    if stored is not None:
        implied = {name: stored["simulate"][name] for name in ("bands", "size")}
        implied["survey"] = stored["sky"]["survey"]
        origin = str(chosen.truth)
    elif population.stamps is not None:
        stamps = population.stamps
        implied = {"survey": stamps.survey, "bands": list(stamps.bands), "size": stamps.size}
        origin = f"population '{population.name}'"
    said = {*chosen.model_fields_set, *(config.run.model_fields_set & {"survey"})}
    if "survey" in said:
        # Bands belong to a survey: those of another one mean nothing.
        implied.pop("survey", None)
    taken = {key: value for key, value in implied.items() if key not in said}
    asked = tuple(chosen.bands) or tuple(taken.get("bands", ()))
    sky = None
    if stored is not None and "survey" not in said:
        sky = _sky_kept(stored["sky"], asked)
    if sky is None:
        this = survey.load(str(taken.get("survey", config.run.survey)))
        if "bands" in taken and not set(taken["bands"]) <= set(this.bands):
            lost = ",".join(taken.pop("bands"))
            asked = ()
            notices.append(
                f"note: survey '{this.name}' has not all of the bands {lost} of {origin}: "
                f"{','.join(this.default_bands)} in their place"
            )
        bands = this.choose_bands(asked)
        sky = {
            "survey": this.name,
            "pixel_scale_arcsec": this.pixel_scale_arcsec,
            "reference_band": this.reference_of(bands),
            "psf_fwhm_arcsec": {band: this.psf_fwhm_arcsec[band] for band in bands},
            "sky_rms_njy": {band: this.sky_rms_njy[band] for band in bands},
        }
    if taken:
        words = [
            f"{key} {','.join(value) if isinstance(value, list) else value}"
            for key, value in taken.items()
        ]
        notices.append(f"from {origin}: {', '.join(words)}")
    if chosen.truth is not None and stored is None:
        told = {"survey": sky["survey"], "bands": ",".join(sky["psf_fwhm_arcsec"])}
        told["size"] = str(taken.get("size", chosen.size))
        open_ = [f"{key} {value}" for key, value in told.items() if key not in {*said, *taken}]
        if open_:
            notices.append(f"note: {chosen.truth} does not tell, by default: {', '.join(open_)}")
    bands = tuple(sky["psf_fwhm_arcsec"])
    keys = {
        "bands": list(bands),
        "size": taken.get("size", chosen.size),
        **{
            key: getattr(chosen, key)
            if stored is None or key in said
            else stored["simulate"].get(key, getattr(chosen, key))
            for key in ("val_fraction", "test_fraction")
        },
    }
    compiled = chosen.compile
    if stored is not None and "compile" not in said:
        compiled = stored["simulate"].get("compile", False)
        notices += [f"from {origin}: --compile"] * compiled
    if compiled:
        require_numba()
        keys["compile"] = True
    return sky, keys, notices


def _too_large(theta_e_arcsec: float, size: int, pixel_scale_arcsec: float) -> list[str]:
    """Say where images lie beyond the stamps, whose light then has to give an arc's S/N alone."""
    half = size / 2 * pixel_scale_arcsec
    if not theta_e_arcsec > half:
        return []
    return [
        f'note: Einstein radii reach {theta_e_arcsec:.3g}", a stamp of {size} pixels {half:.3g}": '
        "where the arcs lie beyond it, S/N is that of what is left, and sources are too bright. "
        "Larger stamps (--size) hold them"
    ]


def _sky_kept(stored: Mapping[str, Any], bands: tuple[str, ...]) -> dict[str, Any] | None:
    """The conditions that a table was made with, in some of its bands; None for other bands."""
    if not set(bands) <= set(stored["psf_fwhm_arcsec"]) or len(set(bands)) < len(bands):
        return None
    reference = stored["reference_band"]
    by_band = {
        name: {band: stored[name][band] for band in bands}
        for name in ("psf_fwhm_arcsec", "sky_rms_njy")
    }
    if reference not in bands:
        reference = bands[len(bands) // 2]
    return {**stored, **by_band, "reference_band": reference}


def _plan_truth(
    path: Path,
    stored: Mapping[str, Any] | None,
    inputs: dict[str, Any],
    keys: dict[str, Any],
    hosts: list[Host],
    real: dict[str, Any],
    notices: list[str],
) -> tuple[int, list[Host]]:
    """Check a table of systems; its rows, and the host of each where they are painted."""
    from lensfinder.simulate import truth
    from lensfinder.simulate.inputs import load
    from lensfinder.simulate.mocks import Setting

    setting = Setting.of({"simulate": keys, **inputs}, load(real) if real else None)
    table = truth.read(path)
    as_made = stored is not None and (
        stored["sky"] == inputs["sky"]
        and all(stored["simulate"][name] == keys[name] for name in ("bands", "size"))
        and all(f"sky_rms_{band}_njy" in table for band in keys["bands"])
    )
    systems = truth.complete(table, setting, str(path), painted=bool(hosts), as_made=as_made)
    inputs["truth"], inputs["as_made"] = sha256_of(path), as_made
    reach = [float(row["theta_e_arcsec"]) for row in systems.rows if row["kind"] == "lens"]
    notices += _too_large(
        max(reach, default=math.nan), keys["size"], inputs["sky"]["pixel_scale_arcsec"]
    )
    if not hosts:
        return len(systems), []
    other = sorted({str(row["kind"]) for row in systems.rows} - set(_PAINTED))
    if other:
        raise RequestError(
            f"{path} has systems of kind {', '.join(other)}, whose light is all modelled",
            f"kinds that are painted on real galaxies: {', '.join(_PAINTED)}",
        )
    by_id = {host.host_id: host for host in hosts}
    wanted = [str(name) for name in systems.columns["host_id"]]
    missing = [name for name in wanted if name not in by_id]
    if missing:
        raise MismatchError(
            f"{len(missing)} of {len(wanted)} systems of {path} are painted on hosts that the "
            f"folder does not hold, among them {missing[0]!r}",
            "a column host_id with ids of these cutouts",
        )
    return len(systems), [by_id[name] for name in wanted]

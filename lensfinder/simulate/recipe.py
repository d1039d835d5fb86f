"""A population recipe: the TOML file that says what the mock sky holds, checked as a whole.

Magnitudes in a recipe are AB in r; `colours` carries them to the bands of a survey. Every key,
every value and every distribution's support is checked, and all that is wrong is reported at once.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from lensfinder.errors import nearest
from lensfinder.simulate import sections
from lensfinder.simulate.colours import Colours
from lensfinder.simulate.distributions import RecipeError, Section
from lensfinder.simulate.forecast import Forecast

NegativeKind = Literal[
    "galaxy",
    "disc",
    "spiral",
    "ring",
    "companions",
    "edge_on",
    "merger",
    "star",
    "group",
    "artefact",
    "irregular",
]
NEGATIVE_KINDS: tuple[str, ...] = get_args(NegativeKind)
ARTEFACTS = ("spikes", "trail", "cosmic_ray")
# Those that hold something which a careless look takes for an arc.
HARD_KINDS = frozenset(
    {"spiral", "ring", "companions", "edge_on", "merger", "group", "artefact", "irregular"}
)


_SHARES_SUM_TOLERANCE = 1e-6


class Population(Section):
    """A whole recipe."""

    name: str = Field(min_length=1)
    description: str
    stamps: sections.Stamps | None = None
    positive_fraction: sections.UnitInterval
    negatives: dict[NegativeKind, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    # Share of each kind among the targets on the sky, for false positive rates that mean it;
    # empty where nobody knows.
    sky_fraction: dict[NegativeKind, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict
    )
    observing: sections.Observing = sections.Observing()
    conditions: sections.Conditions
    # Where it is given, mocks are colour pictures instead of fluxes.
    composite: sections.Composite | None = None
    # Where it is given, lenses and sources are drawn from it, rather than from theta_E.
    forecast: Forecast | None = None
    early_type: sections.EarlyType
    lens: sections.Lens
    source: sections.Source
    hosts: sections.Hosts = sections.Hosts()
    lenticular: sections.Lenticular | None = None
    late_type: sections.LateType
    spiral: sections.Spiral
    knots: sections.Knots | None = None
    irregular: sections.Irregular | None = None
    ring: sections.Ring
    companions: sections.Companions
    edge_on: sections.EdgeOn
    merger: sections.Merger
    star: sections.Star
    group: sections.Group | None = None
    artefact: sections.Artefact | None = None
    surroundings: sections.Surroundings
    colours: Colours

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if sum(self.negatives.values()) <= 0:
            problems.append("negatives: the weights sum to 0; expected a positive sum")
        whole = sum(self.sky_fraction.values())
        if self.sky_fraction and abs(whole - 1) > _SHARES_SUM_TOLERANCE:
            problems.append(f"sky_fraction: the shares sum to {whole:g}; expected 1")
        nearest_lens = self.early_type.z.support()[0] + self.source.min_redshift_gap
        if self.source.z.support()[1] <= nearest_lens:
            problems.append(
                f"source.z ends at {self.source.z.support()[1]:g}, in front of every lens: "
                f"expected more than {nearest_lens:g} (early_type.z + source.min_redshift_gap)"
            )
        for kind in ("group", "artefact", "irregular"):
            if kind in self.negatives and getattr(self, kind) is None:
                problems.append(f"negatives.{kind}: there is no section [{kind}]")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def parse(text: str, origin: str) -> Population:
    """Read and check a recipe.

    Parameters
    ----------
    text : TOML
    origin : what to call it in errors

    Raises
    ------
    RecipeError
        with one line for each thing that is wrong
    """
    try:
        document = _whole(text, origin)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin} is not TOML: {error}") from error
    if useless := _drawn_by_forecast(tomllib.loads(text), document):
        raise RecipeError(
            f"{origin}: {', '.join(useless)} would change nothing: the base's [forecast] draws "
            "them; expected keys of forecast.deflectors, forecast.sources or forecast.selection"
        )
    try:
        return Population.model_validate(document)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            # Which of two ways a track was read is no part of a key's name.
            parts = [str(part) for part in problem["loc"] if part not in ("table", "sed", "[key]")]
            where = ".".join(parts) or "recipe"
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                message = f"unknown key; expected {_nearest_key(problem['loc'])}"
            lines.append(f"{where}: {message}")
        problems = "\n  ".join(lines)
        raise RecipeError(f"{origin} has {len(lines)} error(s):\n  {problems}") from error


# What a forecast draws jointly, in place of these.
_OF_FORECAST = {
    "lens": {"theta_e_arcsec", "beta_over_theta_e"},
    "source": {"z", "min_redshift_gap", "snr", "r_e_arcsec"},
    "early_type": set(sections.EarlyType.model_fields) - {"sersic_n"},
}


def _drawn_by_forecast(own: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    """Keys of a recipe's own text that its forecast overrules."""
    if "forecast" not in whole or "base" not in own:
        return []
    return [
        f"{section}.{key}"
        for section, keys in _OF_FORECAST.items()
        for key in own.get(section, {})
        if key in keys
    ]


# Tables of which a recipe takes all from its base or nothing: shares, and what says how many
# pixels of which survey.
_WHOLE = ("negatives", "sky_fraction", "stamps")


def _nearest_key(where: tuple[int | str, ...]) -> str:
    """The key that a misspelt one was probably meant to be, among those of its section."""
    model: Any = Population
    for part in where[:-1]:
        field = model.model_fields.get(str(part))
        # A section that may be left out is a union with None.
        meant = () if field is None else (field.annotation, *get_args(field.annotation))
        sections_meant = [one for one in meant if hasattr(one, "model_fields")]
        if not sections_meant:
            return "a key that `general` has there"
        model = sections_meant[0]
    return nearest(
        str(where[-1]), [*model.model_fields, "base"] if model is Population else model.model_fields
    )


def _whole(text: str, origin: str) -> dict[str, Any]:
    """Recipe text as a document, laid over the recipe that it names as its base."""
    document = tomllib.loads(text)
    base = document.pop("base", None)
    if base is None:
        return document
    if not isinstance(base, str) or base not in names():
        raise RecipeError(
            f"{origin}: base is {base!r}; expected a recipe that comes along, one of "
            f"{', '.join(names())}"
        )
    below = _whole(shipped_text(base), base)
    # What a recipe is called is its own.
    below = {key: value for key, value in below.items() if key not in ("name", "description")}
    return _laid_over(below, document)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two tables as one: `above` wins; distributions and shares are replaced whole."""
    joined = dict(below)
    for key, value in above.items():
        old = below.get(key)
        mixes = isinstance(old, dict) and isinstance(value, dict)
        if mixes and key not in _WHOLE and not {"distribution", "sed"} & {*value}:
            joined[key] = _laid_over(old or {}, value)
        else:
            joined[key] = value
    return joined


def names() -> list[str]:
    """Recipes that come with the package."""
    folder = resources.files("lensfinder.simulate") / "populations"
    files = [file.name for file in folder.iterdir()]
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def shipped_text(name: str) -> str:
    """TOML text of a recipe that comes with the package.

    Raises
    ------
    RecipeError
        if there is none of this name
    """
    if name not in names():
        raise RecipeError(
            f"population '{name}' is unknown; expected one of {', '.join(names())}, "
            "or the path of a TOML file"
        )
    file = resources.files("lensfinder.simulate") / "populations" / f"{name}.toml"
    return file.read_text(encoding="utf-8")

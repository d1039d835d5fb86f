"""Laws of the configuration: all errors at once, the last word wins, only what matters counts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lensfinder import config
from lensfinder.errors import RequestError
from lensfinder.fingerprints import fingerprint


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(text)
    return path


def test_every_error_is_reported_with_the_nearest_known_name(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [cutuot]
        size = 61
        [cutout]
        sise = 61
        size = 60
        [train]
        epochs = "many"
        report = 1
        """,
    )
    with pytest.raises(RequestError) as caught:
        config.load(path, ["rum.seed=1", "infer.vews=8"], {"report": {"prevalence": 2.0}})
    said = str(caught.value)
    assert "8 problems" in said
    for part in (
        "[cutuot]: unknown section; expected 'cutout'",
        "cutout.sise: unknown key; expected 'size'",
        "cutout.size: 60 is even",
        "train.epochs: ",
        "train.report: unknown key",
        "unknown section 'rum'; expected 'run'",
        "infer.vews: unknown key; expected 'views'",
        "report.prevalence: ",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[cutout", "can't be read as TOML"),
        ("cutout = 3", "expected a table"),
        ("[run]\nengine = 'fast'", "engine 'fast' is unknown"),
        ("[simulate]\nval_fraction = 0.6\ntest_fraction = 0.5", "nothing to train on"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint.replace("[", r"\[")):
        config.load(write(tmp_path, text))


WRONG = [None, "x", -1e12, 1e12, -0.5, math.nan, [], [None], ["x", 1], {}, {"a": [1, 2, 3]}, ""]


@pytest.mark.parametrize("section", config.Config.model_fields)
def test_whatever_is_wrong_is_said_in_our_words(section: str) -> None:
    said = []
    for key in config.section_model(section).model_fields:
        for value in WRONG:
            try:
                config.load(None, (), {section: {key: value}})
            except RequestError as error:
                said += str(error).splitlines()[1:]
    assert len(said) > 10
    for line in said:
        # How pydantic begins.
        assert "should" not in line, line
        assert "Input" not in line, line
        assert line.startswith(f"  {section}"), line


def test_a_bound_is_quoted_with_the_value_beyond_it() -> None:
    with pytest.raises(RequestError) as caught:
        config.load(None, ["cutout.size=7", "cutout.detect_sigma=0", "cutout.max_bad_fraction=1"])
    for line in (
        "cutout.size: expected 9 or more (got 7)",
        "cutout.detect_sigma: expected more than 0 (got 0)",
        "cutout.max_bad_fraction: expected less than 1 (got 1)",
    ):
        assert line in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="can't be read"):
        config.load(tmp_path / "b.toml")
    with pytest.raises(RequestError, match="can't be read"):
        config.load(tmp_path)


def test_the_last_word_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "[cutout]\nsize = 61\nmag_max = 20\n[train]\nepochs = 3")
    loaded = config.load(path, ["cutout.size=63", "cutout.mag_min=15"], {"cutout": {"size": 65}})
    assert (loaded.cutout.size, loaded.cutout.mag_min, loaded.cutout.mag_max) == (65, 15, 20)
    assert loaded.train.epochs == 3
    assert loaded.train.network == "lensnet"
    # What nobody said stands apart from what somebody said to be the default.
    assert "size" in loaded.cutout.model_fields_set
    assert "bands" not in loaded.cutout.model_fields_set


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("cutout.bands=g,r", "bands", ("g", "r")),
        ("cutout.bands=['g', 'r']", "bands", ("g", "r")),
        ("cutout.catalog=a b.csv", "catalog", Path("a b.csv")),
        ("cutout.catalog='x=y.csv'", "catalog", Path("x=y.csv")),
        ("cutout.variance=true", "variance", True),
        ("cutout.mag_max = 21.5", "mag_max", 21.5),
        ("cutout.columns={ra = 'RAdeg'}", "columns", {"ra": "RAdeg"}),
        ("cutout.columns.ra=RAdeg", "columns", {"ra": "RAdeg"}),
    ],
)
def test_set_takes_toml_or_bare_text(text: str, key: str, value: object) -> None:
    assert getattr(config.load(None, [text]).cutout, key) == value


@pytest.mark.parametrize("text", ["", "cutout", "cutout.size", "size=3", "cutout.=3", "=3"])
def test_a_malformed_set_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        config.load(None, [text])


def test_paths_are_relative_to_whoever_names_them(tmp_path: Path) -> None:
    path = write(
        tmp_path, "[cutout]\ntiles = ['a', '/b']\ncatalog = 'c.csv'\n[run]\nsurvey = 's.toml'"
    )
    loaded = config.load(path, ["infer.model=m"], {"cutout": {"catalog": Path("d.csv")}})
    assert loaded.cutout.tiles == (tmp_path / "a", Path("/b"))
    assert loaded.cutout.catalog == Path("d.csv")
    assert loaded.infer.model == (Path("m"),)
    assert loaded.run.survey == str(tmp_path / "s.toml")


@pytest.mark.parametrize(
    "url",
    ["http://x/a.csv", "https://x/a.csv", "ftp://x/a", "s3://b/k", "file:///etc/passwd", "gs://x"],
)
def test_a_url_is_no_path(url: str) -> None:
    with pytest.raises(RequestError, match="not a URL"):
        config.load(None, [], {"cutout": {"catalog": Path(url)}})
    with pytest.raises(RequestError, match="not a URL"):
        config.load(None, [], {"cutout": {"tiles": (Path(url),)}})
    with pytest.raises(RequestError, match="not a URL"):
        config.load(None, [f"run.survey='{url}.toml'"])


def test_the_order_of_keys_and_how_to_run_change_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    first = config.load(write(tmp_path, "[train]\nepochs = 3\nbatch_size = 64\n"))
    second = config.load(
        write(tmp_path / "1", "[train]\nbatch_size = 64\nepochs = 3\nsave_every_s = 1")
    )
    assert fingerprint(first.train.fingerprint()) == fingerprint(second.train.fingerprint())
    third = config.load(write(tmp_path, "[train]\nepochs = 4\nbatch_size = 64\n"))
    assert fingerprint(first.train.fingerprint()) != fingerprint(third.train.fingerprint())
    for keys in ({"workers": 3}, {"engine": "serial"}, {"engine": "tcp://127.0.0.1:1"}):
        run = config.load(None, (), {"run": keys}).run
        assert run.fingerprint() == config.Config().run.fingerprint()
    assert config.load(None, ["run.seed=2"]).run.fingerprint() != config.Config().run.fingerprint()


def test_every_key_says_what_it_is() -> None:
    for name in config.Config.model_fields:
        for key, field in config.section_model(name).model_fields.items():
            assert field.description, f"{name}.{key}"


def test_a_comma_divides_what_is_not_one_thing(tmp_path: Path) -> None:
    (tmp_path / "tiles, deep").mkdir()
    path = write(
        tmp_path,
        """
        [cutout]
        tiles = "tiles, deep"
        bands = "g, r"
        [infer]
        model = "a.safetensors,b.safetensors"
        [slurm]
        options = "--exclude=n1,n2, --qos=long"
        """,
    )
    read = config.load(path)
    assert read.cutout.tiles == (tmp_path / "tiles, deep",)
    assert read.cutout.bands == ("g", "r")
    assert read.infer.model == (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert read.slurm.options == ("--exclude=n1,n2", "--qos=long")


def test_a_key_that_is_set_in_a_table_stands_beside_the_others(tmp_path: Path) -> None:
    path = write(tmp_path, "[cutout]\nranges = { mag_r = [17, 18], size = [1, 2] }")
    read = config.load(path, ["cutout.ranges.mag_g-mag_r=[0,3]", "cutout.ranges.size=[1,3]"])
    assert read.cutout.ranges == {"mag_r": (17, 18), "size": (1, 3), "mag_g-mag_r": (0, 3)}
    alone = config.load(path, ["cutout.ranges={mag_i=[1,2]}", "cutout.ranges.mag_g=[0,3]"])
    assert alone.cutout.ranges == {"mag_i": (1, 2), "mag_g": (0, 3)}


@pytest.mark.parametrize("key", ["train.clip_norm", "train.learning_rate", "run.timeout_s"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_no_number_is_infinite(key: str, value: str) -> None:
    with pytest.raises(RequestError, match=rf"{key}: expected a finite number"):
        config.load(None, [f"{key}={value}"])


def test_what_toml_takes_for_a_time_or_a_number_is_text_where_text_is_wanted(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "\ufeff[slurm]\ntime = 04:00:00\naccount = 12345")
    for read in (
        config.load(path),
        config.load(None, ["slurm.time=04:00:00", "slurm.account=12345"]),
    ):
        assert (read.slurm.time, read.slurm.account) == ("04:00:00", "12345")


def test_a_schedulers_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    read = config.load(write(tmp_path, "[run]\nengine = 'scheduler.json'"))
    assert read.run.engine == str(tmp_path / "scheduler.json")
    assert config.load(None, ["run.engine=scheduler.json"]).run.engine == "scheduler.json"

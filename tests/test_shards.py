"""Laws of shards: what is written comes back, and nothing is read from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensfinder import schema, shards
from lensfinder.commit import sha256_of
from lensfinder.errors import DiskError, MismatchError, RequestError

BANDS = ("g", "r")
PRINTABLE = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn")).filter(str.isprintable),
    min_size=1,
    max_size=16,
).filter(lambda text: len(text.encode()) <= schema.MAX_ID_BYTES)


def content(ids: list[str], size: int = 9, seed: int = 0) -> dict[str, Any]:
    rng, n = np.random.default_rng(seed), len(ids)
    image = rng.normal(size=(n, len(BANDS), size, size)).astype(np.float32)
    image[rng.uniform(size=image.shape) < 0.1] = np.nan
    catalog = {name: np.array([schema.empty_value(name)] * n) for name in schema.REQUIRED_COLUMNS}
    catalog |= {
        "id": np.array(ids, dtype=object),
        "ra": rng.uniform(0, 360, n),
        "mag_r": rng.uniform(15, 25, n).astype(np.float32),
        "flags": rng.integers(0, 32, n, dtype=np.int32),
    }
    return {
        "image_NCHW": image,
        "mask_NCHW": rng.integers(0, 8, image.shape, dtype=np.uint8),
        "catalog": catalog,
        "ledger": {"id": ids, "outcome": ["ok"] * n, "reason": [""] * n},
    }


HEADER = shards.Header("cutout", "kids", BANDS, 0.2, {"made": {"from": [1, 2.5, "x"]}}, {"seed": 1})


def write(path: Path, ids: list[str], **more: Any) -> dict[str, Any]:
    written = content(ids) | more
    shards.write(path, HEADER, **written)
    return written


@settings(deadline=None, max_examples=25)
@given(ids=st.lists(PRINTABLE, max_size=5, unique=True), seed=st.integers(0, 99))
def test_what_is_written_comes_back(tmp_path_factory: Any, ids: list[str], seed: int) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.h5"
    written = content(ids, seed=seed)
    variance = written["image_NCHW"] ** 2
    digest = shards.write(path, HEADER, **written, variance_NCHW=variance)
    assert digest == sha256_of(path)
    with shards.read(path) as shard:
        assert shard.header == HEADER
        assert len(shard) == len(ids)
        assert shard.image[:].tobytes() == written["image_NCHW"].tobytes()
        assert shard.mask[:].tobytes() == written["mask_NCHW"].tobytes()
        assert shard.variance[:].tobytes() == variance.tobytes()
        assert shard.catalog["id"].tolist() == ids
        assert set(shard.catalog) == set(written["catalog"])
        for name in ("ra", "mag_r", "flags"):
            assert shard.catalog[name].dtype == written["catalog"][name].dtype
            assert shard.catalog[name].tolist() == written["catalog"][name].tolist()
        assert shard.ledger["outcome"].tolist() == ["ok"] * len(ids)
    for name, key in (("image", "image_NCHW"), ("mask", "mask_NCHW")):
        mapped = shards.memory_map(path, name)
        assert mapped.tobytes() == written[key].tobytes()
    assert shards.made_from(path) == HEADER.ingredients
    assert list(path.parent.iterdir()) == [path]


def test_a_stranger_reads_it_with_h5py_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ["x"])
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["image"].attrs["unit"] == "nJy"
        assert file["catalog/ra"].attrs["unit"] == "deg"
        assert list(file.attrs["bands"]) == list(BANDS)
        assert file["image"].chunks is None


@pytest.mark.parametrize(
    "broken",
    [
        {"mask_NCHW": np.zeros((1, 2, 9, 7), np.uint8)},
        {"image_NCHW": np.zeros((1, 2, 9, 9))},
        {
            "image_NCHW": np.zeros((1, 2, 8, 8), np.float32),
            "mask_NCHW": np.zeros((1, 2, 8, 8), np.uint8),
        },
        {"catalog": {"id": ["x"]}},
    ],
)
def test_what_breaks_the_contract_is_not_written(tmp_path: Path, broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        write(tmp_path / "a.h5", ["x"], **broken)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_on_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskError, match="0 MB are free"):
        write(tmp_path / "a.h5", ["x"])
    assert not list(tmp_path.iterdir())


def replace(path: Path, name: str, make: Any) -> None:
    with h5py.File(path, "a") as file:
        old = file[name]
        shape, dtype = old.shape, old.dtype
        del file[name]
        make(file, name, shape, dtype)


def external(file: h5py.File, name: str, shape: Any, dtype: Any) -> None:
    dtype = np.uint8 if h5py.check_string_dtype(dtype) else dtype
    shape = shape or (1,)  # a scalar would be kept inside
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    file.create_dataset(name, shape, dtype, external=[("/etc/hostname", 0, count)])


def virtual(file: h5py.File, name: str, shape: Any, dtype: Any) -> None:
    layout = h5py.VirtualLayout(shape or (1,), dtype)
    layout[:] = h5py.VirtualSource("other.h5", "secret", shape or (1,))
    file.create_virtual_dataset(name, layout)


def soft(file: h5py.File, name: str, _shape: Any, _dtype: Any) -> None:
    file[name] = h5py.SoftLink("/mask")


def linked(file: h5py.File, name: str, _shape: Any, _dtype: Any) -> None:
    file[name] = h5py.ExternalLink("other.h5", "/image")


@pytest.mark.parametrize("how", [external, virtual, soft, linked])
@pytest.mark.parametrize(
    "name", ["image", "mask", "variance", "catalog/ra", "ledger/id", "ingredients"]
)
def test_data_that_lie_elsewhere_are_refused(tmp_path: Path, name: str, how: Any) -> None:
    path = tmp_path / "a.h5"
    write(path, ["x"], variance_NCHW=np.ones((1, 2, 9, 9), np.float32))
    replace(path, name, how)
    with pytest.raises(RequestError, match=r"link|another file"), shards.read(path):
        pass


def test_a_linked_group_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, ["x"])
    with h5py.File(path, "a") as file:
        file.move("catalog", "hidden")
        file["catalog"] = h5py.SoftLink("/hidden")
    with pytest.raises(RequestError, match="'catalog' is a link"), shards.read(path):
        pass


@pytest.mark.parametrize("size", [0, 10, 1000, -1])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.h5"
    write(path, ["x"])
    whole = path.read_bytes()
    path.write_bytes(whole[: size if size >= 0 else len(whole) // 2])
    assert shards.made_from(path) is None
    with pytest.raises(RequestError, match=r"a\.h5"), shards.read(path):
        pass


@pytest.mark.parametrize("name", ["image", "mask", "catalog", "catalog/split", "ledger"])
def test_a_file_without_its_parts_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.h5"
    write(path, ["x"])
    with h5py.File(path, "a") as file:
        del file[name]
    with pytest.raises(RequestError, match="damaged or no shard"), shards.read(path):
        pass


@pytest.mark.fault
def test_another_schema_version_is_named_and_can_be_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, ["x"])
    with h5py.File(path, "a") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(MismatchError, match="schema version 99"), shards.read(path):
        pass
    assert shards.made_from(path) == HEADER.ingredients


def test_compressed_pixels_are_read_but_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    written = write(path, ["x"])
    with h5py.File(path, "a") as file:
        del file["image"]
        file.create_dataset("image", data=written["image_NCHW"], compression="gzip")
    with shards.read(path) as shard:
        assert shard.image[:].tobytes() == written["image_NCHW"].tobytes()
    with pytest.raises(RequestError, match="compressed"):
        shards.memory_map(path)

"""From folders of stamps that others have cut to units of work, with what lists say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensfinder import tables, tilefiles, tiles
from lensfinder.cutout.travel import plain_paths
from lensfinder.errors import RequestError
from lensfinder.survey import Survey
from lensfinder.tilefiles import TileFiles

_STAMPS_A_UNIT = 1024


@dataclass(frozen=True)
class StampJob:
    """Some of the stamps that others have cut, which one unit takes care of.

    Attributes
    ----------
    name : str
        Name of the unit.
    objects : tuple of TileFiles
        One for each object, named by its id.
    labels : mapping of id to 1 or 0
        Where known.
    splits : mapping of id to train, val or test
        Where the list of labels says so.
    """

    name: str
    objects: tuple[TileFiles, ...]
    labels: Mapping[str, int]
    splits: Mapping[str, str]

    @property
    def inputs(self) -> dict[str, Any]:
        """What decides the pixels and labels: the files' identity and the list of lenses."""
        identities = {files.name: files.identity() for files in self.objects}
        return {"stamps": identities, "labels": dict(self.labels), "splits": dict(self.splits)}

    @property
    def task(self) -> dict[str, Any]:
        """What a unit's task must hold so that `stampfiles.stamps_of` can read it."""
        return {
            "stamps": {files.name: plain_paths(files) for files in self.objects},
            "labels": dict(self.labels),
            "splits": dict(self.splits),
            "targets": {"id": [files.name for files in self.objects]},
        }


def plan_stamps(inputs: Sequence[Path], survey: Survey, bands: tuple[str, ...]) -> list[StampJob]:
    """Divide the stamps in folders among units, and find the lists that say what they are.

    A unit made of a job has ``job.inputs`` among its ingredients and ``job.task`` in its task;
    its ``do`` reads the stamps with `stampfiles.stamps_of`.

    Parameters
    ----------
    inputs : sequence of Path
        Folders, searched for ``classifications.csv`` too, or files.
    survey : Survey
        One with ``stamps = true``.
    bands : tuple of str

    Raises
    ------
    RequestError
        If there are no stamps, or a list of labels can't be read.
    """
    found = tiles.find(inputs, survey, bands)
    labels: dict[str, int] = {}
    splits: dict[str, str] = {}
    for folder in inputs:
        for path in tilefiles.below(folder) if folder.is_dir() else ():
            if path.name == "classifications.csv":
                listed, told = tables.read_labels(path)
                splits |= told
                for name, label in listed.items():
                    if labels.setdefault(name, label) != label:
                        raise RequestError(
                            f"{path} says {label} of {name!r}, and another list the opposite",
                            "one label each",
                        )
    jobs = []
    for start in range(0, len(found), _STAMPS_A_UNIT):
        part = tuple(found[start : start + _STAMPS_A_UNIT])
        names = [files.name for files in part]
        own = {name: labels[name] for name in names if name in labels}
        parted = {name: splits[name] for name in names if name in splits}
        jobs.append(StampJob(f"stamps-{start // _STAMPS_A_UNIT + 1:05d}", part, own, parted))
    return jobs

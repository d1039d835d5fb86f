"""Files of tiles and stamps: which belong together, and what tells one content from another.

Tiles are found by their file names, as the survey says. Where a file holds the CCDs of a camera,
each is a tile of its own, whose paths end in ``[EXTNAME]`` or ``[number]``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.io import fits

from lensfinder.errors import RequestError, counted
from lensfinder.footprints import READ_ERRORS, quietly
from lensfinder.planes import is_picture
from lensfinder.survey import Survey

# Of a file's bytes, beside its headers, to tell its content by.
_SAMPLES, _SAMPLE_BYTES = 32, 4096


@dataclass(frozen=True)
class TileFiles:
    """The files of one tile.

    Attributes
    ----------
    name : str
        Common part of the file names.
    paths : mapping of band to {kind of plane: path}
    """

    name: str
    paths: Mapping[str, Mapping[str, Path]]

    def identity(self) -> dict[str, Any]:
        """Describe the files' content without reading all of it (see `identify`)."""
        # One file may hold every plane of every band.
        known = {path: identify(path) for kinds in self.paths.values() for path in kinds.values()}
        return {
            f"{band}/{kind}": known[path]
            for band, kinds in sorted(self.paths.items())
            for kind, path in sorted(kinds.items())
        }


def find(inputs: Sequence[Path], survey: Survey, bands: Sequence[str]) -> list[TileFiles]:
    """Group files into tiles by the survey's name pattern.

    Parameters
    ----------
    inputs : sequence of Path
        Files, or folders searched with all their sub-folders.
    survey : Survey
    bands : sequence of str
        Files of other bands are left out.

    Returns
    -------
    list of TileFiles
        Sorted by name.

    Raises
    ------
    RequestError
        If an input does not exist, a named file does not fit the pattern, two files claim the same
        place, or nothing is left.
    """
    pattern = re.compile(survey.files.pattern)
    tiles: dict[str, dict[str, dict[str, Path]]] = {}
    if not inputs:
        raise RequestError("no tiles given", "FITS files, or folders of them")
    for path, named in _files(inputs):
        match = pattern.fullmatch(path.name)
        if match is None:
            if named:
                raise RequestError(
                    f"{path} is not named like a tile of {survey.name}",
                    f"a name that matches {survey.files.pattern}",
                    "Choose the survey with --survey, or write a survey file for these names.",
                )
            continue
        words = match.groupdict()
        band = None if words.get("band") is None else survey.files.band_of(words["band"])
        for each in bands if band is None else [band]:
            for kind in survey.files.kinds_of(words.get("kind")) if each in bands else []:
                kinds = tiles.setdefault(words["tile"], {}).setdefault(each, {})
                if kind in kinds and kinds[kind].resolve() != path.resolve():
                    raise RequestError(
                        f"{kinds[kind]} and {path} are both the {each} {kind} of one tile"
                    )
                kinds[kind] = path
    if not tiles:
        where = ", ".join(str(path) for path in inputs)
        raise RequestError(
            f"no {survey.name} tiles in {where}{_instead(inputs)}",
            f"file names that match {survey.files.pattern}, bands {','.join(bands)}",
            "Choose the survey with --survey; `lensfinder surveys` lists them.",
        )
    found = [TileFiles(name, tiles[name]) for name in sorted(tiles)]
    if survey.files.chips:
        return [chip for files in found for chip in _chips(files)]
    return found


def _files(inputs: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    for path in inputs:
        if path.is_dir():
            yield from ((child, False) for child in below(path))
        elif path.exists() or path.is_symlink():
            yield path, True
        else:
            raise RequestError(
                f"no such file: {path}", "a FITS tile or a folder of tiles or stamps"
            )


def _instead(inputs: Sequence[Path]) -> str:
    """What there is in folders without tiles."""
    names = [path.name for path, _ in _files(inputs) if not path.is_dir()]
    if not names:
        return ", where there are no files"
    likely = [name for name in names if ".fit" in name] or names
    return f", where there are {counted(len(names), 'file')} such as {likely[0]}"


def below(folder: Path) -> list[Path]:
    """List what is in a folder and all its sub-folders, linked ones too, each folder once."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()  # a link back up, or a second way to the same place
            continue
        seen.add((here.st_dev, here.st_ino))
        found += [Path(parent, name) for name in (*folders, *names)]
    return sorted(found)


def _chips(files: TileFiles) -> list[TileFiles]:
    """Make each image of a camera's files a tile; a file with one image stays as it is."""
    names: dict[str, None] = {}
    for kinds in files.paths.values():
        if "image" in kinds:
            names |= dict.fromkeys(_images_of(kinds["image"]))
    if not names:
        return [files]
    return [
        TileFiles(
            f"{files.name}.{chip}",
            {
                band: {kind: path.with_name(f"{path.name}[{chip}]") for kind, path in kinds.items()}
                for band, kinds in files.paths.items()
            },
        )
        for chip in names
    ]


def _images_of(path: Path) -> list[str]:
    """List the images of a file by name, or by number where names are missing or shared."""
    try:
        with quietly(), fits.open(path) as hdus:
            images = {
                number: hdu.name
                for number, hdu in enumerate(hdus)
                if getattr(hdu, "is_image", False) and len(getattr(hdu, "shape", ())) == 2
            }
    except READ_ERRORS:
        return []  # its unit will say why
    if len(images) < 2:
        return []
    names = list(images.values())
    # A name of digits alone would be taken for a number.
    plain = all(re.fullmatch(r"\w*[^\W\d]\w*", name) for name in names)
    return names if plain and len(set(names)) == len(names) else [str(n) for n in images]


def split_chip(path: Path) -> tuple[Path, int | str | None]:
    """Take the HDU off a path that names one: ``exposure.fits[S29]``."""
    match = re.fullmatch(r"(.+)\[(\w+)\]", path.name)
    if match is None:
        return path, None
    return path.with_name(match[1]), int(match[2]) if match[2].isdecimal() else match[2]


def identify(path: Path) -> dict[str, Any]:
    """Tell a file's content by its size, its headers and samples of its bytes.

    DATASUM cards, where there are some, stand in the headers; pixels that changed everywhere under
    the same header, as by a new calibration in place, show in the samples. A gzipped file is told
    by its trailer (CRC-32 and length) instead, and a picture by all its bytes. Of a file with
    several CCDs, the first header and that of the CCD count.
    """
    digest = hashlib.sha256()
    path, chip = split_chip(path)
    try:
        size = path.stat().st_size
        if path.suffix == ".gz":
            with path.open("rb") as file:
                file.seek(max(0, size - 8))
                digest.update(file.read(8))
        elif is_picture(path):
            digest.update(path.read_bytes())
        else:
            with quietly(), fits.open(path) as hdus:
                for hdu in hdus if chip is None else (hdus[0], hdus[chip]):
                    digest.update(hdu.header.tostring().encode())
            _sample(path, size, digest)
    except READ_ERRORS as error:
        return {"name": path.name, "unreadable": type(error).__name__}
    found = {"name": path.name, "bytes": size, "header": digest.hexdigest()}
    return found if chip is None else {**found, "hdu": chip}


def _sample(path: Path, size: int, digest: hashlib._Hash) -> None:
    """Take blocks that are spread evenly over a file into its digest."""
    steps = range(_SAMPLES) if size > _SAMPLES * _SAMPLE_BYTES else ()
    with path.open("rb", buffering=0) as file:
        for step in steps:
            file.seek(step * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
        if not steps:
            digest.update(file.read())

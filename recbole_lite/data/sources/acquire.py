"""A data set's source files: downloaded, or files that the user has."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from recbole_lite.data.sources.dataset_meta import DatasetMeta, Source
from recbole_lite.data.sources.download import download_file
from recbole_lite.data.sources.source_files import REPLACED, SourceFiles, mismatches
from recbole_lite.utils.errors import DataError

# Of downloads, inside the data path; a data set's name cannot begin with "_".
SOURCES_FOLDER = "_sources"
DEFAULT_DATA_PATH = "dataset"  # RecBole's


def download(meta: DatasetMeta, data_path: Path, log: Callable[[str], None]) -> SourceFiles:
    """Download what is not there yet; sizes and checksums are checked where they are known.

    `data_path` is the folder of the data sets, and `log` takes lines for the user.
    """
    if not meta.sources:
        raise DataError(f"{meta.name} cannot be downloaded. {meta.by_hand.strip()}")
    folder = data_path / SOURCES_FOLDER / meta.name
    instructions = _manual_instructions(meta, data_path)
    paths = []
    for source in meta.sources:
        if not (folder / source.file).exists():
            size = f" ({source.size / 1e6:,.1f} MB)" if source.size else ""
            log(f"{meta.name}: fetching {source.url}{size} into {folder}")
        if not (source.sha256 or source.md5):
            log(f"{meta.name}: no checksum of {source.file} is published; it is used unchecked")
        paths.append(download_file(source, folder, instructions))
    return SourceFiles(paths)


def _manual_instructions(meta: DatasetMeta, data_path: Path) -> str:
    """How to get the files without the network: the URLs, the folder, the command."""
    folder = data_path / SOURCES_FOLDER / meta.name
    missing = [s for s in meta.sources if not (folder / s.file).exists()]
    single = len(meta.sources) == 1
    place = f"PATH/TO/{meta.sources[0].file}" if single else "FOLDER_WITH_THESE_FILES"
    command = f"recbole-lite data prepare {meta.name} --from {place}"
    if data_path != Path(DEFAULT_DATA_PATH):
        command += f" --data_path {shlex.quote(str(data_path))}"
    return "\n".join(
        [
            "To download it manually, on a machine with network access:",
            *(f"  {source.url}" for source in missing),
            "put it into this folder and run the same command again:",
            f"  {folder.absolute()}",
            "or leave it where it is and run:",
            f"  {command}",
        ]
    )


def from_local(meta: DatasetMeta, path: Path, log: Callable[[str], None]) -> SourceFiles:
    """Use source files that the user has.

    `path` is one file, under any name if the set has but one source; or a folder with all files, or
    with an archive's unpacked content. Files that are as downloaded are checked against sizes and
    checksums, where these are known. `log` takes lines for the user.
    """
    if not path.exists():
        raise DataError(f"there is no such file or folder; --from wants {_wanted(meta)}", path)
    if not meta.sources:
        return SourceFiles([path if path.is_dir() else path.parent])
    if path.is_file() and len(meta.sources) == 1:
        _check(path, meta.sources[0])
        return SourceFiles([path])
    folder = path if path.is_dir() else path.parent
    return SourceFiles([_find(folder, source, meta, log) for source in meta.sources])


def _wanted(meta: DatasetMeta) -> str:
    names = [source.file for source in meta.sources]
    return (
        f"{names[0]}, or its folder" if len(names) == 1 else f"a folder with {' and '.join(names)}"
    )


def _find(folder: Path, source: Source, meta: DatasetMeta, log: Callable[[str], None]) -> Path:
    """One source in a folder: as downloaded, or unpacked and then unchecked."""
    path = folder / source.file
    if path.is_file():
        _check(path, source)
        return path
    unpacked = folder / source.file.removesuffix(".gz")
    if source.file.endswith(".zip") and any(folder.iterdir()):
        unpacked = folder
    if not unpacked.exists():
        raise DataError(f"no {source.file} in it; --from wants {_wanted(meta)}", folder)
    log(f"{meta.name}: {unpacked} is used as {source.file} unpacked; size and checksum unchecked")
    return unpacked


def _check(path: Path, source: Source) -> None:
    if wrong := mismatches(path, source):
        raise DataError(
            f"this is not the file of {source.url}: {'; '.join(wrong)}. Fetch it again. {REPLACED}",
            path,
        )

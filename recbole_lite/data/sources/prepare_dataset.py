"""From source files to a finished data set folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock

from recbole_lite.data.atomic_writer import write_atomic
from recbole_lite.data.interaction_filters import filter_interactions
from recbole_lite.data.sources.acquire import download, from_local
from recbole_lite.data.sources.converter import Table
from recbole_lite.data.sources.dataset_meta import DatasetMeta, find_meta, known_names, load_meta
from recbole_lite.data.sources.dataset_stats import Stats, differences, measure
from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.data.sources.strict_model import nearest
from recbole_lite.utils.dataset_names import check_name
from recbole_lite.utils.errors import DataError
from recbole_lite.utils.files import file_sha256

RECEIPT = "prepared.json"


@dataclass(frozen=True)
class PreparedDataset:
    """A data set that was just made."""

    folder: Path
    meta: DatasetMeta
    stats: Stats  # of its interactions
    rows: dict[str, int]  # by name of the file
    differences: list[str]  # from what `meta` expects

    def render(self) -> str:
        """Counts, licence and citation as text."""
        stats = self.stats
        lines = [
            f"{self.meta.title} is ready in {self.folder}",
            f"  {stats.users:,} users, {stats.items:,} items, {stats.interactions:,} interactions; "
            f"density {stats.density:.6f}, {stats.mean_history:.1f} interactions per user",
            f"  {', '.join(f'{name}: {n:,} rows' for name, n in self.rows.items())}",
            *(f"  warning: {difference}" for difference in self.differences),
            f"Licence: {' '.join(self.meta.licence.split())}",
            f"Cite: {' '.join(self.meta.citation.split())}",
        ]
        return "\n".join(lines)


def prepare(
    name: str,
    data_path: str | Path,
    source: str | Path | None = None,
    *,
    log: Callable[[str], None] = print,
) -> PreparedDataset:
    """Make the folder ``<data_path>/<name>`` from the data set's source files.

    Parameters
    ----------
    name : str
        A data set with a ``dataset_meta`` file.
    data_path : str or Path
        Folder of the data sets.
    source : str or Path, optional
        File or folder that the user has; default: download.
    log : callable
        Takes lines for the user.

    Raises
    ------
    DownloadError
        The files cannot be downloaded.
    DataError
        An unknown name, a folder that is in the way, or damaged source files.
    """
    data_path = Path(data_path)
    meta = _load_meta(name, data_path)
    with locked(name, data_path):
        return _prepare(meta, data_path, source, log)


def ensure_dataset(name: str, data_path: str | Path, log: Callable[[str], None] = print) -> Path:
    """Folder ``<data_path>/<name>`` of a data set, prepared first if its ``.inter`` is missing.

    Processes take turns. `log` takes lines for the user: licence and counts of a set that is
    prepared.

    Raises
    ------
    DataError
        The name is not one, or nothing is known of the data set.
    DownloadError
        The data set cannot be downloaded.
    """
    data_path = Path(data_path)
    folder = data_path / check_name(name)
    if not (folder / f"{name}.inter").is_file():
        meta = _load_meta(name, data_path)
        with locked(name, data_path):
            if not (folder / f"{name}.inter").is_file():
                log(_prepare(meta, data_path, None, log).render())
    return folder


def _load_meta(name: str, data_path: Path) -> DatasetMeta:
    """Load the ``dataset_meta`` file of a data set, or raise a DataError that lists what exists."""
    path = find_meta(name, data_path)
    if path is None:
        inter = (data_path / name / f"{name}.inter").absolute()
        raise DataError(
            f"no data set {name!r}: there is no file {inter}, and no dataset_meta/{name}.yaml "
            f"that says where to get it ({nearest(name, known_names(data_path))}). To use your "
            f"own files: recbole-lite data import --name={shlex.quote(name)} "
            "--interactions=FILE --items=FILE (docs/own_data.md)."
        )
    return load_meta(path)


@contextmanager
def locked(name: str, data_path: Path) -> Iterator[None]:
    """Let one process at a time write a data set.

    Raises
    ------
    DataError
        Nothing can be written there.
    """
    lock = FileLock(data_path / f".{name}.lock")
    try:
        data_path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise DataError(f"cannot write there: {error}", data_path) from error
    try:
        yield
    finally:
        lock.release()


def _prepare(
    meta: DatasetMeta,
    data_path: Path,
    source: str | Path | None,
    log: Callable[[str], None],
) -> PreparedDataset:
    folder = data_path / meta.name
    if (folder / f"{meta.name}.inter").is_file():
        raise DataError(
            f"{meta.name}.inter already exists; nothing was changed. Check it with: recbole-lite "
            f"data check {meta.name}, or move the folder away and run the command again",
            folder,
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"this path exists without a {meta.name}.inter; nothing was changed. Move it away "
            "(source files in it can be given with --from) and run the command again",
            folder,
        )
    if source is None:
        files = download(meta, data_path, log)
    else:
        files = from_local(meta, Path(source), log)
    tables = _convert(meta, files)
    stats = measure(tables["inter"].frame)
    _write(folder, meta, files, tables)
    return PreparedDataset(
        folder=folder,
        meta=meta,
        stats=stats,
        rows={f"{meta.name}.{ending}": len(table.frame) for ending, table in tables.items()},
        differences=differences(meta.expected.counts(), stats),
    )


def _convert(meta: DatasetMeta, files: SourceFiles) -> dict[str, Table]:
    """Tables by file ending, filtered."""
    filters = meta.filters
    inter = meta.converter.interactions(files)
    frame = filter_interactions(
        inter.frame,
        user_k=filters.k_core.users,
        item_k=filters.k_core.items,
        min_rating=filters.min_rating,
        keep_first=filters.duplicates == "first",
    )
    if frame.empty:
        raise DataError(f"the filters in {meta.path} leave no interactions of {meta.name}")
    kept = pd.Index(frame["item_id"].unique())
    tables = {
        "inter": Table(inter.types, frame),
        "item": meta.converter.items(files, kept),
        "user": meta.converter.users(files),
    }
    return {ending: table for ending, table in tables.items() if table is not None}


def _write(folder: Path, meta: DatasetMeta, files: SourceFiles, tables: dict[str, Table]) -> None:
    """Write into a folder beside the right one, and rename it when it is complete."""
    with temporary_folder(folder) as temporary:
        for ending, table in tables.items():
            write_atomic(temporary / f"{meta.name}.{ending}", table.types, table.frame)
        write_receipt(temporary, meta.name, files.paths)
        if folder.exists():
            folder.rmdir()  # empty, or it would have been refused
        os.rename(temporary, folder)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Folder beside that of a data set, whose lock the caller holds; it is deleted in the end.

    Raises
    ------
    DataError
        Nothing can be written there.
    """
    temporary = folder.with_name(f".{folder.name}.new.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        temporary.mkdir()
        yield temporary
    except OSError as error:
        raise DataError(f"cannot write there: {error}", folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_receipt(folder: Path, name: str, sources: Iterable[Path]) -> None:
    """Write down the checksums of a data set's files and of the files that it was made from."""
    receipt = {
        "name": name,
        "sources": {path.name: file_sha256(path) for path in sources if path.is_file()},
        "sha256": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
    }
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")

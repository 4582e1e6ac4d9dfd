"""Sequences of a data set as memory-mapped files, ``.sequences/<key>`` in its folder.

To read, filter and sort 100 million interactions takes minutes and gigabytes; to open the result
takes neither. The key is the SHA-256 of the source file and of the settings that shape the result:
a change of either makes another store. A store is complete or absent, because its folder is written
under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from recbole.utils.argument_list import dataset_arguments

from recbole_lite.data.vocabulary import VOCABULARY_FILE, Vocabulary
from recbole_lite.utils.errors import CheckpointError, one_line
from recbole_lite.utils.files import file_sha256, to_json, write_json

FORMAT_VERSION = 1
FOLDER = ".sequences"
_FACTS, _TIME, _STARTS = "store.json", "time.npy", "starts.npy"
_LATER = {"MAX_ITEM_LIST_LENGTH", "unused_col"}  # settings of what is made of a store


@dataclass
class StoredSequences:
    """Content of a store.

    Attributes
    ----------
    columns : dict of str to torch.Tensor
        Field -> ``[n]`` or ``[n, k]``, mapped; sorted by user, time and file order.
    time : numpy.ndarray or None
        ``[n]`` exact times, mapped.
    starts : numpy.ndarray
        ``[n_users + 1]`` first row of each user.
    fields : dict of str to list
        Field -> its type, and RecBole's length of its sequences and number of buckets.
    vocabulary : Vocabulary
    """

    columns: dict[str, torch.Tensor]
    time: np.ndarray | None
    starts: np.ndarray
    fields: dict[str, list]
    vocabulary: Vocabulary

    def write(self, folder: Path) -> None:
        """Write the store; the caller holds its lock."""
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
        for number, column in enumerate(self.columns.values()):
            np.save(temporary / f"{number}.npy", column.numpy())
        np.save(temporary / _STARTS, self.starts)
        if self.time is not None:
            np.save(temporary / _TIME, self.time)
        (temporary / VOCABULARY_FILE).write_bytes(self.vocabulary.to_bytes())
        facts = {"columns": list(self.columns), "fields": self.fields}
        write_json(temporary / _FACTS, {**facts, "has_time": self.time is not None})
        os.rename(temporary, folder)

    @classmethod
    def open(cls, folder: Path) -> StoredSequences | None:
        """Open a store; None where there is none, or it is damaged, which is removed."""
        if not folder.is_dir():
            return None
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            columns = {
                field: torch.from_numpy(_mapped(folder / f"{number}.npy"))
                for number, field in enumerate(facts["columns"])
            }
            path = folder / VOCABULARY_FILE
            return cls(
                columns,
                _mapped(folder / _TIME) if facts["has_time"] else None,
                np.load(folder / _STARTS),
                facts["fields"],
                Vocabulary.from_bytes(path.read_bytes(), str(path)),
            )
        except (OSError, ValueError, KeyError, TypeError, CheckpointError) as error:
            getLogger().warning(f"{folder}: damaged ({one_line(error)}); it is written again")
            shutil.rmtree(folder, ignore_errors=True)  # on a disk that is read-only
            return None


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="c")  # torch wants writable memory; the file stays as it is


def store_folder(source: Path, config) -> Path:
    """Folder of the store of a file of interactions, as the settings shape it."""
    settings = {name: config[name] for name in dataset_arguments if name not in _LATER}
    key = to_json([FORMAT_VERSION, file_sha256(source), settings])
    return source.parent / FOLDER / hashlib.sha256(key.encode()).hexdigest()[:16]


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a store: one process writes it, others wait.

    Yields
    ------
    bool
        False (after a warning) where nothing can be written.
    """
    lock = FileLock(f"{folder}.lock")
    try:
        folder.parent.mkdir(exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # no such right, no flock
        getLogger().warning(
            f"{folder.parent} cannot be written ({one_line(error)}); the sequences are not stored"
        )
    try:
        yield lock.is_locked
    finally:
        lock.release()

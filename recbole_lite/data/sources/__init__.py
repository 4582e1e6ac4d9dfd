"""From the official sources to atomic files on disk.

`ensure_dataset` is what training calls; ``recbole-lite data`` offers the rest by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recbole_lite.data.sources.check_dataset import CheckReport, check
from recbole_lite.data.sources.dataset_meta import DatasetMeta, find_meta, known_names, load_meta
from recbole_lite.data.sources.prepare_dataset import PreparedDataset, prepare, prepare_if_missing

__all__ = [
    "CheckReport",
    "DatasetMeta",
    "PreparedDataset",
    "check",
    "ensure_dataset",
    "find_meta",
    "known_names",
    "load_meta",
    "prepare",
]


def ensure_dataset(name: str, data_path: str | Path, say: Callable[[str], None] = print) -> Path:
    """Folder of a data set, prepared first if it is not there.

    Parameters
    ----------
    name : str
        Of the data set: of its folder and of the files in it.
    data_path : str or Path
        Folder of the data sets.
    say : callable
        Takes lines for the user: licence and counts, when a set is prepared.

    Returns
    -------
    Path
        ``<data_path>/<name>``, with ``<name>.inter`` in it.

    Raises
    ------
    DataError
        The name is not one, or nothing is known of the data set.
    DownloadError
        The data set cannot be fetched.
    """
    return prepare_if_missing(name, Path(data_path), say)

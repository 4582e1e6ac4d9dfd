"""Where the files that ship with the package are, and names of what a run writes."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """Folder ``properties`` or ``dataset_meta``.

    An installed package carries them inside itself; in a checkout (run in place or
    installed with ``-e``) they stand beside the package.
    """
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


PROPERTIES = shipped("properties")
DATASET_META = shipped("dataset_meta")


def run_name(config) -> str:
    """Name of a run's files and folders: ``<model>-<dataset>-<time>``."""
    from recbole.utils import get_local_time

    return f"{config['model']}-{config['dataset']}-{get_local_time()}"


def create_unique(parent: Path, name: str, suffix: str = "") -> Path:
    """Create a folder (with a suffix: an empty file) ``name``, ``name-2``, ...: the first free one.

    Runs that start within one second have the same :func:`run_name`.

    Raises
    ------
    OSError
        It cannot be created.
    """
    n = 0
    while True:
        n += 1
        path = parent / f"{name}{f'-{n}' if n > 1 else ''}{suffix}"
        try:
            path.touch(exist_ok=False) if suffix else path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue

"""Where the files that ship with the package are."""

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

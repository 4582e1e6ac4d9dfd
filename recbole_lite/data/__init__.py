"""Data: from the official sources to windows of item ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole_lite.data.preparation import (
        count_data,
        create_dataset,
        data_preparation,
        get_dataloader,
    )

__all__ = ["count_data", "create_dataset", "data_preparation", "get_dataloader"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # On first use: ``recbole-lite data`` needs neither torch nor RecBole.
    from recbole_lite.data import preparation

    return getattr(preparation, name)

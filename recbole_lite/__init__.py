"""LITE-LLM4Rec (arXiv 2402.09543) for RecBole.

Code written for RecBole moves here by changing the import: the names and contracts are its own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

# Loaded on first use: importing the package must not need RecBole, let alone torch.
_PUBLIC = {
    "LiteConfig": "config.configurator",
    "Recommender": "inference.recommender",
    "create_dataset": "data.preparation",
    "data_preparation": "data.preparation",
    "get_dataloader": "data.preparation",
    "get_model": "config.registry",
    "get_trainer": "config.registry",
    "load_data_and_model": "inference.saved_run",
    "run": "quick_start",
    "update": "experiments.update.update",
}
__all__ = [
    "LiteConfig",
    "Recommender",
    "__version__",
    "create_dataset",
    "data_preparation",
    "get_dataloader",
    "get_model",
    "get_trainer",
    "load_data_and_model",
    "run",
    "update",
]

if TYPE_CHECKING:
    from recbole_lite.config.configurator import LiteConfig
    from recbole_lite.config.registry import get_model, get_trainer
    from recbole_lite.data import create_dataset, data_preparation, get_dataloader
    from recbole_lite.experiments.update.update import update
    from recbole_lite.inference.recommender import Recommender
    from recbole_lite.inference.saved_run import load_data_and_model
    from recbole_lite.quick_start import run


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "Recommender":  # a model with its graph needs neither RecBole nor torch
        importlib.import_module(f"{__name__}.config.registry").require_recbole()
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)

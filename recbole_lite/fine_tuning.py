"""Beginning a run with the weights of another one (``init_from``)."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

import torch

from recbole_lite import checkpoint
from recbole_lite.errors import CheckpointError

# Settings that decide which item has which internal id, and so which row of a table is whose.
_DECIDE_IDS = (
    "filter_inter_by_user_or_item", "user_inter_num_interval", "item_inter_num_interval",
    "val_interval", "rm_dup_inter", "benchmark_filename", "alias_of_user_id", "alias_of_item_id",
)  # fmt: skip


def begin_with(config, model: torch.nn.Module) -> None:
    """Put the best weights of the run in ``init_from`` into a model.

    What the model has for its present task alone (its attribute ``only_for_task``: beginnings of
    names) stays as it is where the other run lacks it.

    Raises
    ------
    CheckpointError
        No such run; another model, other data, or weights that do not fit.
    """
    folder = Path(config["init_from"])
    saved = checkpoint.load_config(folder)
    for name in ("model", "dataset"):
        if saved[name] != config[name]:
            raise CheckpointError(
                f"init_from: {folder} is a run of {saved['model']} on {saved['dataset']}, this is "
                f"one of {config['model']} on {config['dataset']}"
            )
    for key in _DECIDE_IDS:
        if saved["settings"].get(key) != config[key]:
            raise CheckpointError(
                f"init_from: {folder} had {key}: {saved['settings'].get(key)!r}, this run has "
                f"{config[key]!r}; items would have the vectors of others"
            )
    path = folder / checkpoint.BEST_FILE
    tensors, _ = checkpoint.load_weights(path)
    checkpoint.restore_model(model, tensors, path, getattr(model, "only_for_task", ()))
    getLogger().info(f"Beginning with the weights of {path}")

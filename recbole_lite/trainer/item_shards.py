"""Training with an item table whose rows are divided among the processes (``shard_items``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from recbole_lite.config.registry import can_shard_items
from recbole_lite.model.layers.sharded_embedding import sharded_tables
from recbole_lite.utils.errors import ConfigError


def check_shard_items(config) -> None:
    """Check ``shard_items`` before the data are read.

    Raises
    ------
    ConfigError
        The model or a setting does not support it.
    """
    if not config["shard_items"]:
        return
    if not can_shard_items(config.model_class):
        raise ConfigError(
            f"shard_items: {config['model']} cannot divide its item table; ItemLM can. Set "
            "shard_items: False"
        )
    mode = config["eval_args"]["mode"]
    modes = mode.values() if isinstance(mode, Mapping) else [mode]
    unsupported = {
        "one process, which has the whole table; add --nproc or --num_workers, or leave it out": (
            config["single_spec"]
        ),
        "tie_head: False": not config["tie_head"],
        "item_init: text_plus_id": config["item_init"] == "text_plus_id",
        "distill_from": config["distill_from"],
        "ema_decay": config["ema_decay"],
        "enable_amp": config["enable_amp"],
        "enable_scaler": config["enable_scaler"],
        "update (replay)": config["replay"] is not None,
        "task: topn": config["task"] == "topn",
        "sampled items in eval_args": any(name != "full" for name in modes),
        "the metric GAUC": "gauc" in [name.lower() for name in config["metrics"]],
    }
    found = next((name for name, is_set in unsupported.items() if is_set), None)
    if found is not None:
        raise ConfigError(f"shard_items cannot be combined with {found}")


@contextmanager
def whole_tables(
    model: torch.nn.Module, folder: Path | None, optimizer: torch.optim.Optimizer | None = None
) -> Iterator[None]:
    """Block in which the first process has the whole tables; see ``ShardedEmbedding.whole``."""
    with ExitStack() as blocks:
        for table in sharded_tables(model).values():
            blocks.enter_context(table.whole(folder, optimizer))
        yield


def clip_gradients(
    model: torch.nn.Module,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> None:
    """``clip_grad_norm_`` by the norm of all gradients, those of other processes' rows included."""
    tables = sharded_tables(model)
    parameters = dict(model.named_parameters())
    shared = [p.grad for n, p in parameters.items() if n not in tables and p.grad is not None]
    norms = [get_total_norm(shared, norm_type, foreach=foreach)]
    norms += [table.gather(parameters[n].grad.norm(norm_type)) for n, table in tables.items()]
    total = torch.cat([norm.flatten() for norm in norms]).norm(norm_type)
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(f"the norm of the gradients is {total.item()}")
    clip_grads_with_norm_(parameters.values(), max_norm, total, foreach)

"""Adam for large item tables: a step touches the rows that have a gradient, and no others."""

from __future__ import annotations

from logging import getLogger

import torch

from recbole_lite.config.registry import can_shard_items
from recbole_lite.model.layers.half_table import round_stochastically
from recbole_lite.utils.errors import ConfigError


def check_item_dtype(config) -> None:
    """Check ``item_dtype`` before the data are read.

    Raises
    ------
    ConfigError
        The model, a setting or the installed PyTorch does not support it.
    """
    name = f"item_dtype: {config['item_dtype']}"
    if config["item_dtype"] == "float32":
        return
    if not can_shard_items(config.model_class):
        raise ConfigError(
            f"{name}: {config['model']} keeps its item table in float32; ItemLM can keep it in "
            "half precision. Set item_dtype: float32"
        )
    if not hasattr(torch.Tensor, "grad_dtype"):
        raise ConfigError(
            f"{name} needs PyTorch 2.10 or newer, found {torch.__version__}; set float32"
        )
    unsupported = {
        "sparse_item_updates: False; set it to True": not config["sparse_item_updates"],
        "item_init: text_plus_id": config["item_init"] == "text_plus_id",
        "distill_from": config["distill_from"],
        "ema_decay": config["ema_decay"] is not None,
        "update (replay)": config["replay"] is not None,
    }
    found = next((setting for setting, is_set in unsupported.items() if is_set), None)
    if found is not None:
        raise ConfigError(f"{name} cannot be combined with {found}")


def update_rows_only(optimizer: torch.optim.Optimizer, model: torch.nn.Module, config) -> None:
    """Let an Adam optimiser take steps with sparse gradients (``sparse_item_updates``).

    Rows with a gradient get Adam's update, with moments and a number of steps of their own; one
    second moment serves a row, the mean of its squared gradients. Other rows, and their moments,
    stay as they are. The state is part of the optimiser's.

    Parameters
    ----------
    optimizer : torch.optim.Adam or torch.optim.AdamW
    model : torch.nn.Module
        Without tables that give sparse gradients nothing is changed, with a warning.
    config : LiteConfig

    Raises
    ------
    ConfigError
        A setting needs the gradient of all rows.
    """
    if not any(getattr(module, "sparse", False) for module in model.modules()):
        getLogger().warning(
            f"sparse_item_updates is ignored: {type(model).__name__} updates all items"
        )
        return
    if config["learner"].lower() not in ("adam", "adamw"):
        found = f"learner {config['learner']}; set adam or adamw"
    elif any(group["weight_decay"] for group in optimizer.param_groups):
        found = "weight_decay, which changes all rows; set it to 0"
    elif config["clip_grad_norm"]:
        found = "clip_grad_norm, which reads all gradients; leave it out"
    elif not (config["single_spec"] or config["shard_items"]):
        found = "several processes, which sum dense gradients; use one, or set shard_items: True"
    else:
        optimizer.register_step_pre_hook(_update_rows)
        return
    raise ConfigError(f"sparse_item_updates cannot be combined with {found}")


def _update_rows(optimizer: torch.optim.Optimizer, *_) -> None:
    """Before a step: update tables with sparse gradients; the step then passes them over."""
    for group in optimizer.param_groups:
        for table in group["params"]:
            if table.grad is not None and table.grad.is_sparse:
                gradient, table.grad = table.grad.coalesce(), None
                rows, values = gradient.indices()[0], gradient.values()
                _update(table.data, rows, values, group, optimizer.state[table])


def _update(table, rows, gradient, group, state) -> None:
    if not state:
        # float16 has no small enough numbers for it.
        dtype = torch.float32 if table.dtype == torch.float32 else torch.bfloat16
        state["exp_avg"] = torch.zeros_like(table, dtype=dtype)
        for name in ("exp_avg_sq", "step"):  # a step for each row; float32 counts to 2^24
            state[name] = table.new_zeros(len(table), dtype=torch.float32)
    first, second = group["betas"]
    steps = state["step"][rows] + 1
    mean = state["exp_avg"][rows].float().lerp_(gradient, 1 - first)
    square = state["exp_avg_sq"][rows].lerp_(gradient.square().mean(1), 1 - second)
    scale = (square / (1 - second**steps)).sqrt_().add_(group["eps"]) * (1 - first**steps)
    changed = table[rows].float() - group["lr"] * mean / scale[:, None]
    names = ("step", "exp_avg", "exp_avg_sq")
    kept = (*(state[name] for name in names), table)
    for tensor, values in zip(kept, (steps, mean, square, changed), strict=True):
        tensor[rows] = round_stochastically(values, tensor.dtype)


def restore_types(optimizer: torch.optim.Optimizer, saved: dict) -> None:
    """Undo that ``load_state_dict`` converts the state of a table to the type of the table.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    saved : dict
        What it has loaded.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, state in saved["state"].items():
        table = parameters[place]
        if getattr(table, "grad_dtype", table.dtype) != table.dtype:  # of item_dtype
            optimizer.state[table] = {name: v.to(table.device) for name, v in state.items()}

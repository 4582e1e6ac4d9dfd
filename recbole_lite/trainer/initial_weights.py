"""Initial weights from another run (``init_from``, ``pre_model_path``)."""

from __future__ import annotations

from itertools import pairwise
from logging import getLogger
from pathlib import Path

import torch

from recbole_lite.config.keys import affecting
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import CheckpointError, ConfigError

# RecBole's models that are trained in several runs: values of train_stage, in order.
TRAIN_STAGES = {
    "S3Rec": ("pretrain", "finetune"),
    "RaCT": ("actor_pretrain", "critic_pretrain", "finetune"),
}


def next_train_stage(config) -> str | None:
    """The ``train_stage`` that follows a pre-training; None for any other run."""
    stages = TRAIN_STAGES.get(config["model"], ())
    following = dict(pairwise(stages))
    return following.get(config["train_stage"])


def check_train_stage(config) -> None:
    """Check ``train_stage``, and the file that a later stage reads.

    Raises
    ------
    ConfigError
        No such stage or no such file.
    """
    stages = TRAIN_STAGES.get(config["model"], ())
    stage, path = config["train_stage"], config["pre_model_path"]
    if not stages:
        return
    if stage not in stages:
        raise ConfigError(f"train_stage must be one of {', '.join(stages)}, found {stage!r}")
    place = stages.index(stage)
    if place and not (path and Path(path).is_file()):
        raise ConfigError(
            f"pre_model_path: no file {path!r}. Run --train_stage={stages[place - 1]} first; it "
            "prints the path"
        )


def check_initial_weights(config) -> None:
    """Check that the run in ``init_from`` has weights for this one.

    Raises
    ------
    CheckpointError
        No such run; another model or, unless interactions are added (``replay``), other data.
    """
    folder = Path(config["init_from"])
    saved = checkpoint.load_config(folder)
    for name in ("model", "dataset") if config["replay"] is None else ("model",):
        if saved[name] != config[name]:
            raise CheckpointError(
                f"init_from: {folder} is a run of {saved['model']} on {saved['dataset']}, this is "
                f"one of {config['model']} on {config['dataset']}"
            )
    has_ids = (folder / checkpoint.VOCABULARY_FILE).exists()
    for key in () if has_ids else sorted(affecting("ids")):
        if saved["settings"].get(key) != config[key]:
            raise CheckpointError(
                f"init_from: {folder} had {key}: {saved['settings'].get(key)!r}, this run has "
                f"{config[key]!r}; items would be assigned the vectors of others"
            )


def load_initial_weights(config, model: torch.nn.Module) -> dict:
    """Load the best weights of the run in ``init_from`` into a model.

    Parameters that the model has for its present task alone (prefixes in its attribute
    ``only_for_task``) keep their values where the other run lacks them.

    Returns
    -------
    dict
        Facts of the weights.

    Raises
    ------
    CheckpointError
        No weights, or weights that do not fit.
    """
    path = Path(config["init_from"]) / checkpoint.BEST_FILE
    tensors, facts = checkpoint.load_weights(path)
    checkpoint.check_initial_vectors(facts, model, path)
    checkpoint.restore_model(model, tensors, path, getattr(model, "only_for_task", ()))
    getLogger().info(f"Starting from the weights of {path}")
    return facts

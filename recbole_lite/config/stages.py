"""Stages of a training: each with its own length, learning rate and trainable parts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from recbole_lite.config.yaml_files import Setting, checked, nearest
from recbole_lite.utils.errors import ConfigError

ITEM_LLM_TRAINING = ("frozen", "embeddings", "full")
PARTS = ("rec_llm", "adapter", "head")


@dataclass(frozen=True)
class Stage:
    """What may differ from stage to stage; the names are those of the configuration keys."""

    epochs: int
    learning_rate: float
    weight_decay: float
    stopping_step: int
    lr_scheduler: str
    warmup_ratio: float
    item_llm_training: str | None = None  # None: the model has no Item LLM
    frozen_parts: list[str] = field(default_factory=list)
    max_steps: int | None = None


def read_stages(config) -> list[Stage]:
    """Stages of a run, in order; one, made of the plain keys, where ``stages`` is empty.

    Parameters
    ----------
    config : mapping of the settings
        A key that a stage leaves out has the value of the plain key.

    Raises
    ------
    ConfigError
        A stage is no mapping, or has an unknown key or a wrong value; with its number.
    """
    names = [entry.name for entry in fields(Stage)]
    plain = {name: config[name] for name in names}
    plain["frozen_parts"] = plain["frozen_parts"] or []
    described = config["stages"] or [{}]
    if not isinstance(described, list):
        raise ConfigError(f"stages must be a list of mappings, found {described!r}")
    stages = []
    for number, own in enumerate(described, 1):
        origin = f"stages, stage {number}"
        if not isinstance(own, dict):
            raise ConfigError(f"{origin}: expected `key: value`, found {own!r}")
        values = dict(plain)
        for key, value in own.items():
            if key not in names:
                raise ConfigError(
                    f"{origin}: unknown key {key!r}{nearest(str(key), names)}; a stage can set "
                    + ", ".join(names)
                )
            values[key] = checked(key, Setting(value, origin), plain[key])
        stages.append(Stage(**values))
        _check(stages[-1], origin if config["stages"] else "configuration")
    _check_mixture(stages)
    return stages


def _check(stage: Stage, origin: str) -> None:
    how = stage.item_llm_training
    if how is not None and how not in ITEM_LLM_TRAINING:
        raise ConfigError(
            f"{origin}: item_llm_training must be one of {', '.join(ITEM_LLM_TRAINING)}, "
            f"found {how!r}"
        )
    parts: Any = stage.frozen_parts
    if not isinstance(parts, list) or not set(map(str, parts)) <= set(PARTS):
        raise ConfigError(
            f"{origin}: frozen_parts must be a list of {', '.join(PARTS)}, found {parts!r}"
        )


def _check_mixture(stages: list[Stage]) -> None:
    kinds = {stage.item_llm_training for stage in stages}
    if {"embeddings", "full"} <= kinds:
        raise ConfigError(
            "stages: item_llm_training is embeddings in one stage and full in another; vectors "
            "that were trained apart from the Item LLM cannot go back into it"
        )

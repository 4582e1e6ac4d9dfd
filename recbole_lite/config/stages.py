"""Stages of a training: each with its own length, learning rate and trainable parts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from recbole_lite.config.validation import validate
from recbole_lite.config.yaml_files import Setting
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.suggestions import suggest


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
    described = config["stages"] or [{}]
    if not isinstance(described, list):
        raise ConfigError(f"stages must be a list of mappings, found {described!r}")
    stages = []
    for number, own in enumerate(described, 1):
        origin = f"stages, stage {number}"
        if not isinstance(own, dict):
            raise ConfigError(f"{origin}: expected `key: value`, found {own!r}")
        for key in own:
            if key not in names:
                raise ConfigError(
                    f"{origin}: unknown key {key!r}{suggest(str(key), names)}; a stage can set "
                    + ", ".join(names)
                )
        place = origin if config["stages"] else "configuration"
        values = {**plain, **own}
        values["frozen_parts"] = values["frozen_parts"] or []
        stages.append(Stage(**{k: validate(k, Setting(values[k], place)) for k in names}))
    if {"embeddings", "full"} <= {stage.item_llm_training for stage in stages}:
        raise ConfigError(
            "stages: item_llm_training is embeddings in one stage and full in another; vectors "
            "that were trained apart from the Item LLM cannot go back into it"
        )
    return stages

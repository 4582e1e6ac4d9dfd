"""The specification of a sweep: the common configuration, the space, its own settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from recbole_lite.config.configurator import LiteConfig
from recbole_lite.config.keys import affecting, current, with_current_names
from recbole_lite.config.known_keys import check_known, known_keys
from recbole_lite.config.stages import read_stages
from recbole_lite.config.yaml_files import Setting
from recbole_lite.experiments.tune.space import Parameter, Space
from recbole_lite.experiments.tune.tune_settings import SWEEP_FILE, TuneSettings, read_settings
from recbole_lite.text.item_llm_settings import check_item_llm_is_read
from recbole_lite.trainer.initial_weights import next_train_stage
from recbole_lite.trainer.launch import needs_launch
from recbole_lite.utils.errors import ConfigError


@dataclass(frozen=True)
class SweepSpec:
    """Everything that defines a sweep; a resumed sweep must have the same."""

    model: str
    dataset: str
    values: dict[str, Any]  # configuration keys that the user has set, less those in the space
    space: Space
    settings: TuneSettings

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "values": self.values,
            "space_file": self.space.source,
            "space": self.space.plain(),
            "settings": asdict(self.settings),
        }

    @property
    def trials(self) -> int:
        """Number of trials."""
        return int(self.settings.num_samples) * self.space.grid_size

    def configure(self, params: Mapping[str, Any]) -> LiteConfig:
        """Configuration of a run with some values of the parameters."""
        values = {**self.values, **params}
        return LiteConfig(self.model, self.dataset, config_dict=values, typed=True)


def make_spec(config: LiteConfig, space: Space, settings: Mapping[str, Any]) -> SweepSpec:
    """Specify a sweep; its parameters have a higher priority than all files.

    Parameters
    ----------
    config : LiteConfig
        Of the trials, without the parameters; one that the command line sets is not varied.
    space : Space
    settings : dict
        Keys of ``properties/tune.yaml`` that the user has set.

    Raises
    ------
    ConfigError
        A wrong key, value or setting.
    """
    known = known_keys(config.model_class) | set(config.settings)
    check_known({p.key: Setting(p.values, p.origin) for p in space.parameters}, known)
    for parameter in space.parameters:
        if parameter.key in affecting("run", "session", "output"):
            raise ConfigError(f"{parameter.origin}: {parameter.key} cannot be a parameter")
    fixed = {k for k, setting in config.origins.items() if setting.origin == "command line"}
    if fixed & set(space.keys):
        space = space.without(fixed)
    tuning = read_settings(settings)
    if tuning.searcher == "grid":
        space = space.exhaustive()
    is_random = any(parameter.kind != "grid" for parameter in space.parameters)
    if not is_random and "num_samples" not in settings:
        tuning = replace(tuning, num_samples=1)
    values = {
        key: value
        for key, value in config.external_config_dict.items()
        if key not in {"model", "dataset", *space.keys}
    }
    return SweepSpec(config["model"], config["dataset"], values, space, tuning)


def load_spec(folder: str | Path) -> SweepSpec:
    """Read the specification of a sweep.

    Raises
    ------
    ConfigError
        There is no sweep in the folder.
    """
    path = Path(folder) / SWEEP_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parameters = [
            Parameter(current(key)[0], kind, tuple(values), str(path))
            for key, described in content["space"].items()
            for kind, values in described.items()
        ]
        return SweepSpec(
            content["model"],
            content["dataset"],
            with_current_names(content["values"]),
            Space(tuple(parameters), content["space_file"]),
            read_settings(content["settings"]),
        )
    except FileNotFoundError:
        raise ConfigError(
            f"resume: {folder}: no sweep to continue ({SWEEP_FILE} is missing)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error!r}") from None


def override_resources(spec: SweepSpec, settings: Mapping[str, Any]) -> SweepSpec:
    """Let a continuation run elsewhere: only what affects the session may be given.

    Raises
    ------
    ConfigError
        Another key.
    """
    for key in settings:
        if key not in affecting("session", files=["tune.yaml"]):
            raise ConfigError(f"--{key}: a resumed sweep keeps its own settings; leave it out")
    tuning = read_settings({**asdict(spec.settings), **settings})
    return replace(spec, settings=tuning)


def check_same(now: SweepSpec, before: SweepSpec) -> None:
    """Refuse to resume a sweep with another specification.

    Raises
    ------
    ConfigError
        With what differs.
    """
    new, old = (json.loads(json.dumps(spec.plain())) for spec in (now, before))
    for part in (new, old):
        part.pop("space_file")
        free = affecting("session", files=["tune.yaml"]) | affecting("places")
        for name in ("values", "settings"):
            part[name] = {k: v for k, v in part[name].items() if k not in free}
    different = [f"{key} was {old[key]}, is {new[key]}" for key in new if new[key] != old[key]]
    if different:
        raise ConfigError(f"resume: the sweep had other settings: {'; '.join(different)}")


def check_space(spec: SweepSpec) -> LiteConfig:
    """Configure trials with every listed value and end of a range: a mistake must not cost one.

    Returns
    -------
    LiteConfig
        Of one of them.

    Raises
    ------
    ConfigError
        A value is refused (with its place in the space), or the common settings do not go with
        a sweep.
    """
    for parameter in spec.space.parameters:
        for value in parameter.extremes():
            try:
                spec.configure({parameter.key: value})
            except ConfigError as error:
                raise ConfigError(f"{parameter.origin}: {parameter.key}: {error}") from None
    config = spec.configure({p.key: p.extremes()[0] for p in spec.space.parameters})
    if "item_vectors" not in spec.space.keys:
        check_item_llm_is_read(config, spec.space.keys, spec.space.source)
    for key in ("resume", "last_epoch"):
        if config[key] is not None:
            raise ConfigError(f"{key}: trials set this key themselves; leave it out")
    if needs_launch(config):
        key = "nproc" if config["num_workers"] is None else "num_workers"
        raise ConfigError(f"{key}: a trial is one process; leave it out, or train without --tune")
    if following := next_train_stage(config):
        raise ConfigError(
            f"train_stage: {config['train_stage']} has no validation to compare; run it without "
            f"--tune, then sweep with --train_stage={following} and --pre_model_path"
        )
    if config["eval_step"] == 0:
        raise ConfigError("eval_step: a sweep compares validations; with 0 there are none")
    return config


def max_epochs(spec: SweepSpec) -> int:
    """Epochs of the longest trial that the space allows."""
    swept = [p for p in spec.space.parameters if p.key in ("epochs", "stages")]
    values = [{p.key: ceil(v) if p.key == "epochs" else v} for p in swept for v in p.extremes()]
    configs = [spec.configure(value) for value in values or [{}]]
    return max(sum(stage.epochs for stage in read_stages(config)) for config in configs)

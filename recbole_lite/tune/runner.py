"""A sweep from its configuration to its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.utils import get_local_time

from recbole_lite.config import LiteConfig
from recbole_lite.errors import ConfigError
from recbole_lite.files import write_atomically
from recbole_lite.report.environment import environment
from recbole_lite.settings import Setting, check_known, known_keys
from recbole_lite.stages import read_stages
from recbole_lite.tune import cluster, items
from recbole_lite.tune.cli import SWEEP_FILE
from recbole_lite.tune.records import Record, read_records
from recbole_lite.tune.settings import FREE_ON_RESUME, TuneSettings, read_settings
from recbole_lite.tune.space import Parameter, Space, read_space
from recbole_lite.tune.trial import Plan, run_trial

RAY_FOLDER = "ray"
# Keys that are the sweep's or each trial's own.
NOT_PARAMETERS = {"model", "dataset", "resume", "end_epoch", "checkpoint_dir", "checkpoint_every"}


@dataclass(frozen=True)
class Sweep:
    """All that a sweep is made of; a sweep that goes on must be made of the same.

    Attributes
    ----------
    model, dataset : str
    values : dict
        Configuration keys that the user has set, less those in the space.
    space : Space
    settings : TuneSettings
    """

    model: str
    dataset: str
    values: dict[str, Any]
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
            "settings": self.settings.plain(),
        }

    @property
    def trials(self) -> int:
        """Number of trials."""
        return int(self.settings.num_samples) * self.space.grid_size

    def configure(self, params: Mapping[str, Any]) -> LiteConfig:
        """Configuration of a run with some values of the parameters."""
        values = {**self.values, **params}
        return LiteConfig(self.model, self.dataset, config_dict=values, typed=True)


def sweep(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    overrides: Iterable[str] | None = None,
    space: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Search hyper-parameters: trials on Ray, chosen by validation, the best one tested.

    Parameters
    ----------
    model, dataset, config_file_list, config_dict, overrides
        What all trials have in common, see :class:`~recbole_lite.config.LiteConfig`. A parameter
        of the space that `overrides` sets is not varied.
    space : str or Path, optional
        See :func:`~recbole_lite.tune.space.read_space`; may be left out with `resume`.
    settings : dict, optional
        Keys of ``properties/tune.yaml``.
    resume : str or Path, optional
        Folder of an interrupted sweep to go on with. Ray unpickles its state from there: name
        only folders that you trust.
    command : str
        What the user typed, for the records.
    say : callable
        Told of progress.

    Returns
    -------
    dict
        ``folder``; ``interrupted`` (by Ctrl-C); ``metric``; ``trials``: records as in
        ``trials.json``, the best first; ``best``: that record with ``test_result`` (None if
        interrupted) or None; ``seconds``; ``files``: what was written.

    Raises
    ------
    ConfigError
        A setting or the space is wrong; before the first trial.
    RecboleLiteError
        Data or item vectors cannot be had.
    """
    sources = (model, dataset, config_file_list, config_dict, overrides)
    if resume is not None and space is None:
        made = _with(load_sweep(resume), settings)
    else:
        if space is None:
            raise ConfigError("tune: name the file of a search space")
        made = make_sweep(*sources, read_space(space), settings or {})
        if resume is not None:
            _check_same(made, load_sweep(resume))
    config = _check(made)
    folder = Path(resume or made.settings.sweep_dir or _folder(made, config)).resolve()
    if resume is None and (folder / SWEEP_FILE).exists():
        raise ConfigError(f"{folder}: a sweep is there already; --resume={folder} goes on with it")
    started = perf_counter()
    with cluster.session(made.settings.ray_address, bool(config["use_gpu"])) as ray:
        resources = cluster.plan_resources(ray, made.settings, bool(config["use_gpu"]))
        plan = _plan(made, config, folder, resources)
        say(
            f"{made.trials} trials of {made.model} on {made.dataset}, {resources.concurrent} at a "
            f"time, each with {resources.cpus:g} CPU and {resources.gpus:g} GPU; folder: {folder}"
        )
        items.prepare(made.space, plan.configure_preparing)
        if resume is None:
            _write_json(folder / SWEEP_FILE, {**made.plain(), "command": command})
        records = read_records(
            _search(made, config, plan, resources, resume is not None),
            plan,
            config["valid_metric_bigger"],
        )
    return _finish(made, config, plan, records, perf_counter() - started, command, resources)


# -- before -----------------------------------------------------------------------------------


def make_sweep(model, dataset, files, config_dict, overrides, space, settings) -> Sweep:
    """Configure a sweep; the parameters are seen as settings above all files.

    Raises
    ------
    ConfigError
        A wrong key, value or setting.
    """
    config = LiteConfig(model, dataset, list(files or []), config_dict, overrides)
    known = known_keys(config.model_class) | set(config.settings)
    check_known({p.key: Setting(p.values, p.origin) for p in space.parameters}, known)
    for parameter in space.parameters:
        if parameter.key in NOT_PARAMETERS:
            raise ConfigError(f"{parameter.origin}: {parameter.key} cannot be a parameter")
    fixed = {k for k, setting in config.origins.items() if setting.origin == "command line"}
    if fixed & set(space.keys):
        space = space.without(fixed)
    tuning = read_settings(settings)
    if tuning.searcher == "grid":
        space = space.exhaustive()
    if space.is_grid and "num_samples" not in settings:
        tuning = TuneSettings(**{**tuning.plain(), "num_samples": 1})
    values = {
        key: value
        for key, value in config.external_config_dict.items()
        if key not in {"model", "dataset", *space.keys}
    }
    return Sweep(config["model"], config["dataset"], values, space, tuning)


def load_sweep(folder: str | Path) -> Sweep:
    """Read what a sweep was made of.

    Raises
    ------
    ConfigError
        There is no sweep in the folder.
    """
    path = Path(folder) / SWEEP_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parameters = [
            Parameter(key, kind, tuple(values), str(path))
            for key, described in content["space"].items()
            for kind, values in described.items()
        ]
        return Sweep(
            content["model"],
            content["dataset"],
            content["values"],
            Space(tuple(parameters), content["space_file"]),
            read_settings(content["settings"]),
        )
    except FileNotFoundError:
        raise ConfigError(
            f"resume: {folder}: no sweep to go on with ({SWEEP_FILE} is missing)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error!r}") from None


def _with(made: Sweep, settings: Mapping[str, Any] | None) -> Sweep:
    """Let a continuation run elsewhere."""
    for key in settings or {}:
        if key not in FREE_ON_RESUME:
            raise ConfigError(f"--{key}: a sweep goes on with its own settings; leave it out")
    tuning = read_settings({**made.settings.plain(), **(settings or {})})
    return Sweep(made.model, made.dataset, made.values, made.space, tuning)


def _check_same(now: Sweep, before: Sweep) -> None:
    new, old = (json.loads(json.dumps(made.plain())) for made in (now, before))
    for part in (new, old):
        part.pop("space_file")
        part["settings"] = {k: v for k, v in part["settings"].items() if k not in FREE_ON_RESUME}
    different = [f"{key} was {old[key]}, is {new[key]}" for key in new if new[key] != old[key]]
    if different:
        raise ConfigError(f"resume: the sweep was another one: {'; '.join(different)}")


def _check(made: Sweep) -> LiteConfig:
    """Configure trials with every listed value and end of a range: a mistake must not cost one."""
    for parameter in made.space.parameters:
        for value in parameter.extremes():
            try:
                made.configure({parameter.key: value})
            except ConfigError as error:
                raise ConfigError(f"{parameter.origin}: {parameter.key}: {error}") from None
    config = made.configure({p.key: p.extremes()[0] for p in made.space.parameters})
    for key in ("resume", "end_epoch"):
        if config[key] is not None:
            raise ConfigError(f"{key}: trials set it for themselves; leave it out")
    if (config["nproc"] or 1) > 1 or (config["world_size"] or 1) > 1:
        raise ConfigError("nproc: a trial is one process; leave it out, or train without --tune")
    if config["train_stage"] == "pretrain" or config["eval_step"] == 0:
        raise ConfigError("train_stage, eval_step: a sweep compares validations; there are none")
    return config


def _folder(made: Sweep, config: LiteConfig) -> Path:
    name = f"tune-{made.model}-{made.dataset}-{get_local_time()}"
    path, n = Path(config["checkpoint_dir"], name), 1
    while path.exists():
        n += 1
        path = Path(config["checkpoint_dir"], f"{name}-{n}")
    return path


def _plan(made: Sweep, config: LiteConfig, folder: Path, resources) -> Plan:
    return Plan(
        model=made.model,
        dataset=made.dataset,
        values=made.values,
        space=made.space,
        folder=str(folder),
        cwd=str(Path.cwd()),
        cache_dir=items.cache_dir(config, folder),
        threads=max(1, int(resources.cpus)),
        use_gpu=resources.gpus > 0,
    )


# -- search -----------------------------------------------------------------------------------


def _search(made: Sweep, config: LiteConfig, plan: Plan, resources, resume: bool):
    """Let Ray run the trials; the result is its ``ResultGrid``."""
    from ray import tune

    from recbole_lite.tune.search import Announcer, folder_name, make_scheduler, make_searcher

    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plan=plan), {"cpu": resources.cpus, "gpu": resources.gpus}
    )
    state = Path(plan.folder, RAY_FOLDER)
    if resume and tune.Tuner.can_restore(str(state)):
        return tune.Tuner.restore(str(state), trainable=trainable).fit()
    mode = "max" if config["valid_metric_bigger"] else "min"
    tuner = tune.Tuner(
        trainable,
        param_space=made.space.domains(),
        tune_config=tune.TuneConfig(
            num_samples=int(made.settings.num_samples),
            search_alg=make_searcher(made.settings, made.space, resources.concurrent, mode),
            scheduler=make_scheduler(made.settings, longest(made), mode),
            trial_dirname_creator=folder_name,
            reuse_actors=True,  # a process for many trials: starting one takes seconds
        ),
        run_config=tune.RunConfig(
            name=RAY_FOLDER,
            storage_path=plan.folder,
            failure_config=tune.FailureConfig(max_failures=int(made.settings.max_retries)),
            callbacks=[Announcer(plan, config["valid_metric"], made.trials)],
            verbose=0,
        ),
    )
    return tuner.fit()


def longest(made: Sweep) -> int:
    """Epochs of the longest trial that the space allows."""
    swept = [p for p in made.space.parameters if p.key in ("epochs", "stages")]
    values = [{p.key: ceil(v) if p.key == "epochs" else v} for p in swept for v in p.extremes()]
    configs = [made.configure(value) for value in values or [{}]]
    return max(sum(stage.epochs for stage in read_stages(config)) for config in configs)


# -- after ------------------------------------------------------------------------------------


def _finish(made, config, plan, records, seconds, command, resources) -> dict[str, Any]:
    from recbole_lite.report.sweep import write_report
    from recbole_lite.tune.best import evaluate_best, write_best

    bigger = config["valid_metric_bigger"]
    interrupted = len(records) < made.trials or any(r.status == "unfinished" for r in records)
    good = [r for r in records if r.run_dir and r.history and r.status not in ("failed", "died")]
    best: Record | None = good[0] if good else None
    result = {
        "model": made.model,
        "dataset": made.dataset,
        "folder": plan.folder,
        "metric": config["valid_metric"],
        "bigger": bigger,
        "interrupted": interrupted,
        "seconds": round(seconds, 1),
        "sweep": made.plain(),
        "resources": asdict(resources),
        "command": command,
        "environment": environment(),
        "trials": [record.plain(bigger) for record in records],
        "best": None,
    }
    if best is not None:
        result["best"] = best.plain(bigger)
        result["best"]["test_result"] = None if interrupted else evaluate_best(best, plan)
        write_best(best, made, plan, result)
    result["files"] = write_report(result, Path(plan.folder))
    return result


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(path, lambda name: name.write_text(text + "\n", encoding="utf-8"))

"""A sweep from its configuration to its report."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.utils import get_local_time

from recbole_lite.cli.tune import SWEEP_FILE
from recbole_lite.config.configurator import LiteConfig
from recbole_lite.experiments.tune import cluster, items
from recbole_lite.experiments.tune.records import Record, read_records
from recbole_lite.experiments.tune.space import read_space
from recbole_lite.experiments.tune.sweep_spec import (
    Sweep,
    check_same,
    check_values,
    elsewhere,
    load_sweep,
    longest,
    make_sweep,
)
from recbole_lite.experiments.tune.trial import RAY_FOLDER, Plan, run_trial
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.files import write_json


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
        What all trials have in common, see :class:`~recbole_lite.config.configurator.LiteConfig`. A
        parameter of the space that `overrides` sets is not varied.
    space : str or Path, optional
        See :func:`~recbole_lite.experiments.tune.space.read_space`; may be left out with `resume`.
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
        made = elsewhere(load_sweep(resume), settings)
    else:
        if space is None:
            raise ConfigError("tune: name the file of a search space")
        made = make_sweep(*sources, read_space(space), settings or {})
        if resume is not None:
            check_same(made, load_sweep(resume))
    config = check_values(made)
    folder = Path(resume or made.settings.sweep_dir or _folder(made, config)).resolve()
    if resume is None and (folder / SWEEP_FILE).exists():
        again = f"--resume={shlex.quote(str(folder))}"
        raise ConfigError(f"{folder}: a sweep is there already; {again} goes on with it")
    started = perf_counter()
    with cluster.session(made.settings.ray_address, bool(config["use_gpu"])) as ray:
        resources = cluster.plan_resources(ray, made.settings, bool(config["use_gpu"]))
        plan = _plan(made, config, folder, resources)
        say(
            f"{made.trials} trials of {made.model} on {made.dataset}, {resources.concurrent} at a "
            f"time, each with {resources.cpus:g} CPU and {resources.gpus:g} GPU; folder: {folder}"
        )
        items.prepare(made.space, plan.configure_preparing)
        if space is not None:  # of one that goes on: its files may be elsewhere
            write_json(folder / SWEEP_FILE, {**made.plain(), "command": command}, finite=False)
        records = read_records(
            _search(made, config, plan, resources, resume is not None),
            plan,
            config["valid_metric_bigger"],
        )
    return _finish(made, config, plan, records, perf_counter() - started, command, resources)


# -- before -----------------------------------------------------------------------------------


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

    from recbole_lite.experiments.tune.search import (
        Announcer,
        folder_name,
        make_scheduler,
        make_searcher,
    )

    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plan=plan), {"cpu": resources.cpus, "gpu": resources.gpus}
    )
    Announcer.plan = plan
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
            callbacks=[Announcer(config["valid_metric"], made.trials)],
            verbose=0,
        ),
    )
    return tuner.fit()


# -- after ------------------------------------------------------------------------------------


def _finish(made, config, plan, records, seconds, command, resources) -> dict[str, Any]:
    from recbole_lite.experiments.tune.best import BEST_FILE, evaluate_best, write_best
    from recbole_lite.report.sweep import write_report
    from recbole_lite.utils.errors import best_effort

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
        result["best"] = {**best.plain(bigger), "test_result": None}
        if not interrupted:
            with best_effort(f"test of {best.run_dir}", f"--resume={plan.folder} tests again"):
                result["best"]["test_result"] = evaluate_best(best, plan)
        with best_effort(BEST_FILE, f"--resume={plan.folder} makes it again"):
            write_best(best, made, plan, result)
    result["files"] = write_report(result, Path(plan.folder))
    return result

"""A sweep from its configuration to its report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.utils import get_local_time

from recbole_lite.config.configurator import LiteConfig
from recbole_lite.experiments.tune import cluster, encode_items
from recbole_lite.experiments.tune.records import read_records
from recbole_lite.experiments.tune.space import read_space
from recbole_lite.experiments.tune.sweep_spec import (
    SweepSpec,
    check_same,
    check_space,
    load_spec,
    make_spec,
    max_epochs,
    override_resources,
)
from recbole_lite.experiments.tune.trial import RAY_FOLDER, Plan, run_trial
from recbole_lite.experiments.tune.tune_settings import SWEEP_FILE
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.files import write_json
from recbole_lite.utils.ray_session import session


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep searches, or which sweep is resumed.

    `resume` is the folder of an interrupted sweep. Ray unpickles its state from there: name only
    folders that you trust.
    """

    space: str | Path | None = None  # of read_space; may be left out with resume
    settings: Mapping[str, Any] = field(default_factory=dict)  # keys of properties/tune.yaml
    resume: str | Path | None = None
    command: str = ""  # what the user typed, for the records


def sweep(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    overrides: Iterable[str] | None = None,
    options: SweepOptions | None = None,
) -> dict[str, Any]:
    """Search hyper-parameters: trials on Ray, chosen by validation, the best one tested.

    Parameters
    ----------
    model, dataset, config_file_list, config_dict, overrides
        What all trials have in common, see :class:`~recbole_lite.config.configurator.LiteConfig`. A
        parameter of the space that `overrides` sets is not varied.
    options : SweepOptions
        Names the space, or the sweep to resume.

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
    options = options or SweepOptions()
    sources = (model, dataset, list(config_file_list or []), config_dict, overrides)
    spec = _spec(sources, options)
    config = check_space(spec)
    folder = Path(options.resume or spec.settings.sweep_dir or _folder(spec, config)).resolve()
    if options.resume is None and (folder / SWEEP_FILE).exists():
        again = f"--resume={shlex.quote(str(folder))}"
        raise ConfigError(f"{folder}: already contains a sweep; {again} continues it")
    started = perf_counter()
    with session(spec.settings.ray_address, bool(config["use_gpu"])) as ray:
        resources = cluster.plan_resources(ray, spec.settings, bool(config["use_gpu"]))
        plan = _plan(spec, config, folder, resources)
        print(
            f"{spec.trials} trials of {spec.model} on {spec.dataset}, {resources.concurrent} at a "
            f"time, each with {resources.cpus:g} CPU and {resources.gpus:g} GPU; folder: {folder}"
        )
        encode_items.prepare(spec.space, plan.configure_preparing)
        if options.space is not None:  # a resumed one keeps its file: paths may differ here
            content = {**spec.plain(), "command": options.command}
            write_json(folder / SWEEP_FILE, content, finite=False)
        results = _search(config, plan, resources, options.resume is not None)
        records = read_records(results, plan, config["valid_metric_bigger"])
    about = {"seconds": round(perf_counter() - started, 1), "command": options.command}
    return _finish(config, plan, records, {**about, "resources": asdict(resources)})


# -- before -----------------------------------------------------------------------------------


def _spec(sources: tuple, options: SweepOptions) -> SweepSpec:
    """Specification by the space given, or of the sweep that is resumed."""
    if options.space is None:
        if options.resume is None:
            raise ConfigError("tune: name the file of a search space")
        return override_resources(load_spec(options.resume), options.settings)
    space = read_space(options.space)
    spec = make_spec(LiteConfig(*sources), space, options.settings)
    if options.resume is not None:
        check_same(spec, load_spec(options.resume))
    return spec


def _folder(spec: SweepSpec, config: LiteConfig) -> Path:
    name = f"tune-{spec.model}-{spec.dataset}-{get_local_time()}"
    path, n = Path(config["checkpoint_dir"], name), 1
    while path.exists():
        n += 1
        path = Path(config["checkpoint_dir"], f"{name}-{n}")
    return path


def _plan(spec: SweepSpec, config: LiteConfig, folder: Path, resources) -> Plan:
    return Plan(
        spec=spec,
        folder=str(folder),
        cwd=str(Path.cwd()),
        cache_dir=encode_items.cache_dir(config, folder),
        threads=max(1, int(resources.cpus)),
        use_gpu=resources.gpus > 0,
    )


# -- search -----------------------------------------------------------------------------------


def _search(config: LiteConfig, plan: Plan, resources, resume: bool):
    """Let Ray run the trials; the result is its ``ResultGrid``."""
    from ray import tune

    from recbole_lite.experiments.tune.search import (
        ProgressCallback,
        folder_name,
        make_scheduler,
        make_searcher,
    )

    trainable = tune.with_resources(
        tune.with_parameters(run_trial, plan=plan), {"cpu": resources.cpus, "gpu": resources.gpus}
    )
    ProgressCallback.plan = plan
    state = Path(plan.folder, RAY_FOLDER)
    if resume and tune.Tuner.can_restore(str(state)):
        return tune.Tuner.restore(str(state), trainable=trainable).fit()
    spec, mode = plan.spec, "max" if config["valid_metric_bigger"] else "min"
    tuner = tune.Tuner(
        trainable,
        param_space=spec.space.domains(),
        tune_config=tune.TuneConfig(
            num_samples=int(spec.settings.num_samples),
            search_alg=make_searcher(spec.settings, spec.space, resources.concurrent, mode),
            scheduler=make_scheduler(spec.settings, max_epochs(spec), mode),
            trial_dirname_creator=folder_name,
            reuse_actors=True,  # a process for many trials: starting one takes seconds
        ),
        run_config=tune.RunConfig(
            name=RAY_FOLDER,
            storage_path=plan.folder,
            failure_config=tune.FailureConfig(max_failures=int(spec.settings.max_retries)),
            callbacks=[ProgressCallback(config["valid_metric"], spec.trials)],
            verbose=0,
        ),
    )
    return tuner.fit()


# -- after ------------------------------------------------------------------------------------


def _finish(config: LiteConfig, plan: Plan, records, about: dict[str, Any]) -> dict[str, Any]:
    """Test the best trial and write the report; `about` goes into the result."""
    from recbole_lite.experiments.tune.best import BEST_FILE, evaluate_best, write_best
    from recbole_lite.report.sweep import write_report
    from recbole_lite.utils.errors import best_effort

    spec = plan.spec
    interrupted = len(records) < spec.trials or any(r["status"] == "unfinished" for r in records)
    good = (r for r in records if r["status"] not in ("failed", "died"))
    best = next((r for r in good if r["run_dir"] and r["history"]), None)
    result = {
        "model": spec.model,
        "dataset": spec.dataset,
        "folder": plan.folder,
        "metric": config["valid_metric"],
        "bigger": config["valid_metric_bigger"],
        "interrupted": interrupted,
        "sweep": spec.plain(),
        **about,
        "environment": environment(),
        "trials": records,
        "best": best and {**best, "test_result": None},
    }
    if best is not None:
        if not interrupted:
            with best_effort(f"test of {best['run_dir']}", f"--resume={plan.folder} tests again"):
                result["best"]["test_result"] = evaluate_best(best, plan)
        with best_effort(BEST_FILE, f"--resume={plan.folder} writes it again"):
            write_best(plan, result)
    result["files"] = write_report(result, Path(plan.folder))
    return result

"""The order of a run: configuration, data, model, training, evaluation."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.utils import init_seed
from recbole.utils.argument_list import dataset_arguments

from recbole_lite.config.configurator import LiteConfig, paths_of, translate_errors
from recbole_lite.config.registry import can_shard_items, can_train_prefixes, get_model, get_trainer
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.data import count_data, create_dataset, data_preparation
from recbole_lite.data.frames import DATASET, FrameTables, read_frames
from recbole_lite.data.item_titles import item_titles
from recbole_lite.data.sources.check_dataset import FileSettings, check
from recbole_lite.data.sources.check_report import CheckReport
from recbole_lite.data.topn_candidates import write_candidates
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.evaluator.evaluator import NO_USERS, per_user_results
from recbole_lite.inference.model_folder import supports_recommender
from recbole_lite.inference.saved_run import (
    check_catalogue,
    check_rows,
    keep_semantic_ids,
    trained_vocabulary,
    write_recommender_files,
)
from recbole_lite.inference.saved_run import load_data_and_model as load_data_and_model
from recbole_lite.inference.teacher import add_teachers, read_teachers, teacher_vocabulary
from recbole_lite.inference.warm_start import check_grows, load_grown_weights
from recbole_lite.model.layers.sharded_embedding import sharded_tables
from recbole_lite.report.rank_metrics import random_guess
from recbole_lite.report.run_report import (
    completion_hint,
    write_metrics,
    write_report,
    write_run_files,
)
from recbole_lite.report.samples import check_sampled, sample_users
from recbole_lite.trainer import checkpoint
from recbole_lite.trainer.initial_weights import (
    check_initial_weights,
    check_train_stage,
    load_initial_weights,
    next_train_stage,
)
from recbole_lite.trainer.item_shards import check_shard_items
from recbole_lite.trainer.launch import launch, needs_launch
from recbole_lite.trainer.matmul_backend import uses_onednn
from recbole_lite.trainer.resume import check_same_run, noted_run
from recbole_lite.trainer.row_updates import check_item_dtype
from recbole_lite.trainer.trackers import check_trackers
from recbole_lite.utils.errors import ConfigError, RecboleLiteError, best_effort
from recbole_lite.utils.files import to_plain
from recbole_lite.utils.log import FILE_ONLY, collected_warnings, init_logger
from recbole_lite.utils.memory import memory
from recbole_lite.utils.process_group import is_main_process, rank


def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    overrides: Iterable[str] | None = None,
    saved: bool = True,
    per_user: bool = False,
    interactions: Any = None,
    items: Any = None,
    users: Any = None,
) -> dict[str, Any]:
    """Train a model and evaluate it; then the ``baselines``, on the same data.

    Parameters
    ----------
    model, dataset, config_file_list, config_dict, overrides
        See :class:`~recbole_lite.config.configurator.LiteConfig`.
    saved : bool
        Whether to write checkpoints; without them the test figures are the last epoch's.
    per_user : bool
        Whether to return what each test user got, see below.
    interactions, items, users
        Data in place of files: data frames of pandas, polars or pyarrow, lists of dicts or dicts
        of lists (:func:`recbole_lite.data.frames.read_frames`). `dataset` then only names the
        run's folder; default: frames.

    Returns
    -------
    dict
        RecBole's ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and
        ``test_result``, and:

        - ``model``, ``dataset``; ``data``: counts of users, items, interactions; ``parts``: rows
          of ``train``, ``valid`` and ``test``. Without a validation part the weights of the last
          epoch are kept and ``best_valid_score`` is None; without a test part ``test_result`` is
          None
        - ``run_dir`` (None unless saved), ``report`` (likewise), ``log_file``: what was written
        - ``parameters``: number of trainable ones (where there are stages: in the first)
        - ``epochs``: number trained; ``history``: one dict per epoch
        - ``beams``: of models that search beams, what became of those of the test:
          ``beams``, ``no_item``, ``repeated``, ``users``; else None
        - ``candidates``, ``random_guess``: with ``task: topn``, file and SHA-256 of the
          candidates of validation and test (None unless saved), and what guessing would score;
          else None
        - ``seconds``: wall time of each step; ``memory``: after each step, see
          :func:`~recbole_lite.utils.memory.memory`
        - ``baselines``: such a dict for each that could be run; ``samples``: see
          :func:`~recbole_lite.report.samples.sample_users`
        - with `per_user`, ``per_user``: ``users`` (raw ids, in the order of the test loader),
          ``metrics`` (name -> one value per user; their mean is the ``test_result``) and
          ``ranks`` (of the user's item, from 1; 0: beyond the largest ``topk``)

    Raises
    ------
    RecboleLiteError
        Anything that the user can mend; the message says how. What only describes a run, and a
        baseline, fail with a warning once the model has been trained.
    """
    sources: dict[str, Any] = {
        "dataset": dataset,
        "config_file_list": paths_of(config_file_list),
        "config_dict": dict(config_dict or {}),
    }
    overrides = list(overrides or [])
    if interactions is None and (items is not None or users is not None):
        raise ConfigError("items and users are given as frames; give interactions, too")
    if interactions is not None and dataset is None and not _names_dataset(sources, overrides):
        sources["dataset"] = DATASET
    config = LiteConfig(model, overrides=overrides, **sources)
    if needs_launch(config):
        if interactions is not None:
            key = "nproc" if config["num_workers"] is None else "num_workers"
            raise ConfigError(
                f"{key}: frames cannot be passed to other processes; write them to files and use "
                "recbole-lite data import"
            )
        given = {"saved": saved, "per_user": per_user, "overrides": overrides}
        return launch(run, config, {"model": model, **sources, **given})
    names = config["baselines"]
    # All are configured before the first is trained: a mistake must not cost a training.
    baselines = [
        _baseline(name, config, overrides, sources)
        for name in ([names] if isinstance(names, str) else names)
    ]
    frames = None if interactions is None else read_frames(config, interactions, items, users)
    for baseline in baselines:
        _check_files(baseline, config, frames)
    result = run_one(config, saved, per_user=per_user, frames=frames)
    result["baselines"] = {}
    for baseline in baselines:
        with _baseline_may_fail(baseline):
            result["baselines"][baseline["model"]] = run_one(
                baseline, saved, samples=False, per_user=per_user, frames=frames
            )
    if result["report"] and baselines:
        with best_effort(result["report"], completion_hint(result["run_dir"])):
            write_report(result["run_dir"])  # again: now it can show the baselines
    return result


def check_data(config: LiteConfig) -> CheckReport:
    """Check a data set as a run with these settings reads it, up to its training.

    Parameters
    ----------
    config : LiteConfig

    Returns
    -------
    CheckReport
        As of ``recbole-lite data check``; an error or warning of the run is one of the report's.

    Raises
    ------
    DataError
        There is no such data set.
    """
    data_path = Path(config["data_path"]).parent
    report = check(config["dataset"], data_path, FileSettings.from_config(config))
    if not report.ok:
        return report
    with collected_warnings() as warnings:
        try:
            with translate_errors(f"{config['dataset']} cannot be read", config):
                _prepare_data(config, None, saved=True, samples=True)
        except RecboleLiteError as error:
            report.problems.append(str(error))
    report.warnings += [one for one in warnings if one not in report.warnings]
    return report


def _check_files(baseline: LiteConfig, main: LiteConfig, frames: FrameTables | None) -> None:
    """Read a baseline's files before the main model is trained, where they are others."""
    features = {"selected_features", "item_attribute"} & set(baseline.internal_config_dict)
    names = {*dataset_arguments, *features}
    same = all(baseline.settings.get(name) == main.settings.get(name) for name in names)
    if same and features <= set(main.internal_config_dict):
        return
    with translate_errors(f"baseline {baseline['model']}: the data cannot be read", baseline):
        create_dataset(baseline, tables=frames.tables if frames else None)


def _names_dataset(sources: Mapping[str, Any], overrides: Iterable[str]) -> bool:
    """Whether one of the settings' sources names the data set."""
    files = (read_yaml(path) for path in sources["config_file_list"])
    named = any("dataset" in settings for settings in (sources["config_dict"], *files))
    return named or any(override.startswith("--dataset=") for override in overrides)


@contextmanager
def _baseline_may_fail(baseline):
    """Let a baseline fail with a warning; processes that wait for each other fail together."""
    try:
        yield
    except (RecboleLiteError, OSError) as error:
        if not baseline["single_spec"]:
            raise
        getLogger().warning(f"baseline {baseline['model']} is left out: {error}")


def run_one(
    config: LiteConfig,
    saved: bool = True,
    resume: bool = True,
    samples: bool = True,
    per_user: bool = False,
    test: bool = True,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    log_folder: str | Path = "log",
    frames: FrameTables | None = None,
) -> dict[str, Any]:
    """Train and evaluate one model, ready configured; its ``baselines`` are left alone.

    Parameters
    ----------
    config : LiteConfig
    saved, per_user : bool
        See :func:`run`.
    resume, samples : bool
        Whether to heed the keys ``resume`` and ``sample_users``.
    test : bool
        Whether to look at the test split; False leaves ``test_result`` None.
    on_epoch : callable, optional
        Called with each entry of the history, as soon as the epoch is saved; of a resumed run
        first with those that it has.
    log_folder : str or Path
        See :func:`~recbole_lite.utils.log.init_logger`.
    frames : FrameTables, optional
        Data in place of files.

    Returns
    -------
    dict
        As :func:`run`, without ``baselines``.
    """
    timer, name = _StepTimer(), config["model"]
    log_file = _start_log(config, log_folder)
    _check_before_data(config, saved)
    resumed, initial, trained = _weights_to_start_from(config, resume)
    teachers = read_teachers(config)
    if teachers and trained is None:
        trained = teacher_vocabulary(teachers[0], config)
    with timer("data"), translate_errors(f"{config['dataset']} cannot be read", config):
        dataset, loaders, counts = _prepare_data(config, trained, saved, samples, frames)
    with timer("item vectors and model"), translate_errors(f"{name} cannot be built", config):
        if resumed or initial:
            keep_semantic_ids(loaders[0]._dataset, resumed or initial)
        model = _build_model(config, loaders[0]._dataset)
        if initial:
            _load_initial(config, model, trained, dataset)
        parameters = _count_parameters(model, config)
        if teachers:
            add_teachers(config, model, teachers, dataset)
    with translate_errors(f"{name} cannot be trained", config):
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    try:
        if resumed:
            _resume(trainer, resumed, on_epoch)
        with timer("training"), translate_errors(f"{name} cannot be trained", config):
            validated = _fit(trainer, loaders, saved, on_epoch)
        result = {**_training_result(trainer, *validated), **counts, "parameters": parameters}
        result |= {"log_file": str(log_file), "seconds": timer.seconds, "memory": timer.memory}
        if following := next_train_stage(config):
            weights = shlex.quote(str(trainer.saved_model_file))
            getLogger().info(f"Next: --train_stage={following} --pre_model_path={weights}")
        elif test:
            with timer("test"), _tested(config, result["run_dir"]):
                result |= _test_result(trainer, loaders[2], saved)
            id_type = frames.item_id_type if frames else "str"
            with trainer.whole_tables():
                _end(result, trainer, dataset, loaders, saved, per_user, samples, id_type)
        return result
    finally:
        trainer.wandblogger.finish()


def _start_log(config, folder: str | Path) -> Path:
    """Seed all generators, and open the log of a run with its settings."""
    init_seed(config["seed"], config["reproducibility"])
    log_file = init_logger(config, folder)
    getLogger().info(f"{config['model']} on {config['dataset']}; log: {log_file}")
    getLogger().info(config, extra=FILE_ONLY)
    return log_file


def _check_before_data(config, saved: bool) -> None:
    """Check what can be checked before the data are read."""
    if needs_launch(config):
        raise ConfigError(
            "nproc, num_workers: this command trains in its own process; leave both out"
        )
    check_train_stage(config)
    check_shard_items(config)
    check_item_dtype(config)
    check_trackers(config)
    if saved:
        _check_writable(config["checkpoint_dir"])


def _prepare_data(
    config,
    trained: Vocabulary | None,
    saved: bool,
    samples: bool,
    frames: FrameTables | None = None,
) -> tuple:
    """Read and split the data; returns the data set, its loaders, and what there is of them."""
    if frames is not None:
        getLogger().info(frames.mapping)
    dataset = create_dataset(config, trained, frames.tables if frames else None)
    counts = count_data(dataset)  # before the split
    size = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    getLogger().info(dataset, extra=FILE_ONLY)
    getLogger().info(f"{config['dataset']}: {size}")
    # An error of what is read after the test must not come after the training.
    if saved and supports_recommender(config["model"]):
        check_catalogue(dataset, config)
    elif saved or (samples and config["sample_users"]):
        item_titles(dataset, config["title_field"])
    loaders = data_preparation(config, dataset)
    if samples and config["sample_users"] and len(loaders[2]._dataset):
        check_sampled(loaders[2]._dataset)
    files = dataset.part_files
    parts = _count_parts(loaders, "eval_args" if files is None else "the files", config)
    return dataset, loaders, {"data": counts, "parts": parts, "part_files": files}


def _resume(trainer, checkpoint_file, on_epoch) -> None:
    """Continue from a checkpoint, and report the epochs that it has."""
    trainer.resume_checkpoint(checkpoint_file)
    for entry in trainer.history:
        if on_epoch is not None:
            on_epoch(entry)


def _build_model(config, dataset):
    init_seed(config["seed"] + rank(config), config["reproducibility"])
    model = config.model_class(config, dataset).to(config["device"])
    getLogger().info(model, extra=FILE_ONLY)
    return model


def _load_initial(config, model, trained: Vocabulary | None, dataset) -> None:
    """Begin with the weights of ``init_from``, with rows of new items in an update."""
    if config["replay"] is None:
        facts = load_initial_weights(config, model)
    else:
        facts = load_grown_weights(config, model, dataset)
    check_rows(facts, Path(config["init_from"]), trained, dataset)


def _count_parameters(model, config) -> int:
    """Number of trainable parameters; logs it."""
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    for name, table in sharded_tables(model).items():
        sizes[name] = table.num_embeddings * table.embedding_dim
    number = sum(sizes.values())
    kind, device = config["matmul_backend"], config["device"]
    how = ", products by oneDNN" * uses_onednn(kind, device)
    if kind == "bf16" and device.type == "cpu":
        how = ", products of bfloat16"
    getLogger().info(f"{number:,} trainable parameters on {config['device']}{how}")
    return number


def _fit(trainer, loaders, saved: bool, on_epoch) -> tuple:
    """Train; returns RecBole's best validation score and its metrics."""
    return trainer.fit(
        loaders[0],
        loaders[1],
        saved=saved,
        show_progress=trainer.config["show_progress"],
        callback_fn=on_epoch and (lambda *_: on_epoch(trainer.history[-1])),
    )


def _training_result(trainer, score: float, valid_result) -> dict[str, Any]:
    """Result of a run that is trained and not tested."""
    config = trainer.config
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "best_valid_score": score if valid_result else None,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": valid_result,
        "test_result": None,
        "run_dir": trainer.saved_model_file,
        "report": None,
        "epochs": len(trainer.train_loss_dict),
        "history": trainer.history,
        "beams": None,
        "candidates": None,
        "random_guess": None,
        "samples": [],
    }


def _test_result(trainer, test_data, saved: bool) -> dict[str, Any]:
    """Metrics of the test part, and the counts of a beam search."""
    show_progress = trainer.config["show_progress"]
    found = trainer.evaluate(test_data, load_best_model=saved, show_progress=show_progress)
    counts = getattr(trainer.model, "beam_counts", None)
    beams = None if counts is None else asdict(counts)
    return {"test_result": found, "beams": beams}


@contextmanager
def _tested(config, folder: str | None):
    """Say of a test that fails where the trained weights are."""
    try:
        with translate_errors(f"{config['model']} cannot be tested", config):
            yield
    except ConfigError as error:
        whole = f" The trained weights are intact: {folder}" if folder else ""
        raise ConfigError(f"{error}.{whole}") from error


def _end(
    result,
    trainer,
    dataset,
    loaders,
    saved: bool,
    per_user: bool,
    samples: bool,
    id_type: str,
) -> None:
    """Write the metrics, then describe the run; a description that fails costs nothing else."""
    config = trainer.config
    _, valid_data, test_data = loaders
    writes = saved and is_main_process(config)
    if writes:
        if config["task"] == "topn":
            with best_effort("candidates"):
                parts = {"valid": valid_data._dataset, "test": test_data._dataset}
                result["candidates"] = _store_candidates(trainer.run_dir, dataset, parts)
        write_metrics(trainer, result)
    with best_effort("results of the test"):
        _describe(result, trainer)
    users = None
    with best_effort("the test users' ranks"):
        users = per_user_results(trainer.evaluator, test_data, dataset)
    if per_user:
        result["per_user"] = users or dict(NO_USERS)
    asked = config["sample_users"] if samples and is_main_process(config) else 0
    if asked and result["parts"]["test"]:
        with best_effort("sample_users"):
            result["samples"] = sample_users(trainer, test_data, dataset, asked)
    if writes:
        with best_effort(
            f"{trainer.run_dir}: files for recommending", completion_hint(trainer.run_dir)
        ):
            _complete(result, trainer.model, dataset, config, id_type)
        result["report"] = write_run_files(trainer, result, dataset, valid_data, test_data, users)


def _describe(result, trainer):
    """Add what there is to say of a test beside its figures, and log them."""
    logger, config = getLogger(), trainer.config
    logger.info(f"best valid: {_format(result['best_valid_result'])}")
    logger.info(f"test: {_format(result['test_result'])}")
    if config["task"] != "topn":
        return
    result["random_guess"] = random_guess(config)
    logger.info(f"random guessing: {_format(result['random_guess'])}")


def _complete(result, model, dataset, config, id_type: str):
    """Make the run's folder one that ``Recommender.load`` takes."""
    if supports_recommender(config["model"]):
        measured = {"valid": result["best_valid_result"], "test": result["test_result"]}
        measured = {name: to_plain(values) for name, values in measured.items()}
        write_recommender_files(
            result["run_dir"], model, dataset, config, result["data"], measured, id_type
        )


def _count_parts(loaders, split: str, config) -> dict[str, int]:
    """Rows of the parts of a split; warns of what an empty part means, before the training."""
    parts = dict(zip(("train", "valid", "test"), (len(x._dataset) for x in loaders), strict=True))
    if not parts["valid"] and config["replay"] is None:  # an update has none
        getLogger().warning(
            f"{split} leave no validation part: the weights of the last epoch are kept; "
            "valid_metric and stopping_step have no effect"
        )
    if not parts["test"]:
        getLogger().warning(f"{split} leave no test part: the model is trained but not measured")
    return parts


def _weights_to_start_from(config, resume: bool) -> tuple:
    """Find the run to continue, the run whose weights to begin with, and the raw ids of its rows.

    Each is None where there is none. What does not fit is refused before the data are read.
    """
    resumed = noted_run(config) or (config["resume"] if resume else None)
    initial = config["init_from"]
    if resumed:
        check_same_run(Path(resumed), config)
        if checkpoint.has_last(resumed):  # else it was killed in its first epoch: it starts again
            return resumed, None, trained_vocabulary(Path(resumed))
    if initial:
        check_initial_weights(config)
        check_grows(config)
        trained = trained_vocabulary(Path(initial))
    elif config["pre_model_path"] and config["train_stage"] not in ("pretrain", "actor_pretrain"):
        trained = checkpoint.load_pretrained_vocabulary(Path(config["pre_model_path"]))
    else:
        trained = None
    if trained is not None:
        trained.interactions = None  # others of the same users and items are welcome
        trained.grows = config["replay"] is not None
    return resumed, initial, trained


def _baseline(name, config, overrides, sources) -> LiteConfig:
    """Configure a baseline with the main model's settings, as far as it can have them."""
    if config["train_strategy"] == "prefix" and not can_train_prefixes(get_model(name)):
        # The nearest that it can do: the same targets, one at a time.
        overrides = [given for given in overrides if not given.startswith("--train_strategy=")]
        overrides.append("--train_strategy=all")
    # Checkpoints named by these keys are the main model's. Its config.yaml must run it alone.
    own = ["--baselines=[]", "--resume=~", "--init_from=~", "--distill_from=~"]
    if not can_shard_items(get_model(name)):
        own += ["--shard_items=False", "--item_dtype=float32"]
    keys = tuple(override.partition("=")[0] + "=" for override in own)
    overrides = [given for given in overrides if not given.startswith(keys)] + own
    return LiteConfig(name, overrides=overrides, **sources)


def _check_writable(folder: str) -> None:
    """What a run saves first comes after its first epoch."""
    place = Path(folder).absolute()
    try:
        while not place.exists():
            place = place.parent
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ConfigError(f"checkpoint_dir: {folder}: {error.strerror}") from None


def _store_candidates(folder, dataset, parts) -> dict[str, dict[str, str]]:
    stored = {}
    for phase, part in parts.items():
        path = folder / f"candidates-{phase}.jsonl"
        stored[phase] = {"file": str(path), "sha256": write_candidates(path, dataset, part)}
    return stored


def _format(result) -> str:
    return ", ".join(f"{name} {float(value):.4f}" for name, value in (result or {}).items())


class _StepTimer:
    """Wall time of named steps, and the memory after each."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, step: str):
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = perf_counter() - started
            self.memory[step] = memory()

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

import numpy as np
from recbole.utils import init_seed

from recbole_lite.config.configurator import LiteConfig, paths_of, translate_errors
from recbole_lite.config.registry import can_train_prefixes, get_model, get_trainer
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.data.candidates import write_candidates
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.evaluator.evaluator import first_ranks
from recbole_lite.report.rank_metrics import random_guess
from recbole_lite.report.run_report import (
    completion_hint,
    write_metrics,
    write_report,
    write_run_files,
)
from recbole_lite.report.samples import item_titles, sample_users
from recbole_lite.trainer import checkpoint, process_group
from recbole_lite.trainer.initial_weights import (
    check_begun,
    check_train_stage,
    load_initial_weights,
    next_train_stage,
)
from recbole_lite.trainer.onednn_matmul import uses_onednn
from recbole_lite.trainer.resume import check_same_run
from recbole_lite.trainer.trackers import check_trackers
from recbole_lite.utils.errors import ConfigError, RecboleLiteError, best_effort
from recbole_lite.utils.files import check_folder, to_plain
from recbole_lite.utils.log import FILE_ONLY, init_logger
from recbole_lite.utils.memory import memory

NO_USERS = {"users": [], "metrics": {}, "ranks": np.zeros(0, int)}


def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    overrides: Iterable[str] | None = None,
    saved: bool = True,
    per_user: bool = False,
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

    Returns
    -------
    dict
        RecBole's ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and
        ``test_result``, and:

        - ``model``, ``dataset``; ``data``: counts of users, items, interactions; ``parts``: rows
          of ``train``, ``valid`` and ``test``. Without a validation part the weights of the last
          epoch are kept and ``best_valid_score`` is None; without a test part ``test_result`` is
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
    sources = {
        "dataset": dataset,
        "config_file_list": paths_of(config_file_list),
        "config_dict": dict(config_dict or {}),
    }
    overrides = list(overrides or [])
    config = LiteConfig(model, overrides=overrides, **sources)
    if process_group.needs_launch(config):
        given = {"saved": saved, "per_user": per_user, "overrides": overrides}
        return process_group.launch(run, config, {"model": model, **sources, **given})
    names = config["baselines"]
    # All are configured before the first is trained: a mistake must not cost a training.
    baselines = [
        _baseline(name, config, overrides, sources)
        for name in ([names] if isinstance(names, str) else names)
    ]
    result = run_one(config, saved, per_user=per_user)
    result["baselines"] = {}
    for baseline in baselines:
        with _costing_no_result(baseline):
            result["baselines"][baseline["model"]] = run_one(
                baseline, saved, resume=False, samples=False, per_user=per_user, init_from=False
            )
    if result["report"] and baselines:
        with best_effort(result["report"], completion_hint(result["run_dir"])):
            write_report(result["run_dir"])  # anew: now the baselines stand beside it
    return result


@contextmanager
def _costing_no_result(baseline):
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
    init_from: bool = True,
    test: bool = True,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    log_folder: str | Path = "log",
) -> dict[str, Any]:
    """Train and evaluate one model, ready configured; its ``baselines`` are left alone.

    Parameters
    ----------
    config : LiteConfig
    saved, per_user : bool
        See :func:`run`.
    resume, samples, init_from : bool
        Whether to heed the keys ``resume``, ``sample_users`` and ``init_from``.
    test : bool
        Whether to look at the test split; False leaves ``test_result`` None.
    on_epoch : callable, optional
        Told each entry of the history, as soon as the epoch is saved; of a resumed run first those
        that it has.
    log_folder : str or Path
        See :func:`~recbole_lite.utils.log.init_logger`.

    Returns
    -------
    dict
        As :func:`run`, without ``baselines``.
    """
    clock = _Clock()
    init_seed(config["seed"], config["reproducibility"])
    log_file = init_logger(config, log_folder)
    logger = getLogger()
    logger.info(f"{config['model']} on {config['dataset']}; log: {log_file}")
    logger.info(config, extra=FILE_ONLY)
    check_train_stage(config)
    check_trackers(config)
    if saved:
        check_folder(config["checkpoint_dir"], "checkpoint_dir")
        _check_writable(config["checkpoint_dir"])
    resumes, begins, trained = _start(config, resume, init_from)

    with clock("data"), translate_errors(f"{config['dataset']} cannot be read", config):
        dataset = create_dataset(config, trained)
        counts = count_data(dataset)
        logger.info(dataset, extra=FILE_ONLY)
        size = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        logger.info(f"{config['dataset']}: {size}")
        if saved or (samples and config["sample_users"]):
            item_titles(dataset, config["title_field"])  # what is wrong is to be known now
        loaders = train_data, valid_data, test_data = data_preparation(config, dataset)
        parts = count_parts(loaders)
        _tell_empty(parts)

    with (
        clock("item vectors and model"),
        translate_errors(f"{config['model']} cannot be built", config),
    ):
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        model = _build_model(config, train_data._dataset)
        logger.info(model, extra=FILE_ONLY)
        if begins:
            _check_rows(load_initial_weights(config, model), Path(begins), trained, dataset)
        parameters = _trainable(model)
        how = ", products by oneDNN" * uses_onednn(config["matrix_products"], config["device"])
        logger.info(f"{parameters:,} trainable parameters on {config['device']}{how}")

    with translate_errors(f"{config['model']} cannot be trained", config):
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    try:
        if resumes:
            trainer.resume_checkpoint(config["resume"])
            for entry in trainer.history if on_epoch else []:
                on_epoch(entry)
        callback = (lambda *_: on_epoch(trainer.history[-1])) if on_epoch else None
        with clock("training"), translate_errors(f"{config['model']} cannot be trained", config):
            score, valid_result = trainer.fit(
                train_data,
                valid_data,
                saved=saved,
                show_progress=config["show_progress"],
                callback_fn=callback,
            )
        result = {
            "model": config["model"],
            "dataset": config["dataset"],
            "data": counts,
            "parts": parts,
            "best_valid_score": score if valid_result else None,
            "valid_score_bigger": config["valid_metric_bigger"],
            "best_valid_result": valid_result,
            "test_result": None,
            "run_dir": trainer.saved_model_file,
            "report": None,
            "log_file": str(log_file),
            "parameters": parameters,
            "epochs": len(trainer.train_loss_dict),
            "history": trainer.history,
            "beams": None,
            "candidates": None,
            "random_guess": None,
            "seconds": clock.seconds,
            "memory": clock.memory,
            "samples": [],
        }
        if following := next_train_stage(config):
            weights = shlex.quote(str(trainer.saved_model_file))
            logger.info(f"Next: --train_stage={following} --pre_model_path={weights}")
        elif test:
            with clock("test"), _tested(config, result["run_dir"]):
                result["test_result"] = trainer.evaluate(
                    test_data, load_best_model=saved, show_progress=config["show_progress"]
                )
            counts = getattr(model, "beam_counts", None)
            result["beams"] = asdict(counts) if counts is not None else None
            _end(result, trainer, dataset, loaders, saved, per_user, samples)
        return result
    finally:
        trainer.wandblogger.finish()


@contextmanager
def _tested(config, folder: str | None):
    """Say of a test that fails where the trained weights are."""
    try:
        with translate_errors(f"{config['model']} cannot be tested", config):
            yield
    except ConfigError as error:
        whole = f" The trained weights are whole: {folder}" if folder else ""
        raise ConfigError(f"{error}.{whole}") from error


def _end(result, trainer, dataset, loaders, saved: bool, per_user: bool, samples: bool) -> None:
    """Write the metrics, then describe the run; a description that fails costs nothing else."""
    config = trainer.config
    _, valid_data, test_data = loaders
    writes = saved and process_group.is_first(config)
    if writes:
        if config["task"] == "topn":
            with best_effort("candidates"):
                parts = {"valid": valid_data._dataset, "test": test_data._dataset}
                result["candidates"] = _store_candidates(trainer.run_dir, dataset, parts)
        write_metrics(trainer, result)
    with best_effort("what is known of the test"):
        _describe(result, trainer)
    users = None
    with best_effort("the test users' ranks"):
        users = per_user_of(trainer.evaluator, test_data, dataset)
    if per_user:
        result["per_user"] = users or dict(NO_USERS)
    if samples and config["sample_users"] and result["parts"]["test"]:
        with best_effort("sample_users"):
            count = config["sample_users"]
            result["samples"] = sample_users(trainer, test_data, dataset, count)
    if writes:
        with best_effort(
            f"{trainer.run_dir}: what recommending needs", completion_hint(trainer.run_dir)
        ):
            _complete(result, trainer.model, dataset, config)
        result["report"] = write_run_files(trainer, result, dataset, valid_data, test_data, users)


def _describe(result, trainer):
    """Add what there is to say of a test beside its figures, and log them."""
    logger, config = getLogger(), trainer.config
    logger.info(f"best valid: {_plain(result['best_valid_result'])}")
    logger.info(f"test: {_plain(result['test_result'])}")
    if config["task"] != "topn":
        return
    result["random_guess"] = random_guess(config)
    logger.info(f"random guessing: {_plain(result['random_guess'])}")


def _complete(result, model, dataset, config):
    """Make the run's folder one that ``Recommender.load`` takes."""
    from recbole_lite.inference import model_folder

    if model_folder.is_supported(config["model"]):
        measured = {"valid": result["best_valid_result"], "test": result["test_result"]}
        measured = {name: to_plain(values) for name, values in measured.items()}
        model_folder.complete(result["run_dir"], model, dataset, config, result["data"], measured)


def count_parts(loaders) -> dict[str, int]:
    """Rows of the parts that loaders of training, validation and test go over."""
    return {
        name: len(loader._dataset)
        for name, loader in zip(("train", "valid", "test"), loaders, strict=True)
    }


def _tell_empty(parts: dict[str, int]) -> None:
    """Say before the training what a split without a part means."""
    warn = getLogger().warning
    if not parts["valid"]:
        warn(
            "eval_args leave nothing for validation: the weights of the last epoch are kept, "
            "valid_metric and stopping_step have no effect"
        )
    if not parts["test"]:
        warn("eval_args leave nothing for a test: the model is trained and not measured")


def load_data_and_model(
    model_file: str | Path,
    data_path: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
):
    """Rebuild what a run has made from its folder.

    Parameters
    ----------
    model_file : str or Path
        ``run_dir`` of a result, or a file in it.
    data_path : str or Path, optional
        Where the data set is now; default: where it was.
    changes : dict, optional
        Other settings that are the machine's, e.g. ``item_embedding_cache_dir``.

    Returns
    -------
    tuple
        ``(config, model, dataset, train_data, valid_data, test_data)``, as RecBole's function
        of this name; the model has the weights of the best validation.

    Raises
    ------
    CheckpointError
        There is no whole checkpoint.
    """
    folder = Path(model_file)
    folder = folder if folder.is_dir() else folder.parent
    path = folder / checkpoint.BEST_FILE
    content = checkpoint.load_config(folder)
    settings = {**content["settings"], **(changes or {})}
    if data_path is not None:
        settings["data_path"] = str(data_path)
    config = LiteConfig(content["model"], content["dataset"], config_dict=settings, typed=True)
    init_seed(config["seed"], config["reproducibility"])
    trained = _vocabulary_of(folder)
    dataset = create_dataset(config, trained)
    loaders = data_preparation(config, dataset)
    model = _build_model(config, loaders[0]._dataset)
    tensors, facts = checkpoint.load_weights(path)
    _check_rows(facts, folder, trained, dataset)
    checkpoint.restore_model(model, tensors, path)
    return config, model, dataset, *loaders


def _vocabulary_of(folder: Path) -> Vocabulary | None:
    """Raw ids of a run's rows; an older run that has ended knows those of its items."""
    from recbole_lite.inference.catalogue import Catalogue
    from recbole_lite.inference.model_folder import ITEMS_FILE

    vocabulary = checkpoint.load_vocabulary(folder)
    path = folder / ITEMS_FILE
    if vocabulary is None and path.exists():
        vocabulary = Vocabulary(source=str(path))
        field = checkpoint.load_config(folder)["settings"]["ITEM_ID_FIELD"]
        vocabulary.add([field], Catalogue.load(path).ids[1:])
    return vocabulary


def _start(config, resume: bool, init_from: bool) -> tuple:
    """Folders of the run to continue and of the run to begin with, and the raw ids of its rows.

    Each is None where there is none. What does not fit is refused before the data are read.
    """
    resumes = config["resume"] if resume else None
    begins = config["init_from"] if init_from else None
    if resumes:
        check_same_run(Path(resumes), config)
        if checkpoint.has_last(resumes):  # else it was killed in its first epoch, and begins again
            return resumes, None, _vocabulary_of(Path(resumes))
    if begins:
        check_begun(config)
        trained = _vocabulary_of(Path(begins))
    else:
        trained = _vocabulary_of_pretraining(config)
    if trained is not None:
        trained.interactions = None  # others of the same users and items are welcome
    return resumes, begins, trained


def _vocabulary_of_pretraining(config) -> Vocabulary | None:
    if not config["pre_model_path"] or config["train_stage"] in ("pretrain", "actor_pretrain"):
        return None
    return checkpoint.load_pretrained_vocabulary(Path(config["pre_model_path"]))


def _check_rows(facts, folder: Path, trained: Vocabulary | None, dataset):
    """Check weights against the vocabulary that the data were numbered by, or the data's own."""
    named, source = facts.get("vocabulary"), folder / checkpoint.BEST_FILE
    if named is None and trained is None:
        checkpoint.warn_of_rows(source)
    if trained is None or named != trained.sha256:
        checkpoint.check_vocabulary(named, dataset.vocabulary, source)


def _baseline(name, config, overrides, sources) -> LiteConfig:
    """Configure a baseline with the main model's settings, as far as it can have them."""
    if config["train_strategy"] == "prefix" and not can_train_prefixes(get_model(name)):
        # The nearest that it can do: the same targets, one at a time.
        overrides = [given for given in overrides if not given.startswith("--train_strategy=")]
        overrides.append("--train_strategy=all")
    # Its own config.yaml shall run it alone.
    overrides = [given for given in overrides if not given.startswith("--baselines=")]
    overrides.append("--baselines=[]")
    return LiteConfig(name, overrides=overrides, **sources)


def _build_model(config, dataset):
    return config.model_class(config, dataset).to(config["device"])


def _check_writable(folder: str) -> None:
    """What a run saves first comes after its first epoch."""
    place = Path(folder).absolute()
    try:
        while not place.exists():
            place = place.parent
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ConfigError(f"checkpoint_dir: {folder}: {error.strerror}") from None


def count_data(dataset) -> dict[str, int]:
    """Number of users, items and interactions of a data set that is not split yet."""
    return {
        "users": dataset.user_num - 1,  # id 0 is padding
        "items": dataset.item_num - 1,
        "interactions": dataset.inter_num,
    }


def _store_candidates(folder, dataset, parts) -> dict[str, dict[str, str]]:
    stored = {}
    for phase, part in parts.items():
        path = folder / f"candidates-{phase}.jsonl"
        stored[phase] = {"file": str(path), "sha256": write_candidates(path, dataset, part)}
    return stored


def _trainable(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def per_user_of(evaluator, loader, dataset) -> dict[str, Any]:
    """What the evaluation that was last found for each user; empty where no metric ranks."""
    if evaluator.ranked is None:
        return dict(NO_USERS)
    ids = getattr(loader, "uid_list", None)  # a loader of RecBole's that groups rows by user
    if ids is None:
        ids = loader._dataset.inter_feat[dataset.uid_field]
    return {
        "users": [str(user) for user in dataset.id2token(dataset.uid_field, np.asarray(ids))],
        "metrics": evaluator.per_user(evaluator.ranked),
        "ranks": first_ranks(evaluator.ranked),
    }


def _plain(result) -> str:
    return ", ".join(f"{name} {float(value):.4f}" for name, value in (result or {}).items())


class _Clock:
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

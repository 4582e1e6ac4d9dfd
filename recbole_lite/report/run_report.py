"""Files of a finished run: metrics first, then everything that describes the run.

Each description can fail, for want of disk space say, with one warning and no other consequence;
``recbole-lite report RUN`` makes what is missing later.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_lite.report.run_folder import (
    ENVIRONMENT_FILE,
    METRICS_FILE,
    PROTOCOL,
    REPORT_FILE,
    SAMPLES_FILE,
    USER_COLUMNS,
    USERS_FILE,
    RunRecord,
    comparable_runs,
    read_metrics,
    read_run,
)
from recbole_lite.report.samples import sample_users
from recbole_lite.report.tested_users import TestedUsers, read_tested_users
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import best_effort
from recbole_lite.utils.files import to_plain, write_json, write_text

SAMPLES = 10  # users, and items of each
TEST_SET = "test_set"  # key of metrics.json; missing until users.csv is written


def completion_hint(folder: str | Path) -> str:
    """How to make later what is missing in a run's folder."""
    return f"later: recbole-lite report {shlex.quote(str(folder))}"


def write_metrics(trainer, result: dict[str, Any]) -> None:
    """Write the metrics of a run; nothing else that it leaves is as important."""
    folder = trainer.run_dir
    remedy = f"once there is space, --resume={shlex.quote(str(folder))} tests and writes again"
    with best_effort(str(folder / METRICS_FILE), remedy):
        write_json(folder / METRICS_FILE, _metrics(trainer.config, result))


def write_run_files(
    trainer, result: dict[str, Any], dataset, valid_data, test_data, per_user: dict[str, Any] | None
) -> str | None:
    """Write what describes a run whose metrics are written, and its report.

    Parameters
    ----------
    trainer : LiteTrainer
        Its model has the weights that were tested.
    result : dict
        As :func:`recbole_lite.quick_start.run_one` returns it; gets ``test_set``, its SHA-256.
    dataset, valid_data, test_data
        What the run was made with.
    per_user : dict or None
        ``users`` and ``ranks``, see :func:`recbole_lite.quick_start.run`; None: to be found later.

    Returns
    -------
    str or None
        The report.
    """
    folder = trainer.run_dir
    remedy = completion_hint(folder)
    with best_effort(str(folder / checkpoint.HISTORY_FILE), remedy):
        checkpoint.save_history(folder, result["history"], trainer.train_losses)
    with best_effort(str(folder / ENVIRONMENT_FILE), remedy):
        write_json(folder / ENVIRONMENT_FILE, environment())
    test_set = None
    if per_user is not None:
        with best_effort(str(folder / USERS_FILE), remedy):
            test_set = _test_set(dataset, valid_data, test_data, per_user)
            result["test_set"] = test_set and test_set.sha256
            _keep_users(folder, test_set, per_user)
    with best_effort(str(folder / SAMPLES_FILE), remedy):
        _keep_samples(trainer, folder, dataset, test_data, test_set)
    with best_effort(str(folder / REPORT_FILE), remedy):
        return str(write_report(folder))
    return None


def _test_set(dataset, valid_data, test_data, per_user) -> TestedUsers | None:
    """Test set of a run that knows each user's rank in it."""
    test_set = read_tested_users(dataset, valid_data, test_data)
    if test_set is not None and set(test_set.users) != set(per_user["users"]):
        return None  # no metric ranks, or the loader leaves users out
    return test_set


def _keep_users(folder: Path, test_set: TestedUsers | None, per_user) -> None:
    """Write ``users.csv``, and into the metrics what the test set was."""
    (folder / USERS_FILE).unlink(missing_ok=True)
    if test_set is not None:
        ranks = dict(zip(per_user["users"], map(int, per_user["ranks"]), strict=True))
        _write_users(folder / USERS_FILE, ranks, test_set)
    about = test_set and {
        "users": len(test_set.users),
        "sha256": test_set.sha256,
        "item_quartiles": test_set.quartiles,
    }
    metrics = read_metrics(folder).metrics
    write_json(folder / METRICS_FILE, {**metrics, TEST_SET: about})


def _keep_samples(trainer, folder: Path, dataset, test_data, test_set: TestedUsers | None) -> None:
    samples = []
    if test_set is not None:
        samples = sample_users(trainer, test_data, dataset, SAMPLES, SAMPLES)
    write_json(folder / SAMPLES_FILE, samples)


# -- later ------------------------------------------------------------------------------------


def complete_report(folder: str | Path) -> Path:
    """Make what a finished run's folder lacks, then its report (``recbole-lite report``).

    What needs the data set and cannot be made without it is told, and the report made of the rest.

    Raises
    ------
    ReportError
        The folder is no finished run's, or a file in it is damaged.
    """
    from recbole_lite.inference.model_folder import SECTION, supports_recommender
    from recbole_lite.inference.saved_run import restore_recommender_files

    record = read_metrics(folder)
    folder = record.folder
    if not (folder / checkpoint.HISTORY_FILE).exists() and checkpoint.has_last(folder):
        with best_effort(str(folder / checkpoint.HISTORY_FILE)):
            _, state = checkpoint.load_last(folder)
            checkpoint.save_history(folder, state["history"], state["train_loss_dict"])
    if not (folder / ENVIRONMENT_FILE).exists():
        with best_effort(str(folder / ENVIRONMENT_FILE)):
            when = "by recbole-lite report; the training may have run elsewhere"
            write_json(folder / ENVIRONMENT_FILE, {**environment(), "written": when})
    if TEST_SET not in record.metrics or not (folder / SAMPLES_FILE).exists():
        with best_effort(f"{folder}: {USERS_FILE} and {SAMPLES_FILE}"):
            _test_again(record)
    with best_effort(f"{folder}: files for recommending"):
        content = checkpoint.load_config(folder)
        if supports_recommender(content["model"]) and SECTION not in content:
            restore_recommender_files(folder)
    return write_report(folder)


def _test_again(record: RunRecord) -> None:
    """Write the users' ranks and the samples; the metrics stay as they are."""
    from recbole_lite.evaluator.evaluator import per_user_results
    from recbole_lite.inference.saved_run import evaluate_saved_run

    folder = record.folder
    trainer, _, dataset, valid_data, test_data = evaluate_saved_run(folder)
    per_user = per_user_results(trainer.evaluator, test_data, dataset)
    test_set = _test_set(dataset, valid_data, test_data, per_user)
    if TEST_SET not in record.metrics:
        _keep_users(folder, test_set, per_user)
    _keep_samples(trainer, folder, dataset, test_data, test_set)


def write_report(folder: str | Path) -> Path:
    """Write a run's ``report.html`` from its other files, beside the runs that are there now.

    Raises
    ------
    ReportError
        The folder is no finished run's, or a file in it is damaged.
    """
    from recbole_lite.report.run_page import render

    record = read_run(folder)
    others, unreadable = comparable_runs(record)
    for problem in unreadable:
        getLogger().warning(f"left out of the report: {problem}")
    path = record.folder / REPORT_FILE
    write_text(path, render(record, others))
    return path


# -- content ----------------------------------------------------------------------------------


def _metrics(config, result) -> dict[str, Any]:
    history = result["history"]
    return {
        "model": result["model"],
        "dataset": result["dataset"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "resumed": bool(config["resume"]),
        "data": result["data"],
        "parts": result["parts"],
        "part_files": result["part_files"],
        "valid_metric": config["valid_metric"].lower(),
        "valid": to_plain(result["best_valid_result"]),
        "test": to_plain(result["test_result"]),
        "epochs": result["epochs"],
        "best_epoch": _best_epoch(history, config["valid_metric_bigger"]),
        "parameters": result["parameters"],
        "seconds": {step: round(value, 3) for step, value in result["seconds"].items()},
        "memory_mib": result["memory"],
        "beams": result["beams"],
        "largest_k": max(config["topk"]),
        "protocol": {key: config.settings.get(key) for key in PROTOCOL},
        "candidates": (result["candidates"] or {}).get("test", {}).get("sha256"),
    }


def _best_epoch(history: list[dict[str, Any]], bigger: bool) -> int | None:
    """First epoch of the best score, whose weights are kept; None without a validation."""
    scored = [entry for entry in history if entry["valid_score"] == entry["valid_score"]]
    choose = max if bigger else min
    best = choose(scored, key=lambda entry: entry["valid_score"], default=None)
    return best and best["epoch"]


def _write_users(path: Path, ranks: dict[str, int], test_set: TestedUsers) -> None:
    rows = zip(
        test_set.users,
        test_set.items,
        (int(ranks[user]) for user in test_set.users),
        test_set.item_interactions.tolist(),
        test_set.item_quartiles.tolist(),
        test_set.history_lengths.tolist(),
        strict=True,
    )
    checkpoint.write_csv(path, USER_COLUMNS, rows)

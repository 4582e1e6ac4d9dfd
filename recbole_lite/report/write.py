"""What a run leaves behind: its record and its report."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_lite import checkpoint
from recbole_lite.files import write_atomically
from recbole_lite.report.environment import environment
from recbole_lite.report.run_folder import (
    ENVIRONMENT_FILE,
    METRICS_FILE,
    PROTOCOL,
    REPORT_FILE,
    SAMPLES_FILE,
    USER_COLUMNS,
    USERS_FILE,
    read_run,
    runs_beside,
)
from recbole_lite.report.samples import sample_users
from recbole_lite.report.test_set import TestSet, read_test_set

SAMPLE_USERS = 10
SAMPLE_HISTORY = 10
SAMPLE_RECOMMENDATIONS = 10


def keep_run(
    trainer, result: dict[str, Any], dataset, valid_data, test_data, per_user: dict[str, Any]
) -> str | None:
    """Write the record and the report of a run that was tested.

    A disk that is full must not cost the result of a training: that is told, and no more.

    Parameters
    ----------
    trainer : LiteTrainer
        Its model has the weights that were tested.
    result : dict
        As :func:`recbole_lite.quick_start.run_one` returns it; gets ``test_set``, its SHA-256.
    dataset, valid_data, test_data
        What the run was made with.
    per_user : dict
        ``users`` and ``ranks``, see :func:`recbole_lite.quick_start.run`.

    Returns
    -------
    str or None
        The report.
    """
    config, folder = trainer.config, trainer.run_dir
    test_set = read_test_set(dataset, valid_data, test_data)
    ranks = dict(zip(per_user["users"], map(int, per_user["ranks"]), strict=True))
    if test_set is not None and set(test_set.users) != set(ranks):
        test_set = None  # no metric ranks, or the loader leaves users out
    result["test_set"] = test_set and test_set.sha256
    count, shown = SAMPLE_USERS, (SAMPLE_HISTORY, SAMPLE_RECOMMENDATIONS)
    samples = []
    if test_set is not None:
        samples = sample_users(trainer, test_data, dataset, config, count, *shown)
    try:
        write_run(folder, config, result, trainer.train_losses, ranks, test_set, samples)
        return str(write_report(folder))
    except OSError as error:
        getLogger().warning(f"{folder}: the report could not be written: {error}")
        return None


def write_report(folder: str | Path) -> Path:
    """Write a run's ``report.html`` from its other files, beside the runs that are there now.

    Raises
    ------
    ReportError
        The folder is no finished run's, or a file in it is damaged.
    """
    from recbole_lite.report.page import render  # its template engine is needed here only

    record = read_run(folder)
    others, unreadable = runs_beside(record)
    for problem in unreadable:
        getLogger().warning(f"left out of the report: {problem}")
    text = render(record, others)
    path = record.folder / REPORT_FILE
    write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))
    return path


def write_run(
    folder: Path,
    config,
    result: dict[str, Any],
    train_losses: dict[int, float],
    ranks: dict[str, int],
    test_set: TestSet | None,
    samples: list[dict[str, Any]],
) -> None:
    """Write everything but the report.

    Parameters
    ----------
    folder : Path
        The run's.
    config : LiteConfig
    result : dict
        As :func:`recbole_lite.quick_start.run_one` returns it.
    train_losses : dict of int to float
        By epoch, also of epochs without a validation.
    ranks : dict of str to int
        Raw user id -> rank of the test item, 0: beyond the largest ``topk``.
    test_set : TestSet or None
        None: no ``users.csv``.
    samples : list of dict
    """
    write_json(folder / METRICS_FILE, _metrics(config, result, test_set))
    checkpoint.save_history(folder, result["history"], train_losses)
    write_json(folder / SAMPLES_FILE, samples)
    write_json(folder / ENVIRONMENT_FILE, environment())
    (folder / USERS_FILE).unlink(missing_ok=True)
    if test_set is not None:
        _write_users(folder / USERS_FILE, ranks, test_set)


def _metrics(config, result, test_set: TestSet | None) -> dict[str, Any]:
    history = result["history"]
    scores = [entry["valid_score"] for entry in history]
    best = None
    if scores:
        choose = max if config["valid_metric_bigger"] else min
        best = history[scores.index(choose(scores))]["epoch"]
    return {
        "model": result["model"],
        "dataset": result["dataset"],
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "resumed": bool(config["resume"]),
        "data": result["data"],
        "valid_metric": config["valid_metric"].lower(),
        "valid": plain(result["best_valid_result"]),
        "test": plain(result["test_result"]),
        "epochs": result["epochs"],
        "best_epoch": best,
        "parameters": result["parameters"],
        "seconds": {step: round(value, 3) for step, value in result["seconds"].items()},
        "memory_mib": result["memory"],
        "beams": result["beams"],
        "largest_k": max(config["topk"]),
        "protocol": {key: config.settings.get(key) for key in PROTOCOL},
        "candidates": result["candidates"] and result["candidates"]["test"]["sha256"],
        "test_set": test_set
        and {
            "users": len(test_set.users),
            "sha256": test_set.sha256,
            "item_quartiles": test_set.quartiles,
        },
    }


def plain(result) -> dict[str, float] | None:
    """RecBole's result as a dict of floats."""
    return result and {name: float(value) for name, value in result.items()}


def _write_users(path: Path, ranks: dict[str, int], test_set: TestSet) -> None:
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


def write_json(path: Path, content: Any) -> None:
    """Write JSON that a person can read."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))

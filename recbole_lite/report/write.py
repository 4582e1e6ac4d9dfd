"""What a run leaves behind: its record and its report."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_lite.files import write_atomically
from recbole_lite.report.run_folder import REPORT_FILE, read_run, runs_beside, write_run
from recbole_lite.report.samples import sample_users
from recbole_lite.report.test_set import read_test_set

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

"""Charts of a run's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_lite.report import charts, user_groups
from recbole_lite.report.format import metric_label
from recbole_lite.report.run_folder import USERS_FILE, RunRecord, read_users

MOST_BARS = 5  # runs in a chart, this one included
GROUPS_K = 10


def learning_curves(record: RunRecord) -> dict[str, Any]:
    """Charts of validation, if any epoch was validated, and of training loss."""
    history = record.history
    valid = list(dict.fromkeys(n for row in history for n in row if n.startswith("valid_")))
    valid = [name for name in valid if name != "valid_score"]
    best = record.metrics["best_epoch"]
    mark = None if best is None else (best, f"best: epoch {best}")
    lines = [
        _series(history, name, metric_label(name.removeprefix("valid_"))) for name in valid[:6]
    ]
    lines = [line for line in lines if line.points]
    loss = _series(history, "train_loss", "training loss")
    loss_title = "Training loss (sum over an epoch's batches)"
    curves = [("Validation", "Validation by epoch", lines, True)] if lines else []
    curves += [(loss_title, loss_title, [loss], False)] if loss.points else []
    return {
        "curves": [
            {"title": title, "chart": charts.line_chart(text, series, "epoch", mark, from_zero)}
            for title, text, series, from_zero in curves
        ]
    }


def _series(history: Sequence[dict[str, float]], column: str, name: str) -> charts.Series:
    """A column of ``history.csv``, without the epochs that have no number there."""
    points = [(row["epoch"], row.get(column, math.nan)) for row in history]
    return charts.Series(name, [(x, y) for x, y in points if math.isfinite(y)])


def group_charts(record: RunRecord, others: Sequence[RunRecord]) -> dict[str, Any]:
    """Charts over groups: of this run, and of the best run of each other model."""
    if not record.users:
        return {"groups": []}
    k = min(GROUPS_K, record.metrics["largest_k"])
    shown = [record, *_best_of_other_models(record, others, k)]
    tables = [run.users or read_users(run.folder) for run in shown]
    quartiles = record.metrics["test_set"]["item_quartiles"]
    cuts = [
        ("By training frequency of the test item (quartiles of the items)", "times in training",
         user_groups.by_popularity(record.users, quartiles)),
        ("By length of the history", "items before the test item",
         user_groups.by_history(record.users)),
    ]  # fmt: skip
    names = [run.metrics["model"] for run in shown]
    laid = []
    for title, of, members in cuts:
        found = [user_groups.recall(table, members, k) for table in tables]
        bars = [charts.Bars(name, values) for name, values in zip(names, found, strict=True)]
        labels = [group.label for group in members]
        laid.append(
            {
                "title": title,
                "of": of,
                "chart": charts.bar_chart(f"Recall@{k}. {title}", labels, bars, of),
                "rows": [
                    {
                        "label": group.label,
                        "users": f"{len(group.users):,}",
                        "cells": [_mean_and_error(values[place]) for values in found],
                    }
                    for place, group in enumerate(members)
                ],
            }
        )
    return {"groups": laid, "k": k, "shown_runs": names, "legend": charts.legend(names)}


def _best_of_other_models(record, others, k: int) -> list[RunRecord]:
    """One run for each other model, by validation, which was not looked at for the test."""
    best: dict[str, RunRecord] = {}
    metric = record.metrics["valid_metric"]
    for run in others:
        model = run.metrics["model"]
        usable = (run.folder / USERS_FILE).is_file() and run.metrics["largest_k"] >= k
        if model == record.metrics["model"] or not usable:
            continue
        held = best.get(model)
        score = score_of(run.metrics["valid"], metric)
        if held is None or score > score_of(held.metrics["valid"], metric):
            best[model] = run
    return list(best.values())[: MOST_BARS - 1]


def score_of(results: dict[str, float] | None, metric: str) -> float:
    """Result to sort by; one that is missing comes last."""
    score = (results or {}).get(metric)
    return -1.0 if score is None else score


def _mean_and_error(value: tuple[float, float]) -> str:
    return "-" if np.isnan(value[0]) else f"{value[0]:.4f} ({value[1]:.4f})"

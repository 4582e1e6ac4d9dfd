"""Charts of a run's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_lite.report import charts, groups
from recbole_lite.report.run_folder import USERS_FILE, RunRecord, read_users

MOST_BARS = 5  # runs in a chart, this one included
GROUPS_K = 10


def show(metric: str) -> str:
    """Name of a metric for people: ``recall@10`` -> ``Recall@10``."""
    name, at, k = metric.partition("@")
    return (name.upper() if name in ("ndcg", "mrr", "map") else name.capitalize()) + at + k


def learning_curves(record: RunRecord) -> dict[str, Any]:
    """Charts of validation and training loss; none where no epoch was validated."""
    history = record.history
    valid = list(dict.fromkeys(n for row in history for n in row if n.startswith("valid_")))
    valid = [name for name in valid if name != "valid_score"]
    if not valid:
        return {"curves": []}
    best = record.metrics["best_epoch"]
    mark = None if best is None else (best, f"best: epoch {best}")
    lines = [
        charts.Series(
            show(name.removeprefix("valid_")),
            [(row["epoch"], row[name]) for row in history if name in row],
        )
        for name in valid[:6]
    ]
    losses = [(row["epoch"], row["train_loss"]) for row in history if "train_loss" in row]
    loss = charts.Series("training loss", losses)
    loss_title = "Training loss (sum over an epoch's batches)"
    return {
        "curves": [
            {
                "title": "Validation",
                "chart": charts.line_chart("Validation by epoch", lines, "epoch", mark, True),
            },
            {"title": loss_title, "chart": charts.line_chart(loss_title, [loss], "epoch", mark)},
        ]
    }


def group_charts(record: RunRecord, others: Sequence[RunRecord]) -> dict[str, Any]:
    """Charts over groups: of this run, and of the best run of each other model."""
    if not record.users:
        return {"groups": []}
    k = min(GROUPS_K, record.metrics["largest_k"])
    shown = [record, *_best_of_other_models(record, others, k)]
    tables = [run.users or read_users(run.folder) for run in shown]
    quartiles = record.metrics["test_set"]["item_quartiles"]
    cuts = [
        ("By how common the test item is (quartiles of the items)", "times in training",
         groups.by_popularity(record.users, quartiles)),
        ("By length of the history", "items before the test item",
         groups.by_history(record.users)),
    ]  # fmt: skip
    names = [run.metrics["model"] for run in shown]
    laid = []
    for title, of, members in cuts:
        found = [groups.recall(table, members, k) for table in tables]
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
        score = (run.metrics["valid"] or {}).get(metric, -1.0)
        held = best.get(model)
        if held is None or score > (held.metrics["valid"] or {}).get(metric, -1.0):
            best[model] = run
    return list(best.values())[: MOST_BARS - 1]


def _mean_and_error(value: tuple[float, float]) -> str:
    return "-" if np.isnan(value[0]) else f"{value[0]:.4f} ({value[1]:.4f})"

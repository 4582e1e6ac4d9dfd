"""The page of a run: what the record says, laid out for ``templates/report.html``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from recbole_lite.report.format import figure, metric_label
from recbole_lite.report.html_page import render_template
from recbole_lite.report.intervals import half_interval
from recbole_lite.report.rank_metrics import is_of_ranks, metric_values
from recbole_lite.report.run_charts import group_charts, learning_curves, score_of
from recbole_lite.report.run_folder import RunRecord
from recbole_lite.trainer import checkpoint

MOST_ROWS = 15  # other runs in the table
LOWER_IS_BETTER = ("giniindex", "averagepopularity")


def render(record: RunRecord, others: Sequence[RunRecord]) -> str:
    """HTML of a run's report; everything that comes from data is escaped.

    `others` are the runs that it can be compared with, the newest first.
    """
    config_files = f"--config_files={record.folder / checkpoint.YAML_FILE}"
    content = {
        **_head(record),
        **learning_curves(record),
        **group_charts(record, others),
        **_samples(record),
        **_cost(record),
        "tiles": _tiles(record),
        "how": _how(record),
        "table": _table(record, others),
        "command": f"python run_recbole_lite.py {shlex.quote(config_files)}",
        "environment": [(k, "-" if v is None else v) for k, v in record.environment.items()],
        "settings": sorted(record.settings.items()),
    }
    names = {"test": "Test"} | ({"runs": "Other runs"} if content["table"] else {})
    names |= {"learning": "Learning curves"}
    names |= {"groups": "Groups of users"} if content["groups"] else {}
    names |= {"users": "Ten users"} if content["samples"] else {}
    names |= {"cost": "Time and memory", "made": "Command and settings"}
    return render_template("report.html", sections=names.items(), **content)


def _head(record: RunRecord) -> dict[str, Any]:
    metrics = record.metrics
    counts = ", ".join(f"{count:,} {what}" for what, count in metrics["data"].items())
    return {
        "model": metrics["model"],
        "dataset": metrics["dataset"],
        "name": record.name,
        "folder": str(record.folder),
        "counts": counts,
        "finished": datetime.fromisoformat(metrics["finished"]).strftime("%Y-%m-%d %H:%M UTC"),
        "epochs": f"{metrics['epochs']} epoch{'' if metrics['epochs'] == 1 else 's'}",
        "minutes": _minutes(metrics),
        "parameters": f"{metrics['parameters']:,}",
        "resumed": metrics["resumed"],
        "best_epoch": metrics["best_epoch"],
    }


def _tiles(record: RunRecord) -> list[dict[str, str]]:
    ranks = np.array([row["rank"] for row in record.users.values()])
    tiles = []
    for name, value in (record.metrics["test"] or {}).items():
        half = ""
        if len(ranks) > 1 and is_of_ranks(name):
            half = f"{half_interval(metric_values(name, ranks)):.4f}"
        tiles.append({"name": metric_label(name), "value": figure(value), "half": half})
    return tiles


def _how(record: RunRecord) -> str:
    protocol = record.metrics["protocol"]
    mode = (protocol.get("eval_args") or {}).get("mode")
    mode = mode.get("test") if isinstance(mode, dict) else mode
    against = "all items" if mode == "full" else f"sampled items ({mode})"
    if protocol.get("task") == "topn":
        against = f"{protocol['topn_negatives']} negatives"
    seen = " except those in the user's history" if protocol.get("eval_exclude_history") else ""
    users = record.metrics.get("test_set")
    split = _split(record)
    said = [f"{split[0].upper()}{split[1:]}; ranked against {against}{seen}."]
    if not record.metrics["test"]:
        said = [f"Nothing was measured: the {split} leaves no test part."]
    if users:
        said.append(
            f"± is half the width of the 95% interval over {users['users']:,} users, from the "
            "standard error; it does not include the variation over seeds."
        )
    return " ".join(said)


def _split(record: RunRecord) -> str:
    if files := record.metrics.get("part_files"):
        return "split by the files " + ", ".join(f"{f} ({n:,} rows)" for f, n in files.items())
    split = (record.metrics["protocol"].get("eval_args") or {}).get("split")
    return "leave-one-out" if split == {"LS": "valid_and_test"} else f"split {split}"


# -- other runs -------------------------------------------------------------------------------


def _table(record: RunRecord, others: Sequence[RunRecord]) -> dict[str, Any] | None:
    metrics = list(record.metrics["test"] or {})
    if not metrics:
        return None
    first = metrics[0]
    runs = [record, *others[:MOST_ROWS]]
    runs.sort(key=lambda run: score_of(run.metrics["test"], first), reverse=True)
    best = {name: _best(name, runs) for name in metrics}
    rows = []
    for run in runs:
        figures = [run.metrics["test"].get(name) for name in metrics]
        cells = [
            {
                "text": figure(value),
                "best": len(runs) > 1 and value is not None and value == best[name],
            }
            for name, value in zip(metrics, figures, strict=True)
        ]
        valid = (run.metrics["valid"] or {}).get(record.metrics["valid_metric"])
        rows.append(
            {
                "model": run.metrics["model"],
                "name": run.name,
                "this": run is record,
                "cells": cells,
                "valid": figure(valid),
                "epochs": run.metrics["epochs"],
                "minutes": _minutes(run.metrics),
                "parameters": f"{run.metrics['parameters']:,}",
            }
        )
    more = len(others) - MOST_ROWS
    return {
        "metrics": [metric_label(name) for name in metrics],
        "sorted_by": metric_label(first),
        "valid_metric": metric_label(record.metrics["valid_metric"]),
        "rows": rows,
        "left_out": f"{more} older runs are not shown." if more > 0 else "",
    }


def _best(name: str, runs: Sequence[RunRecord]) -> float | None:
    values = [run.metrics["test"].get(name) for run in runs]
    values = [value for value in values if value is not None]
    choose = min if name.startswith(LOWER_IS_BETTER) else max
    return choose(values, default=None)


def _minutes(metrics) -> str:
    return f"{sum(metrics['seconds'].values()) / 60:.1f}"


# -- users, cost ------------------------------------------------------------------------------


def _samples(record: RunRecord) -> dict[str, Any]:
    samples = []
    for sample in record.samples:
        rank = record.users.get(sample["user"], {}).get("rank")
        beyond = f"not among the first {record.metrics['largest_k']}"
        among = "" if _ranks_all(record) else " of its candidates"
        said = "" if rank is None else f"at rank {rank}{among}" if rank else beyond
        picks = zip(sample["recommended"], sample["hits"], strict=True)
        samples.append(
            {
                **sample,
                "rank": said,
                "recommended": [{"title": title, "hit": hit} for title, hit in picks],
            }
        )
    return {
        "samples": samples,
        "sample_hits": sum(any(sample["hits"]) for sample in record.samples),
        "shown": max((len(sample["recommended"]) for sample in samples), default=0),
    }


def _ranks_all(record: RunRecord) -> bool:
    """Whether the test ranked all items; samples always do."""
    protocol = record.metrics["protocol"]
    mode = (protocol.get("eval_args") or {}).get("mode")
    return mode in ("full", {"valid": "full", "test": "full"}) and protocol.get("task") != "topn"


def _cost(record: RunRecord) -> dict[str, Any]:
    seconds, memory = record.metrics["seconds"], record.metrics["memory_mib"]
    most = max(seconds.values(), default=0) or 1.0
    steps = []
    for name, value in seconds.items():
        at = memory.get(name, {})
        sizes = {
            key: f"{at[source]:,.0f}" if source in at else "-"
            for key, source in (("resident", "resident"), ("peak", "peak"), ("gpu", "gpu_peak"))
        }
        share = round(100 * value / most, 1)
        steps.append({"name": name, "seconds": f"{value:,.1f}", "share": share, **sizes})
    return {"steps": steps, "has_gpu": any("gpu_peak" in at for at in memory.values())}

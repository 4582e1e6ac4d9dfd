"""Runs side by side on the same test users: figures, intervals, paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_lite.experiments.compare.compared_runs import Side, read_side
from recbole_lite.experiments.compare.comparison_page import plot, render
from recbole_lite.report.intervals import CONFIDENCE, RESAMPLES, mean_intervals
from recbole_lite.report.rank_metrics import is_of_ranks, metric_values
from recbole_lite.report.run_folder import RunRecord, protocol_difference
from recbole_lite.utils.errors import ReportError
from recbole_lite.utils.files import write_atomically, write_json

METRIC = "ndcg@10"  # what differences are taken in
DEFAULT_OUT = Path("results", "compare")  # / name of the dataset


def _with_own_names(sides: list[Side]) -> list[Side]:
    """Sides of one name (results of two folders, say) by their paths."""
    names = Counter(side.name for side in sides)
    return [
        replace(side, name=str(side.run.folder)) if names[side.name] > 1 else side for side in sides
    ]


def check_comparable(sides: Sequence[Side]) -> None:
    """Refuse sides that were not asked the same questions.

    Raises
    ------
    ReportError
        One line: which two, and what differs.
    """
    first = sides[0]
    for other in sides[1:]:
        why = _difference(first, other)
        if why:
            raise ReportError(
                f"{first.run.folder} and {other.run.folder} cannot be compared: {why}"
            )


def _difference(a: Side, b: Side) -> str | None:
    silent = [s for s in (a, b) if not (s.run.metrics.get("protocol") or {}).get("eval_args")]
    if len(silent) == 1:
        return (
            f"{silent[0].run.folder} does not say how it ranked, as an older version wrote it; "
            "make it anew"
        )
    both_known = a.run.metrics.get("test_set") and b.run.metrics.get("test_set")
    if both_known:
        return protocol_difference(a.run, b.run)
    # An older result does not say what its test set was; its users and the data's size do.
    metrics = ({**side.run.metrics, "test_set": None} for side in (a, b))
    records = [RunRecord(s.run.folder, {}, m) for s, m in zip((a, b), metrics, strict=True)]
    why = protocol_difference(*records)
    if why is None and set(a.ranks) != set(b.ranks):
        only = len(set(a.ranks) ^ set(b.ranks))
        why = f"{only:,} test users are in one of them only"
    return why


# -- figures ----------------------------------------------------------------------------------


def compare(
    paths: Sequence[str | Path], metric: str = METRIC, out: str | Path | None = None
) -> dict[str, Any]:
    """Compare runs with the first of them, and write the table and the plot.

    Parameters
    ----------
    paths : list of str or Path
        At least two run folders, or result files (:func:`~.compared.read_side`).
    metric : str
        Metric of the differences, a top-k one.
    out : str or Path, optional
        Folder of ``compare.md``, ``compare.json`` and ``compare.svg``; None:
        ``results/compare/<dataset>``.

    Returns
    -------
    dict
        ``dataset``, ``data``, ``users``, ``metric``, ``base``, ``confidence``, ``resamples``,
        ``files`` and ``rows``: per run ``name``, ``path``, ``model``, ``test`` (metric -> mean
        over users), ``interval`` (of `metric`), ``difference`` and ``difference_interval`` (to the
        first run, paired user by user; None in the first), ``epochs``, ``minutes``,
        ``parameters``.

    Raises
    ------
    ReportError
        Fewer than two, not comparable, a metric that the ranks do not give.
    """
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise ReportError("compare: give two or more different runs")
    metric = metric.lower()
    sides = _with_own_names([read_side(path) for path in paths])
    check_comparable(sides)
    known = min(side.largest_k for side in sides)
    if not is_of_ranks(metric) or int(metric.partition("@")[2]) > known:
        raise ReportError(
            f"metric {metric!r}: give recall@k, hit@k, precision@k, ndcg@k, mrr@k or map@k with k "
            f"up to {known}, the largest topk of these runs"
        )
    summary = _summarise(sides, metric)
    out = Path(out or DEFAULT_OUT / summary["dataset"])
    names = {kind: out / f"compare.{kind}" for kind in ("md", "json", "svg")}
    summary["files"] = {kind: str(path) for kind, path in names.items()}
    write_json(names["json"], summary)
    _write(names["md"], render(summary, "github"))
    _write(names["svg"], plot(summary))
    return summary


def _summarise(sides: Sequence[Side], metric: str) -> dict[str, Any]:
    users = sorted(sides[0].ranks)
    values = np.stack(
        [metric_values(metric, np.array([s.ranks[user] for user in users])) for s in sides]
    )
    differences = values[1:] - values[0]
    # All at once: the same users are drawn for every row.
    ends = mean_intervals(np.concatenate([values, differences]))
    rows = []
    for number, side in enumerate(sides):
        row = {**_about(side), "mean": float(values[number].mean())}
        row["interval"] = _ends(ends[number])
        row["difference"] = row["difference_interval"] = None
        if number:
            row["difference"] = float(differences[number - 1].mean())
            row["difference_interval"] = _ends(ends[len(sides) + number - 1])
        rows.append(row)
    metrics = sides[0].run.metrics
    return {
        "dataset": metrics["dataset"],
        "data": metrics["data"],
        "users": len(users),
        "metric": metric,
        "base": sides[0].name,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "rows": rows,
    }


def _about(side: Side) -> dict[str, Any]:
    metrics = side.run.metrics
    return {
        "name": side.name,
        "path": str(side.run.folder),
        "model": metrics["model"],
        "test": metrics["test"],
        "epochs": metrics["epochs"],
        "minutes": round(sum(metrics["seconds"].values()) / 60, 2),
        "parameters": metrics["parameters"],
    }


def _ends(pair: np.ndarray) -> list[float] | None:
    return None if np.isnan(pair).any() else pair.tolist()


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))

"""Runs side by side on the same test users: figures, intervals, paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_lite.experiments.compare.comparison_page import plot, render
from recbole_lite.experiments.compare.run_results import RunResult, read_result
from recbole_lite.report import user_groups
from recbole_lite.report.intervals import CONFIDENCE, RESAMPLES, mean_intervals
from recbole_lite.report.rank_metrics import is_of_ranks, metric_values
from recbole_lite.report.run_folder import protocol_difference
from recbole_lite.report.tested_users import TestedUsers, read_tested_users
from recbole_lite.utils.errors import ReportError
from recbole_lite.utils.files import write_json, write_text

METRIC = "ndcg@10"  # what differences are taken in
GROUPS_K = 10  # of Recall by item
DEFAULT_OUT = Path("results", "compare")  # / name of the dataset


def _with_unique_names(results: list[RunResult]) -> list[RunResult]:
    """Results of one name (files of two folders, say) by their paths."""
    names = Counter(result.name for result in results)
    return [replace(r, name=str(r.run.folder)) if names[r.name] > 1 else r for r in results]


def check_comparable(results: Sequence[RunResult]) -> None:
    """Refuse results of other data or another protocol.

    Raises
    ------
    ReportError
        One line: which two, and what differs.
    """
    first = results[0]
    for other in results[1:]:
        why = _difference(first, other)
        if why:
            raise ReportError(
                f"{first.run.folder} and {other.run.folder} cannot be compared: {why}"
            )


def _difference(a: RunResult, b: RunResult) -> str | None:
    silent = [r.run for r in (a, b) if not (r.run.metrics.get("protocol") or {}).get("eval_args")]
    if len(silent) == 1:
        return (
            f"{silent[0].folder} does not state its ranking, because an older version wrote it; "
            "run it again"
        )
    if a.run.metrics.get("test_set") and b.run.metrics.get("test_set"):
        return protocol_difference(a.run, b.run)
    # An older result does not say what its test set was; its users and the data's size do.
    unknown = (replace(r.run, metrics={**r.run.metrics, "test_set": None}) for r in (a, b))
    only = len(set(a.ranks) ^ set(b.ranks))
    return protocol_difference(*unknown) or (
        f"{only:,} test users are in one of them only" if only else None
    )


# -- figures ----------------------------------------------------------------------------------


def compare(
    paths: Sequence[str | Path],
    metric: str = METRIC,
    out: str | Path | None = None,
    by_item: bool = False,
    data_path: str | Path | None = None,
) -> dict[str, Any]:
    """Compare runs with the first of them, and write the table and the plot.

    Parameters
    ----------
    paths : list of str or Path
        At least two run folders, or result files (:func:`~.run_results.read_result`).
    metric : str
        Metric of the differences, a top-k one.
    out : str or Path, optional
        Folder of ``compare.md``, ``compare.json`` and ``compare.svg``; None:
        ``results/compare/<dataset>``.
    by_item : bool
        Whether to give Recall by how often the test item occurs in training as well; reads the
        data set.
    data_path : str or Path, optional
        Folder of the data sets; None: the first run's.

    Returns
    -------
    dict
        ``dataset``, ``data``, ``users``, ``metric``, ``base``, ``confidence``, ``resamples``,
        ``files`` and ``rows``: per run ``name``, ``path``, ``model``, ``test`` (metric -> mean
        over users), ``interval`` (of `metric`), ``difference`` and ``difference_interval`` (to the
        first run, paired user by user; None in the first), ``epochs``, ``minutes``,
        ``parameters``. With `by_item` also ``by_item``: ``k``, ``groups`` (quartiles of the items,
        the rarest first: ``label`` and ``users``) and ``recall``: name -> mean and standard error
        of each group.

    Raises
    ------
    ReportError
        Fewer than two, not comparable, a metric that the ranks do not give, other users than the
        data set's.
    """
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise ReportError("compare: give two or more different runs")
    metric = metric.lower()
    results = _with_unique_names([read_result(path) for path in paths])
    check_comparable(results)
    known = min(result.run.metrics["largest_k"] for result in results)
    _check_metric(metric, known)
    summary = _summarise(results, metric)
    if by_item:
        summary["by_item"] = _recall_by_item(results, min(GROUPS_K, known), data_path)
    out = Path(out or DEFAULT_OUT / summary["dataset"])
    names = {kind: out / f"compare.{kind}" for kind in ("md", "json", "svg")}
    summary["files"] = {kind: str(path) for kind, path in names.items()}
    write_json(names["json"], summary)
    write_text(names["md"], render(summary, "github"))
    write_text(names["svg"], plot(summary))
    return summary


def _check_metric(metric: str, known: int) -> None:
    if not is_of_ranks(metric) or int(metric.partition("@")[2]) > known:
        raise ReportError(
            f"metric {metric!r}: give recall@k, hit@k, precision@k, ndcg@k, mrr@k or map@k with k "
            f"up to {known}, the largest topk of these runs"
        )


def _summarise(results: Sequence[RunResult], metric: str) -> dict[str, Any]:
    users = sorted(results[0].ranks)
    ranks = [np.array([result.ranks[user] for user in users]) for result in results]
    values = np.stack([metric_values(metric, row) for row in ranks])
    differences = values[1:] - values[0]
    # All at once: the same users are drawn for every row.
    ends = [_ends(pair) for pair in mean_intervals(np.concatenate([values, differences]))]
    rows = [
        {
            **_about(result),
            "mean": float(values[number].mean()),
            "interval": ends[number],
            "difference": float(differences[number - 1].mean()) if number else None,
            "difference_interval": ends[len(results) + number - 1] if number else None,
        }
        for number, result in enumerate(results)
    ]
    metrics = results[0].run.metrics
    return {
        "dataset": metrics["dataset"],
        "data": metrics["data"],
        "users": len(users),
        "metric": metric,
        "base": results[0].name,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "rows": rows,
    }


def users_of_test(result: RunResult, data_path: str | Path | None = None) -> TestedUsers:
    """Test items and histories of a run's users, read from its data set.

    Raises
    ------
    ReportError
        The data set has other test users.
    """
    from recbole_lite.config.configurator import LiteConfig
    from recbole_lite.data import create_dataset, data_preparation

    run = result.run
    data_path = data_path or run.settings.get("data_path")
    settings = {"state": "WARNING", **({"data_path": str(data_path)} if data_path else {})}
    config = LiteConfig("SASRec", run.metrics["dataset"], config_dict=settings)
    dataset = create_dataset(config)
    test_set = read_tested_users(dataset, *data_preparation(config, dataset)[1:])
    if test_set is None or set(test_set.users) != set(result.ranks):
        raise ReportError(
            f"{run.folder}: its users are not the test users of {dataset.dataset_name}"
        )
    return test_set


def _recall_by_item(results: Sequence[RunResult], k: int, data_path) -> dict[str, Any]:
    """Recall of the users whose test item is in each quartile of the items."""
    test_set = users_of_test(results[0], data_path)
    quartiles = zip(test_set.users, test_set.item_quartiles.tolist(), strict=True)
    users = {user: {"item_quartile": quartile} for user, quartile in quartiles}
    groups = user_groups.by_popularity(users, test_set.quartiles)
    ranks = {r.name: {user: {"rank": rank} for user, rank in r.ranks.items()} for r in results}
    return {
        "k": k,
        "groups": [{"label": group.label, "users": len(group.users)} for group in groups],
        "recall": {name: user_groups.recall(of, groups, k) for name, of in ranks.items()},
    }


def _about(result: RunResult) -> dict[str, Any]:
    metrics = result.run.metrics
    return {
        "name": result.name,
        "path": str(result.run.folder),
        "model": metrics["model"],
        "test": metrics["test"],
        "epochs": metrics["epochs"],
        "minutes": round(sum(metrics["seconds"].values()) / 60, 2),
        "parameters": metrics["parameters"],
    }


def _ends(pair: np.ndarray) -> list[float] | None:
    return None if np.isnan(pair).any() else pair.tolist()

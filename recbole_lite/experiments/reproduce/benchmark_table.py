"""The benchmark's figures: tables, charts, and what text adds by group of users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from recbole_lite.experiments.ablate import per_user_values
from recbole_lite.experiments.reproduce.baselines import BENCHMARK
from recbole_lite.report import charts, user_groups
from recbole_lite.report.ablation import summarise
from recbole_lite.report.format import figure, grid, interval, metric_label, short_metrics
from recbole_lite.report.intervals import mean_intervals
from recbole_lite.report.rank_metrics import metric_values
from recbole_lite.report.tested_users import TestedUsers
from recbole_lite.utils.environment import environment

METRIC = "ndcg@10"  # of differences, of the best rival and of learning curves
HEAD = ("recall@10", "ndcg@10")  # of the table of all data sets
TEXT_PAIR = ("ItemLM, text+id", "ItemLM")  # rows that differ in the items' text alone
GROUPS_METRIC = "recall@10"
Cells = dict[str, dict[int, dict[str, Any]]]  # row -> seed -> result


def summarise_cells(
    dataset: str, cells: Cells, problems: Mapping[str, str], command: str
) -> dict[str, Any]:
    """Figures of a data set's rows, the best rival first.

    The best rival is the one with the best mean of `METRIC` on the test set: choosing it by its
    validation could only make the bar lower. Without a rival, the first row takes its place.

    Returns
    -------
    dict
        As of :func:`~recbole_lite.report.ablation.summarise`.
    """
    rivals = [name for name in cells if BENCHMARK[name].rival] or list(cells)[:1]
    best = max(rivals, key=lambda name: np.mean([r["test"][METRIC] for r in cells[name].values()]))
    names = [best, *(name for name in cells if name != best)]
    names += [name for name in problems if name not in cells]
    rows = [
        {
            "row": name,
            "changes": {},
            "same_as": None,
            "problem": problems.get(name),
            "runs": [
                {**found, "seed": seed, "per_user": per_user_values(found)}
                for seed, found in sorted(cells.get(name, {}).items())
            ],
        }
        for name in names
    ]
    seeds = sorted({seed for of in cells.values() for seed in of})
    about = {"dataset": dataset, "seeds": seeds, "command": command, "environment": environment()}
    more = {"processors": _processors(cells), "passes": _passes(cells)}
    return {**summarise(rows, about), **more}


def _passes(cells: Cells) -> dict[str, float]:
    """Passes over the training data by row, the mean over its seeds."""
    return {
        name: float(np.mean([cell["steps"] / cell["steps_per_epoch"] for cell in of.values()]))
        for name, of in cells.items()
    }


def _processors(cells: Cells) -> dict[str, list[str]]:
    """Rows by the processor that trained them: the same time buys more steps on a faster one."""
    found: dict[str, list[str]] = {}
    for name, of in cells.items():
        machines = [cell["environment"] for cell in of.values()]
        for processor in dict.fromkeys(m.get("gpu") or m["processor"] for m in machines):
            found.setdefault(processor, []).append(name)
    return found


def render_all(
    summaries: Sequence[Mapping[str, Any]], missing: Mapping[str, Mapping[str, str]], command: str
) -> str:
    """Markdown of all data sets: :func:`results_table`, and why rows have no result."""
    parts = ["# Benchmark", results_table(summaries)]
    notes = [
        f"- {name} on {dataset}: not run: {why}"
        for dataset, problems in missing.items()
        for name, why in problems.items()
    ]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else []), f"`{command}`"]) + "\n"


def results_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Table of all rows on all data sets, which the README shows as well, in Markdown.

    Cells are means over seeds (standard deviation). Behind them, the difference in `METRIC` to the
    best rival (without one: to the first row) with its interval over users, and the passes over the
    training data. A line below names the processors.
    """
    lines, bases = [], {compared_with(summary["base"]) for summary in summaries}
    for summary in summaries:
        done = [row for row in summary["rows"] if row["seeds"]]
        for row in sorted(done, key=lambda row: -row["test"][METRIC]["mean"]):
            means = [_spread(row["test"].get(name)) for name in HEAD]
            found = row["test"][METRIC]
            base = row["row"] == summary["base"]
            less = compared_with(row["row"]) if base else figure(found["difference"], "+.4f")
            ends = "" if base else interval(found["difference_interval"], "+.4f")
            passes = summary["passes"][row["row"]]
            shown = f"{passes:.0f}" if passes >= 10 else f"{passes:.2g}"
            about = [str(len(row["seeds"])), shown, f"{row['minutes']:.0f}"]
            lines.append([summary["dataset"], row["row"], *means, less, ends, *about])
    head = ["data set", "model", *map(metric_label, HEAD)]
    head += [f"{metric_label(METRIC)} less {' or '.join(sorted(bases))}"]
    head += ["95% interval", "seeds", "passes", "minutes"]
    machines = "; ".join(f"{of['dataset']}: {_machines(of)}" for of in summaries)
    return grid(lines, head, "pipe", text=(0, 1)) + f"\n\nTrained on {machines}."


def compared_with(base: str) -> str:
    """What the row that the others are compared with is called."""
    return "best rival" if BENCHMARK[base].rival else "first row"


def _machines(summary: Mapping[str, Any]) -> str:
    found = summary["processors"]
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{processor} ({', '.join(rows)})" for processor, rows in found.items())


def _spread(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    std = "" if found["std"] is None else f" ({figure(found['std'])})"
    return figure(found["mean"]) + std


def seeds_table(cells: Cells) -> str:
    """Table of every cell."""
    metrics = list(next(iter(next(iter(cells.values())).values()))["test"])
    rows = [
        [
            name,
            seed,
            *(figure(found["test"].get(metric)) for metric in metrics),
            figure(found["valid"].get(METRIC)),
            f"{found['steps']:,}",
            f"{found['minutes']:g}",
        ]
        for name, of in cells.items()
        for seed, found in sorted(of.items())
    ]
    head = ["row", "seed", *short_metrics(metrics), f"validation {short_metrics([METRIC])[0]}"]
    return grid(rows, [*head, "steps", "minutes of training"], "pipe")


def learning_curves(cells: Cells, style: str) -> Markup | None:
    """Validation by minutes, of the first seed of each row; None where nothing was validated."""
    series = []
    for name, of in cells.items():
        history = of[min(of)]["history"]
        points = [(e["seconds"] / 60, e["valid_result"].get(METRIC)) for e in history]
        points = [point for point in points if point[1] is not None]
        if points:
            series.append(charts.Series(name, points))
    if not series:
        return None
    series.sort(key=lambda one: -max(y for _, y in one.points))  # the first have colours and labels
    title, x_label = f"Validation {metric_label(METRIC)}", "minutes of training and validation"
    return charts.line_chart(title, series, x_label, from_zero=True, width=640, style=style)


def interval_chart(summary: Mapping[str, Any], style: str) -> Markup | None:
    """Differences to the best rival; None where there are none."""
    rows = [
        charts.Interval(row["row"], found["difference"], *found["difference_interval"])
        for row in summary["rows"]
        if row["seeds"] and (found := row["test"][METRIC])["difference_interval"]
    ]
    title = f"{metric_label(METRIC)} less that of {summary['base']}"
    return charts.interval_chart(title, rows, f"{title}, 95% interval", style) if rows else None


# -- does text help, where? -------------------------------------------------------------------


def text_by_group(
    with_text: Mapping[int, Mapping[str, Any]],
    without: Mapping[int, Mapping[str, Any]],
    test_set: TestedUsers,
) -> list[dict[str, Any]]:
    """What text adds to `GROUPS_METRIC`, by group of users; paired, averaged over seeds.

    `with_text` and `without` are two rows, seed -> result.

    Returns
    -------
    list of dict
        ``label``, ``users``, ``without``, ``with_text`` (means), ``difference`` and ``interval``
        (None for fewer than two users): of test items that never occur in training, of each
        quartile of the items by frequency, of histories by length.
    """
    users = {
        user: {"item_quartile": quartile, "history_length": length}
        for user, quartile, length in zip(
            test_set.users,
            test_set.item_quartiles.tolist(),
            test_set.history_lengths.tolist(),
            strict=True,
        )
    }
    seen = zip(test_set.users, test_set.item_interactions.tolist(), strict=True)
    cold = user_groups.Group("0", [user for user, times in seen if not times])
    cuts = {
        "test item {} times in training": [
            cold,
            *user_groups.by_popularity(users, test_set.quartiles),
        ],
        "history of {}": user_groups.by_history(users),
    }
    place = {user: number for number, user in enumerate(test_set.users)}
    values = [_mean_over_seeds(of, test_set.users) for of in (without, with_text)]
    found = []
    for label, groups in cuts.items():
        for group in groups:
            inside = [place[user] for user in group.users]
            plain, text = (of[inside] for of in values)
            if not inside:
                continue
            ends = mean_intervals((text - plain)[None])[0]
            found.append(
                {
                    "label": label.format(group.label),
                    "users": len(inside),
                    "without": float(plain.mean()),
                    "with_text": float(text.mean()),
                    "difference": float((text - plain).mean()),
                    "interval": None if np.isnan(ends).any() else ends.tolist(),
                }
            )
    return found


def _mean_over_seeds(of: Mapping[int, Mapping[str, Any]], users: Iterable[str]) -> np.ndarray:
    """Each user's `GROUPS_METRIC`, ``[users]``."""
    ranks = [np.array([found["ranks"][user] for user in users]) for found in of.values()]
    return np.mean([metric_values(GROUPS_METRIC, row) for row in ranks], axis=0)


def text_chart(groups: Sequence[Mapping[str, Any]], style: str) -> Markup | None:
    """What :func:`text_by_group` gives; None where no group has two users."""
    rows = [
        charts.Interval(f"{of['label']} ({of['users']:,} users)", of["difference"], *of["interval"])
        for of in groups
        if of["interval"] is not None
    ]
    title = f"{metric_label(GROUPS_METRIC)} of {TEXT_PAIR[0]} less that of {TEXT_PAIR[1]}"
    return charts.interval_chart(title, rows, f"{title}, 95% interval", style) if rows else None

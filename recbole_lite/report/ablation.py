"""The table of an ablation: figures over seeds and users, and its Markdown."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

import numpy as np

from recbole_lite.report.format import figure, grid, interval
from recbole_lite.report.intervals import CONFIDENCE, RESAMPLES, SEED, mean_intervals

HOW = f"""\
Means are over seeds. The {CONFIDENCE:.0%} intervals are over users: a user's figures are averaged
over the seeds first, then the users are drawn {RESAMPLES:,} times (percentile bootstrap, seed
{SEED}). They do not include the variation over seeds (column std). A difference is paired: the
row's figure minus the base row's, user by user."""


# -- figures ----------------------------------------------------------------------------------


def summarise(rows: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Figures of the table.

    Parameters
    ----------
    rows : list of dict
        The base row first: ``row`` (its name), ``changes``, ``same_as``, ``problem``, and
        ``runs``, one dict per finished seed: ``seed``, ``data``, ``valid``, ``test``, ``epochs``,
        ``seconds``, ``parameters``, ``ranks`` (whose keys are the users) and ``per_user``
        (metric -> one value per user).
    about : dict
        ``dataset``, ``seeds``, ``command``, ``environment``; goes into the result.

    Returns
    -------
    dict
        `about`, ``base``, ``data``, ``confidence``, ``resamples`` and ``rows``. A row has
        ``test``: metric -> ``mean``, ``std`` (over seeds; None for one), ``interval``,
        ``difference`` and ``difference_interval`` (to the base row; None where there is nothing
        to pair); ``valid``: metric -> ``mean``, ``std``; ``seeds``, ``epochs``, ``minutes``,
        ``parameters``; without a finished seed only ``row``, ``changes``, ``same_as``,
        ``problem`` and the empty ``seeds``.
    """
    base = rows[0]
    return {
        "base": base["row"],
        **about,
        "data": next((run["data"] for row in rows for run in row["runs"]), None),
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "rows": [_summarise_row(row, base) for row in rows],
    }


def _summarise_row(row, base) -> dict[str, Any]:
    runs = row["runs"]
    described = {key: row[key] for key in ("row", "changes", "same_as", "problem")}
    described["seeds"] = [run["seed"] for run in runs]
    if not runs:
        return described
    intervals = _intervals(runs, [] if row is base else base["runs"])
    empty = {"interval": None, "difference": None, "difference_interval": None}
    described["test"] = {
        name: {**_spread([_test_figure(run, name) for run in runs]), **intervals.get(name, empty)}
        for name in runs[0]["test"]
    }
    described["valid"] = {
        name: _spread([_number(run["valid"].get(name)) for run in runs])
        for name in runs[0]["valid"]
    }
    described["epochs"] = fmean(run["epochs"] for run in runs)
    described["minutes"] = fmean(sum(run["seconds"].values()) / 60 for run in runs)
    described["parameters"] = runs[0]["parameters"]
    return described


def _spread(figures: list[float]) -> dict[str, float | None]:
    return {"mean": fmean(figures), "std": stdev(figures) if len(figures) > 1 else None}


def _test_figure(run, name: str) -> float:
    """Mean over the users; RecBole's, which is rounded, where a metric has no users' values."""
    values = run["per_user"].get(name)
    return _number(run["test"].get(name)) if values is None else float(values.mean())


def _number(value: float | None) -> float:
    """NaN where a file has null: JSON has no NaN."""
    return float("nan") if value is None else value


def _intervals(runs, base_runs) -> dict[str, dict[str, Any]]:
    """Per metric: interval of the mean over users, and the paired difference with its own."""
    values = _over_seeds(runs)
    if not values:
        return {}
    paired = base_runs and list(base_runs[0]["ranks"]) == list(runs[0]["ranks"])
    base = _over_seeds(base_runs) if paired else {}
    differences = {name: values[name] - base[name] for name in values if name in base}
    ends = mean_intervals(np.stack([*values.values(), *differences.values()]))
    ends = [None if np.isnan(pair).any() else pair.tolist() for pair in ends]
    of_means = dict(zip(values, ends, strict=False))
    of_differences = dict(zip(differences, ends[len(values) :], strict=True))
    return {
        name: {
            "interval": of_means[name],
            "difference": float(differences[name].mean()) if name in differences else None,
            "difference_interval": of_differences.get(name),
        }
        for name in values
    }


def _over_seeds(runs) -> dict[str, np.ndarray]:
    """Each user's figures, averaged over the seeds: metric -> ``[users]``."""
    names = runs[0]["per_user"]
    return {name: np.mean([run["per_user"][name] for run in runs], axis=0) for name in names}


# -- Markdown ---------------------------------------------------------------------------------


def render(summary: dict[str, Any], title: str = "Ablation: {base} on {dataset}") -> str:
    """Markdown of what :func:`summarise` made."""
    rows = summary["rows"]
    parts = [f"# {title.format(**summary)}", _counts(summary)]
    parts += ["## Test", _overview(rows)]
    metrics = next((list(row["test"]) for row in rows if row["seeds"]), [])
    for name in metrics:
        parts += [f"### {name}", _test_table(rows, name, summary["base"])]
    if any(row.get("valid") for row in rows):
        parts += ["## Validation", _valid_table(rows)]
    parts += ["## How", HOW, _provenance(summary)]
    return "\n\n".join(parts) + "\n"


def _counts(summary) -> str:
    data, rows = summary["data"], summary["rows"]
    missing = sum(not row["seeds"] for row in rows)
    size = ", ".join(f"{count:,} {name}" for name, count in (data or {}).items())
    seeds = ", ".join(map(str, summary["seeds"]))
    told = f"{len(rows)} rows, {missing} of them did not run" if missing else f"{len(rows)} rows"
    return "; ".join(filter(None, [size, f"seeds {seeds}", told])) + "."


def _overview(rows) -> str:
    metrics = next((list(row["test"]) for row in rows if row["seeds"]), [])
    head = ["row", *metrics, "seeds", "parameters", "epochs", "minutes", "note"]
    lines = []
    for row in rows:
        cells = ["-"] * (len(head) - 2)
        if row["seeds"]:
            cells = [figure(row["test"].get(name, {}).get("mean")) for name in metrics]
            cells += [str(len(row["seeds"])), f"{row['parameters']:,}"]
            cells += [f"{row['epochs']:.1f}", f"{row['minutes']:.1f}"]
        lines.append([row["row"], *cells, _note(row)])
    return grid(lines, head, "pipe", text=(0, len(head) - 1))


def _note(row) -> str:
    if not row["seeds"]:
        return f"not run: {row['problem']}"
    notes = []
    if row["same_as"]:
        notes.append(f"same settings as {row['same_as']}")
    if row["problem"]:
        notes.append(f"a seed is missing: {row['problem']}")
    return "; ".join(notes)


def _test_table(rows, name: str, base: str) -> str:
    percent = f"{CONFIDENCE:.0%} interval"
    head = ["row", "mean", "std", percent, f"less {base}", percent]
    lines = []
    for row in rows:
        found = row.get("test", {}).get(name)
        if found is not None:
            lines.append(
                [
                    row["row"],
                    figure(found["mean"]),
                    figure(found["std"]),
                    interval(found["interval"]),
                    figure(found["difference"], "+.4f"),
                    interval(found["difference_interval"], "+.4f"),
                ]
            )
    return grid(lines, head, "pipe")


def _valid_table(rows) -> str:
    rows = [row for row in rows if row.get("valid")]
    metrics = list(rows[0]["valid"])
    head = ["row", *(cell for name in metrics for cell in (name, "std"))]
    lines = []
    for row in rows:
        found = [row["valid"].get(name, {}) for name in metrics]
        cells = [figure(one.get(key)) for one in found for key in ("mean", "std")]
        lines.append([row["row"], *cells])
    return grid(lines, head, "pipe")


def _provenance(summary) -> str:
    environment = summary["environment"]
    facts = ", ".join(f"{key} {value}" for key, value in environment.items() if value is not None)
    command = f"\n\n```\n{summary['command']}\n```" if summary["command"] else ""
    return f"Written by: {facts}. Each run's file contains its own.{command}"

"""The benchmark: tuned rivals and this project's models on several data sets, over seeds.

A cell is a row on a data set with a seed. Its file ``<out>/<dataset>/<row>-<seed>.json`` has its
settings, figures, history, ranks, versions, machine and command; a cell that has one is not
trained again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.experiments.ablate import per_user_values
from recbole_lite.experiments.compare.compare import check_comparable, users_of_test
from recbole_lite.experiments.compare.run_results import RunResult, read_result
from recbole_lite.experiments.reproduce.baselines import BENCHMARK, FOLDER, ModelSpec
from recbole_lite.experiments.reproduce.protocol import Request, Rows, check_names
from recbole_lite.experiments.reproduce.time_budget import portable
from recbole_lite.report import charts, user_groups
from recbole_lite.report.ablation import render, summarise
from recbole_lite.report.format import figure, grid, interval, metric_label, short_metrics
from recbole_lite.report.html_page import TEMPLATES
from recbole_lite.report.intervals import mean_intervals
from recbole_lite.report.rank_metrics import metric_values
from recbole_lite.report.tested_users import TestedUsers
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import ConfigError, one_line
from recbole_lite.utils.files import write_json, write_text

METRIC = "ndcg@10"  # of differences, of the best rival and of learning curves
HEAD = ("recall@10", "ndcg@10")  # of the table of all data sets
TEXT_PAIR = ("ItemLM, text", "ItemLM")  # rows that differ in the items' text alone
GROUPS_METRIC = "recall@10"
SUMMARY = "benchmark.json"
Cells = dict[str, dict[int, dict[str, Any]]]  # row -> seed -> result


def benchmark(request: Request) -> str:
    """Train the missing cells, and write what all cells of the data sets say.

    ``<out>/table.md`` has all data sets, ``<out>/benchmark.json`` its figures;
    ``<out>/<dataset>/table.md`` has every metric with spread over seeds and paired intervals
    against the best rival, beside charts of learning curves, of the intervals, and of what text
    adds by group of users.

    Parameters
    ----------
    request : Request
        `models` names rows of `BENCHMARK`; empty: all of them.

    Returns
    -------
    str
        The table of all data sets, Markdown.

    Raises
    ------
    ConfigError
        An unknown row, or no cell has a result.
    """
    names = request.models or tuple(BENCHMARK)
    check_names(names, BENCHMARK)
    problems = _train(request, [BENCHMARK[name] for name in names])
    summaries, missing = [], {}
    for dataset in dict.fromkeys(request.datasets):
        missing[dataset] = {row: why for (of, row, _), why in problems.items() if of == dataset}
        cells = read_cells(request.out / dataset)
        if cells:
            summaries.append(_write_dataset(request, dataset, cells, missing[dataset]))
    if not summaries:
        raise ConfigError("; ".join(f"{name}: {why}" for (_, name, _), why in problems.items()))
    text = render_all(summaries, missing, request.command)
    write_json(request.out / SUMMARY, {"datasets": summaries, "command": request.command})
    write_text(request.out / "table.md", text)
    return text


# -- cells ------------------------------------------------------------------------------------


def _train(request: Request, specs: Sequence[ModelSpec]) -> dict[tuple[str, str, int], str]:
    """Train what is missing; why cells have no result, by data set, row and seed.

    The first seed of all rows on all data sets comes first: an interrupted table is complete as
    far as it goes. Rows that read another row's vectors come last.
    """
    cells = [
        (replace(request, dataset=dataset, seed=seed), spec)
        for seed in range(request.seed, request.seed + request.seeds)
        for dataset in dict.fromkeys(request.datasets)
        for spec in specs
    ]
    problems = {}
    for reads in (False, True):
        some = [cell for cell in cells if bool(cell[1].reads) is reads]
        for of, spec, lines, why in _run(request, some) if some else ():
            for line in lines:
                request.log(f"{of.dataset}, seed {of.seed}: {line}")
            if why:
                problems[of.dataset, spec.name, of.seed] = why
    return problems


def _run(request: Request, cells: Sequence[tuple[Request, ModelSpec]]) -> Iterator[tuple]:
    """Train cells here or on a Ray cluster; yields each with its log and its problem."""
    if request.ray_address is None:
        for cell in cells:
            yield *cell, *train_cell(*cell)
        return
    from recbole_lite.experiments.tune import cluster
    from recbole_lite.experiments.tune.tune_settings import read_settings

    use_gpu = torch.cuda.is_available()
    with cluster.session(request.ray_address, use_gpu) as ray:
        share = cluster.plan_resources(ray, read_settings({}), use_gpu)
        task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(_train_elsewhere)
        folder, threads = str(Path.cwd()), max(1, int(share.cpus))
        pending = {
            task.remote(replace(of, log=print), spec, folder, threads): (of, spec)
            for of, spec in cells
        }
        while pending:
            (done, *_), _ = ray.wait(list(pending))
            try:
                lines, why = ray.get(done)
            except Exception as error:  # its worker died, or what train_cell does not expect
                lines, why = [], one_line(error, limit=110)
            yield *pending.pop(done), lines, why


def _train_elsewhere(request: Request, spec: ModelSpec, folder: str, threads: int) -> tuple:
    """Train a cell in a worker's process, as in the one that the benchmark was started in."""
    os.chdir(folder)
    torch.set_num_threads(threads)
    return train_cell(request, spec)


def train_cell(request: Request, spec: ModelSpec) -> tuple[list[str], str | None]:
    """Train a cell, unless its file is there.

    Parameters
    ----------
    request : Request
        Its `dataset` and `seed` are the cell's.
    spec : ModelSpec
        Its files are read: a result counts for the settings that they have now.

    Returns
    -------
    tuple
        Lines for the log, and why there is no result, or None.
    """
    lines: list[str] = []
    rows = Rows(replace(request, log=lines.append), request.out / request.dataset)
    try:
        settings = cell_settings(spec, request.dataset)
        if spec.reads:
            source = json.loads(rows.path(BENCHMARK[spec.reads]).read_text(encoding="utf-8"))
            settings["item_vectors"] = source["run_dir"]
    except OSError:
        rows.fail(spec, f"reads the item vectors of {spec.reads}, which has no result")
    except ConfigError as error:
        rows.fail(spec, str(error))
    else:
        rows.train(replace(spec, settings=settings, files=()))
    return lines, rows.problems.get(spec.name)


def cell_settings(spec: ModelSpec, dataset: str) -> dict[str, Any]:
    """Settings of a row on a data set, from ``properties/benchmark``.

    Later ones come first: the tuned ones of ``<dataset>/<row>.yaml``, the row's, those of all rows
    on the data set (``dataset/<dataset>.yaml``).

    Raises
    ------
    ConfigError
        The row's own file is missing, or a file cannot be read.
    """
    paths = [FOLDER / "dataset" / f"{dataset}.yaml", *map(Path, spec.files)]
    paths.append(FOLDER / dataset / f"{spec.stem}.yaml")
    settings: dict[str, Any] = {}
    for path in paths:
        if path in spec.files and not path.is_file():
            raise ConfigError(f"needs {portable(path)}, which is not there")
        if path.is_file():
            settings |= {key: setting.value for key, setting in read_yaml(path).items()}
    return {key: value for key, value in settings.items() if key not in ("model", "dataset")}


def read_cells(folder: Path) -> Cells:
    """Results of a data set by row and seed, rows in the order of `BENCHMARK`.

    Raises
    ------
    ReportError
        A file is damaged, or of another protocol or test set than another.
    """
    paths = {
        (spec.name, int(path.stem.rpartition("-")[2])): path
        for spec in BENCHMARK.values()
        for path in sorted(folder.glob(f"{spec.stem}-[0-9]*.json"))
        if path.stem.removeprefix(f"{spec.stem}-").isdecimal()
    }
    if paths:
        check_comparable([read_result(path) for path in paths.values()])
    found: Cells = {}
    for (name, seed), path in paths.items():
        found.setdefault(name, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    return found


# -- what they say ----------------------------------------------------------------------------


def _write_dataset(
    request: Request, dataset: str, cells: Cells, problems: Mapping[str, str]
) -> dict[str, Any]:
    """Write the files of a data set; returns its summary."""
    out = request.out / dataset
    summary = summarise_cells(dataset, cells, problems, request.command)
    style = (TEMPLATES / "colours.css").read_text(encoding="utf-8")
    style += "svg { background: var(--card); }\n"
    drawn = {"curves": _curves(cells, style), "intervals": _intervals(summary, style)}
    pair = [cells.get(name) for name in TEXT_PAIR]
    if all(pair):
        users = users_of_test(_any_result(out, cells), request.data_path)
        summary["text"] = text_by_group(*pair, users)
        drawn["text"] = _text_chart(summary["text"], style)
    parts = [render(summary, "Benchmark: {dataset}, beside the best rival, {base}")]
    parts += ["## Seeds", _seeds(cells)]
    for name, chart in drawn.items():
        if chart is not None:
            write_text(out / f"{name}.svg", f"{chart}\n")
            parts.append(f"![{name}]({name}.svg)")
    write_text(out / "table.md", "\n\n".join(parts) + "\n")
    return summary


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
    return summarise(rows, about)


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
    best rival with its interval over users.
    """
    lines = []
    for summary in summaries:
        done = [row for row in summary["rows"] if row["seeds"]]
        for row in sorted(done, key=lambda row: -row["test"][METRIC]["mean"]):
            means = [_spread(row["test"].get(name)) for name in HEAD]
            found = row["test"][METRIC]
            base = row["row"] == summary["base"]
            less = "best rival" if base else figure(found["difference"], "+.4f")
            ends = "" if base else interval(found["difference_interval"], "+.4f")
            about = [str(len(row["seeds"])), f"{row['minutes']:.0f}"]
            lines.append([summary["dataset"], row["row"], *means, less, ends, *about])
    head = ["data set", "model", *map(metric_label, HEAD)]
    head += [f"{metric_label(METRIC)} less best rival", "95% interval", "seeds", "minutes"]
    return grid(lines, head, "pipe", text=(0, 1))


def _spread(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    std = "" if found["std"] is None else f" ({figure(found['std'])})"
    return figure(found["mean"]) + std


def _seeds(cells: Cells) -> str:
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


def _curves(cells: Cells, style: str):
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
    title, x_label = f"Validation {metric_label(METRIC)}", "minutes of training and validation"
    return charts.line_chart(title, series, x_label, from_zero=True, width=640, style=style)


def _intervals(summary: Mapping[str, Any], style: str):
    rows = [
        charts.Interval(row["row"], found["difference"], *found["difference_interval"])
        for row in summary["rows"]
        if row["seeds"] and (found := row["test"][METRIC])["difference_interval"]
    ]
    title = f"{metric_label(METRIC)} less that of {summary['base']}"
    return charts.interval_chart(title, rows, f"{title}, 95% interval", style) if rows else None


def _any_result(folder: Path, cells: Cells) -> RunResult:
    name = TEXT_PAIR[0]
    return read_result(folder / f"{BENCHMARK[name].stem}-{min(cells[name])}.json")


# -- does text help, where? -------------------------------------------------------------------


def text_by_group(
    with_text: Mapping[int, Mapping[str, Any]],
    without: Mapping[int, Mapping[str, Any]],
    test_set: TestedUsers,
) -> list[dict[str, Any]]:
    """What text adds to `GROUPS_METRIC`, by group of users; paired, averaged over seeds.

    Parameters
    ----------
    with_text, without : mapping
        Seed -> result, of two rows.
    test_set : TestedUsers

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
    cold = user_groups.Group("0 (cold items)", [user for user, times in seen if not times])
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


def _text_chart(groups: Sequence[Mapping[str, Any]], style: str):
    rows = [
        charts.Interval(f"{of['label']} ({of['users']:,} users)", of["difference"], *of["interval"])
        for of in groups
        if of["interval"] is not None
    ]
    title = f"{metric_label(GROUPS_METRIC)} of {TEXT_PAIR[0]} less that of {TEXT_PAIR[1]}"
    return charts.interval_chart(title, rows, f"{title}, 95% interval", style) if rows else None

"""The benchmark: tuned rivals and this project's models on several data sets, over seeds.

A cell is a row on a data set with a seed. Its file ``<out>/<dataset>/<row>-<seed>.json`` has its
settings, figures, history, ranks, versions, machine and command; a cell that has one is not
trained again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from recbole_lite.experiments.compare.compare import check_comparable, users_of_test
from recbole_lite.experiments.compare.comparison_page import chart_style
from recbole_lite.experiments.compare.run_results import read_result
from recbole_lite.experiments.reproduce.baselines import BENCHMARK, FOLDER, ModelSpec
from recbole_lite.experiments.reproduce.benchmark_table import (
    TEXT_PAIR,
    Cells,
    compared_with,
    interval_chart,
    learning_curves,
    render_all,
    seeds_table,
    summarise_cells,
    text_by_group,
    text_chart,
)
from recbole_lite.experiments.reproduce.protocol import Request, Rows, check_names
from recbole_lite.experiments.reproduce.time_budget import portable, settings_in
from recbole_lite.report.ablation import render
from recbole_lite.utils.errors import ConfigError, one_line
from recbole_lite.utils.files import write_json, write_text

SUMMARY = "benchmark.json"


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
    datasets = tuple(dict.fromkeys(request.datasets or (request.dataset,)))
    request = replace(request, datasets=datasets)
    specs = [] if request.table_only else [BENCHMARK[name] for name in names]
    problems = _train(request, specs)
    summaries, missing = [], {}
    for dataset in datasets:
        missing[dataset] = {row: why for (of, row, _), why in problems.items() if of == dataset}
        cells = read_cells(request.out / dataset)
        if cells:
            summaries.append(_write_dataset(request, dataset, cells, missing[dataset]))
    if not summaries:
        reasons = dict.fromkeys(f"{name}: {why}" for (_, name, _), why in problems.items())
        nothing = f"no cells of {', '.join(datasets)} in {request.out}"
        raise ConfigError("; ".join(reasons) or nothing)  # seeds fail alike
    text = render_all(summaries, missing, request.command)
    write_json(request.out / SUMMARY, {"datasets": summaries, "command": request.command})
    write_text(request.out / "table.md", text)
    return text


# -- cells ------------------------------------------------------------------------------------


def _train(request: Request, specs: Sequence[ModelSpec]) -> dict[tuple[str, str, int], str]:
    """Train what is missing; why cells have no result, by data set, row and seed.

    The first seed of all rows on all data sets comes first: an interrupted table is complete as
    far as it goes.
    """
    cells = [
        (replace(request, dataset=dataset, seed=seed), spec)
        for seed in range(request.seed, request.seed + request.seeds)
        for dataset in request.datasets
        for spec in specs
    ]
    problems = {}
    for of, spec, lines, why in _run(request, cells):
        for line in lines:
            request.log(f"{of.dataset}, seed {of.seed}: {line}")
        if why:
            problems[of.dataset, spec.name, of.seed] = why
    return problems


def _run(request: Request, cells: Sequence[tuple[Request, ModelSpec]]) -> Iterator[tuple]:
    """Train cells here or on a Ray cluster; yields each with its log and its problem."""
    if request.ray_address is not None and request.workers > 1:
        raise ConfigError("--workers is for this machine, --ray_address for a cluster; give one")
    if request.workers > 1:
        yield from _run_in_processes(request.workers, cells)
        return
    if request.ray_address is None:
        for cell in cells:
            yield *cell, *train_cell(*cell)
        return
    from recbole_lite.experiments.tune import cluster
    from recbole_lite.experiments.tune.tune_settings import read_settings
    from recbole_lite.utils.ray_session import session

    use_gpu = torch.cuda.is_available()
    with session(request.ray_address, use_gpu) as ray:
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


def _run_in_processes(workers: int, cells: Sequence[tuple[Request, ModelSpec]]) -> Iterator[tuple]:
    """Train so many cells at once, each in a process; they share the cores and the GPU."""
    context = multiprocessing.get_context("spawn")  # a process that has used CUDA cannot be forked
    folder, threads = str(Path.cwd()), max(1, torch.get_num_threads() // workers)
    waiting, running = list(reversed(cells)), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                of, spec = waiting.pop()
                answer, its_end = context.Pipe(duplex=False)
                given = (its_end, replace(of, log=print), spec, folder, threads)
                process = context.Process(target=_answer, args=given)
                process.start()
                its_end.close()
                running[answer] = process, (of, spec)
            for answer in connection.wait(list(running)):
                process, cell = running.pop(answer)
                try:
                    found = answer.recv()
                except EOFError:  # such as for lack of memory
                    process.join()
                    found = [], f"its process ended with status {process.exitcode}"
                yield *cell, *found
    finally:
        for process, _ in running.values():
            process.terminate()


def _answer(its_end, *given) -> None:
    """Send what training a cell gives; of Ctrl-C the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = _train_elsewhere(*given)
    except Exception as error:  # what train_cell does not expect
        found = [], one_line(error, limit=110)
    its_end.send(found)


def _train_elsewhere(request: Request, spec: ModelSpec, folder: str, threads: int) -> tuple:
    """Train a cell in a worker's process, as in the one that the benchmark was started in."""
    os.chdir(folder)
    torch.set_num_threads(threads)
    return train_cell(request, spec)


def train_cell(request: Request, spec: ModelSpec) -> tuple[list[str], str | None]:
    """Train a cell, unless its file is there: lines for the log, and why there is no result.

    The request's dataset and seed are the cell's. The row's files are read: a result counts for the
    settings that they have now.
    """
    lines: list[str] = []
    rows = Rows(replace(request, log=lines.append), request.out / request.dataset)
    try:
        cell = _spec_on(request.dataset, spec)
    except ConfigError as error:
        rows.fail(spec, str(error))
    else:
        rows.train(cell)
    return lines, rows.problems.get(spec.name)


def _spec_on(dataset: str, spec: ModelSpec) -> ModelSpec:
    """A row with the settings of its files on a data set."""
    source = spec.first_phase and _spec_on(dataset, spec.first_phase)
    settings = cell_settings(spec, dataset)
    return replace(spec, settings=settings, files=(), first_phase=source)


def cell_settings(spec: ModelSpec, dataset: str) -> dict[str, Any]:
    """Settings of a row on a data set, from ``properties/benchmark``.

    Later ones come first: the tuned ones of ``<dataset>/<row>.yaml``, the row's, those of all rows
    on the data set (``dataset/<dataset>.yaml``), those that the row has in common with others.

    Raises
    ------
    ConfigError
        The row's own file is missing, or a file cannot be read.
    """
    for path in map(Path, (*spec.base_files, *spec.files)):
        if not path.is_file():
            raise ConfigError(f"needs {portable(path)}, which is not there")
    settings: dict[str, Any] = {}
    for path in (*spec.base_files, FOLDER / "dataset" / f"{dataset}.yaml"):
        settings |= settings_in(path)
    settings |= spec.settings
    for path in (*spec.files, FOLDER / dataset / f"{spec.stem}.yaml"):
        settings |= settings_in(path)
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


# -- files ------------------------------------------------------------------------------------


def _write_dataset(
    request: Request, dataset: str, cells: Cells, problems: Mapping[str, str]
) -> dict[str, Any]:
    """Write the files of a data set; returns its summary."""
    out = request.out / dataset
    summary = summarise_cells(dataset, cells, problems, request.command)
    style = chart_style()
    drawn = {"curves": learning_curves(cells, style), "intervals": interval_chart(summary, style)}
    pair = [cells.get(name) for name in TEXT_PAIR]
    if all(pair):
        name = TEXT_PAIR[0]
        any_result = read_result(out / f"{BENCHMARK[name].stem}-{min(cells[name])}.json")
        users = users_of_test(any_result, request.data_path)
        summary["text"] = text_by_group(*pair, users)
        drawn["text"] = text_chart(summary["text"], style)
    base = compared_with(summary["base"])
    parts = [render(summary, f"Benchmark: {{dataset}}, beside the {base}, {{base}}")]
    parts += ["## Seeds", seeds_table(cells)]
    for name, chart in drawn.items():
        if chart is not None:
            write_text(out / f"{name}.svg", f"{chart}\n")
            parts.append(f"![{name}]({name}.svg)")
    write_text(out / "table.md", "\n\n".join(parts) + "\n")
    return summary

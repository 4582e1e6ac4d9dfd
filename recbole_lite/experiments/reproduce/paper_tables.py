"""Run what a table or figure of the paper needs, and print the paper's figures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_lite.experiments.reproduce import paper_figures
from recbole_lite.experiments.reproduce.baselines import paper_models, rivals, strategies
from recbole_lite.experiments.reproduce.markdown_tables import budget, figure, grid, short
from recbole_lite.experiments.reproduce.protocol import Request, Rows
from recbole_lite.experiments.reproduce.time_budget import Side
from recbole_lite.experiments.reproduce.topn import figure5
from recbole_lite.utils.errors import ConfigError, best_effort
from recbole_lite.utils.files import write_atomically, write_json


def table4(request: Request) -> str:
    """Accuracy of all models (Section 5.2), each trained for the same time."""
    sides = [*rivals(), *paper_models(), strategies()[0]]
    trained = Rows(request, request.out / request.dataset)
    for side in sides:
        trained.train(side)
    trained.check()
    results, problems = trained.results, trained.problems
    head = ["", *(f"{m} {who}" for m in short(paper_figures.METRICS) for who in ("here", "paper"))]
    rows = []
    for side in sides:
        theirs = paper_figures.TABLE_4.get(side.name, {}).get(
            paper_figures.DATASETS.get(request.dataset)
        )
        ours = results.get(side.name, {}).get("test", {})
        cells = []
        for number, metric in enumerate(paper_figures.METRICS):
            cells += [figure(ours.get(metric)), figure(theirs and theirs[number])]
        rows.append([side.name, *cells])
    return "\n\n".join([grid(rows, head), *budget(results, problems, request)])


def table5(request: Request) -> str:
    """Inference time and input length (Section 5.3, Tables 1, 5 and 6; Figure 2)."""
    from recbole_lite.experiments.reproduce.efficiency import measure
    from recbole_lite.experiments.reproduce.efficiency_table import render

    path = request.out / request.dataset / "efficiency.json"
    result = _read(path)
    if result is None or result.get("problems"):
        result = measure(
            request.dataset,
            request.settings,
            request.tokenizer or "t5-small",
            repeats=5,
            command=request.command,
        )
        write_json(path, result)
    else:
        request.say(f"reused from {path}")
    return render(result)


def table7(request: Request) -> str:
    """Item LLMs (Section 5.5.2), beside the paper's ML-1m figures."""
    summary = _ablation(list(paper_figures.TABLE_7), request)
    head = ["", *(f"{m} {who}" for m in short(paper_figures.METRICS) for who in ("here", "paper"))]
    rows = []
    for row in summary["rows"]:
        cells = []
        theirs = paper_figures.TABLE_7.get(row["row"]) if request.dataset == "ml-1m" else None
        for number, metric in enumerate(paper_figures.METRICS):
            ours = row.get("test", {}).get(metric, {}).get("mean")
            cells += [figure(ours), figure(theirs and theirs[number])]
        rows.append([row["row"], *cells])
    return grid(rows, head) + _not_run(summary)


def figure4(request: Request) -> str:
    """Each component (Section 5.5.1); the paper gives a plot without figures."""
    summary = _ablation(["fixT5", "fixHead", "scratch"], request)
    head = ["", *short(paper_figures.METRICS)]
    rows = [
        [
            row["row"],
            *(figure(row.get("test", {}).get(m, {}).get("mean")) for m in paper_figures.METRICS),
        ]
        for row in summary["rows"]
    ]
    return grid(rows, head) + _not_run(summary)


TARGETS = {
    "table4": table4,
    "table5": table5,
    "table6": table5,  # one measurement gives both
    "table7": table7,
    "figure4": figure4,
    "figure5": figure5,
}


def reproduce(target: str, request: Request) -> str:
    """Run what is missing of a table or figure.

    Parameters
    ----------
    target : str
        Of `TARGETS`.
    request : Request

    Returns
    -------
    str
        Markdown, which is also written to ``<out>/<dataset>/<target>.md``.

    Raises
    ------
    RecboleLiteError
        Nothing could be run. A row that fails beside others is listed with its reason.
    """
    if target not in TARGETS:
        raise ConfigError(f"cannot reproduce {target!r}; there are {', '.join(TARGETS)}")
    text = "\n\n".join(
        [f"# {target} on {request.dataset}", TARGETS[target](request), paper_figures.DEVIATIONS]
    )
    text += f"\n\n`{request.command}`\n"
    path = request.out / request.dataset / f"{target}.md"
    with best_effort(str(path), "the same command makes it from the results"):
        write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))
    return text


def _ablation(rows: list[str], request: Request) -> Mapping[str, Any]:
    """Ablation under the strategy that the paper uses for it."""
    from recbole_lite.experiments.ablate import ablate
    from recbole_lite.experiments.reproduce.time_budget import plan

    strategy = {"train_strategy": "sampling"}
    settings = {**request.settings_of("LiteLLM4Rec"), **strategy}
    planned = plan(Side("base", "LiteLLM4Rec"), request.dataset, settings, 60 * request.minutes)
    return ablate(
        "LiteLLM4Rec",
        request.dataset,
        config_dict=planned["settings"],
        rows=rows,
        out=request.out / request.dataset / "ablation",
        command=request.command,
        say=request.say,
    )


def _not_run(summary) -> str:
    lines = [
        f"{row['row']}: not run: {row['problem']}" for row in summary["rows"] if row["problem"]
    ]
    return "\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

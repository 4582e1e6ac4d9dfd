"""Run what a table or figure of the paper needs, and print the paper's figures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_lite.experiments.reproduce import paper_figures
from recbole_lite.experiments.reproduce.baselines import (
    MODELS,
    RELATED,
    RELATED_NOTE,
    TABLE_4,
    ModelSpec,
)
from recbole_lite.experiments.reproduce.benchmark import benchmark
from recbole_lite.experiments.reproduce.protocol import Request, Rows, check_names
from recbole_lite.experiments.reproduce.topn import figure5
from recbole_lite.report.format import figure, grid, short_metrics
from recbole_lite.utils.errors import ConfigError, best_effort
from recbole_lite.utils.files import write_json, write_text


def table4(request: Request) -> str:
    """Accuracy of all models (Section 5.2), each trained for the same time."""
    names = MODELS if request.models == ("all",) else request.models or TABLE_4
    check_names(names, MODELS)
    check_names(request.related, RELATED)
    specs = [*(MODELS[name] for name in names), *(RELATED[name] for name in request.related)]
    rows = Rows(request, request.out / request.dataset)
    for spec in specs:
        rows.train(spec)
    rows.check()
    paper = paper_figures.TABLE_4.get(paper_figures.DATASETS.get(request.dataset), {})
    ours = {spec.name: rows.results.get(spec.name, {}).get("test", {}) for spec in specs}
    notes = [RELATED_NOTE] if request.related else []
    return "\n\n".join([_beside(ours, paper), *rows.describe(), *notes])


def _beside(ours: Mapping[str, Mapping[str, float]], paper: Mapping[str, Any]) -> str:
    """Table of measured figures, the paper's beside them; a row that neither has is dashes."""
    metrics = paper_figures.METRICS
    table = []
    for name, measured in ours.items():
        theirs = paper.get(name) or [None] * len(metrics)
        pairs = zip(metrics, theirs, strict=True)
        table.append([name, *(figure(f) for m, their in pairs for f in (measured.get(m), their))])
    return grid(
        table, ["", *(f"{m} {who}" for m in short_metrics(metrics) for who in ("here", "paper"))]
    )


def table5(request: Request) -> str:
    """Inference time and input length (Section 5.3, Tables 1, 5 and 6; Figure 2)."""
    from recbole_lite.experiments.reproduce import efficiency
    from recbole_lite.experiments.reproduce.efficiency_table import render

    stem = "efficiency" if request.autocast is None else f"efficiency-{request.autocast}"
    path = request.out / request.dataset / f"{stem}.json"
    options = efficiency.TimingOptions(
        tuple(request.models) or tuple(efficiency.MODELS),
        request.batch_size,
        request.repeats,
        autocast=request.autocast,
    )
    result = _read(path)
    if result is not None and options.match(result):
        request.log(f"reused from {path}")
    else:
        tokenizer = request.tokenizer or "t5-small"
        result = efficiency.measure(
            request.dataset, request.settings, tokenizer, options, request.command
        )
        write_json(path, result)
    return render(result)


def table7(request: Request) -> str:
    """Item LLMs (Section 5.5.2), beside the paper's ML-1m figures."""
    summary = _ablation(list(paper_figures.TABLE_7), request)
    paper = paper_figures.TABLE_7 if request.dataset == "ml-1m" else {}
    return _beside(_means(summary), paper) + _not_run(summary)


def figure4(request: Request) -> str:
    """Each component (Section 5.5.1); the paper gives a plot without figures."""
    summary, metrics = _ablation(["fixT5", "fixHead", "scratch"], request), paper_figures.METRICS
    rows = [[name, *(figure(of.get(m)) for m in metrics)] for name, of in _means(summary).items()]
    return grid(rows, ["", *short_metrics(metrics)]) + _not_run(summary)


def _means(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Test figures of an ablation's rows: row -> metric -> mean over seeds."""
    rows = summary["rows"]
    return {
        row["row"]: {name: found["mean"] for name, found in row.get("test", {}).items()}
        for row in rows
    }


TARGETS = {
    "table4": table4,
    "table5": table5,
    "table6": table5,  # one measurement gives both
    "table7": table7,
    "figure4": figure4,
    "figure5": figure5,
}


def reproduce(target: str, request: Request) -> str:
    """Run what is missing of a table or figure of `TARGETS`, or of the benchmark.

    Returns
    -------
    str
        Markdown, which is also written to ``<out>/<dataset>/<target>.md``; the benchmark has files
        of its own (:func:`~recbole_lite.experiments.reproduce.benchmark.benchmark`).

    Raises
    ------
    RecboleLiteError
        Nothing could be run. A row that fails beside others is listed with its reason.
    """
    if target == "benchmark":
        return benchmark(request)
    if target not in TARGETS:
        raise ConfigError(f"cannot reproduce {target!r}; there are {', '.join(TARGETS)}, benchmark")
    if request.related and target != "table4":
        raise ConfigError(f"--with adds rows to table4; {target} has no such rows")
    if request.datasets:
        raise ConfigError(f"--datasets is for benchmark; {target} runs on one --dataset")
    text = "\n\n".join(
        [f"# {target} on {request.dataset}", TARGETS[target](request), paper_figures.DEVIATIONS]
    )
    text += f"\n\n`{request.command}`\n"
    path = request.out / request.dataset / f"{target}.md"
    with best_effort(str(path), "the same command makes it from the results"):
        write_text(path, text)
    return text


def _ablation(rows: list[str], request: Request) -> Mapping[str, Any]:
    """Ablation under the strategy that the paper uses for it."""
    from recbole_lite.experiments.ablate import AblationOptions, ablate
    from recbole_lite.experiments.reproduce.time_budget import plan

    spec = ModelSpec("base", "LiteLLM4Rec")
    settings = {**request.settings_of(spec.model), "train_strategy": "sampling"}
    planned = plan(spec, request.dataset, settings, 60 * request.minutes)
    options = AblationOptions(
        rows=request.models or rows,
        out=request.out / request.dataset / "ablation",
        command=request.command,
        log=request.log,
    )
    return ablate(spec.model, request.dataset, config_dict=planned["settings"], options=options)


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

"""Run what a table or figure of the paper needs, and print the paper's figures beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_lite.errors import ConfigError, RecboleLiteError
from recbole_lite.files import write_atomically
from recbole_lite.reproduce import paper
from recbole_lite.reproduce.budget import Side, measured
from recbole_lite.reproduce.sides import paper_models, rivals, strategies
from recbole_lite.text.llm_files import one_line


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes
    ----------
    dataset, data_path : str
    minutes : float
        Training time of each row.
    weights : {"pretrained", "scratch"}
        Of the language models; with scratch MiniLM reads the items' text.
    tokenizer : str or None
        Folder or hub name of T5's, for P5 and POD with weights from scratch.
    seed : int
    out : Path
        Folder of the results.
    command : str
    say : callable
        Told of each row in a line.
    """

    dataset: str
    data_path: str | None
    minutes: float
    weights: str
    tokenizer: str | None
    seed: int
    out: Path
    command: str
    say: Callable[[str], None]

    @property
    def settings(self) -> dict[str, Any]:
        """Configuration keys of all rows."""
        return {"seed": self.seed, **({"data_path": self.data_path} if self.data_path else {})}

    def settings_of(self, model: str) -> dict[str, Any]:
        """Configuration keys of the rows of a model."""
        chosen = self.settings
        if model in ("P5", "POD", "LightLM") and self.weights == "scratch":
            chosen["llm_init"] = "scratch"
        if model in ("P5", "POD"):
            chosen["tokenizer"] = self.tokenizer
        if model == "LiteLLM4Rec" and self.weights == "scratch":
            chosen |= {"rec_llm_init": "scratch", "item_llm": "minilm"}
        return chosen


def table4(request: Request) -> str:
    """Accuracy of all models (Section 5.2), each trained for the same time."""
    sides = [*rivals(), *paper_models(), strategies()[0]]
    results, problems = _trained(sides, request)
    head = ["", *(f"{m} {who}" for m in _short(paper.METRICS) for who in ("here", "paper"))]
    rows = []
    for side in sides:
        theirs = paper.TABLE_4.get(side.name, {}).get(paper.DATASETS.get(request.dataset))
        ours = results.get(side.name, {}).get("test", {})
        cells = []
        for number, metric in enumerate(paper.METRICS):
            cells += [_figure(ours.get(metric)), _figure(theirs and theirs[number])]
        rows.append([side.name, *cells])
    return "\n\n".join([_grid(rows, head), *_budget(results, problems, request)])


def table5(request: Request) -> str:
    """Inference time and input length (Section 5.3, Tables 1, 5 and 6; Figure 2)."""
    from recbole_lite.reproduce.efficiency import measure
    from recbole_lite.reproduce.efficiency_table import render

    path = request.out / request.dataset / "efficiency.json"
    result = _read(path)
    if result is None:
        result = measure(
            request.dataset,
            request.settings,
            request.tokenizer or "t5-small",
            repeats=5,
            command=request.command,
        )
        _write(path, result)
    else:
        request.say(f"reused from {path}")
    return render(result)


def table7(request: Request) -> str:
    """Item LLMs (Section 5.5.2), beside the paper's ML-1m figures."""
    summary = _ablation(list(paper.TABLE_7), request)
    head = ["", *(f"{m} {who}" for m in _short(paper.METRICS) for who in ("here", "paper"))]
    rows = []
    for row in summary["rows"]:
        cells = []
        theirs = paper.TABLE_7.get(row["row"]) if request.dataset == "ml-1m" else None
        for number, metric in enumerate(paper.METRICS):
            ours = row.get("test", {}).get(metric, {}).get("mean")
            cells += [_figure(ours), _figure(theirs and theirs[number])]
        rows.append([row["row"], *cells])
    return _grid(rows, head) + _not_run(summary)


def figure4(request: Request) -> str:
    """Each component (Section 5.5.1); the paper gives a plot without figures."""
    summary = _ablation(["fixT5", "fixHead", "scratch"], request)
    head = ["", *_short(paper.METRICS)]
    rows = [
        [row["row"], *(_figure(row.get("test", {}).get(m, {}).get("mean")) for m in paper.METRICS)]
        for row in summary["rows"]
    ]
    return _grid(rows, head) + _not_run(summary)


TARGETS = {
    "table4": table4,
    "table5": table5,
    "table6": table5,  # one measurement gives both
    "table7": table7,
    "figure4": figure4,
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
        [f"# {target} on {request.dataset}", TARGETS[target](request), paper.DEVIATIONS]
    )
    text += f"\n\n`{request.command}`\n"
    path = request.out / request.dataset / f"{target}.md"
    write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))
    return text


def _trained(sides: list[Side], request: Request) -> tuple[dict[str, dict], dict[str, str]]:
    """Results by side, and why a side has none."""
    results, problems = {}, {}
    for side in sides:
        stem = side.name.replace(", ", "-").replace(" ", "-")
        path = request.out / request.dataset / f"{stem}-{request.seed}.json"
        try:
            results[side.name], new = measured(
                path,
                side,
                request.minutes,
                dataset=request.dataset,
                settings=request.settings_of(side.model),
                command=request.command,
            )
        except RecboleLiteError as error:
            problems[side.name] = one_line(error, limit=110)
            request.say(f"{side.name}: not run: {problems[side.name]}")
            continue
        request.say(f"{side.name}: {'written to' if new else 'reused from'} {path}")
    if not results:
        raise ConfigError("; ".join(f"{name}: {why}" for name, why in problems.items()))
    return results, problems


def _ablation(rows: list[str], request: Request) -> Mapping[str, Any]:
    """Ablation under the strategy that the paper uses for it."""
    from recbole_lite.ablate import ablate
    from recbole_lite.reproduce.budget import plan

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


def _budget(results, problems, request) -> list[str]:
    rows = [
        [
            name,
            f"{r['parameters']:,}",
            f"{r['steps']:,}",
            f"{r['steps'] / r['steps_per_epoch']:.2f}",
            f"{r['minutes']:g}",
            r["beams"] and f"{r['beams']['no_item'] / max(r['beams']['beams'], 1):.1%}",
        ]
        for name, r in results.items()
    ]
    head = ["", "trained parameters", "steps", "passes", "minutes of training", "beams of no item"]
    environments = next(iter(results.values()))["environment"]
    parts = [_grid(rows, head), "Language models begin with " + request.weights + " weights."]
    parts.append(
        f"{environments['threads']} threads of {environments['processor']}, "
        f"GPU: {environments['gpu'] or 'none'}, torch {environments['torch']}."
    )
    if problems:
        parts.append("\n".join(f"- {name}: not run: {why}" for name, why in problems.items()))
    return parts


def _short(metrics) -> list[str]:
    return [name.replace("recall", "R").replace("ndcg", "N") for name in metrics]


def _figure(value) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def _grid(rows, head) -> str:
    right = ("left", *("right",) * (len(head) - 1))
    return tabulate(rows, head, tablefmt="github", colalign=right, disable_numparse=True)


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))

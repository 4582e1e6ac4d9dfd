"""Printed summary of a run: one table, then a few users."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from recbole_lite.report.format import figure, grid, short_metrics

NOT_TESTED = (
    "Nothing was measured on a test set: eval_args leave no test part. The model can be used."
)


def render(result: dict[str, Any]) -> str:
    """Text for the result of :func:`recbole_lite.run`.

    Figures of validation and test for the model and its baselines, the time of each step, and
    the sample users.
    """
    runs = [result, *result["baselines"].values()]
    parts = [_headline(result), _metrics_table(runs), _seconds_table(runs)]
    if not result.get("parts", {}).get("test", True):
        parts[1] = NOT_TESTED + (f"\n\n{parts[1]}" if result["best_valid_result"] else "")
    if result["run_dir"]:
        parts.append(f"Checkpoint: {result['run_dir']}\nLog:        {result['log_file']}")
        if result.get("report"):
            parts[-1] += f"\nReport:     {result['report']}"
    parts += [_render_user(sample) for sample in result["samples"]]
    return "\n\n".join(parts)


def _headline(result) -> str:
    data = result["data"]
    return (
        f"{result['dataset']}: {data['users']:,} users, {data['items']:,} items, "
        f"{data['interactions']:,} interactions"
    )


def _metrics_table(runs) -> str:
    parts = {"valid": "best_valid_result", "test": "test_result"}
    parts = {part: key for part, key in parts.items() if any(run[key] for run in runs)}
    names = list(next((run[key] for key in parts.values() for run in runs if run[key]), {}))
    head = ["model", *(f"{part}\n{name}" for part in parts for name in short_metrics(names))]
    rows = [
        [run["model"], *((run[key] or {}).get(name) for key in parts.values() for name in names)]
        for run in runs
    ]
    ratios = [[f"{rows[0][0]} / {row[0]}", *map(_ratio, rows[0][1:], row[1:])] for row in rows[1:]]
    shown = [[name, *map(figure, figures)] for name, *figures in rows]
    guess = runs[0].get("random_guess")
    if guess:
        figures = [figure(guess.get(name)) for name in names]
        ratios.insert(0, ["random guessing", *figures * len(parts)])
    return grid([*shown, *ratios], head, "simple")


def _ratio(a: float | None, b: float | None) -> str:
    return "-" if a is None or not b else f"{a / b:.2f}x"


def _seconds_table(runs) -> str:
    steps = list(runs[0]["seconds"])
    rows = [
        [run["model"], run["epochs"], *(run["seconds"].get(step) for step in steps)] for run in runs
    ]
    head = ["seconds", "epochs", *steps]
    return tabulate(rows, headers=head, floatfmt=".1f", missingval="-")


def _render_user(sample: dict[str, Any]) -> str:
    lines = [f"User {sample['user']}", "  history       " + " | ".join(sample["history"])]
    lines.append(f"  test item     {sample['target']}")
    shown = zip(sample["recommended"], sample["hits"], strict=True)
    for rank, (title, is_hit) in enumerate(shown, 1):
        label = "recommended" if rank == 1 else ""
        hit = "   <- hit" if is_hit else ""
        lines.append(f"  {label:<12}{rank}. {title}{hit}")
    return "\n".join(lines)

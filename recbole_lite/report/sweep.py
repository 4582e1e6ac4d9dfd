"""Files of a sweep: table, records, plots."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_lite.report.format import figure, grid
from recbole_lite.utils.errors import best_effort
from recbole_lite.utils.files import to_json, write_text

TABLE, RECORDS, PLOTS = "trials.md", "trials.json", "plots.html"


def write_report(result: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write the table, the records and the plots of a sweep.

    Parameters
    ----------
    result : dict
        As :func:`recbole_lite.experiments.tune.runner.sweep` returns it, less ``files``.
    folder : Path

    Returns
    -------
    dict
        What a file is -> its path, or None where it was not written: ``table``, ``records``,
        ``plots``, ``best``, ``ray``.
    """
    from recbole_lite.report.sweep_page import plots_html  # which imports this module

    contents = {
        "records": (RECORDS, records_json), "table": (TABLE, _page), "plots": (PLOTS, plots_html),
    }  # fmt: skip
    files: dict[str, Any] = dict.fromkeys(("table", "records", "plots"))
    for what, (name, text_of) in contents.items():
        with best_effort(str(folder / name), f"--resume={folder} writes it again"):
            write_text(folder / name, text_of(result))
            files[what] = str(folder / name)
    files["best"] = str(folder / "best.yaml") if (folder / "best.yaml").exists() else None
    files["ray"] = str(folder / "ray")
    return files


def records_json(result: dict[str, Any]) -> str:
    """Text of ``trials.json``: an epoch on a line."""
    # Paths are those below the sweep's folder, which may be moved or copied.
    plain = {key: value for key, value in result.items() if key not in ("files", "folder")}
    histories: dict[str, str] = {}

    def strip(record):
        mark = f"@history {len(histories)}@"
        lines = ",\n    ".join(to_json(entry) for entry in record["history"])
        histories[json.dumps(mark)] = f"[\n    {lines}\n   ]" if lines else "[]"
        return {**below(record), "history": mark}

    def below(record):
        run_dir = record["run_dir"] and os.path.relpath(record["run_dir"], result["folder"])
        return {**record, "run_dir": run_dir}

    plain["trials"] = [strip(record) for record in plain["trials"]]
    if plain["best"]:
        best = below(plain["best"])
        plain["best"] = {key: value for key, value in best.items() if key != "history"}
    text = to_json(plain, indent=1)
    for mark, lines in histories.items():
        text = text.replace(mark, lines)
    return text + "\n"


def render(result: dict[str, Any]) -> str:
    """Text for the terminal: the table, the best trial, what was written."""
    files = result["files"]
    parts = [headline(result), table(result, "simple")]
    best = result["best"]
    if best is None:
        parts.append("No trial has validated.")
    else:
        parts.append(_best_lines(result))
    names = ("best", "table", "records", "plots", "ray")
    parts.append("\n".join(f"{name + ':':<9}{files[name]}" for name in names if files[name]))
    if result["interrupted"]:
        again = f"--resume={shlex.quote(result['folder'])}"
        parts.append(f"Interrupted. {again} continues this sweep.")
    return "\n\n".join(parts)


def table(result: dict[str, Any], style: str) -> str:
    """Trials sorted by their validation, the best first; errors in full (`style`: tabulate's)."""
    keys = list(result["sweep"]["space"])
    head = [
        "",
        "trial",
        *keys,
        f"valid {result['metric']}",
        "best epoch",
        "epochs",
        "min",
        "status",
    ]
    rows = [
        [
            number,
            record["trial"],
            *(value_text(record["params"][key]) for key in keys),
            figure(record["valid_score"]),
            record["best_epoch"] or "-",
            record["epochs"],
            f"{record['seconds'] / 60:.1f}",
            record["status"] + (f": {record['error']}" if record["error"] else ""),
        ]
        for number, record in enumerate(result["trials"], 1)
    ]
    return grid(rows, head, style, text=(1, len(head) - 1))


def value_text(value: Any) -> str:
    """Value of a parameter: four digits of a number, a dash where there is none."""
    if value is None:
        return "-"
    return format(value, ".4g") if isinstance(value, float) else str(value)


def headline(result: dict[str, Any]) -> str:
    """Size of a sweep in one line."""
    epochs = sum(record["epochs"] for record in result["trials"])
    settings = result["sweep"]["settings"]
    return (
        f"{len(result['trials'])} trials of {result['model']} on {result['dataset']}, {epochs} "
        f"epochs in all, {result['seconds'] / 60:.1f} min; searcher {settings['searcher']}, "
        f"scheduler {settings['scheduler']}"
    )


def _best_lines(result) -> str:
    best = result["best"]
    figures = [("valid", best["valid"]), ("test", best["test_result"])]
    names = list(best["valid"])
    rows = [[part, *(figure(found[name]) for name in names)] for part, found in figures if found]
    lines = tabulate(rows, [best["trial"], *names], disable_numparse=True)
    note = "The test split was evaluated once, with this trial's best weights."
    if best["test_result"] is None:
        note = "The test split has not been evaluated."
        if not result["interrupted"]:
            note = (
                "Nothing was measured on a test set: eval_args leave no test part, or the test "
                "failed."
            )
    return f"{lines}\n{note}"


def _page(result) -> str:
    environment = result["environment"]
    machine = ", ".join(
        f"{name} {environment[name]}"
        for name in ("processor", "cores", "gpu", "python", "torch", "recbole_lite", "commit")
        if environment.get(name)
    )
    parts = [
        f"# Sweep: {result['model']} on {result['dataset']}",
        headline(result) + (" (interrupted)" if result["interrupted"] else "") + ".",
        f"```sh\n{result['command']}\n```" if result["command"] else "",
        table(result, "github"),
        f"```\n{_best_lines(result)}\n```" if result["best"] else "No trial has validated.",
        f"Machine: {machine}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"

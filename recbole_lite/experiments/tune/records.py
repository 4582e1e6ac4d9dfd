"""Ray's results as plain records, one per trial, the best first.

Ray's ``ResultGrid`` gives the trials. What they reported is read from their files: its own tables
are empty for a trial whose last line a kill has cut off, and know a trial's process, not a trial
that went on in another.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from recbole_lite.experiments.tune.trial import Plan, best_entry, best_run


def read_records(results, plan: Plan, bigger: bool) -> list[dict[str, Any]]:
    """Records of a ``ResultGrid``, the best validation first, those without one last.

    Returns
    -------
    list of dict
        ``trial`` (Ray's id); ``status``: ``finished`` (all epochs, or stopped early by
        ``stopping_step``), ``stopped`` (by the scheduler), ``unfinished`` (interrupted, goes on
        with ``--resume``), ``failed`` (raised an error) or ``died`` (its process did so too
        often); ``params``; ``valid_score``, ``best_epoch`` and ``valid`` of the best epoch, None
        before the first validation; ``epochs``: the last validated one; ``seconds`` of all
        attempts together; ``error``; ``run_dir``: folder of the best weights; ``history``:
        ``epoch`` (from 1), ``valid_score``, ``train_loss`` and ``valid`` of each validated epoch.
    """
    records = [_record(result, plan, bigger) for result in results]
    return sorted(records, key=lambda record: _rank(record, bigger))


def _rank(record: dict[str, Any], bigger: bool) -> tuple:
    score, has_failed = record["valid_score"], record["status"] in ("failed", "died")
    if score is None or math.isnan(score):
        return (True, has_failed, 0.0, record["trial"])
    return (False, has_failed, -score if bigger else score, record["trial"])


def _record(result, plan: Plan, bigger: bool) -> dict[str, Any]:
    trial_id = Path(result.path).name
    rows = _rows(plan.ray_folder(trial_id) / "result.json")
    # A trial that went on after its process died reports the epochs before again.
    epochs = {row["epoch"]: row for row in rows if "valid" in row}
    names = ("epoch", "valid_score", "train_loss", "valid")
    history = [{name: epochs[n][name] for name in names} for n in sorted(epochs)]
    best = best_entry(history, bigger) if history else {}
    status, error = _status(result, rows)
    run = best_run(plan.trial_folder(trial_id))
    return {
        "trial": trial_id,
        "status": status,
        "params": _params(plan.ray_folder(trial_id), plan),
        "valid_score": best.get("valid_score"),
        "best_epoch": best.get("epoch"),
        "epochs": history[-1]["epoch"] if history else 0,
        "valid": best.get("valid"),
        "seconds": round(_running_time(rows), 1),
        "error": error,
        "run_dir": None if run is None else str(run),
        "history": history,
    }


def _status(result, rows: list[dict[str, Any]]) -> tuple[str, str | None]:
    """How a trial ended, and its error."""
    errors = [row["error"] for row in rows if "error" in row]
    if errors:
        return "failed", errors[-1]
    if result.error is not None:
        return "died", " ".join(str(result.error).split())[:300]
    if any(row.get("finished") for row in rows):
        return "finished", None
    is_done = rows and (result.metrics or {}).get("done")
    return "stopped" if is_done else "unfinished", None


def _params(folder: Path, plan: Plan) -> dict[str, Any]:
    """Values that a trial drew; Ray's result has them from the first report on only."""
    try:
        drawn = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never started
        return dict.fromkeys(plan.spec.space.keys)
    return plan.spec.space.decode(drawn)


def _rows(path: Path) -> list[dict[str, Any]]:
    """What a trial reported, in order; a line cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _running_time(rows: list[dict[str, Any]]) -> float:
    """Ray counts from 0 again when a trial starts anew."""
    total = before = 0.0
    for row in rows:
        now = float(row.get("time_total_s", before))
        total, before = total + (before if now < before else 0.0), now
    return total + before

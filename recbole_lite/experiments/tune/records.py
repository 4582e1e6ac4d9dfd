"""Ray's results as plain records, one per trial, the best first."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_lite.experiments.tune.trial import Plan, best_entry, best_run

# status -> what it means, for the tables
STATUS = {
    "finished": "all epochs, or stopped early by stopping_step",
    "stopped": "by the scheduler",
    "unfinished": "interrupted, goes on with --resume",
    "failed": "raised an error",
    "died": "its process died too often",
}


@dataclass
class Record:
    """What is known of a trial.

    Attributes
    ----------
    trial : str
        Ray's id.
    params : dict
        Its values of the parameters.
    status : str
        A key of `STATUS`.
    history : list of dict
        ``epoch`` (from 1), ``valid_score``, ``train_loss``, ``valid`` of every validated epoch.
    seconds : float
        Running time, all attempts together.
    error : str or None
    run_dir : str or None
        Folder of the weights of its best epoch.
    """

    trial: str
    params: dict[str, Any]
    status: str
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    run_dir: str | None = None

    @property
    def epochs(self) -> int:
        """Last epoch with a validation."""
        return self.history[-1]["epoch"] if self.history else 0

    def best(self, bigger: bool) -> dict[str, Any] | None:
        """Entry of the best epoch; None before the first validation."""
        return best_entry(self.history, bigger) if self.history else None

    def plain(self, bigger: bool) -> dict[str, Any]:
        """For JSON."""
        best = self.best(bigger) or {}
        return {
            "trial": self.trial,
            "status": self.status,
            "params": self.params,
            "valid_score": best.get("valid_score"),
            "best_epoch": best.get("epoch"),
            "epochs": self.epochs,
            "valid": best.get("valid"),
            "seconds": round(self.seconds, 1),
            "error": self.error,
            "run_dir": self.run_dir,
            "history": self.history,
        }


def read_records(results, plan: Plan, bigger: bool) -> list[Record]:
    """Records of Ray's ``ResultGrid``, the best validation first, those without one last."""
    records = [_record(result, plan) for result in results]
    return sorted(records, key=lambda record: _badness(record, bigger))


def _badness(record: Record, bigger: bool) -> tuple:
    best = record.best(bigger)
    failed = record.status in ("failed", "died")
    if best is None or math.isnan(best["valid_score"]):
        return (True, failed, 0.0, record.trial)
    return (False, failed, -best["valid_score"] if bigger else best["valid_score"], record.trial)


def _record(result, plan: Plan) -> Record:
    trial_id = Path(result.path).name
    rows = _rows(plan.ray_folder(trial_id) / "result.json")
    # A trial that went on after its process died reports the epochs before again.
    epochs = {row["epoch"]: row for row in rows if "valid" in row}
    names = ("epoch", "valid_score", "train_loss", "valid")
    errors = [row["error"] for row in rows if "error" in row]
    if errors:
        status, error = "failed", errors[-1]
    elif result.error is not None:
        status, error = "died", " ".join(str(result.error).split())[:300]
    else:
        status, error = "unfinished", None
        if any(row.get("finished") for row in rows):
            status = "finished"
        elif rows and (result.metrics or {}).get("done"):
            status = "stopped"
    run = best_run(plan.trial_folder(trial_id))
    return Record(
        trial=trial_id,
        params=_params(result, plan.ray_folder(trial_id), plan),
        status=status,
        history=[{name: epochs[n][name] for name in names} for n in sorted(epochs)],
        seconds=_running_time(rows),
        error=error,
        run_dir=None if run is None else str(run),
    )


def _params(result, folder: Path, plan: Plan) -> dict[str, Any]:
    """Values that a trial drew; Ray's result has them from the first report on only."""
    drawn = result.config
    if drawn is None:
        try:
            drawn = json.loads((folder / "params.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # never started
            return dict.fromkeys(plan.space.keys)
    return plan.space.decode(drawn)


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

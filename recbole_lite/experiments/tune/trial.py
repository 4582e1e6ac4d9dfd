"""One trial: a training that reports its validation figures to Ray, epoch by epoch.

It never evaluates the test split. Its checkpoints are in a folder of its own below the sweep's,
so that a second process can go on where one that died has stopped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_lite.experiments.tune.sweep_spec import SweepSpec
from recbole_lite.utils.errors import CheckpointError, ConfigError, OtherIdsError
from recbole_lite.utils.files import write_json

RAY_FOLDER = "ray"  # in the sweep's: Ray's state and results
HISTORY_FILE = "history.json"
ENDED_FILE = "ended"  # nothing is left to do: the scheduler has stopped the trial, or it is through
ERROR_FILE = "error.txt"


@dataclass(frozen=True)
class Plan:
    """What all trials of a sweep have in common; sent to every machine."""

    spec: SweepSpec
    folder: str  # the sweep's, absolute
    cwd: str  # relative paths in the settings start here
    cache_dir: str | None  # folder of item vectors, absolute; None: the model has no such key
    threads: int  # that torch may use
    use_gpu: bool  # whether trials have a GPU (a share of one)

    def trial_folder(self, trial_id: str) -> Path:
        """Where a trial keeps its checkpoints, log and history."""
        return Path(self.folder, "trials", trial_id)

    def ray_folder(self, trial_id: str) -> Path:
        """Where Ray keeps a trial's results; its own paths are those of before a move."""
        return Path(self.folder, RAY_FOLDER, trial_id)

    def configure_preparing(self, params: Mapping[str, Any]):
        """Configuration to fill the cache of item vectors with."""
        changes = {} if self.cache_dir is None else {"item_embedding_cache_dir": self.cache_dir}
        return self.spec.configure({**params, **changes})

    def operational(self, folder: Path) -> dict[str, Any]:
        """Keys that a trial sets for itself; none of them changes a figure."""
        changes: dict[str, Any] = {
            "checkpoint_dir": str(folder),
            "checkpoint_every": 1,
            "show_progress": False,
            "baselines": [],
            "sample_users": 0,
            "log_wandb": False,
            "resume": None,
        }
        if self.cache_dir is not None:
            changes["item_embedding_cache_dir"] = self.cache_dir
        if not self.use_gpu:
            changes["use_gpu"] = False
        return changes


def run_trial(drawn: dict[str, Any], plan: Plan) -> None:
    """Ray's trainable function.

    An exception ends the trial with its message as a result, and is not tried again: it would
    come again. A process that dies is: Ray starts this function anew, and it finds the
    checkpoints of the one before. `drawn` are values from Ray's searcher.
    """
    from ray import tune

    folder = plan.trial_folder(tune.get_context().get_trial_id())
    report = Reporter(tune.report, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _set_up_process(plan)
        train(plan, plan.spec.space.decode(drawn), folder, report)
        report.end()
    except Exception as error:
        tune.report({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"})
        (folder / ERROR_FILE).write_text(traceback.format_exc(), encoding="utf-8")


def train(plan: Plan, params: dict[str, Any], folder: Path, report: Reporter) -> None:
    """Train, or go on with what is in `folder`."""
    from recbole_lite.config.stages import read_stages
    from recbole_lite.quick_start import run_one

    def configure(resume: Path | None):
        changes = {**plan.operational(folder), "resume": resume and str(resume)}
        return plan.spec.configure({**params, **changes})

    def start(resume: Path | None):
        run_one(
            configure(resume), samples=False, test=False, on_epoch=report, log_folder=folder / "log"
        )

    config = configure(None)
    report.bigger = config["valid_metric_bigger"]
    report.epochs = sum(stage.epochs for stage in read_stages(config))
    if (folder / ENDED_FILE).exists():  # Ray's own records are older than the trial's end
        for entry in json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8")):
            score = entry["valid_score"]
            report({**entry, "valid_score": math.nan if score is None else score})
        return
    begun = last_run(folder)
    try:
        start(begun)
    except CheckpointError as error:
        if begun is None or isinstance(error, OtherIdsError):
            raise
        shutil.rmtree(begun)  # damaged by the death of its process
        start(None)


def last_run(folder: Path) -> Path | None:
    """Run in a trial's folder that can be gone on with; those that cannot are removed."""
    found = None
    for run in sorted(path.parent for path in folder.glob("*/config.json")):
        if any(run.glob("last-*.pt")):
            found = run
        else:  # its process died before the end of the first epoch
            shutil.rmtree(run)
    return found


def best_run(folder: Path) -> Path | None:
    """Run in a trial's folder that has the best weights."""
    runs = sorted(path.parent for path in folder.glob("*/best.safetensors"))
    return runs[-1] if runs else None


def drop_resumable(folder: Path) -> None:
    """Mark a trial as ended and remove what only its continuation would need."""
    if (folder / HISTORY_FILE).exists():
        (folder / ENDED_FILE).touch()
    for path in folder.glob("*/last-*"):
        path.unlink(missing_ok=True)


class Reporter:
    """Sends an epoch's validation figures to Ray; the test split has no way in.

    `send`, Ray's ``report``, blocks until the scheduler has decided. `bigger` says whether a larger
    score is better, `epochs` how many are planned.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], folder: Path):
        self.bigger, self.epochs = True, None
        self._send, self._folder = send, folder
        self._history: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Report an entry of the trainer's ``history``."""
        self._history.append(dict(entry))
        write_json(self._folder / HISTORY_FILE, self._history, indent=None)
        best = best_entry(self._history, self.bigger)
        self._last = {
            "epoch": entry["epoch"] + 1,
            "valid_score": entry["valid_score"],
            "best_valid_score": best["valid_score"],
            "best_epoch": best["epoch"] + 1,
            "train_loss": entry["train_loss"],
            "valid": dict(entry["valid_result"]),
        }
        if entry["epoch"] + 1 == self.epochs:  # a scheduler that stops it now stops nothing
            self._last["finished"] = True
        self._send(self._last)

    def end(self) -> None:
        """Say that the training ended by itself: planned epochs, or early stopping."""
        if not self._last:
            raise ConfigError("the training has not validated once; a sweep compares validations")
        if "finished" not in self._last:
            self._send({**self._last, "finished": True})


def best_entry(history: list[dict[str, Any]], bigger: bool) -> dict[str, Any]:
    """First entry of the best score, whose weights RecBole keeps; NaN is worse than all."""

    def rank(entry):
        score = entry["valid_score"]
        if score is None or math.isnan(score):  # files have null for NaN
            return -math.inf
        return score if bigger else -score

    return max(history, key=rank)


def _set_up_process(plan: Plan) -> None:
    """Make a worker's process like the one that the sweep was started in."""
    import torch

    try:
        os.chdir(plan.cwd)
    except OSError as error:
        raise ConfigError(
            f"{plan.cwd}: {error.strerror} on this machine; all machines of a cluster need the "
            "sweep's working folder on shared storage (docs/sweeps.md)"
        ) from None
    torch.set_num_threads(plan.threads)

"""What Ray Tune needs to search and to stop: searcher, scheduler, progress messages."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.basic_variant import BasicVariantGenerator

from recbole_lite.experiments.tune.space import Space
from recbole_lite.experiments.tune.trial import Plan, drop_resumable
from recbole_lite.experiments.tune.tune_settings import TuneSettings
from recbole_lite.utils.errors import ConfigError

# The best validation so far: what the trial would be worth if it were stopped now, as its best
# weights are kept.
METRIC = "best_valid_score"


def make_searcher(settings: TuneSettings, space: Space, concurrent: int, mode: str):
    """Searcher by its name.

    Raises
    ------
    ConfigError
        Optuna with a grid.
    """
    if settings.searcher != "optuna":
        return BasicVariantGenerator(
            max_concurrent=concurrent, random_state=int(settings.search_seed)
        )
    grids = [parameter for parameter in space.parameters if parameter.kind == "grid"]
    if grids:
        raise ConfigError(
            f"{grids[0].origin}: searcher optuna takes no grid ({grids[0].key}); use choice"
        )
    from ray.tune.search.optuna import OptunaSearch

    optuna = OptunaSearch(metric=METRIC, mode=mode, seed=int(settings.search_seed))
    return ConcurrencyLimiter(optuna, max_concurrent=concurrent)


def make_scheduler(settings: TuneSettings, epochs: int, mode: str):
    """Scheduler by its name; `epochs` is the longest that a trial can be."""
    if settings.scheduler == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode=mode,
        # One more than there are: a trial ends by itself and reports it.
        max_t=epochs + 1,
        grace_period=min(int(settings.grace_period), epochs + 1),
        reduction_factor=settings.reduction_factor,
    )


class ProgressCallback(tune.Callback):
    """Prints a line for each event of a trial, and removes what an ended trial needs no more.

    It is pickled with Ray's state of the sweep, and restored when that is resumed.
    """

    # Set by the runner: a pickled plan would name the folder of before a move.
    plan: ClassVar[Plan]

    def __init__(self, metric: str, total: int):
        self.metric, self.total = metric, total  # of validation; number of trials
        self.ended: set[str] = set()
        self.is_closed = False

    def on_trial_start(self, iteration, trials, trial, **info):
        """Ray's hook."""
        params = ", ".join(f"{key}={_short(value)}" for key, value in trial.config.items())
        self._log(trial, f"starts with {params}")

    def on_trial_recover(self, iteration, trials, trial, **info):
        """Ray's hook: the process died and the trial is queued again."""
        self._log(trial, "failed; it will continue from its last epoch")

    def on_trial_complete(self, iteration, trials, trial, **info):
        """Ray's hook: the trial has ended, was stopped by the scheduler, or raised an exception."""
        self.ended.add(trial.trial_id)
        last = trial.last_result
        drop_resumable(self.plan.trial_folder(trial.trial_id))
        if "error" in last:
            self._log(trial, f"failed: {last['error']}")
        elif METRIC in last:
            how = "ended" if last.get("finished") else "stopped by the scheduler"
            self._log(
                trial,
                f"{how} after epoch {last['epoch']}, best {self.metric} {last[METRIC]:.4f} "
                f"in epoch {last['best_epoch']}",
            )

    def on_trial_error(self, iteration, trials, trial, **info):
        """Ray's hook: its process died more often than `max_retries`."""
        self.ended.add(trial.trial_id)
        self._log(trial, "failed too often and is abandoned")

    def get_state(self):
        """Ray's hook: what is kept in the sweep's state."""
        return {"ended": sorted(self.ended)}

    def set_state(self, state: Mapping[str, Any]):
        """Ray's hook."""
        self.ended = set(state["ended"])

    def _log(self, trial, text: str) -> None:
        line = f"[{len(self.ended)}/{self.total} trials ended] {trial.trial_id} {text}"
        try:
            print(line, flush=True)
        except OSError as error:  # raised here, it would count as the trial's failure
            if isinstance(error, BrokenPipeError) and not self.is_closed:
                self.is_closed = True  # the sweep ends as by Ctrl-C
                signal.raise_signal(signal.SIGTERM)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def folder_name(trial) -> str:
    """Name of a trial's folder in Ray's results."""
    return trial.trial_id


# Ray's state of a sweep that began before the modules moved has these under their names of then.
Announcer = ProgressCallback
sys.modules.setdefault("recbole_lite.tune.search", sys.modules[__name__])

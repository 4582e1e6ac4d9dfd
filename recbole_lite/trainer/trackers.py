"""Experiment trackers, TensorBoard and Weights & Biases: one record for each run.

A tracker that fails must not end a training: it warns once and is off from then on. Of several
processes that train together, the main process alone keeps records.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any, ClassVar

from recbole.utils import WandbLogger

from recbole_lite.utils.errors import ConfigError, MissingDependencyError, one_line
from recbole_lite.utils.paths import create_unique, run_name
from recbole_lite.utils.process_group import is_main_process


def check_trackers(config) -> None:
    """Check before the training that ``log_wandb`` can be used.

    Raises
    ------
    MissingDependencyError
        The package is not installed; the message has the command that installs it.
    """
    if not config["log_wandb"]:
        return
    try:
        is_there = importlib.util.find_spec("wandb") is not None
    except ValueError:  # a module that somebody made by hand has no specification
        is_there = True
    if not is_there:
        raise MissingDependencyError("log_wandb needs wandb; type: pip install wandb")


class SafeTracker:
    """Tracker whose first error is a warning and turns it off.

    Parameters
    ----------
    tracker : object
        Receives the method calls; None: they are ignored.
    name : str
        Its name in the warning.
    """

    def __init__(self, tracker: Any, name: str):
        self._tracker, self._name = tracker, name

    def __getattr__(self, method: str) -> Callable[..., None]:
        def call(*arguments, **others):
            if self._tracker is None:
                return
            try:
                getattr(self._tracker, method)(*arguments, **others)
            except Exception as error:
                self._tracker = None
                getLogger().warning(
                    f"{self._name} failed and is disabled from here on: {one_line(error)}"
                )

        return call


# -- TensorBoard ------------------------------------------------------------------------------


@contextmanager
def tensorboard_folder(config) -> Iterator[Path]:
    """Let RecBole's constructors write to a new folder below ``log_tensorboard``.

    RecBole names the folder after the log file up to its first dot. Runs of a data set with a dot
    in its name, and trials that start in the same second, would share a record.

    Raises
    ------
    ConfigError
        The folder cannot be created.
    """
    logger = getLogger()
    logs = [handler.baseFilename for handler in logger.handlers if hasattr(handler, "baseFilename")]
    name = (Path(logs[-1]).stem if logs else run_name(config)).replace(".", "_")
    try:
        folder = create_unique(Path("log_tensorboard"), name)
    except OSError as error:
        path = Path("log_tensorboard", name)
        raise ConfigError(f"{path}: cannot be created for TensorBoard: {error.strerror}") from None
    guide = logging.NullHandler()
    guide.baseFilename = str(folder)  # what RecBole looks for
    logger.handlers.insert(0, guide)
    try:
        yield folder
    finally:
        logger.removeHandler(guide)


# -- Weights & Biases -------------------------------------------------------------------------


class LiteWandbLogger(WandbLogger):
    """RecBole's logger for Weights & Biases with a record of its own for each run.

    A record that the user has begun (``wandb.init`` before the run) takes the first run as it is;
    the runs after it in the same record put their model's name before every figure.

    Parameters
    ----------
    config : LiteConfig
        Keys ``log_wandb``, ``wandb_project``.
    """

    has_started: ClassVar[bool] = False  # whether a record of this process ever has
    _open: ClassVar[Any] = None  # wandb's object of the record that is ours
    _users: ClassVar[dict[Any, int]] = {}  # id of a user's record -> runs that it has taken

    def setup(self):
        """Begin a record, or take the one that the user has begun."""
        import wandb

        self._wandb, self._prefix, self._is_ours = wandb, "", False
        if wandb.run is not None and wandb.run is LiteWandbLogger._open:
            self._end()  # of a training whose caller has not ended it
        if wandb.run is None:
            names = {name: self.config[name] for name in ("model", "dataset")}
            project = self.config["wandb_project"]
            wandb.init(project=project, config={**self.config.settings, **names})
            LiteWandbLogger._open, self._is_ours = wandb.run, True
        else:
            key = getattr(wandb.run, "id", None) or id(wandb.run)
            taken = LiteWandbLogger._users[key] = LiteWandbLogger._users.get(key, 0) + 1
            if taken > 1:
                self._prefix = f"{self.config['model']}-{taken}/"
        LiteWandbLogger.has_started = True
        for part in ("train", "valid"):
            wandb.define_metric(f"{self._prefix}{part}/*", step_metric=f"{self._prefix}{part}_step")

    def _add_head_to_metrics(self, metrics, head):
        named = super()._add_head_to_metrics(metrics, head)
        return {self._prefix + name: value for name, value in named.items()}

    def finish(self):
        """End the record, unless the user has begun it."""
        if self._is_ours and self._wandb.run is LiteWandbLogger._open:
            self._end()

    def _end(self):
        LiteWandbLogger._open = None
        self._wandb.finish()


def start_wandb(config) -> SafeTracker:
    """Start the record of a run; a tracker that ignores all calls where ``log_wandb`` is off.

    Raises
    ------
    ConfigError
        Weights & Biases cannot start. Records after the first one only warn.
    """
    record = None
    if config["log_wandb"] and is_main_process(config):
        check_trackers(config)
        try:
            record = LiteWandbLogger(config)
        except Exception as error:  # not logged in, no network ...: its own classes
            problem = f"log_wandb: Weights & Biases cannot start: {one_line(error)}"
            if not LiteWandbLogger.has_started:
                raise ConfigError(
                    f"{problem}. Type `wandb login`, set WANDB_MODE=offline, or leave log_wandb out"
                ) from error
            getLogger().warning(f"{problem}; {config['model']} is not recorded")
    return SafeTracker(record, "log_wandb")

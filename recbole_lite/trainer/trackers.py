"""Experiment trackers, TensorBoard and Weights & Biases: one record for each run.

They describe a training and must not end it: one that fails says so once and is silent from then
on. Of several processes that train together the first one alone keeps records.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any, ClassVar

from recbole.utils import get_local_time

from recbole_lite.text.llm_files import one_line
from recbole_lite.utils.errors import ConfigError, MissingDependencyError
from recbole_lite.utils.process_group import is_main_process


def check_trackers(config) -> None:
    """Check before the training that ``log_wandb`` can be had.

    Raises
    ------
    MissingDependencyError
        With the command that installs the package.
    """
    if not config["log_wandb"]:
        return
    try:
        is_there = importlib.util.find_spec("wandb") is not None
    except ValueError:  # a module that somebody made by hand has no specification
        is_there = True
    if not is_there:
        raise MissingDependencyError("log_wandb needs wandb; type: pip install wandb")


@contextmanager
def without_wandb(config) -> Iterator[None]:
    """Keep RecBole's constructors from starting a record, which would be the process's only one."""
    before = config["log_wandb"]
    config["log_wandb"] = False
    try:
        yield
    finally:
        config["log_wandb"] = before


class Guarded:
    """A tracker whose failures are told once and cost nothing else.

    Parameters
    ----------
    tracker : object
        Its methods are called; None: nothing is.
    name : str
        What the warning calls it.
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
                    f"{self._name} has failed and is left out from here on: {one_line(error)}"
                )

        return call


# -- TensorBoard ------------------------------------------------------------------------------


@contextmanager
def tensorboard_folder(config) -> Iterator[Path]:
    """Let RecBole's constructors write to a new folder below ``log_tensorboard``.

    RecBole names it by the log's file up to the first dot, so that runs of a data set whose name
    has one, and trials that begin in the same second, share a record.

    Raises
    ------
    ConfigError
        The folder cannot be made.
    """
    logger = getLogger()
    logs = [handler.baseFilename for handler in logger.handlers if hasattr(handler, "baseFilename")]
    default = f"{config['model']}-{config['dataset']}-{get_local_time()}"
    name = (Path(logs[-1]).stem if logs else default).replace(".", "_")
    folder, n = Path("log_tensorboard", name), 1
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            n += 1
            folder = folder.with_name(f"{name}-{n}")
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be made for TensorBoard: {error.strerror}"
            ) from None
    guide = logging.NullHandler()
    guide.baseFilename = str(folder)  # what RecBole looks for
    logger.handlers.insert(0, guide)
    try:
        yield folder
    finally:
        logger.removeHandler(guide)


# -- Weights & Biases -------------------------------------------------------------------------


class WandbRecord:
    """One run's record in Weights & Biases, with the methods of RecBole's ``WandbLogger``.

    A record that the user has begun (``wandb.init`` before the run) takes the first run as it is;
    the runs after it in the same record put their model's name before every figure.

    Parameters
    ----------
    config : LiteConfig
        Keys ``log_wandb``, ``wandb_project``.

    """

    has_begun: ClassVar[bool] = False  # whether a record of this process ever has
    _open: ClassVar[Any] = None  # wandb's object of the record that is ours
    _users: ClassVar[dict[Any, int]] = {}  # id of a user's record -> runs that it has taken

    def __init__(self, config):
        import wandb

        self._wandb, self._prefix, self._is_ours = wandb, "", False
        if wandb.run is not None and wandb.run is WandbRecord._open:
            self._end()  # of a training whose caller has not ended it
        if wandb.run is None:
            name = config["wandb_project"]
            wandb.init(project=name, config={**config.settings, **_names(config)})
            WandbRecord._open, self._is_ours = wandb.run, True
        else:
            key = getattr(wandb.run, "id", None) or id(wandb.run)
            taken = WandbRecord._users[key] = WandbRecord._users.get(key, 0) + 1
            if taken > 1:
                self._prefix = f"{config['model']}-{taken}/"
        WandbRecord.has_begun = True
        for part in ("train", "valid"):
            wandb.define_metric(f"{self._prefix}{part}/*", step_metric=f"{self._prefix}{part}_step")

    def log_metrics(self, metrics: Mapping[str, Any], head: str = "train", commit: bool = True):
        """Add a line to the history; the ``..._step`` keys have no head, as with RecBole."""
        self._wandb.log(self._named(metrics, head), commit=commit)

    def log_eval_metrics(self, metrics: Mapping[str, Any], head: str = "eval"):
        """Put figures into the summary."""
        for name, value in self._named(metrics, head).items():
            self._wandb.run.summary[name] = value

    def finish(self):
        """End the record, unless the user has begun it."""
        if self._is_ours and self._wandb.run is WandbRecord._open:
            self._end()

    def _end(self):
        WandbRecord._open = None
        self._wandb.finish()

    def _named(self, metrics, head: str) -> dict[str, Any]:
        return {
            self._prefix + (name if not head or "_step" in name else f"{head}/{name}"): value
            for name, value in metrics.items()
        }


def _names(config) -> dict[str, str]:
    return {"model": config["model"], "dataset": config["dataset"]}


def start_wandb(config) -> Guarded:
    """Begin the record of a run; nothing is kept where ``log_wandb`` is off.

    Raises
    ------
    ConfigError
        Weights & Biases cannot start. A record after the first, of a baseline say, is done without.
    """
    record = None
    if config["log_wandb"] and is_main_process(config):
        check_trackers(config)
        try:
            record = WandbRecord(config)
        except Exception as error:  # not logged in, no network ...: its own classes
            problem = f"log_wandb: Weights & Biases cannot start: {one_line(error)}"
            if not WandbRecord.has_begun:
                raise ConfigError(
                    f"{problem}. Type `wandb login`, set WANDB_MODE=offline, or leave log_wandb out"
                ) from error
            getLogger().warning(f"{problem}; {config['model']} is not recorded")
    return Guarded(record, "log_wandb")

"""Training for a given time: what the same budget buys different models.

Some steps are timed first, and their number (``max_steps``) is set from that, so that a falling
learning rate ends at 0 and the run can be repeated exactly.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from recbole.utils import ModelType

from recbole_lite.config.configurator import LiteConfig, translate_errors
from recbole_lite.config.registry import get_trainer
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.quick_start import run
from recbole_lite.report.run_folder import PROTOCOL
from recbole_lite.trainer.onednn_matmul import matrix_products
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import best_effort
from recbole_lite.utils.files import to_plain, write_json
from recbole_lite.utils.paths import PROPERTIES

FIRST_STAGE = 0.6  # share of the steps with frozen vectors, with `two_stages`
SECOND_RATE = 5e-4  # learning rate of the second stage
FEWEST_VALIDATIONS, VALIDATIONS = 5, 8  # where an epoch is short, not after each
WARM_UP, TIMED = 3, 15  # steps
TIMING = 0.2  # share of the budget after which fewer are timed
# Settings that do not make a result another one: where files are, and what `plan` decides itself.
_PLACES = {"data_path", "tokenizer", "checkpoint_dir", "item_embedding_cache_dir"}
_PLANNED = {"max_steps", "epochs", "stopping_step", "eval_step", "stages"}


@dataclass
class Side:
    """A model with its settings.

    Attributes
    ----------
    name : str
        Of its row and file.
    model : str
    settings : dict
        Configuration keys.
    files : list of str or Path
        Configuration files.
    two_stages : bool
        Train with frozen item vectors first, then the vectors as well.
    pretrain : float
        Share of the time for the first of two phases (S3Rec's ``train_stage``).
    """

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    files: Sequence[str | Path] = ()
    two_stages: bool = False
    pretrain: float = 0.0


def clock() -> float:
    """Seconds: of this process's work where that is one thread's on a CPU, else of the wall.

    Processor time does not depend on what else the machine does; with several threads it would
    count those that wait.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def plan(side: Side, dataset: str, settings: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Time some steps of a training and set its length.

    Parameters
    ----------
    side : Side
    dataset : str
    settings : mapping
        Settings of all sides; the side's own come on top.
    seconds : float
        Of training; validation is not counted.

    Returns
    -------
    dict
        ``step_seconds``, ``steps``, ``steps_per_epoch``, and ``settings``, ready to be run.
    """
    settings = {"checkpoint_every": 0, "show_progress": False, **settings, **side.settings}
    config = LiteConfig(side.model, dataset, side.files, config_dict=settings)
    with translate_errors(f"{side.model} cannot be built", config):
        train_data, *_ = data_preparation(config, create_dataset(config))
    if config["MODEL_TYPE"] == ModelType.TRADITIONAL:  # counts once; there is nothing to repeat
        steps = len(train_data)
        settings |= {"epochs": 1}
        return {"step_seconds": 0.0, "steps": steps, "steps_per_epoch": steps, "settings": settings}
    with translate_errors(f"{side.model} cannot be built", config):
        model = config.model_class(config, train_data._dataset).to(config["device"]).train()
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.keep_no_record()
    optimizer = trainer.optimizer
    batches = itertools.chain.from_iterable(itertools.repeat(train_data))
    times = []
    with matrix_products(config["matrix_products"], config["device"]):  # as in training
        for _ in range(WARM_UP + TIMED):
            started = clock()
            optimizer.zero_grad()
            model.calculate_loss(next(batches).to(config["device"])).backward()
            optimizer.step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(clock() - started)
            if len(times) > 1 and sum(times) > TIMING * seconds:
                break
    # Of few long steps all but the first count. The mean: a long step is part of the budget.
    step = statistics.mean(times[min(WARM_UP, len(times) - 1) :])
    steps, epoch = max(int(seconds / step), 1), len(train_data)
    epochs = math.ceil(steps / epoch)
    if hasattr(model, "beam_counts"):
        settings["eval_step"] = 0  # a beam search over all users may take longer than the training
    elif epochs > VALIDATIONS:
        # The last epoch is to be validated, and few are to be lost by that.
        gaps = range(-(-epochs // VALIDATIONS), -(-epochs // FEWEST_VALIDATIONS) + 1)
        settings["eval_step"] = gap = max(gaps, key=lambda gap: epochs // gap * gap)
        epochs = epochs // gap * gap
        steps = min(steps, epochs * epoch)
    settings |= {"max_steps": steps, "epochs": epochs, "stopping_step": VALIDATIONS}
    if side.two_stages:
        settings["stages"] = _two_stages(steps, epoch)
    return {
        "step_seconds": step,
        "steps": steps,
        "steps_per_epoch": epoch,
        "settings": settings,
    }


def _two_stages(steps: int, epoch: int) -> list[dict[str, Any]]:
    first = min(max(round(FIRST_STAGE * steps), 1), max(steps - 1, 1))
    lengths = [
        {"max_steps": n, "epochs": math.ceil(n / epoch)} for n in (first, max(steps - first, 1))
    ]
    return [
        {**lengths[0], "item_llm_training": "frozen"},
        {**lengths[1], "item_llm_training": "embeddings", "learning_rate": SECOND_RATE},
    ]


def _pretrain(side: Side, dataset: str, settings: Mapping[str, Any], seconds: float) -> str:
    """Path of the weights that the first phase ends with."""
    planned = plan(side, dataset, {**settings, "train_stage": "pretrain"}, seconds)
    epochs = math.ceil(planned["steps"] / planned["steps_per_epoch"])
    changes = {**planned["settings"], "pretrain_epochs": epochs}
    return run(side.model, dataset, side.files, changes)["run_dir"]


def measure(
    side: Side, dataset: str, settings: Mapping[str, Any], minutes: float, command: str
) -> dict[str, Any]:
    """Train and evaluate a side; the result can be written as JSON.

    Beside the figures it has what ``recbole-lite compare`` asks for (``ranks``, ``largest_k``,
    ``protocol``, ``test_set``) and ``run_dir``, the folder of the weights.
    """
    seconds = 60 * minutes
    if side.pretrain:
        path = _pretrain(side, dataset, settings, seconds * side.pretrain)
        settings = {**settings, "train_stage": "finetune", "pre_model_path": path}
    planned = plan(side, dataset, settings, seconds * (1 - side.pretrain))
    started = clock()
    result = run(side.model, dataset, side.files, planned["settings"], per_user=True)
    users = result["per_user"]
    config = LiteConfig(side.model, dataset, side.files, config_dict=planned["settings"])
    return {
        "side": side.name,
        "model": side.model,
        "dataset": dataset,
        "config_files": [portable(path) for path in side.files],
        "config_dict": planned.pop("settings"),
        "minutes": minutes,
        **planned,
        "minutes_with_evaluation": (clock() - started) / 60,
        **{key: result[key] for key in ("data", "epochs", "history", "parameters", "seconds")},
        "valid": to_plain(result["best_valid_result"]) or {},
        "test": to_plain(result["test_result"]) or {},
        "random_guess": result["random_guess"],
        "candidates": result["candidates"] and result["candidates"]["test"]["sha256"],
        "beams": result["beams"],
        "run_dir": str(result["run_dir"]),
        **asked(config),
        "test_set": result.get("test_set"),
        "environment": environment(),
        "command": command,
        "ranks": dict(zip(users["users"], map(int, users["ranks"]), strict=True)),
    }


def portable(path: str | Path) -> str:
    """A file's path, from ``properties/`` on if it ships with the project."""
    path = Path(path)
    shipped = path.is_relative_to(PROPERTIES)
    return str(path.relative_to(PROPERTIES.parent) if shipped else path)


def asked(config: LiteConfig) -> dict[str, Any]:
    """What a run with this configuration is asked: ``largest_k`` and ``protocol``."""
    protocol = {key: config.settings.get(key) for key in PROTOCOL}
    return {"largest_k": max(config["topk"]), "protocol": protocol}


def reusable(
    path: Path, side: Side, minutes: float, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Result in a file, if it was made with this budget and these settings; else None.

    Of the settings that all sides share those count that the file knows: results of older
    versions do not name them all.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        used = found["config_dict"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shared = {
        key: value
        for key, value in settings.items()
        if key in used and key not in _PLACES | _PLANNED | side.settings.keys()
    }
    wanted = to_plain({**shared, **side.settings})  # as the file has them
    same = found.get("minutes") == minutes and wanted.items() <= used.items()
    return found if same else None


def measured(
    path: Path,
    side: Side,
    minutes: float,
    dataset: str,
    settings: Mapping[str, Any],
    command: str,
    by: Callable[..., dict[str, Any]] = measure,
) -> tuple[dict[str, Any], bool]:
    """Result in the file `path`, or a new one written there; and whether it is new.

    Parameters
    ----------
    path : Path
    side, dataset, settings, minutes, command
        As :func:`measure` takes them. A file that was made with others is made anew
        (:func:`reusable`).
    by : callable
        Makes the new one.
    """
    found = reusable(path, side, minutes, settings)
    if found is not None:
        return found, False
    found = by(side, dataset, settings, minutes, command)
    with best_effort(str(path), "the row is in the table, but will be trained again"):
        write_json(path, found, indent=None)
    return found, True

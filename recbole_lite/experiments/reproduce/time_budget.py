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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from recbole.utils import ModelType, get_local_time

from recbole_lite.config.configurator import LiteConfig, translate_errors
from recbole_lite.config.keys import affecting, with_current_names
from recbole_lite.config.registry import get_trainer
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.experiments.adapt_llm.adapt import adapt_llm
from recbole_lite.experiments.reproduce.baselines import ModelSpec
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.model.abstract_recommender import fixed_items
from recbole_lite.quick_start import run
from recbole_lite.report.run_folder import PROTOCOL
from recbole_lite.trainer.matmul_backend import matrix_products
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import best_effort
from recbole_lite.utils.files import to_plain
from recbole_lite.utils.paths import PROPERTIES

FIRST_STAGE = 0.6  # share of the steps with frozen vectors, with `two_stages`
SECOND_RATE = 5e-4  # learning rate of the second stage
FEWEST_VALIDATIONS, VALIDATIONS = 5, 8  # where an epoch is short, not after each
WARM_UP, TIMED = 3, 15  # steps
TIMING = 0.2  # share of the budget after which fewer are timed
BATCH, BATCHES, TOP = 32, 5, 20  # test users at once, repetitions, items for each
# Settings that `plan` decides itself.
_PLANNED = {"max_steps", "epochs", "stopping_step", "eval_step", "stages"}


def clock() -> float:
    """Seconds: of this process's work where that is one thread's on a CPU, else of the wall.

    Processor time does not depend on what else the machine does; with several threads it would
    count those that wait.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def plan(
    spec: ModelSpec, dataset: str, settings: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """Time some steps of a training and set its length.

    The model's own settings come on top of `settings`, those of all models; `seconds` are those of
    training, validation is not counted.

    Returns
    -------
    dict
        ``step_seconds``, ``steps``, ``steps_per_epoch``, and ``settings``, ready to be run.
    """
    settings = {"checkpoint_every": 0, "show_progress": False, **settings, **spec.settings}
    config = LiteConfig(spec.model, dataset, spec.files, config_dict=settings)
    with translate_errors(f"{spec.model} cannot be built", config):
        train_data, *_ = data_preparation(config, create_dataset(config))
    if config["MODEL_TYPE"] == ModelType.TRADITIONAL:  # counts once; there is nothing to repeat
        steps = len(train_data)
        settings |= {"epochs": 1}
        return {"step_seconds": 0.0, "steps": steps, "steps_per_epoch": steps, "settings": settings}
    with translate_errors(f"{spec.model} cannot be built", config):
        training = TrainingSteps(config, train_data)
    step = _seconds_per_step(training, TIMING * seconds)
    steps, epoch = max(int(seconds / step), 1), len(train_data)
    epochs = math.ceil(steps / epoch)
    if hasattr(training.model, "beam_counts"):
        settings["eval_step"] = 0  # a beam search over all users may take longer than the training
    elif epochs > VALIDATIONS:
        # The last epoch is to be validated, and few are to be lost by that.
        gaps = range(-(-epochs // VALIDATIONS), -(-epochs // FEWEST_VALIDATIONS) + 1)
        settings["eval_step"] = gap = max(gaps, key=lambda gap: epochs // gap * gap)
        epochs = epochs // gap * gap
        steps = min(steps, epochs * epoch)
    settings |= {"max_steps": steps, "epochs": epochs, "stopping_step": VALIDATIONS}
    if spec.two_stages:
        settings["stages"] = _two_stages(steps, epoch)
    return {
        "step_seconds": step,
        "steps": steps,
        "steps_per_epoch": epoch,
        "settings": settings,
    }


class TrainingSteps:
    """A new model and an endless stream of its training batches, to be timed step by step."""

    def __init__(self, config: LiteConfig, train_data):
        self.config, self.device = config, config["device"]
        self.model = config.model_class(config, train_data._dataset).to(self.device).train()
        self.trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, self.model)
        self.trainer.disable_tensorboard()
        self.optimizer = self.trainer.optimizer
        self.batches = itertools.chain.from_iterable(itertools.repeat(train_data))

    def step(self, batch) -> None:
        """Train on a batch; a GPU has done it when this returns."""
        self.optimizer.zero_grad()
        self.model.calculate_loss(batch.to(self.device)).backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _seconds_per_step(training: TrainingSteps, limit: float) -> float:
    """Mean of some training steps: a long one is part of the budget.

    Of few long steps, which take more than `limit` seconds together, all but the first count.
    """
    times: list[float] = []
    with matrix_products(training.config["matmul_backend"], training.device):  # as in training
        while len(times) < WARM_UP + TIMED and (len(times) < 2 or sum(times) <= limit):
            started = clock()
            training.step(next(training.batches))
            times.append(clock() - started)
    return statistics.mean(times[min(WARM_UP, len(times) - 1) :])


def _two_stages(steps: int, epoch: int) -> list[dict[str, Any]]:
    first = min(max(round(FIRST_STAGE * steps), 1), max(steps - 1, 1))
    lengths = [
        {"max_steps": n, "epochs": math.ceil(n / epoch)} for n in (first, max(steps - first, 1))
    ]
    return [
        {**lengths[0], "item_llm_training": "frozen"},
        {**lengths[1], "item_llm_training": "embeddings", "learning_rate": SECOND_RATE},
    ]


def _first_phase(
    spec: ModelSpec, dataset: str, settings: Mapping[str, Any], seconds: float
) -> tuple[dict[str, Any], dict[str, float]]:
    """Train for the first of two phases; settings of the second that name its result, its time."""
    source, stage = spec.first_phase, {}
    if source is None:
        source, stage = spec, {"train_stage": "pretrain"}
    planned = plan(source, dataset, {**settings, **stage}, seconds)
    changes = planned["settings"]
    if stage:
        changes["pretrain_epochs"] = math.ceil(planned["steps"] / planned["steps_per_epoch"])
    trained = run(source.model, dataset, source.files, changes)
    spent = {"first phase": sum(trained["seconds"].values())}
    if stage:
        return {"train_stage": "finetune", "pre_model_path": trained["run_dir"]}, spent
    return {spec.reads: trained["run_dir"]}, spent


def _adaptation(
    spec: ModelSpec, dataset: str, settings: Mapping[str, Any], seconds: float
) -> tuple[dict[str, Any], dict[str, float]]:
    """Adapt the second phase's Item LLM for at most `seconds`; as :func:`_first_phase`."""
    config = LiteConfig(spec.model, dataset, spec.files, config_dict={**settings, **spec.settings})
    out = Path(config["checkpoint_dir"], f"adapted-{dataset}-{get_local_time()}")
    changes = {**settings, **spec.first_phase.settings, "max_minutes": seconds / 60}
    changes = {"show_progress": False, **changes}
    started = clock()
    adapt_llm(config["item_llm"], out, dataset, (), [f"--{k}={v}" for k, v in changes.items()])
    return {spec.reads: str(out)}, {"first phase": clock() - started}


@torch.no_grad()
def _inference(folder: str | Path) -> dict[str, Any]:
    """Size and speed of a run's model: ``all_parameters``, and ``batch_ms``.

    ``batch_ms`` is the median time from a batch of the first 32 test users to their top 20 items.
    """
    config, model, _, _, _, test = load_data_and_model(folder)
    model.eval()
    times = []
    batch = test.collate_fn(torch.arange(min(BATCH, len(test._dataset))))[0].to(config["device"])
    with (
        matrix_products(config["matmul_backend"], config["device"], training=False),
        fixed_items(model),
    ):
        for _ in range(1 + BATCHES):
            started = clock()
            scores = model.full_sort_predict(batch).view(len(batch), -1)
            scores.topk(min(TOP, scores.shape[1])).indices.cpu()  # waits for a GPU
            times.append(1000 * (clock() - started))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"all_parameters": parameters, "batch_ms": statistics.median(times[1:])}


def measure(
    spec: ModelSpec, dataset: str, settings: Mapping[str, Any], minutes: float, command: str
) -> dict[str, Any]:
    """Train and evaluate a model; the result can be written as JSON.

    Beside the figures it has what ``recbole-lite compare`` asks for (``ranks``, ``largest_k``,
    ``protocol``, ``test_set``) and ``run_dir``, the folder of the weights. ``all_parameters``
    counts frozen ones too, ``batch_ms`` is the time for a batch of 32 users.
    """
    seconds, asked = 60 * minutes, _asked(spec, settings)
    spent: dict[str, float] = {}
    if spec.pretrain:
        adapts = spec.first_phase is not None and spec.first_phase.model == "AdaptLLM"
        first = _adaptation if adapts else _first_phase
        reads, spent = first(spec, dataset, settings, seconds * spec.pretrain)
        spec = replace(spec, settings={**spec.settings, **reads})
        # An adaptation has its number of steps, and may end before its share does.
        seconds -= spent["first phase"] if adapts else seconds * spec.pretrain
    planned = plan(spec, dataset, settings, seconds)
    started = clock()
    result = run(spec.model, dataset, spec.files, planned["settings"], per_user=True)
    users, speed = result["per_user"], {}
    if planned["step_seconds"]:
        with best_effort(f"{spec.name}: time of a batch"):
            speed = _inference(result["run_dir"])
    config = LiteConfig(spec.model, dataset, spec.files, config_dict=planned["settings"])
    return {
        "side": spec.name,
        "model": spec.model,
        "dataset": dataset,
        "config_files": [portable(path) for path in spec.files],
        "config_dict": planned.pop("settings"),
        "asked": asked,
        "read": _settings_of_files(spec),
        "minutes": minutes,
        **planned,
        "minutes_with_evaluation": (clock() - started) / 60,
        **{key: result[key] for key in ("data", "epochs", "history", "parameters")},
        "seconds": {**spent, **result["seconds"]},
        **speed,
        "valid": to_plain(result["best_valid_result"]) or {},
        "test": to_plain(result["test_result"]) or {},
        "random_guess": result["random_guess"],
        "candidates": result["candidates"] and result["candidates"]["test"]["sha256"],
        "beams": result["beams"],
        "run_dir": str(result["run_dir"]),
        **protocol_of(config),
        "test_set": result.get("test_set"),
        "environment": environment(),
        "command": command,
        "ranks": dict(zip(users["users"], map(int, users["ranks"]), strict=True)),
    }


def _asked(spec: ModelSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a row as its file has them, without the places of this machine."""
    given = {**settings, **spec.settings}
    if spec.first_phase:
        given["first_phase"] = spec.first_phase.settings
    return to_plain({key: value for key, value in given.items() if key not in affecting("places")})


def _settings_of_files(spec: ModelSpec) -> dict[str, Any]:
    """Values in a row's configuration files, which may be edited between two runs."""
    found: dict[str, Any] = {}
    for path in spec.files:
        found |= settings_in(path)
    return to_plain(found)


def settings_in(path: str | Path) -> dict[str, Any]:
    """Values in a configuration file, none where there is no such file."""
    found = read_yaml(path) if Path(path).is_file() else {}
    return {key: setting.value for key, setting in found.items()}


def portable(path: str | Path) -> str:
    """A file's path, from ``properties/`` on if it ships with the project."""
    path = Path(path)
    shipped = path.is_relative_to(PROPERTIES)
    return str(path.relative_to(PROPERTIES.parent) if shipped else path)


def protocol_of(config: LiteConfig) -> dict[str, Any]:
    """How a run with this configuration ranks: ``largest_k`` and ``protocol``."""
    protocol = {key: config.settings.get(key) for key in PROTOCOL}
    return {"largest_k": max(config["topk"]), "protocol": protocol}


def reusable(
    path: Path, spec: ModelSpec, minutes: float, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Result in a file, if it was made with this budget and these settings; else None.

    Results of older versions do not say what was asked for, or what the files had. Of the settings
    that all models share those count that such a file knows.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        used = with_current_names(found["config_dict"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if "asked" in found:
        read = _settings_of_files(spec)
        same = found.get("minutes") == minutes and found["asked"] == _asked(spec, settings)
        return found if same and found.get("read", read) == read else None
    shared = {
        key: value
        for key, value in settings.items()
        if key in used and key not in affecting("places") | _PLANNED | spec.settings.keys()
    }
    wanted = to_plain({**shared, **spec.settings})  # as the file has them
    same = found.get("minutes") == minutes and wanted.items() <= used.items()
    return found if same else None

"""Stages one after another, with checkpoints; the result is a folder for ``item_llm``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.utils import ModelType, init_seed
from tqdm import tqdm
from transformers import get_scheduler

from recbole_lite.config.configurator import LiteConfig, paths_of, translate_errors
from recbole_lite.config.keys import affecting
from recbole_lite.data import create_dataset
from recbole_lite.data.item_titles import item_titles
from recbole_lite.experiments.adapt_llm.neighbours import render
from recbole_lite.experiments.adapt_llm.objectives import Objectives
from recbole_lite.text.item_llm_settings import TextSettings
from recbole_lite.text.item_vectors import item_texts, load_item_vectors
from recbole_lite.text.llm_files import resolve_llm, weights_fingerprint
from recbole_lite.text.llm_loading import load_tokenizer, quiet
from recbole_lite.text.sentence_transformers_folder import write_recipe
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import ConfigError, TrainingError
from recbole_lite.utils.files import to_json, write_json, write_text
from recbole_lite.utils.log import init_logger
from recbole_lite.utils.paths import PROPERTIES

RECORD = "adapt_llm.json"  # what the folder was made from
REPORT = "report.md"
# Settings of a training that would be taken for those of a stage.
_OF_A_RUN = {"learning_rate", "train_batch_size", "weight_decay", "learner", "item_vectors"}


class AdaptLLM:
    """Names the settings of an adaptation for `LiteConfig`; no model of RecBole's."""

    type = ModelType.SEQUENTIAL
    properties = PROPERTIES / "adapt_llm.yaml"


def adapt_llm(
    llm: str,
    out: str | Path,
    dataset: str | None = None,
    config_file_list: Iterable[str | Path] | None = None,
    overrides: Iterable[str] | None = None,
) -> str:
    """Adapt a language model to the training histories of a data set.

    A folder in which the same adaptation was interrupted is continued; a finished one is left as
    it is.

    Parameters
    ----------
    llm : str
        As ``item_llm``.
    out : str or Path
        Folder of the result: weights, tokenizer, recipe of its pooling, ``report.md``.
    dataset, config_file_list, overrides
        See :class:`~recbole_lite.config.configurator.LiteConfig`; keys of
        ``properties/adapt_llm.yaml`` and of the data.

    Returns
    -------
    str
        The report, in Markdown.

    Raises
    ------
    ConfigError, DataError, ModelFilesError, CheckpointError, TrainingError
        One line each; settings, data and language model are checked before the first step.
    """
    out = Path(out)
    config = LiteConfig(
        AdaptLLM, dataset, paths_of(config_file_list), {"item_llm": llm}, list(overrides or [])
    )
    _check_settings(config)
    settings = TextSettings.from_config(config)
    folder = resolve_llm(llm, local_files_only=settings.local_files_only)
    recipe = settings.recipe(folder)
    if "pooler" in recipe.pooling:
        raise ConfigError("item_llm_pooling: pooler is not adapted; use mean, cls or lasttoken")
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    with translate_errors(f"{config['dataset']} cannot be read", config):
        data = create_dataset(config)
        texts, titles = item_texts(settings, data), item_titles(data, config["title_field"])
        train, valid = (part.inter_feat for part in data.build()[:2])
    if not len(train):
        raise ConfigError(
            f"{config['dataset']}: no user has two training items after the split; an adaptation "
            "needs items that follow each other"
        )
    record = _record(config, folder, recipe.files, data)
    if _is_finished(out, record):
        getLogger().info(f"{out}: finished before")
        return (out / REPORT).read_text(encoding="utf-8")
    before = load_item_vectors(config, data)
    with translate_errors(f"item_llm {llm!r} cannot be adapted", config):
        objectives = Objectives(config, folder, recipe, train, titles, texts)
        write_json(out / RECORD, {"settings": record, "finished": False})
        losses = _train(objectives, out)
    _save(objectives, folder, recipe, out)
    for key, value in (("item_llm", str(out)), ("item_llm_pooling", "auto")):
        config[key] = value  # as whoever uses the folder
    config["item_llm_prompt"] = None
    after = load_item_vectors(config, data)
    report = render(
        f"{llm}, adapted to {config['dataset']}",
        {"before": before, "after": after},
        {"train": train, "valid": valid},
        losses,
        titles,
    )
    write_text(out / REPORT, report)
    write_json(out / RECORD, {"settings": record, "finished": True})
    for path in out.glob("last-*"):
        path.unlink()
    return report


def _check_settings(config: LiteConfig) -> None:
    """Refuse flags of a run that would have no effect here."""
    given = {key for key, setting in config.origins.items() if setting.origin == "command line"}
    for key in sorted(given & (affecting("length", "start") | _OF_A_RUN)):
        raise ConfigError(
            f"command line: {key} is no setting of adapt-llm; each of its stages has steps, "
            "batch_size and learning_rate of its own (properties/adapt_llm.yaml)"
        )


def _record(config: LiteConfig, folder: Path, recipe_files, data) -> dict[str, Any]:
    """What decides the result."""
    words = ("output", "downloads", "machine", "places", "detected", "session")
    free = affecting(*words) | affecting(*words, files=(AdaptLLM.properties.name,))
    kept = {key: value for key, value in config.settings.items() if key not in free}
    files = {
        "weights of item_llm": weights_fingerprint(folder, recipe_files),
        "interactions": data.vocabulary.interactions,
    }
    return json.loads(to_json({**kept, **files}))


def _is_finished(out: Path, record: dict[str, Any]) -> bool:
    """Whether the folder holds this adaptation's result; False: what it began, or nothing.

    Raises
    ------
    ConfigError
        It holds something else.
    """
    path = out / RECORD
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise ConfigError(f"--out: {out} holds other files; name a new folder")
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        held = content["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"--out: {path} is damaged; name a new folder") from None
    for key in sorted(held | record):
        if held.get(key) != record.get(key):
            raise ConfigError(
                f"--out: {out} holds an adaptation with {key}: {held.get(key)!r}, not "
                f"{record.get(key)!r}; repeat its command, or name a new folder"
            )
    return bool(content.get("finished"))


def _train(objectives: Objectives, out: Path) -> dict[str, list[float]]:
    """Run the stages, from the last checkpoint on; returns the losses of every stage."""
    config = objectives.config
    stages = [name for name in objectives.stages if config[f"{name}_steps"]]
    state: dict[str, Any] = {"stage": 0, "step": 0, "seconds": 0.0, "losses": {}}
    if found := checkpoint.load_last(out):
        state = found[1]
        checkpoint.restore_model(objectives, found[0], out)
    all_steps = sum(config[f"{name}_steps"] for name in stages)
    for number in range(state["stage"], len(stages)):
        stage, steps = stages[number], config[f"{stages[number]}_steps"]
        share = steps / all_steps
        allowed = 60 * config["max_minutes"] * share if config["max_minutes"] else float("inf")
        state = _run_stage(objectives, stage, steps, allowed, state, out)
    return state["losses"]


def _run_stage(
    objectives: Objectives, stage: str, steps: int, allowed: float, state: dict, out: Path
) -> dict[str, Any]:
    """Train one stage; the state with which the next one begins."""
    config = objectives.config
    objectives.begin(stage)
    parameters = [p for p in objectives.lm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config[f"{stage}_learning_rate"], weight_decay=0.0)
    warmup = round(steps * config["warmup_ratio"])
    scheduler = get_scheduler(config["lr_scheduler"], optimizer, warmup, steps)
    losses = state["losses"].setdefault(stage, [])
    if state["step"]:
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    if state["step"] or state["stage"]:
        checkpoint.restore_random_state(state["random"], None)
    seconds, started = state["seconds"], time.monotonic()
    shown = tqdm(
        total=steps,
        initial=state["step"],
        desc=stage,
        unit="step",
        disable=None if config["show_progress"] else True,
    )
    with shown as bar:
        for step in range(state["step"] + 1, steps + 1):
            if seconds + time.monotonic() - started > allowed:
                break
            losses.append(_step(objectives, stage, optimizer, parameters))
            scheduler.step()
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if step % config["save_steps"] == 0 and step < steps:
                spent = seconds + time.monotonic() - started
                trained = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
                _save_last(objectives, out, {**state, "step": step, "seconds": spent, **trained})
    following = {"stage": state["stage"] + 1, "step": 0, "seconds": 0.0}
    state = {**following, "losses": state["losses"], "random": checkpoint.random_state()}
    getLogger().info(f"{stage}: {len(losses):,} steps, loss {losses[-1] if losses else 0:.4f}")
    _save_last(objectives, out, state)
    return state


def _save_last(objectives: Objectives, out: Path, state: dict[str, Any]) -> None:
    done = sum(len(losses) for losses in state["losses"].values())
    number = done + state["stage"]  # the end of a stage comes after its last step
    checkpoint.save_last(out, number, objectives, {**state, "random": checkpoint.random_state()})


def _step(objectives: Objectives, stage: str, optimizer, parameters) -> float:
    optimizer.zero_grad()
    total = 0.0
    for loss in objectives.losses(stage):
        loss.backward()
        total += float(loss.detach())
    if not total < float("inf"):
        raise TrainingError(f"{stage}: the loss is {total}; lower {stage}_learning_rate")
    if objectives.config["clip_grad_norm"]:
        torch.nn.utils.clip_grad_norm_(parameters, **objectives.config["clip_grad_norm"])
    optimizer.step()
    return total


def _save(objectives: Objectives, source: Path, recipe, out: Path) -> None:
    """Write weights without the head of tokens, tokenizer, and the recipe of the pooling."""
    model = objectives.lm.base_model
    tokenizer = load_tokenizer(source, "item_llm")
    if tokenizer.pad_token is None:  # sentence-transformers pads with it; the mask hides it
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    with quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    write_recipe(recipe, model.config.hidden_size, source, out)

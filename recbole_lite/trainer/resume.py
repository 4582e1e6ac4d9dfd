"""The part of a trainer that continues an interrupted run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from recbole_lite.config.keys import affecting, values_before
from recbole_lite.model.layers.sharded_embedding import sharded_tables
from recbole_lite.trainer import checkpoint
from recbole_lite.trainer.row_updates import restore_types
from recbole_lite.utils import process_group
from recbole_lite.utils.errors import CheckpointError
from recbole_lite.utils.files import leftovers, to_json, write_text


class ResumeMixin:
    """Saving and restoring the state of a trainer."""

    def _state(self, epoch, random_states: list[dict]) -> dict:
        best = self.best_valid_result
        return {
            "epoch": epoch,
            "stage": [self._stage, self._stage_first_epoch],
            "steps": self._steps,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": best and {name: float(value) for name, value in best.items()},
            "train_loss_dict": self.train_losses,
            "history": self.history,
            "optimizers": {
                name: optimizer.state_dict() for name, optimizer in self._optimizers().items()
            },
            "counters": {
                place: number
                for place, number in counters(self.model).items()
                if number != self._first_counters.get(place)
            },
            "schedule": self._schedule and self._schedule.state_dict(),
            "average": self._average and self._average.state(),
            "random": random_states[0],
            "random_of_others": random_states[1:],  # the other processes, by rank
            "vocabulary": self._vocabulary and self._vocabulary.sha256,
            **checkpoint.initial_vectors(self.model),
        }

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by the attribute that holds them; RecVAE's trainer has two."""
        found = {name: v for name, v in vars(self).items() if isinstance(v, torch.optim.Optimizer)}
        names = {id(optimizer): name for name, optimizer in found.items()}  # the last, its own
        return {name: found[name] for name in names.values()}

    def resume_checkpoint(self, resume_file):
        """Continue an interrupted run from its last epoch.

        A run that was killed in its first epoch starts again, in the same folder.

        Parameters
        ----------
        resume_file : str or Path
            Folder of the run.

        Raises
        ------
        CheckpointError
            Nothing to resume, damaged files, or settings that differ from the run's.
        """
        folder = Path(resume_file)
        settings = check_same_run(folder, self.config)
        last = checkpoint.load_last(folder, mapped=bool(sharded_tables(self.model)))
        if len(set(process_group.gather(self.config, last and last[1]["epoch"]))) > 1:
            # Shared storage can be late. Ray Train tries again.
            raise RuntimeError(f"{folder}: its last epoch is not the same on all machines")
        mine = process_group.is_main_process(self.config)
        for stale in leftovers(folder) if mine else ():  # the main process may be writing them now
            stale.unlink(missing_ok=True)
        if last is None:
            if not settings.get("checkpoint_every"):
                raise CheckpointError(f"{folder}: the run saved no epochs (checkpoint_every: 0)")
            self._set_run_dir(folder)
            if mine:
                checkpoint.save_yaml(folder, self.config)  # the kill may have come before it
            self.logger.warning(f"{folder}: no epoch was finished; starting from the beginning")
            return
        tensors, state = last
        if state["best_valid_result"] or not self.config["eval_step"]:
            checkpoint.load_weights(folder / checkpoint.BEST_FILE)  # reports damage before training
        self._resumed = folder, state.get("vocabulary")  # compared with that of the data later
        self._restore(tensors, state, folder)
        self._set_run_dir(folder)
        if mine:  # some settings, e.g. epochs, may have changed
            checkpoint.save_yaml(folder, self.config)
        self.logger.info(f"Resuming {folder} after epoch {state['epoch']}")

    def _restore(self, tensors, state, folder: Path):
        """Restore the weights and the state of the last epoch."""
        checkpoint.check_initial_vectors(state, self.model, folder)
        checkpoint.restore_model(self.model, tensors, folder)
        if len(self.stages) > 1:
            self._start_stage(*state["stage"])
        # Version 0.1 saved the trainer's own optimiser alone, and no counters.
        saved = state.get("optimizers") or {"optimizer": state["optimizer"]}
        for name, optimizer in saved.items():
            own = getattr(self, name)
            for group, its in zip(optimizer["param_groups"], own.param_groups, strict=False):
                if "fused" in its:
                    group["fused"] = its["fused"]  # this device's way, not that of the checkpoint
            for table in sharded_tables(self.model).values():
                table.own_state(own, optimizer)
            own.load_state_dict(optimizer)
            restore_types(own, optimizer)
        for (path, name), number in state.get("counters", {}).items():
            setattr(self.model.get_submodule(path), name, number)
        for name in ("cur_step", "best_valid_score", "best_valid_result", "train_loss_dict"):
            setattr(self, name, state[name])
        self.history = state["history"]
        self._steps = state["steps"]
        rank, others = process_group.rank(self.config), state.get("random_of_others", [])
        self._random_state = others[rank - 1] if 0 < rank <= len(others) else state["random"]
        self._schedule_state = state["schedule"]
        self._average_state = state.get("average")
        self.start_epoch = state["epoch"] + 1
        if self.cur_step > self.stopping_step:
            self.start_epoch = self.epochs  # the stage had stopped early


def check_same_run(folder: Path, config) -> dict:
    """Check that a run can be continued with a configuration.

    Returns
    -------
    dict
        The run's settings.

    Raises
    ------
    CheckpointError
        No run, or one with other settings.
    """
    saved = checkpoint.load_config(folder)
    free = affecting("session", "length", "machine", "output", "downloads")
    if checkpoint.has_last(folder):  # saved weights have taken the place of those it began with
        free |= affecting("start")
    unsaved = values_before()  # a subclass's name does not say which settings it has
    now = unsaved | json.loads(json.dumps(config.settings))  # as the saved ones were written
    now |= {name: config[name] for name in ("model", "dataset")}
    before = {**unsaved, **saved["settings"], "model": saved["model"], "dataset": saved["dataset"]}
    different = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*before, *now} - free)
        if before.get(key) != now.get(key)
    ]
    if different:
        raise CheckpointError(
            f"{folder}: cannot be resumed with other settings: {'; '.join(different[:5])}"
        )
    return saved["settings"]


def note_run(config, folder: Path) -> None:
    """Note the folder of a run for later attempts at the same training (``attempts_dir``)."""
    if config["attempts_dir"]:
        write_text(_note(config), str(folder))


def noted_run(config) -> str | None:
    """Folder of the run that an earlier attempt has begun and that can be continued, if any.

    The first process reads it for all: they must agree.
    """
    if not (config["attempts_dir"] and config["checkpoint_every"]):
        return None
    note = _note(config)
    found = note.read_text(encoding="utf-8") if note.exists() else None
    return process_group.gather(config, found)[0]


def _note(config) -> Path:
    """Note of one of the models that are trained one after another (``baselines``)."""
    detected = affecting("detected")
    settings = {key: value for key, value in config.settings.items() if key not in detected}
    digest = hashlib.sha256(to_json(settings).encode()).hexdigest()
    return Path(config["attempts_dir"], f"{config['model']}-{digest[:16]}")


def counters(model: torch.nn.Module) -> dict[tuple[str, str], int | float]:
    """Plain numbers among the attributes of a model's modules, by module and attribute.

    MultiVAE and LDiffRec count their steps in one.
    """
    return {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) in (int, float) and not name.startswith("_")
    }

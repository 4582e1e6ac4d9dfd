"""The part of a trainer that continues an interrupted run."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from recbole_lite import checkpoint, distributed
from recbole_lite.errors import CheckpointError
from recbole_lite.files import leftovers

# Settings that may differ between a run and its continuation.
FREE_ON_RESUME = {
    "resume", "epochs", "stopping_step", "checkpoint_dir", "checkpoint_every", "data_path",
    "show_progress", "state", "worker", "gpu_id", "use_gpu", "baselines", "sample_users",
    "log_wandb", "eval_batch_size", "item_embedding_cache_dir",
    "local_files_only", "end_epoch",
}  # fmt: skip


# Weights that a run began with: what is saved has taken their place.
BEGAN_WITH = {"init_from", "pre_model_path"}


class Resuming:
    """What a trainer keeps of its state, and how it goes on from there."""

    def _state(self, epoch) -> dict:
        best = self.best_valid_result
        return {
            "epoch": epoch,
            "stage": [self._stage, self._stage_begin],
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
            "random": checkpoint.random_state(self._generator),
            "vocabulary": self._vocabulary and self._vocabulary.sha256,
        }

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Attributes that hold optimisers, one name each: RecVAE's trainer has two."""
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
        last = checkpoint.load_last(folder)
        mine = distributed.is_first(self.config)
        for stale in leftovers(folder) if mine else ():  # else it may be the first one's at work
            stale.unlink(missing_ok=True)
        if last is None:
            if not settings.get("checkpoint_every"):
                raise CheckpointError(f"{folder}: the run saved no epochs (checkpoint_every: 0)")
            self._use(folder)
            if mine:
                checkpoint.save_yaml(folder, self.config)  # the kill may have come before it
            self.logger.warning(f"{folder}: no epoch was finished; starting from the beginning")
            return
        tensors, state = last
        if state["best_valid_result"] or not self.config["eval_step"]:
            checkpoint.load_weights(folder / checkpoint.BEST_FILE)  # a damage is better known now
        self._resumed = folder, state.get("vocabulary")  # compared when the data are known
        self._restore(tensors, state, folder)
        self._use(folder)
        if mine:
            checkpoint.save_yaml(folder, self.config)  # epochs, say, may be others than before
        self.logger.info(f"Resuming {folder} after epoch {state['epoch']}")

    def _restore(self, tensors, state, folder: Path):
        """Take on the weights and the state of the last epoch."""
        checkpoint.restore_model(self.model, tensors, folder)
        if len(self.stages) > 1:
            self._enter(*state["stage"])
        # Version 0.1 saved the trainer's own optimiser alone, and no counters.
        saved = state.get("optimizers") or {"optimizer": state["optimizer"]}
        for name, optimizer in saved.items():
            own = getattr(self, name)
            for group, its in zip(optimizer["param_groups"], own.param_groups, strict=False):
                if "fused" in its:
                    group["fused"] = its["fused"]  # this device's way, not that of the checkpoint
            own.load_state_dict(optimizer)
        for (path, name), number in state.get("counters", {}).items():
            setattr(self.model.get_submodule(path), name, number)
        for name in ("cur_step", "best_valid_score", "best_valid_result", "train_loss_dict"):
            setattr(self, name, state[name])
        self.history = state["history"]
        self._steps = state["steps"]
        self._random_state = state["random"]
        self._schedule_state = state["schedule"]
        self.start_epoch = state["epoch"] + 1
        if self.cur_step > self.stopping_step:
            self.start_epoch = self.epochs  # the stage had stopped by itself


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
    free = FREE_ON_RESUME | (BEGAN_WITH if checkpoint.has_last(folder) else set())
    now = json.loads(json.dumps(config.settings))  # as the saved ones were written
    now |= {name: config[name] for name in ("model", "dataset")}
    before = {**saved["settings"], "model": saved["model"], "dataset": saved["dataset"]}
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


def counters(model: torch.nn.Module) -> dict[tuple[str, str], int | float]:
    """Plain numbers of a model's modules, by module and attribute.

    Some models count their steps in one (MultiVAE, LDiffRec).
    """
    return {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) in (int, float) and not name.startswith("_")
    }

"""RecBole's trainers with checkpoints that cannot run code and can be resumed exactly."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import time

import torch
from torch.nn.parallel import DistributedDataParallel

from recbole_lite.config.stages import read_stages
from recbole_lite.data.device_transfer import batch_to_device
from recbole_lite.data.loaders import FirstBatches
from recbole_lite.data.vocabulary import Vocabulary
from recbole_lite.evaluator.collector import LiteCollector
from recbole_lite.evaluator.evaluator import LiteEvaluator
from recbole_lite.model.abstract_recommender import fixed_items
from recbole_lite.model.layers.sharded_embedding import sharded_tables
from recbole_lite.model.layers.softmax_loss import smooth_labels
from recbole_lite.trainer import checkpoint, data_parallel
from recbole_lite.trainer.compilation import compile_reader
from recbole_lite.trainer.initial_weights import next_train_stage
from recbole_lite.trainer.item_shards import whole_tables
from recbole_lite.trainer.matmul_backend import matrix_products, uses_onednn
from recbole_lite.trainer.nan_checks import NonFiniteGuard, check_scores, check_weights
from recbole_lite.trainer.resume import ResumeMixin, counters, note_run
from recbole_lite.trainer.row_updates import update_rows_only
from recbole_lite.trainer.trackers import SafeTracker, start_wandb, tensorboard_folder
from recbole_lite.trainer.training_loop import LOSSES_PER_CHECK, TrainingLoop
from recbole_lite.trainer.weight_averaging import WeightAverage
from recbole_lite.utils import process_group
from recbole_lite.utils.errors import CheckpointError, ConfigError, TrainingError
from recbole_lite.utils.paths import create_unique, run_name

_SHOWN = 10  # items that a report can show of a user


class LiteMixin(ResumeMixin):
    """Overrides for any of RecBole's trainers: metrics, checkpoints, resuming.

    It stands before RecBole's trainer of a model in the MRO, ``TrainingLoop`` behind it
    (:func:`~recbole_lite.config.registry.get_trainer`).

    Attributes
    ----------
    run_dir : Path
        Folder of the run's checkpoints, ``<checkpoint_dir>/<model>-<dataset>-<time>``; made at
        the first save.
    history : list of dict
        One entry per epoch with a validation: epoch, train_loss, valid_score, valid_result,
        seconds since the start of fit.
    """

    def __init__(self, config, model):
        self.stages = read_stages(config)
        uses_onednn(config["matmul_backend"], config["device"])  # a wrong value is to be known now
        self._stage = self._stage_first_epoch = 0  # number of the present stage; its first epoch
        self._steps = 0  # of the optimiser, in the present stage
        self.distributed_model = self._weighted = None
        with process_group.as_single_process(config), tensorboard_folder(config) as folder:
            super().__init__(config, model)
        self.tensorboard = SafeTracker(self.tensorboard, "TensorBoard")
        self._tensorboard_folder = folder
        if not process_group.is_main_process(config):
            self.disable_tensorboard()
        self.wandblogger = start_wandb(config)
        if len(self.stages) > 1:
            self._start_stage(0)
        else:
            self._wrap()
        self.evaluator = LiteEvaluator(config)
        self.eval_collector = LiteCollector(config)
        self.eval_collector.check = self.check_scores
        self.history: list[dict] = []
        self._run_dir: Path | None = None
        self._random_state = None
        self._generator = None
        self._schedule = self._schedule_state = None
        self._average: WeightAverage | None = None  # of ema_decay, within a stage
        self._average_state = None
        smooth_labels(model, config["label_smoothing"])
        self._first_counters = counters(model)
        self._validates, self._saves = True, False
        self._guard = self._evaluated = None
        self.saved_model_file = None
        self._vocabulary: Vocabulary | None = None  # of the data; known with the first loader
        self._vocabulary_saved_in: Path | None = None
        self._resumed: tuple[Path, str | None] | None = None  # from where, and its vocabulary

    def disable_tensorboard(self):
        """Remove the TensorBoard record: a trainer that only evaluates needs none."""
        self.tensorboard.close()
        self.tensorboard = SafeTracker(None, "TensorBoard")
        shutil.rmtree(self._tensorboard_folder, ignore_errors=True)

    # -- where ------------------------------------------------------------------------------

    @property
    def run_dir(self) -> Path:
        """Folder of the run; the first call makes it."""
        if self._run_dir is None:
            folder = create_unique(Path(self.checkpoint_dir), run_name(self.config))
            self._set_run_dir(folder)
            checkpoint.save_config(folder, self.config)
            note_run(self.config, folder)
        return self._run_dir

    def _set_run_dir(self, folder: Path):
        self._run_dir = folder
        self.saved_model_file = str(folder)  # RecBole's name for what load_data_and_model takes

    @property
    def train_losses(self) -> dict[int, float]:
        """Training loss by epoch, summed over the epoch's batches (RecBole's figure)."""
        return {epoch: float(loss) for epoch, loss in self.train_loss_dict.items()}

    def _save_vocabulary(self):
        """Write the raw ids; before the first weights, which a kill must not leave without them."""
        if self._vocabulary is not None and self._vocabulary_saved_in != self.run_dir:
            checkpoint.save_vocabulary(self.run_dir, self._vocabulary)
            self._vocabulary_saved_in = self.run_dir

    def _check_vocabulary(self, loader):
        """Take the vocabulary of the data, and compare it with that of a resumed run's weights."""
        self._vocabulary = getattr(loader._dataset, "vocabulary", None)
        if self._resumed is not None:
            (folder, named), self._resumed = self._resumed, None
            if named is None:
                checkpoint.warn_unknown_vocabulary(folder)
            checkpoint.check_vocabulary(named, self._vocabulary, folder)

    def _products(self, training: bool = True):
        return matrix_products(self.config["matmul_backend"], self.device, training)

    # -- saving -----------------------------------------------------------------------------

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """Save the weights as the best so far (RecBole calls this when validation improved)."""
        check_weights(self.model, epoch, self._last_good())
        with self.whole_tables():
            if process_group.is_main_process(self.config):
                self._save_best(epoch, verbose)
        if not self._validates and epoch >= 0:
            self._save_last(epoch)

    def whole_tables(self, optimizer=None) -> AbstractContextManager:
        """Block in which the main process has the whole item table (``shard_items``)."""
        return whole_tables(self.model, self._run_dir, optimizer)

    def _save_best(self, epoch, verbose):
        best = self.run_dir / checkpoint.BEST_FILE
        if epoch < 0 and best.exists():
            return  # RecBole saves when there is nothing left to train; the best stands already
        self._save_vocabulary()
        facts = {"epoch": epoch, "valid_score": float(self.best_valid_score)}
        facts["vocabulary"] = self._vocabulary and self._vocabulary.sha256
        facts |= checkpoint.initial_vectors(self.model)
        with self._averaged_weights():
            checkpoint.save_weights(best, self.model, checkpoint.FOR_TRAINING, **facts)
        if verbose:
            self.logger.info(f"Saved the best so far: {best}")

    def _save_last(self, epoch):
        every = self.config["checkpoint_every"]
        if every and (epoch + 1) % every == 0:
            self._write_last(epoch)

    def _write_last(self, epoch):
        """Save what a run is resumed from; all processes take part."""
        own = checkpoint.random_state(self._generator)
        random_states = process_group.gather(self.config, own)
        check_weights(self.model, epoch, self._last_good())
        with self.whole_tables(self.optimizer):
            if process_group.is_main_process(self.config):
                self._save_vocabulary()
                state = self._state(epoch, random_states)
                checkpoint.save_last(self.run_dir, epoch, self.model, state)

    def save_pretrained_model(self, epoch, saved_model_file):
        """Save after pre-training (S3Rec, RaCT), in a form that the model's torch.load takes."""
        path, stage = Path(saved_model_file), self.config["train_stage"]
        if stage != "pretrain":  # RaCT has two such stages; the second must not replace the first
            saved_model_file = path.with_stem(f"{path.stem}-{stage}")
        with self._averaged_weights():
            state = {"epoch": epoch, "state_dict": self.model.state_dict()}
            if self._vocabulary is not None:
                state["vocabulary"] = self._vocabulary.to_bytes().decode()
            checkpoint.write_atomically(saved_model_file, lambda path: torch.save(state, path))
        self.saved_model_file = str(saved_model_file)

    def pretrain(self, train_data, verbose=True, show_progress=False):
        """Pre-train; the last epoch is saved also where ``save_step`` does not meet it."""
        self._check_vocabulary(train_data)
        with self._products():
            result = super().pretrain(train_data, verbose, show_progress)
        if self.pretrain_epochs % self.save_step:
            name = f"{self.config['model']}-{self.config['dataset']}-{self.pretrain_epochs}.pth"
            self.save_pretrained_model(self.pretrain_epochs - 1, Path(self.checkpoint_dir, name))
        self.logger.info(f"Pre-trained weights: {self.saved_model_file}")
        return result

    # -- training ---------------------------------------------------------------------------

    def _start_stage(self, number: int, first_epoch: int = 0):
        """Apply the settings of a stage that starts with epoch `first_epoch`."""
        stage = self.stages[number]
        self._stage, self._stage_first_epoch, self._steps = number, first_epoch, 0
        self.start_epoch, self.epochs = first_epoch, first_epoch + stage.epochs
        self.learning_rate, self.weight_decay = stage.learning_rate, stage.weight_decay
        self.stopping_step, self.cur_step = stage.stopping_step, 0
        if hasattr(self.model, "start_stage"):
            self.model.start_stage(stage)
        self.optimizer = self._build_optimizer()
        self._schedule = self._schedule_state = self._average = self._average_state = None
        self._wrap()

    def _wrap(self):
        """Sum the gradients of what is trainable now over the processes, if there are several."""
        if not self.config["single_spec"]:
            self.distributed_model = None  # takes its hooks off the parameters
            # Over gloo or NCCL; the main process's weights go to all.
            ids = [self.device.index] if self.device.type == "cuda" else None
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
                self.model, list(sharded_tables(self.model))
            )
            self.distributed_model = DistributedDataParallel(self.model, device_ids=ids)

    def _build_optimizer(self, **kwargs):
        """RecBole's optimiser; AdamW spares norms and biases, ``adam_eps`` sets epsilon."""
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ConfigError(
                f"stage {self._stage + 1} trains nothing: frozen_parts and item_llm_training "
                "leave no trainable parameter"
            )
        if kwargs.get("learner", self.learner).lower() == "adamw" and "params" not in kwargs:
            kwargs["params"] = decay_groups(self.model, self.weight_decay)
        optimizer = super()._build_optimizer(**kwargs)
        for group in optimizer.param_groups:
            if self.config["adam_eps"] is not None and "eps" in group:
                group["eps"] = float(self.config["adam_eps"])
            if isinstance(optimizer, torch.optim.Adam):
                group["fused"] = True  # one kernel for all parameters, one pass over them
        if self.config["sparse_item_updates"]:
            update_rows_only(optimizer, self.model, self.config)
        return optimizer

    def _start_schedule(self):
        """Change the learning rate after every step of the optimiser (``lr_scheduler``)."""
        stage = self.stages[self._stage]
        name, share = stage.lr_scheduler, stage.warmup_ratio
        if len(self._optimizers()) > 1 and (len(self.stages) > 1 or name != "constant" or share):
            raise ConfigError(
                f"stages, lr_scheduler, warmup_ratio: {self.config['model']} has its own "
                "optimisers, which ignore these keys; leave them at their defaults"
            )
        if name == "constant" and not share:
            return
        if name == "constant":
            name = "constant_with_warmup"
        from transformers import get_scheduler

        total = min(stage.epochs * self._steps_per_epoch, stage.max_steps or math.inf)
        try:
            self._schedule = get_scheduler(name, self.optimizer, round(share * total), total)
        except ValueError as error:
            raise ConfigError(f"lr_scheduler: {error}") from None
        if self._schedule_state is not None:
            self._schedule.load_state_dict(self._schedule_state)
            rates = self._schedule.get_last_lr()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self.optimizer.register_step_post_hook(lambda *_: self._schedule.step())

    def _start_average(self):
        """Average the weights over the steps of the optimiser from now on (``ema_decay``)."""
        decay = self.config["ema_decay"]
        if decay is None:
            return
        if len(self._optimizers()) > 1:
            raise ConfigError(
                f"ema_decay: {self.config['model']} has its own optimisers; leave ema_decay at ~"
            )
        self._average = WeightAverage(self.model, self.optimizer, decay)
        if self._average_state is not None:
            self._average.restore(self._average_state)

    def _averaged_weights(self) -> AbstractContextManager:
        """Block in which the model has the averaged weights, where there are any."""
        return nullcontext() if self._average is None else self._average.applied()

    def fit(
        self,
        train_data,
        valid_data=None,
        verbose=True,
        saved=True,
        show_progress=False,
        callback_fn: Callable | None = None,
    ):
        """RecBole's fit for each stage, with a resumable checkpoint every ``checkpoint_every``.

        A stage begins with the best weights so far (the last ones, unless `saved`).
        """
        started = time()
        if self.config["compile"]:
            compile_reader(self.model, self.device)
        self._saves = saved
        self._check_vocabulary(train_data)
        self._generator = getattr(train_data, "generator", None)
        self._validates = bool(valid_data) and self.eval_step > 0
        # Once, before the first draw of windows: a resumed run must plan for as many steps.
        self._steps_per_epoch = self._count_steps(train_data)

        def after_epoch(epoch, valid_score):
            self.history.append(
                {
                    "epoch": epoch,
                    "train_loss": float(self.train_loss_dict[epoch]),
                    "valid_score": float(valid_score),
                    "valid_result": self._last_valid_result,
                    "seconds": time() - started,
                }
            )
            if saved:
                self._save_last(epoch)
                checkpoint.save_history(self.run_dir, self.history, self.train_losses)
            if callback_fn:
                callback_fn(epoch, valid_score)

        if self._random_state is not None:
            checkpoint.restore_random_state(self._random_state, self._generator)
        if saved and not self.config["single_spec"]:
            own = str(self.run_dir) if process_group.is_main_process(self.config) else None
            self._set_run_dir(Path(process_group.broadcast(self.config, own)))
        try:
            with self._products():
                result = self._fit_stages(
                    train_data, valid_data, verbose, saved, show_progress, after_epoch
                )
        finally:
            self.tensorboard.close()  # its thread and file; a later call would open them again
        if not saved or next_train_stage(self.config):  # pretrain() has saved
            return result
        has_best = (self.run_dir / checkpoint.BEST_FILE).exists()
        if not process_group.gather(self.config, has_best)[0]:
            self.logger.warning("No epoch was validated (eval_step); the last weights are used")
            self._save_checkpoint(max(self.train_loss_dict), verbose)
        process_group.barrier(self.config)
        return result

    def _fit_stages(self, *arguments):
        saved = arguments[3]
        result = self._fit_stage(*arguments)
        for number in range(self._stage + 1, len(self.stages)):
            first = max(self.train_loss_dict, default=-1) + 1
            if saved and (self.run_dir / checkpoint.BEST_FILE).exists():
                self._load_best(self.run_dir, before=first)
            self._start_stage(number, first)
            if saved and first and self.config["checkpoint_every"]:
                # A run killed later in this stage must not look for the best of the last one:
                # by then it may have been replaced.
                self._write_last(first - 1)
            result = self._fit_stage(*arguments)
        return result

    def _fit_stage(self, *arguments):
        if len(self.stages) > 1:
            self.logger.info(
                f"Stage {self._stage + 1} of {len(self.stages)}: {self.stages[self._stage]}"
            )
        most = self.stages[self._stage].max_steps
        if most is not None:
            self.epochs = min(
                self.epochs, self._stage_first_epoch + -(-most // self._steps_per_epoch)
            )
        if self.config["last_epoch"] is not None:
            self.epochs = min(self.epochs, self.config["last_epoch"])
        self._start_schedule()
        self._start_average()
        with warnings.catch_warnings():
            # RecBole's name for the scaler; nothing that a user could change.
            warnings.filterwarnings("ignore", r".*torch\.cuda\.amp\.GradScaler", FutureWarning)
            result = super().fit(*arguments)
        if self._average is not None:
            self._average.finish()
            self._average = None
        process_group.barrier(self.config)  # until the first process has saved
        return result

    def _train_epoch(self, train_data, epoch_idx, *arguments, **others):
        most = self.stages[self._stage].max_steps
        if most is not None:
            # At least one: where windows are drawn, earlier epochs may have had more than planned.
            left = max(most - self._steps, 1) * self.config["accumulate_steps"]
            train_data = FirstBatches(train_data, left)
        own = others.pop("loss_func", None) or (arguments[0] if arguments else None)
        own = own or getattr(self.model, "distillation", self.model.calculate_loss)
        shared = not self.config["single_spec"]
        if shared:
            terms = getattr(self.model, "loss_terms", len)  # what the loss is a mean over
            own = self._weighted = data_parallel.WeightedLoss(own, train_data, terms, self.model)
        # RecBole's loop hands the batch to the loss alone; a message about the loss wants its ids.
        remembered = LOSSES_PER_CHECK * self.config["accumulate_steps"]
        self._guard = NonFiniteGuard(own, train_data, epoch_idx, remembered)
        loss = super()._train_epoch(train_data, epoch_idx, self._guard, *arguments[1:], **others)
        if shared:
            data_parallel.average_batch_norms(self.model)
            loss = data_parallel.all_reduce_mean(loss, self.device)
        self._steps += self._count_steps(train_data)
        return loss

    def _count_steps(self, train_data) -> int:
        """Steps of the optimiser in a pass."""
        return -(-len(train_data) // self.config["accumulate_steps"])

    def count_targets(self, batch):
        """Number of targets of a batch, in all processes together."""
        return super().count_targets(batch) if self._weighted is None else self._weighted.total

    def _add_train_loss_to_tensorboard(self, epoch_idx, losses, tag="Loss/Train"):
        """Save also after an epoch without a validation: RecBole calls nothing else then."""
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)
        if self._saves and self._validates and (epoch_idx + 1) % self.eval_step:
            self._save_last(epoch_idx)

    def _valid_epoch(self, valid_data, show_progress=False):
        # RecBole puts every evaluation into the tracker's summary, which is the test's place.
        tracker, self.wandblogger = self.wandblogger, SafeTracker(None, "")
        try:
            with self._averaged_weights():
                score, result = super()._valid_epoch(valid_data, show_progress)
        finally:
            self.wandblogger = tracker
        self._last_valid_result = dict(result)
        return score, result

    def _check_nan(self, loss):
        """Refuse a loss that is not finite; of RecBole's trainers with a loop of their own."""
        if not torch.isfinite(loss):
            self._refuse_loss(loss.item(), 0)

    def _refuse_loss(self, value, steps_ago):
        batches_ago = steps_ago * self.config["accumulate_steps"]
        raise TrainingError(
            f"the training loss is {value} in {self._guard.where(batches_ago)}. Try a smaller "
            "learning_rate or set clip_grad_norm={'max_norm': 1.0}. " + self._last_good()
        )

    def _last_good(self) -> str:
        """Which weights are intact after a failed training, for messages."""
        if self._run_dir is None or not (self._run_dir / checkpoint.BEST_FILE).exists():
            return "No weights were saved before"
        return f"The best weights before this are intact: {self._run_dir / checkpoint.BEST_FILE}"

    # -- evaluation -------------------------------------------------------------------------

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """RecBole's evaluate over this project's checkpoints.

        A split without this part gives None; the best weights are loaded all the same.
        """
        if eval_data:
            self._check_vocabulary(eval_data)
        if load_best_model:
            path = Path(model_file or self.saved_model_file)
            self._load_best(path)
        self._evaluated, self.evaluator.ranked = eval_data, None
        self.eval_collector.loader = eval_data
        counts = getattr(self.model, "beam_counts", None)
        if counts is not None:
            counts.clear()
        with self._products(training=False), fixed_items(self.model):
            result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        if eval_data and counts is not None and not self.config["single_spec"]:
            process_group.all_reduce_counts(counts, self.device)
        if counts is not None and counts.beams:
            self.logger.info(str(counts))
        return result

    def _map_reduce(self, result, num_sample):
        """Return `result`: ``LiteCollector`` has gathered the users of all processes already."""
        return result

    def _full_sort_batch_eval(self, batched_data):
        batch, history, owner, _ = batched_data
        tables = sharded_tables(self.model).values()
        for table in tables:
            table.keep_best(max(*self.config["topk"], _SHOWN), history)
        batched_data = (batch_to_device(batch, self.device), *batched_data[1:])
        evaluated = batch, scores, *right = super()._full_sort_batch_eval(batched_data)
        # Without a target the row is another process's (data/sharding.py).
        return (batch[:0], scores[:0], *right) if tables and not len(owner) else evaluated

    def _neg_sample_batch_eval(self, batched_data):
        evaluated = batch, scores, *_ = super()._neg_sample_batch_eval(batched_data)
        if scores.dim() == 2:  # else: values, not a ranking
            self.check_scores(scores.amax(1), batch, batched_data[1])
        return evaluated

    def check_scores(self, largest, batch, owner=None):
        """Refuse scores that have no order (:mod:`recbole_lite.trainer.nan_checks`)."""
        check_scores(largest, batch, self._evaluated, self._last_good(), owner)

    def _load_best(self, path: Path, before: float = math.inf):
        path = path / checkpoint.BEST_FILE if path.is_dir() else path
        tensors, facts = checkpoint.load_weights(path)
        if facts.get("epoch", -1) >= before:
            raise CheckpointError(
                f"{path}: of epoch {facts['epoch']}, but the stage after it begins with epoch "
                f"{before}: the run went beyond its last resumable epoch. Start a new run"
            )
        checkpoint.check_vocabulary(facts.get("vocabulary"), self._vocabulary, path)
        checkpoint.restore_model(self.model, tensors, path, checkpoint.FOR_TRAINING)
        self.logger.info(f"Loaded the best weights: {path}")


class LiteTrainer(LiteMixin, TrainingLoop):
    """Trainer of every model that RecBole has no trainer of its own for."""


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Parameters for AdamW: matrices decay; vectors (norms, biases) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]

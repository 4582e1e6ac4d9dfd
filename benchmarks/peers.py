"""Time to accuracy: what every side shares, and the sides of other libraries.

    python benchmarks/time_to_accuracy.py --side=rectools --minutes=60 --rectools_python=PATH ...

starts this file with the Python of the library's own environment. The file imports NumPy, pandas,
torch, and the library of the side that it is asked for, but not recbole-lite.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

K = 10
CHECKPOINTS = (1, 2, 3, 6, 10, 15, 20, 30, 45, 60)  # minutes
WARM_UP = 0.02  # share of the time, with the linear schedule
PARTS = {"valid": 2, "test": 1}  # position of the target from the end of a user's sequence
FORGOTTEN = np.finfo(np.float32).min  # score of an item that a model does not know
Score = Callable[[list[np.ndarray]], np.ndarray]  # an array of items per user -> [B, n_items]


# -- data and metrics ---------------------------------------------------------------------------


@dataclass
class Sequences:
    """What the users had, in time order, as numbers of items from 0 on."""

    users: np.ndarray  # raw ids
    items: np.ndarray
    of_user: list[np.ndarray]

    def training(self) -> list[np.ndarray]:
        """Sequences without the targets of validation and test."""
        return [sequence[:-2] for sequence in self.of_user]

    def training_frame(self) -> pd.DataFrame:
        """Training interactions with their position in the user's sequence: one row each."""
        sequences = self.training()
        lengths = [len(sequence) for sequence in sequences]
        return pd.DataFrame(
            {
                "user_id": np.repeat(np.arange(len(sequences)), lengths),
                "item_id": np.concatenate(sequences),
                "position": np.concatenate([np.arange(length) for length in lengths]),
            }
        )


def read_sequences(data_path: str | Path, dataset: str) -> Sequences:
    """Read ``DATASET.inter``; rows with the same time keep the file's order."""
    path = Path(data_path, dataset, f"{dataset}.inter")
    rows = pd.read_csv(path, sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    rows.columns = [name.partition(":")[0] for name in rows.columns]
    rows = rows.sort_values("timestamp", kind="stable")
    users, user_names = pd.factorize(rows["user_id"], sort=True)
    items, item_names = pd.factorize(rows["item_id"], sort=True)
    order = np.argsort(users, kind="stable")
    ends = np.cumsum(np.bincount(users))[:-1]
    of_user = np.split(items[order], ends)
    if min(map(len, of_user)) < 3:
        raise SystemExit(f"{path}: a user has fewer than 3 interactions; leave-one-out needs them")
    return Sequences(np.asarray(user_names), np.asarray(item_names), of_user)


def target_ranks(score: Score, sequences: Sequences, part: str, batch: int = 512) -> np.ndarray:
    """Rank of each user's target, from 1, among the items that the user has not had.

    Items with the target's score are counted as ranked above it. A target that the user has had
    comes behind all items. `part` is a key of `PARTS`.

    Raises
    ------
    ValueError
        A score is not finite.
    """
    last, found = PARTS[part], []
    for start in range(0, len(sequences.of_user), batch):
        chosen = sequences.of_user[start : start + batch]
        histories = [sequence[:-last] for sequence in chosen]
        targets = np.array([sequence[-last] for sequence in chosen])
        scores = np.array(score(histories), dtype=np.float32)
        if not np.isfinite(scores).all():
            raise ValueError("a score is not finite")
        rows = np.arange(len(chosen))
        own = scores[rows, targets]
        for row, history in zip(scores, histories, strict=True):
            row[history] = -np.inf
        repeated = np.isneginf(scores[rows, targets])  # a seen item, which is no recommendation
        scores[rows, targets] = -np.inf
        ranks = 1 + (scores >= own[:, None]).sum(1)
        found.append(np.where(repeated, scores.shape[1] + 1, ranks))
    return np.concatenate(found)


def metrics(ranks: np.ndarray, k: int = K) -> dict[str, float]:
    """Recall and NDCG of one target per user."""
    hit = ranks <= k
    gain = hit / np.log2(ranks + 1)
    return {f"recall@{k}": float(hit.mean()), f"ndcg@{k}": float(gain.mean())}


def left_padded(sequences: list[np.ndarray], length: int, padding: int = 0) -> torch.Tensor:
    """The last `length` items of each, ``[B, length]``."""
    rows = np.full((len(sequences), length), padding, dtype=np.int64)
    for row, sequence in zip(rows, sequences, strict=True):
        if len(sequence):
            row[-len(sequence) :] = sequence[-length:]
    return torch.from_numpy(rows)


# -- time ---------------------------------------------------------------------------------------


class TimeIsUpError(Exception):
    """Ends a training after the last checkpoint."""


class Stopwatch:
    """Evaluates a model whenever its training has taken a number of minutes of processor time.

    It listens to torch's optimisers: no library's loop is changed. An evaluation is not part of the
    time and leaves the random numbers of the training alone.

    Parameters
    ----------
    sequences : Sequences
    minutes : list of float
        Training time at each checkpoint.
    schedule : {"constant", "linear"}
        Of the learning rate. linear: rises for `WARM_UP` of the time and falls to 0 at its end.
    on_point : callable
        Called with all points so far after each checkpoint.

    Attributes
    ----------
    preparation_seconds : float
        Processor time of the process before the training.
    """

    def __init__(
        self,
        sequences: Sequences,
        minutes: list[float],
        schedule: str,
        on_point: Callable[[list[dict]], None],
    ):
        self.sequences, self.minutes, self.schedule = sequences, list(minutes), schedule
        self.on_point, self.points, self.steps = on_point, [], 0
        self._evaluating = 0.0

    def train(self, model: torch.nn.Module, score: Score, fit: Callable[[], Any]) -> None:
        """Call `fit` and end it after the last checkpoint.

        Parameters
        ----------
        model : torch.nn.Module
            Put into evaluation mode for `score`.
        score : Score
        fit : callable
            Trains for longer than the minutes. Time counts from here, or from a later
            :meth:`start`.
        """
        self.model, self.score = model, score
        self.start()
        hooks = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        try:
            fit()
        except TimeIsUpError:
            return
        finally:
            for hook in hooks:
                hook.remove()
        raise RuntimeError("the training ended before its time")

    def start(self) -> None:
        """Start counting; what came before is preparation."""
        self._started = self.preparation_seconds = time.process_time()

    def seconds(self) -> float:
        """Processor time of the training so far."""
        return time.process_time() - self._started - self._evaluating

    def rate(self, share: float) -> float:
        """Factor of the learning rate after a share of the time."""
        if self.schedule == "constant":
            return 1.0
        return max(min(share / WARM_UP, (1 - share) / (1 - WARM_UP)), 0.0)

    def _before_step(self, optimizer, *_) -> None:
        if self.schedule == "constant":
            return
        factor = self.rate(self.seconds() / (60 * self.minutes[-1]))
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("planned_lr", group["lr"]) * factor

    def _after_step(self, *_) -> None:
        self.steps += 1
        while self.seconds() >= 60 * self.minutes[len(self.points)]:
            self._checkpoint()
            if len(self.points) == len(self.minutes):
                raise TimeIsUpError

    def _checkpoint(self) -> None:
        spent, began = self.seconds(), time.process_time()
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            found = {
                part: metrics(target_ranks(self.score, self.sequences, part)) for part in PARTS
            }
        for module, mode in modes.items():
            module.training = mode
        point = {"checkpoint": self.minutes[len(self.points)], "minutes": spent / 60}
        self.points.append({**point, "steps": self.steps, **found})
        self.on_point(self.points)
        self._evaluating += time.process_time() - began


def checkpoints(minutes: float, schedule: str) -> list[float]:
    """Minutes at which to evaluate; with a planned schedule only the end counts."""
    before = [m for m in CHECKPOINTS if m < minutes] if schedule == "constant" else []
    return [*before, minutes]


# -- sides of other libraries ---------------------------------------------------------------------

# "SASRec+" (Klenitskiy and Vasilev, RecSys 2023): its authors' settings for ml-1m, cross entropy
# over all items. They report R@10 0.3152, RecTools' authors 0.3144, after up to 100 epochs.
RECTOOLS_PLUS = {
    "n_blocks": 2, "n_heads": 1, "n_factors": 64, "dropout_rate": 0.1, "session_max_len": 200,
    "batch_size": 128,
}  # fmt: skip
# "eSASRec" (RecSys 2025): its authors' settings for ml-1m. They report R@10 0.3133.
RECTOOLS_ESASREC = {
    **RECTOOLS_PLUS, "layers": "LiGRLayers", "use_key_padding_mask": True,
    "loss": "sampled_softmax", "n_negatives": 256,
}  # fmt: skip
# Steps count on one core: smaller batches and a shorter window, chosen by the validation Recall@10
# after 3 minutes (docs/reproduce.md).
RECTOOLS_TUNED = {**RECTOOLS_PLUS, "session_max_len": 50, "batch_size": 32}
# The defaults of SasRec.from_params; RePlay has none for the batch.
REPLAY_TUNED = {"max_sequence_length": 50, "embedding_dim": 192, "batch_size": 32}
REPLAY_PLUS = {
    "num_blocks": 2, "num_heads": 1, "embedding_dim": 64, "dropout": 0.1,
    "max_sequence_length": 200, "batch_size": 16,
}  # fmt: skip


# (settings, sequences, stopwatch, seed): trains a side
Train = Callable[[dict[str, Any], Sequences, Stopwatch, int], None]


@dataclass
class Peer:
    """A side of another library."""

    label: str
    packages: tuple[str, ...]  # whose versions are reported; the first decides the environment
    train: Train
    settings: dict[str, Any]


def quiet_trainer(library, stopwatch: Stopwatch, max_epochs: int):
    """Trainer of (pytorch_)lightning on the CPU, which starts the stopwatch and writes nothing."""

    class Start(library.Callback):
        def on_train_start(self, trainer, module):
            stopwatch.start()

    return library.Trainer(
        max_epochs=max_epochs, accelerator="cpu", devices=1, logger=False, callbacks=[Start()],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


def train_rectools(settings: dict, sequences: Sequences, stopwatch: Stopwatch, seed: int) -> None:
    """RecTools' SASRecModel with its own Lightning trainer."""
    import pytorch_lightning
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel
    from rectools.models.nn.transformers.ligr import LiGRLayers

    pytorch_lightning.seed_everything(seed)
    frame = sequences.training_frame()
    frame["datetime"] = pd.Timestamp("2000-01-01") + pd.to_timedelta(frame.pop("position"), "s")
    frame["weight"] = 1.0
    settings = dict(settings)
    if settings.pop("layers", None):
        settings["transformer_layers_type"] = LiGRLayers
    model = SASRecModel(
        **settings, get_trainer_func=lambda: quiet_trainer(pytorch_lightning, stopwatch, 10**6)
    )
    dataset = Dataset.construct(frame)
    model._build_model_from_dataset(dataset)
    lightning, ids = model.lightning_model, np.zeros(len(sequences.items), dtype=np.int64)
    known = model.data_preparator.get_known_item_ids().astype(np.int64)
    ids[known] = model.data_preparator.item_id_map.convert_to_internal(known)

    def score(histories):
        own = [row[row > 0] for row in (ids[history] for history in histories)]
        net = lightning.torch_model
        table = net.item_model.get_all_embeddings()
        batch = {"x": left_padded(own, model.session_max_len)}
        users = net.encode_sessions(batch, table)[:, -1]
        towers = net.similarity_module
        scores = towers.session_tower_forward(users) @ towers.item_tower_forward(table).T
        return np.where(ids > 0, scores.numpy()[:, ids], FORGOTTEN)

    loader = model.data_preparator.get_dataloader_train()
    stopwatch.train(lightning, score, lambda: model._trainer.fit(lightning, loader))


def train_replay(settings: dict, sequences: Sequences, stopwatch: Stopwatch, seed: int) -> None:
    """RePlay's SasRec with its LightningModule and transforms; batches come from a tensor."""
    import lightning
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.nn.lightning import LightningModule
    from replay.nn.lightning.optimizer import OptimizerFactory
    from replay.nn.sequential import SasRec
    from replay.nn.transform.template import make_default_sasrec_transforms

    lightning.seed_everything(seed)
    settings, n_items = dict(settings), len(sequences.items)
    batch_size, window = settings.pop("batch_size"), settings["max_sequence_length"]
    feature = TensorFeatureInfo(
        "item_id", FeatureType.CATEGORICAL, is_seq=True, feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        cardinality=n_items, padding_value=n_items, embedding_dim=settings["embedding_dim"],
    )  # fmt: skip
    schema = TensorSchema([feature])
    net = SasRec.from_params(schema, **settings)
    module = LightningModule(net, optimizer_factory=OptimizerFactory())
    rows = left_padded(sequences.training(), window + 1, n_items)
    transforms = torch.nn.Sequential(*make_default_sasrec_transforms(schema)["train"])

    def batch_of(rows):
        items = torch.stack(rows)
        return transforms({"item_id": items, "item_id_mask": items != n_items})

    def score(histories):
        items = left_padded(histories, window, n_items)
        return net({"item_id": items}, items != n_items)["logits"].numpy()

    loader = torch.utils.data.DataLoader(rows, batch_size, shuffle=True, collate_fn=batch_of)
    trainer = quiet_trainer(lightning, stopwatch, max_epochs=-1)
    stopwatch.train(module, score, lambda: trainer.fit(module, loader))


RECTOOLS, REPLAY = ("rectools", "pytorch-lightning"), ("replay-rec", "lightning")
PEERS = {
    "rectools": Peer("RecTools SASRec, defaults", RECTOOLS, train_rectools, {}),
    "rectools-tuned": Peer("RecTools SASRec, tuned", RECTOOLS, train_rectools, RECTOOLS_TUNED),
    "rectools-plus": Peer("RecTools SASRec+", RECTOOLS, train_rectools, RECTOOLS_PLUS),
    "rectools-esasrec": Peer("RecTools eSASRec", RECTOOLS, train_rectools, RECTOOLS_ESASREC),
    "replay": Peer("RePlay SASRec", REPLAY, train_replay, REPLAY_TUNED),
    "replay-plus": Peer("RePlay SASRec+", REPLAY, train_replay, REPLAY_PLUS),
}


# -- running a side -------------------------------------------------------------------------------


def common_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of a run of one side."""
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--schedule", choices=("constant", "linear"), default="constant")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--set", default="{}", help="JSON: settings of the side to change")
    return parser


def run_side(args, description: dict[str, Any], train: Train, write: Callable) -> None:
    """Train a side on one thread and write its file after every checkpoint.

    `args` are those of :func:`common_options`; `description` is what the file says about the side,
    ``settings`` among it; `write` writes the file's content.
    """
    torch.set_num_threads(1)
    sequences = read_sequences(args.data_path, args.dataset)
    settings = {**description["settings"], **json.loads(args.set)}
    minutes = checkpoints(args.minutes, args.schedule)

    def on_point(points):
        last = points[-1]
        found = " ".join(f"{part} {last[part][f'recall@{K}']:.4f}" for part in PARTS)
        line = f"{description['side']}: {last['minutes']:.1f} minutes, {last['steps']} steps"
        print(f"{line}, R@{K} {found}", flush=True)
        write(
            {
                **description,
                "settings": settings,
                "dataset": args.dataset,
                "schedule": args.schedule,
                "minutes": args.minutes,
                "seed": args.seed,
                "users": len(sequences.users),
                "items": len(sequences.items),
                "preparation_seconds": stopwatch.preparation_seconds,
                "finished": len(points) == len(minutes),
                "points": points,
            }
        )

    stopwatch = Stopwatch(sequences, minutes, args.schedule, on_point)
    train(settings, sequences, stopwatch, args.seed)


def main() -> None:
    parser = common_options(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--side", choices=PEERS, required=True)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    peer = PEERS[args.side]
    versions = {name: metadata.version(name) for name in (*peer.packages, "torch", "numpy")}
    description = {
        "side": args.side,
        "label": peer.label,
        "settings": peer.settings,
        "environment": {"python": platform.python_version(), **versions},
    }

    def write(content):
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    run_side(args, description, peer.train, write)


if __name__ == "__main__":
    main()

"""What a training strategy costs: users and supervised positions a second.

    python benchmarks/training.py --dataset=ml-1m --data_path=DIR --out=results/training

LiteLLM4Rec with sampling, all and prefix, and RecBole's SASRec (all; it has no other way), at
equal size: two layers, d = 64, four heads, feed-forward 256, windows of 20, cross entropy over
all items. The models take turns, --repeats times --steps steps each, in one process; medians, and
the whole range. A position is a target that the loss asks for. "Hours for every target once" is
what a pass over all training targets takes at that speed.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from shared import parser_of, write
from tabulate import tabulate

from recbole_lite import LiteConfig, create_dataset, data_preparation
from recbole_lite.data.prefix_windows import TARGETS
from recbole_lite.experiments.reproduce.time_budget import TrainingSteps
from recbole_lite.trainer.matmul_backend import matrix_products

SIZE = 64
COMMON = {
    "item_llm": "minilm",
    "item_vector_norm": "unit",
    "rec_llm": "t5-small",
    "rec_llm_init": "scratch",
    "rec_llm_config": {
        "num_layers": 2,
        "d_model": SIZE,
        "d_ff": 4 * SIZE,
        "num_heads": 4,
        "d_kv": SIZE // 4,
    },
    "rec_llm_dropout": 0.2,
    "user_dropout": 0.2,
    # the same, by RecBole's names
    "n_layers": 2,
    "n_heads": 4,
    "hidden_size": SIZE,
    "inner_size": 4 * SIZE,
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "loss_type": "CE",
    "learner": "adamw",
    "show_progress": False,
    "state": "WARNING",
}
MODELS = {
    "LiteLLM4Rec, sampling": ("LiteLLM4Rec", {"train_strategy": "sampling"}),
    "LiteLLM4Rec, all": ("LiteLLM4Rec", {"train_strategy": "all"}),
    "LiteLLM4Rec, prefix": (
        "LiteLLM4Rec",
        {"train_strategy": "prefix", "rec_llm_causal": True, "user_pooling": "last"},
    ),
    "RecBole's SASRec, all": ("SASRec", {"train_strategy": "all"}),
}


def build(model: str, changes: dict, args) -> TrainingSteps:
    """A model of the common size and its training batches."""
    own = {"data_path": args.data_path, "train_batch_size": args.batch}
    config = LiteConfig(model, args.dataset, config_dict={**COMMON, **changes, **own})
    train_data, *_ = data_preparation(config, create_dataset(config))
    return TrainingSteps(config, train_data)


def run(training: TrainingSteps, steps: int) -> tuple[float, int, int]:
    """Seconds, users and positions of so many steps, data preparation included."""
    users = positions = 0
    started = time.perf_counter()
    with matrix_products(training.config["matmul_backend"], training.device):
        for _ in range(steps):
            batch = next(training.batches)
            users += len(batch["user_id"])
            targets = batch[TARGETS] > 0 if TARGETS in batch else batch["user_id"] > 0
            positions += int(targets.sum())
            training.step(batch)
    return time.perf_counter() - started, users, positions


def summarise(name: str, training: TrainingSteps, runs: list, targets: int) -> dict:
    """Medians and range of the repeats."""
    rates = sorted(positions / seconds for seconds, _, positions in runs)
    median = statistics.median(rates)
    return {
        "side": name,
        "trainable_parameters": sum(
            p.numel() for p in training.model.parameters() if p.requires_grad
        ),
        "sequences_per_s": statistics.median(users / seconds for seconds, users, _ in runs),
        "positions_per_s": median,
        "positions_per_s_range": [rates[0], rates[-1]],
        "hours_for_every_target_once": targets / median / 3600,
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = LiteConfig("Pop", args.dataset, config_dict={"data_path": args.data_path})
    dataset = create_dataset(config)
    targets = dataset.inter_num - 3 * (dataset.user_num - 1)  # not the first, nor the last two
    trainings = {name: build(*model, args) for name, model in MODELS.items()}
    for training in trainings.values():
        run(training, 2)  # warm-up
    runs = {name: [] for name in trainings}
    for _ in range(args.repeats):
        for name, training in trainings.items():
            runs[name].append(run(training, args.steps))
    results = [summarise(name, t, runs[name], targets) for name, t in trainings.items()]
    base = results[-1]["positions_per_s"]
    for result in results:
        result["positions_ratio_to_sasrec"] = result["positions_per_s"] / base
    print(
        tabulate(
            [
                [
                    r["side"],
                    f"{r['trainable_parameters']:,}",
                    f"{r['sequences_per_s']:,.0f}",
                    f"{r['positions_per_s']:,.0f}",
                    "{:,.0f} .. {:,.0f}".format(*r["positions_per_s_range"]),
                    f"{r['positions_ratio_to_sasrec']:.2f}x",
                    f"{r['hours_for_every_target_once']:.2f}",
                ]
                for r in results
            ],
            ["side", "trained", "sequences/s", "positions/s", "range", "to SASRec", "hours a pass"],
            colalign=("left", *("right",) * 6),
            disable_numparse=True,
        )
    )
    path = args.out and args.out / f"training-{args.dataset}.json"
    write(path, {"batch": args.batch, "results": results})


if __name__ == "__main__":
    main()

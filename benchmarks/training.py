"""What a training strategy costs: users and supervised positions a second.

    python benchmarks/training.py --dataset=ml-1m --data_path=DIR --out=results/training

LiteLLM4Rec with sampling, all and prefix, and RecBole's SASRec (all; it has no other way), at
equal size: two layers, d = 64, four heads, feed-forward 256, windows of 20, cross entropy over
all items. The sides take turns, --repeats times --steps steps each, in one process; medians, and
the whole range. A position is a target that the loss asks for. "Hours for every target once" is
what a pass over all training targets takes at that speed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

from recbole_lite import LiteConfig, create_dataset, data_preparation, get_trainer
from recbole_lite.data.prefix_windows import TARGETS
from recbole_lite.trainer.onednn_matmul import matrix_products
from recbole_lite.utils.environment import environment

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
SIDES = {
    "LiteLLM4Rec, sampling": ("LiteLLM4Rec", {"train_strategy": "sampling"}),
    "LiteLLM4Rec, all": ("LiteLLM4Rec", {"train_strategy": "all"}),
    "LiteLLM4Rec, prefix": (
        "LiteLLM4Rec",
        {"train_strategy": "prefix", "rec_llm_causal": True, "user_pooling": "last"},
    ),
    "RecBole's SASRec, all": ("SASRec", {"train_strategy": "all"}),
}


class Side:
    """A model with an endless stream of its training batches."""

    def __init__(self, model: str, changes: dict, args):
        settings = {
            **COMMON,
            **changes,
            "data_path": args.data_path,
            "train_batch_size": args.batch,
        }
        config = LiteConfig(model, args.dataset, config_dict=settings)
        train_data, *_ = data_preparation(config, create_dataset(config))
        self.products = config["matmul_backend"]
        self.model = config.model_class(config, train_data._dataset).to(config["device"]).train()
        self.optimizer = get_trainer(config["MODEL_TYPE"], model)(config, self.model).optimizer
        self.device = config["device"]
        self.batches = itertools.chain.from_iterable(itertools.repeat(train_data))
        self.parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def run(self, steps: int) -> tuple[float, int, int]:
        """Seconds, users and positions of so many steps, data preparation included."""
        users = positions = 0
        started = time.perf_counter()
        for _ in range(steps):
            batch = next(self.batches)
            users += len(batch["user_id"])
            asked = (batch[TARGETS] > 0).sum().item() if TARGETS in batch else len(batch["user_id"])
            positions += asked
            with matrix_products(self.products, self.device):
                self.optimizer.zero_grad()
                self.model.calculate_loss(batch.to(self.device)).backward()
                self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started, users, positions


def summarise(name: str, side: Side, runs: list, targets: int) -> dict:
    """Medians and range of the repeats."""
    rates = sorted(positions / seconds for seconds, _, positions in runs)
    median = statistics.median(rates)
    return {
        "side": name,
        "trainable_parameters": side.parameters,
        "sequences_per_s": statistics.median(users / seconds for seconds, users, _ in runs),
        "positions_per_s": median,
        "positions_per_s_range": [rates[0], rates[-1]],
        "hours_for_every_target_once": targets / median / 3600,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
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
    sides = {name: Side(*side, args) for name, side in SIDES.items()}
    for side in sides.values():
        side.run(2)  # warm-up
    runs = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, side in sides.items():
            runs[name].append(side.run(args.steps))
    results = [summarise(name, side, runs[name], targets) for name, side in sides.items()]
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
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = {
            "command": " ".join(["python", *sys.argv]),
            "environment": environment(),
            "batch": args.batch,
            "results": results,
        }
        path = args.out / f"training-{args.dataset}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What the same training time buys: accuracy of models and training strategies, side by side.

    python benchmarks/budget.py --dataset=ml-1m --data_path=DIR --minutes=8 --out=results/budget

Each side trains on one thread for so many minutes of processor time, which does not depend on
what else the machine does. Some steps are timed first, and their number (``max_steps``) is set
from that, so that a falling learning rate ends at 0 and the run can be repeated exactly. The time
for validation comes on top. All sides have the same split, ranking and metrics, and each has the
weights of its best validation. A side that has a result in ``--out`` is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

from recbole_lite import LiteConfig, create_dataset, data_preparation, get_trainer, run
from recbole_lite.report.environment import environment

PREFIX = {"config_files": ["properties/prefix/ml-1m.yaml"]}
# "default" is RecBole's file. "tuned": what papers that compare with SASRec found to matter, and
# smaller batches, because 2,048 leaves few steps in a short time.
TUNED = {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "train_batch_size": 256}
ONE_BY_ONE = {**PREFIX, "train_batch_size": 256}
SCRATCH = {"llm_init": "scratch", "item_llm": "minilm"}
SIDES = {
    "prefix": ("LiteLLM4Rec", PREFIX),
    "all": ("LiteLLM4Rec", {**ONE_BY_ONE, "train_strategy": "all"}),
    "sampling": ("LiteLLM4Rec", {**ONE_BY_ONE, "train_strategy": "sampling"}),
    "prefix-frozen": ("LiteLLM4Rec", {**PREFIX, "item_llm_training": "frozen"}),
    "prefix-two-stage": ("LiteLLM4Rec", {**PREFIX, "two_stages": True}),
    "paper-all": ("LiteLLM4Rec", {"rec_llm_init": "scratch", "item_llm": "minilm"}),
    "paper-sampling": (
        "LiteLLM4Rec",
        {"rec_llm_init": "scratch", "item_llm": "minilm", "train_strategy": "sampling"},
    ),
    "ItemLM": ("ItemLM", {}),
    "ItemLM-text": ("ItemLM", {"item_init": "text", "item_llm": "minilm"}),
    "ItemLM-text+id": ("ItemLM", {"item_init": "text+id", "item_llm": "minilm"}),
    "ItemLM-llama": ("ItemLM", {"lm_architecture": "llama"}),
    "SASRec": ("SASRec", {}),
    "SASRec-tuned": ("SASRec", TUNED),
    "BERT4Rec": ("BERT4Rec", {}),
    "BERT4Rec-tuned": ("BERT4Rec", TUNED),
    "FDSA": ("FDSA", {}),
    "FDSA-tuned": ("FDSA", TUNED),
    "P5": ("P5", SCRATCH),
    "POD": ("POD", SCRATCH),
    "LightLM": ("LightLM", SCRATCH),
}
FIRST_STAGE = 0.6  # share of the steps with frozen vectors
VALIDATIONS = 8  # at most: where an epoch is short, not after each
WARM_UP, TIMED = 3, 15  # steps


class Side:
    """Settings of a side, and what a step of it costs."""

    def __init__(self, name: str, args):
        self.name = name
        self.model, changes = SIDES[name]
        self.settings = {
            "seed": args.seed,
            "checkpoint_every": 0,
            "checkpoint_dir": str(args.out / "saved"),
            "data_path": args.data_path,
            "show_progress": False,
            **changes,
        }
        self.files = self.settings.pop("config_files", None)
        self.two_stages = self.settings.pop("two_stages", False)
        if self.model in ("P5", "POD"):
            self.settings["tokenizer"] = args.tokenizer
        self.dataset = args.dataset

    def config(self) -> LiteConfig:
        """Configure a run of this side."""
        return LiteConfig(self.model, self.dataset, self.files, config_dict=self.settings)

    def plan(self, seconds: float) -> dict:
        """Set the length of the training; seconds of processor time of a step, and their number."""
        config = self.config()
        train_data, *_ = data_preparation(config, create_dataset(config))
        model = config.model_class(config, train_data._dataset).train()
        optimizer = get_trainer(config["MODEL_TYPE"], self.model)(config, model).optimizer
        batches = itertools.chain.from_iterable(itertools.repeat(train_data))
        times = []
        for _ in range(WARM_UP + TIMED):
            started = time.process_time()
            optimizer.zero_grad()
            model.calculate_loss(next(batches)).backward()
            optimizer.step()
            times.append(time.process_time() - started)
        step = statistics.mean(times[WARM_UP:])  # the mean: a long step is part of the budget
        steps, epoch = max(int(seconds / step), 1), len(train_data)
        epochs = math.ceil(steps / epoch)
        if epochs > VALIDATIONS or hasattr(model, "beam_counts"):
            # A beam search over all users is dear: once, at the end.
            validations = 1 if hasattr(model, "beam_counts") else VALIDATIONS
            self.settings["eval_step"] = epochs // validations
            epochs = self.settings["eval_step"] * validations  # the last epoch is validated
            steps = min(steps, epochs * epoch)
        self.settings |= {"max_steps": steps, "epochs": epochs, "stopping_step": VALIDATIONS}
        if self.two_stages:
            self._two_stages(steps, epoch)
        return {"step_seconds": step, "steps": steps, "steps_per_epoch": epoch}

    def _two_stages(self, steps: int, epoch: int) -> None:
        first = round(FIRST_STAGE * steps)
        lengths = [{"max_steps": n, "epochs": math.ceil(n / epoch)} for n in (first, steps - first)]
        self.settings["stages"] = [
            {**lengths[0], "item_llm_training": "frozen"},
            {**lengths[1], "item_llm_training": "embeddings", "learning_rate": 5e-4},
        ]


def measure(side: Side, minutes: float) -> dict:
    """Train and evaluate a side."""
    plan = side.plan(60 * minutes)
    print(f"{side.name}: {plan}", file=sys.stderr, flush=True)
    started = time.process_time()
    result = run(side.model, side.dataset, side.files, side.settings, per_user=True)
    users = result["per_user"]
    return {
        "side": side.name,
        "model": side.model,
        "config_files": side.files,
        "config_dict": side.settings,
        "minutes": minutes,
        **plan,
        "core_minutes_with_evaluation": (time.process_time() - started) / 60,
        "data": result["data"],
        "epochs": result["epochs"],
        "history": result["history"],
        "parameters": result["parameters"],
        "seconds": result["seconds"],
        "valid": {k: float(v) for k, v in (result["best_valid_result"] or {}).items()},
        "test": {k: float(v) for k, v in result["test_result"].items()},
        "beams": result["beams"],
        "environment": environment(),
        "command": " ".join(["python", *sys.argv]),
        "ranks": dict(zip(users["users"], map(int, users["ranks"]), strict=True)),
    }


def table(results: list[dict]) -> str:
    """One line a side."""
    metrics = ("recall@10", "ndcg@10")
    rows = [
        [
            r["side"],
            f"{r['parameters']:,}",
            f"{r['steps']:,}",
            f"{r['steps'] / r['steps_per_epoch']:.2f}",
            f"{r['steps'] * r['step_seconds'] / 60:.1f}",
            *(f"{r[part].get(m, math.nan):.4f}" for part in ("valid", "test") for m in metrics),
        ]
        for r in results
    ]
    head = ["side", "trained", "steps", "passes", "minutes"]
    head += [f"{part} {m}" for part in ("valid", "test") for m in ("R@10", "N@10")]
    return tabulate(rows, head, tablefmt="github", colalign=("left", *("right",) * 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--tokenizer", help="T5's, for P5 and POD: folder or hub name")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--sides", default="", help=f"comma-separated, of {', '.join(SIDES)}")
    parser.add_argument("--out", type=Path, default=Path("results", "budget"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.sides.split(",") if args.sides else list(SIDES)
    unknown = [name for name in names if name not in SIDES]
    if unknown:
        parser.error(f"unknown sides: {', '.join(unknown)}; there are {', '.join(SIDES)}")
    folder = args.out / args.dataset
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}-{args.seed}.json"
        if not path.exists():
            result = measure(Side(name, args), args.minutes)
            path.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
    results = [json.loads((folder / f"{name}-{args.seed}.json").read_text()) for name in names]
    text = table(results)
    (folder / "budget.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

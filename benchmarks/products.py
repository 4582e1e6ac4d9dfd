"""What matrix products of oneDNN and bfloat16 are worth in training (``matmul_backend``).

    python benchmarks/products.py --dataset=ml-1m --data_path=DIR --tokenizer=FOLDER \
        --out=results/products

First products of the shapes that training makes, then whole training steps of models. torch,
oneDNN and, where the processor has it, bfloat16 take turns in one process on one thread. Times are
of this process's work, medians of --repeats, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from shared import parser_of, write
from tabulate import tabulate

from recbole_lite import LiteConfig, create_dataset, data_preparation
from recbole_lite.experiments.reproduce.baselines import PREFIX, TUNED
from recbole_lite.experiments.reproduce.time_budget import TrainingSteps
from recbole_lite.trainer.matmul_backend import has_bfloat16, matrix_products, wants_onednn

# Rows, inputs, outputs of a layer: of prefix/ml-1m.yaml, of its head, of T5-small.
SHAPES = [
    (2560, 256, 256),
    (2560, 256, 1024),
    (2560, 1024, 256),
    (512, 256, 3416),
    (5120, 512, 512),
    (5120, 512, 2048),
]
KINDS = ("torch", "onednn", *["bf16"] * has_bfloat16())
TEXT = {"item_llm": "minilm"}
SCRATCH = {"rec_llm_init": "scratch", **TEXT}
MODELS = {
    "LiteLLM4Rec (T5-small), sampling": ("LiteLLM4Rec", {**SCRATCH, "train_strategy": "sampling"}),
    "LiteLLM4Rec, prefix/ml-1m.yaml": ("LiteLLM4Rec", TEXT),
    "ItemLM": ("ItemLM", {}),
    "POD (T5-small)": ("POD", {"llm_init": "scratch"}),
    "RecBole's SASRec": ("SASRec", {}),
    "RecBole's SASRec, tuned": ("SASRec", TUNED),
    "RecBole's BERT4Rec": ("BERT4Rec", {}),
}


def median_times(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Seconds of `work` by kind of product; the kinds take turns."""
    times = {kind: [] for kind in KINDS}
    for turn in range(repeats + 1):  # the first is a warm-up
        for kind in KINDS:
            with matrix_products(kind):
                started = time.process_time()
                work()
                if turn:
                    times[kind].append(time.process_time() - started)
    return {kind: statistics.median(found) for kind, found in times.items()}


def products(repeats: int) -> list[dict]:
    """GFLOP/s of a layer's output and of its two gradients."""
    rows = []
    for m, k, n in SHAPES:
        x, weight, grad = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
        kinds = {
            "output": lambda x=x, weight=weight: x @ weight.T,
            "gradient of the input": lambda grad=grad, weight=weight: grad @ weight,
            "gradient of the weight": lambda grad=grad, x=x: grad.T @ x,
        }
        for name, work in kinds.items():
            seconds = median_times(work, 3 * repeats)
            rates = {kind: 2e-9 * m * k * n / seconds[kind] for kind in KINDS}
            rows.append({"product": name, "shape": [m, k, n], "gflops": rates})
    return rows


def steps(name: str, args: argparse.Namespace) -> dict:
    """Seconds of one training step of a model."""
    model, changes = MODELS[name]
    settings = {"data_path": args.data_path, "show_progress": False, "state": "WARNING", **changes}
    if model == "POD":
        settings["tokenizer"] = args.tokenizer
    files = PREFIX if "prefix" in name else []
    config = LiteConfig(model, args.dataset, files, config_dict=settings)
    train_data, *_ = data_preparation(config, create_dataset(config))
    training = TrainingSteps(config, train_data)
    batch = next(training.batches)
    return {
        "model": name,
        "batch": len(batch),
        "trained": sum(p.numel() for p in training.model.parameters() if p.requires_grad),
        "seconds": median_times(lambda: training.step(batch), args.repeats),
    }


def text(found: dict) -> str:
    """Both tables in Markdown."""
    others = KINDS[1:]
    speed_ups = [f"{kind}, speed-up" for kind in others]
    first = [
        [
            row["product"],
            " x ".join(map(str, row["shape"])),
            *(f"{row['gflops'][kind]:.0f}" for kind in KINDS),
            *(f"{row['gflops'][kind] / row['gflops']['torch']:.2f}x" for kind in others),
        ]
        for row in found["products"]
    ]
    second = [
        [
            row["model"],
            f"{row['trained']:,}",
            row["batch"],
            *(f"{row['seconds'][kind]:.3f}" for kind in KINDS),
            *(f"{row['seconds']['torch'] / row['seconds'][kind]:.2f}x" for kind in others),
        ]
        for row in found["steps"]
    ]
    heads = (
        ["product", "rows x inputs x outputs", "torch, GFLOP/s", *others, *speed_ups],
        ["training step", "trained parameters", "batch", "torch, s", *others, *speed_ups],
    )
    return "\n\n".join(
        tabulate(rows, head, tablefmt="github", disable_numparse=True)
        for rows, head in zip((first, second), heads, strict=True)
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokenizer", help="T5's, for POD: folder or hub name; without, no POD")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results", "products"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in MODELS if args.tokenizer or "POD" not in name]
    found = {
        "dataset": args.dataset,
        "auto_is_onednn": wants_onednn(),
        "products": products(args.repeats),
        "steps": [steps(name, args) for name in names],
    }
    write(args.out / f"{args.dataset}.json", found, text(found))


if __name__ == "__main__":
    main()

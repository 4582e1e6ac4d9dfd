"""The Top-N task (paper, Section 5.4): one right item among 99 negatives.

    python benchmarks/topn.py --dataset=ml-100k --out=results/topn

LiteLLM4Rec over the candidates alone (the paper's form), with the user's history in front, and
both fine-tuned from a sequential model; beside them random guessing, Pop, and that sequential
model, which ranks the same candidates without having read them. One small size for all, as many
steps for each Top-N row, weights of the best validation Hit@10, test figures. P5 and POD can be
added by --tokenizer=FOLDER, at a tiny size and for one epoch: that shows that they run, and
nothing about how good they are. With the paper's size and a budget of time for each row:
``recbole-lite reproduce figure5``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

from recbole_lite import LiteConfig
from recbole_lite.experiments.reproduce.topn import INPUTS, rank_candidates
from recbole_lite.quick_start import run_one
from recbole_lite.utils.environment import environment

COMMON = {
    "MAX_ITEM_LIST_LENGTH": 10,
    "item_llm": "minilm",
    "item_vector_norm": "standardize",
    "rec_llm": "t5-small",
    "rec_llm_init": "scratch",
    "rec_llm_config": {"num_layers": 1, "d_model": 64, "d_ff": 256, "num_heads": 4, "d_kv": 16},
    "rec_llm_dropout": 0.1,
    "item_dropout": 0.1,
    "user_dropout": 0.1,
    "learning_rate": 2e-3,
    "train_batch_size": 128,
    "checkpoint_every": 0,
    "show_progress": False,
    "state": "WARNING",
}
TINY_T5 = {"num_layers": 1, "num_decoder_layers": 1, "d_model": 64, "d_ff": 128, "num_heads": 2}
GENERATIVE = {
    "llm_init": "scratch",
    "llm_config": {**TINY_T5, "d_kv": 32},
    "constrained_beams": True,
    "num_beams": 10,
    "epochs": 1,
    "eval_step": 1,
    "train_batch_size": 32,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--epochs", type=int, default=30, help="of each Top-N row (sampling)")
    parser.add_argument("--eval_step", type=int, default=5)
    parser.add_argument("--pretrain_epochs", type=int, default=5, help="sequential (all)")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokenizer", help="folder of T5's tokenizer: P5 and POD as well")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    common = {**COMMON, "data_path": args.data_path, "seed": args.seed}
    topn = {**common, "task": "topn", "train_strategy": "sampling", "epochs": args.epochs}
    topn |= {"eval_step": args.eval_step}
    rows = []

    def train(name, model, settings):
        started = time.perf_counter()
        config = LiteConfig(model, args.dataset, config_dict=settings)
        result = run_one(config, samples=False)
        row = {
            "row": name,
            "test": result["test_result"],
            "valid": result["best_valid_result"],
            "epochs": result["epochs"],
            "parameters": result["parameters"],
            "minutes": (time.perf_counter() - started) / 60,
            "candidates": {k: v["sha256"] for k, v in (result["candidates"] or {}).items()},
            "beams": result["beams"],
            "settings": settings,
        }
        rows.append(row)
        print(name, {k: round(float(v), 4) for k, v in row["test"].items()}, flush=True)
        return result

    pop = train("Pop", "Pop", topn)
    rows.insert(0, {"row": "random guessing", "test": pop["random_guess"]})
    sequential = {**common, "epochs": args.pretrain_epochs}
    folder = train("sequential", "LiteLLM4Rec", sequential)["run_dir"]
    row = rows.pop()  # ranked over all items; its figures are of another task
    config = LiteConfig("LiteLLM4Rec", args.dataset, config_dict=topn)
    test = rank_candidates(folder, config)["test"]
    rows.append({**row, "row": "sequential model, candidates not read", "test": test})
    for name, shown in INPUTS.items():
        changes = {**topn, **shown}
        train(name, "LiteLLM4Rec", changes)
        train(f"{name}, fine-tuned", "LiteLLM4Rec", {**changes, "init_from": folder})
    if args.tokenizer:
        for model in ("P5", "POD"):
            given = {**topn, **GENERATIVE, "tokenizer": args.tokenizer}
            train(f"{model}, tiny, one epoch", model, given)
    print(table(rows))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = {
            "command": " ".join(["python", *sys.argv]),
            "environment": environment(),
            "rows": rows,
        }
        text = json.dumps(content, indent=1, default=float)
        (args.out / f"{args.dataset}.json").write_text(text + "\n", encoding="utf-8")


def table(rows: list[dict]) -> str:
    names = list(rows[0]["test"])
    lines = [
        [row["row"], *(f"{row['test'][n]:.4f}" for n in names), f"{row.get('minutes', 0):.1f}"]
        for row in rows
    ]
    return tabulate(lines, ["", *names, "minutes"], disable_numparse=True, tablefmt="github")


if __name__ == "__main__":
    main()

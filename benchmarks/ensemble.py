"""An ensemble of ItemLM, distilled into one model of the same size (docs/distillation.md).

Trains the teachers (four seeds, a wider one), students with different settings, and two more seeds
of the student that is best on validation; prints a table. ``--students`` trains three seeds of each
student that it names, at once, and no other. Each result is a file below OUT, and what has one is
not trained again.

    python benchmarks/ensemble.py --data_path=DIR --out=OUT [--at_once=6] [--key=value ...]

``--at_once`` trainings share the machine: six students at once took 8.5 s per epoch on one H100.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_lite.experiments.ablate import AblationOptions, ablate
from recbole_lite.utils.paths import PROPERTIES

FILES = [PROPERTIES / "recommended.yaml"]
SEEDS = (2020, 2021, 2022)
BASE: dict[str, Any] = {
    "item_init": "text", "MAX_ITEM_LIST_LENGTH": 100, "lm_dropout": 0.2, "eval_batch_size": 2048,
    "eval_step": 4, "show_progress": False, "checkpoint_every": 0,
}  # fmt: skip
TEACHERS: dict[str, tuple[dict, tuple[int, ...]]] = {  # settings, seeds
    "teacher": ({}, (*SEEDS, 2023)),
    "teacher, d 384": (
        {"hidden_size": 384, "inner_size": 1536, "n_heads": 6, "lm_dropout": 0.3}, SEEDS[:1]
    ),
}  # fmt: skip
STUDENT = {"distill_loss": "scores", "distill_weight": 3, "lm_dropout": 0.1, "epochs": 24}
STUDENTS: dict[str, dict] = {
    "student": {},
    "student, dropout 0.05": {"lm_dropout": 0.05},
    "student, dropout 0.2": {"lm_dropout": 0.2},
    "student, weight 1": {"distill_weight": 1},
    "student, weight 10": {"distill_weight": 10},
    "student, 3 layers": {"n_layers": 3},
}


def train(job: tuple[str, dict, int], args: argparse.Namespace) -> dict[str, Any]:
    """Train one model; the record of its run."""
    name, changes, seed = job
    out = args.out / name.replace(", ", "-").replace(" ", "_")
    settings = {**BASE, **changes, "data_path": args.data_path}
    options = AblationOptions(rows=[], seeds=[seed], out=out, command=args.command)
    ablate("ItemLM", args.dataset, FILES, settings, args.overrides, options)
    return json.loads((out / f"ItemLM-{seed}.json").read_text(encoding="utf-8"))


def run(args: argparse.Namespace) -> str:
    """Train what is missing; the table."""
    if args.at_once == 1:
        return _run(args, map)
    with get_context("spawn").Pool(args.at_once) as pool:  # an error or Ctrl-C ends its processes
        return _run(args, partial(pool.imap, chunksize=1))


def _run(args: argparse.Namespace, mapped: Callable) -> str:
    found: dict[tuple[str, int], dict[str, Any]] = {}

    def train_all(jobs: list[tuple[str, dict, int]]) -> None:
        for (name, _, seed), record in zip(
            jobs, mapped(partial(train, args=args), jobs), strict=True
        ):
            found[name, seed] = record
            print(f"{name}, seed {seed}: {record['valid']}, test {record['test']}", flush=True)

    train_all([(name, of, seed) for name, (of, seeds) in TEACHERS.items() for seed in seeds])
    teachers = [record["run_dir"] for record in found.values()]
    students = {
        name: {**STUDENT, **STUDENTS[name], "distill_from": teachers}
        for name in args.students or STUDENTS
    }
    seeds = SEEDS if args.students else SEEDS[:1]
    train_all([(name, of, seed) for seed in seeds for name, of in students.items()])
    best = max(students, key=lambda name: sum(found[name, s]["valid"]["ndcg@10"] for s in seeds))
    train_all([(best, students[best], seed) for seed in SEEDS if seed not in seeds])
    rows = [
        [name, seed, f"{r['parameters']:,}", r["epochs"], *(r[part][metric] for part in
         ("valid", "test") for metric in ("recall@10", "ndcg@10"))]
        for (name, seed), r in found.items()
    ]  # fmt: skip
    head = ["", "seed", "parameters", "epochs", "valid R@10", "N@10", "test R@10", "N@10"]
    return tabulate(rows, head, floatfmt=".4f") + f"\n\nbest on validation: {best}"


def arguments(argv: list[str]) -> argparse.Namespace:
    """Command line; what it does not know are settings of all trainings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at_once", type=int, default=1, metavar="N")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, metavar="NAME")
    args, args.overrides = parser.parse_known_args(argv)
    args.command = shlex.join(["python", "benchmarks/ensemble.py", *argv])
    return args


if __name__ == "__main__":
    print(run(arguments(sys.argv[1:])))

"""``recbole-lite reproduce``: the paper's tables and figures, and the benchmark."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from recbole_lite.cli.common import add_command, split_names

EPILOG = """\
Runs the missing rows, reuses those in --out, prints the paper's figures beside the measured ones
and writes OUT/DATASET/TARGET.md. table5 and table6 come from one measurement.

Each row of table4 and figure5 is trained for --budget; the rows of table7 and figure4 take the
number of steps that the base model takes in this time. Without a network: --weights=scratch
--tokenizer=FOLDER. --models selects other rows than the paper's: for table4, any model that this
project compares, or "all" of them; for figure5, also "demo" (a small size); for table7 and figure4,
rows of properties/ablation. --with adds rows of related systems to table4 (docs/related_work.md).

benchmark trains each row of properties/benchmark for --budget, on all --datasets and with --seeds
seeds, and writes OUT/table.md and more (docs/benchmark.md).

examples:
  %(prog)s table4 --dataset=ml-1m --budget=30m
  %(prog)s table5 --dataset=ml-1m --tokenizer=t5-small-tokenizer
  %(prog)s figure4 --dataset=ml-100k --budget=90s --weights=scratch
  %(prog)s figure5 --dataset=ml-100k --budget=60s --weights=scratch
  %(prog)s table4 --budget=6m --weights=scratch --models="ItemLM, text;SASRec, tuned"
  %(prog)s table4 --dataset=ml-100k --budget=20m --with=e4srec,hllm
  %(prog)s table5 --tokenizer=t5-small-tokenizer --models="POD;SASRec" --autocast=bfloat16
  %(prog)s benchmark --datasets=ml-1m,amazon-beauty-2014 --budget=30m --weights=scratch
  %(prog)s benchmark --datasets=ml-1m --budget=30m --rows="SASRec;ItemLM, text" --seeds=1
  %(prog)s benchmark --datasets=amazon-toys-2014 --budget=10m --matmul_backend=bf16
"""
INTERRUPTED = "interrupted; the same command continues after the last row"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "reproduce the paper's tables and figures, or the benchmark"
    parser = add_command(commands, "reproduce", text, run, INTERRUPTED, epilog=EPILOG)
    add = parser.add_argument
    targets = "table4 | table5 | table6 | table7 | figure4 | figure5 | benchmark"
    add("target", help=targets)
    add("-d", "--dataset", default="ml-1m")
    add("--data_path", help="folder of the data sets")
    add("--budget", type=_minutes, default=30.0, metavar="30m", help="training time of a row")
    add("--weights", choices=["pretrained", "scratch"], default="pretrained")
    add("--tokenizer", help="T5's tokenizer, for P5 and POD: folder or Hub name")
    add("--seed", type=int, default=2020)
    add("--matmul_backend", metavar="bf16", help="of the rows' trainings (docs/training.md)")
    add(
        "--models",
        "--rows",
        type=lambda text: split_names(text, ";"),
        default=(),
        metavar="A;B",
        help="names of the rows",
    )
    add(
        "--datasets",
        type=split_names,
        default=(),
        metavar="A,B",
        help="benchmark (default: --dataset)",
    )
    add("--seeds", type=_count, default=3, help="benchmark: seeds, from --seed on (default: 3)")
    add("--workers", type=_count, default=1, metavar="N", help="benchmark: cells at once")
    add("--ray_address", metavar="ADDRESS", help="benchmark: train on this Ray cluster, e.g. auto")
    add("--table_only", action="store_true", help="benchmark: the table of the cells in --out")
    add(
        "--with",
        dest="related",
        type=lambda text: split_names(text.lower()),
        default=(),
        metavar="A,B",
        help="table4: related systems beside the rows, tiger | e4srec | hllm | llm2rec | slmrec",
    )
    add("--batch_size", type=_count, default=32, help="table5: users per batch (default: 32)")
    add("--repeats", type=_count, default=5, help="table5: batches timed (default: 5)")
    add("--autocast", choices=["bfloat16", "float16"], help="table5 (default: float32)")
    add("--out", metavar="DIR", help="default: results/reproduce, of benchmark results/benchmark")


def run(args: argparse.Namespace) -> int:
    """Run what is missing of the target, and print it."""
    from recbole_lite.experiments.reproduce.paper_tables import Request, reproduce

    shared = ("dataset", "data_path", "weights", "tokenizer", "seed", "matmul_backend")
    timing = ("models", "related", "batch_size", "repeats", "autocast")
    benchmark = ("datasets", "seeds", "workers", "ray_address", "table_only")
    folder = "benchmark" if args.target == "benchmark" else "reproduce"
    request = Request(
        **{name: getattr(args, name) for name in (*shared, *timing, *benchmark)},
        minutes=args.budget,
        out=Path(args.out or Path("results", folder)),
        command=args.typed,
        log=lambda line: print(line, flush=True),
    )
    print(f"\n{reproduce(args.target, request)}")
    return 0


def _minutes(text: str) -> float:
    """Minutes of ``90s``, ``30m``, ``2h``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: write a time such as 90s, 30m or 2h")
    return float(found[1]) * {"s": 1 / 60, "m": 1, "h": 60}[found[2]]


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number of at least 1")
    return int(text)

"""``recbole-lite reproduce``: the paper's tables and figures."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

EPILOG = """\
Runs what is missing, reuses what is in --out, prints the paper's figures beside the measured ones
and writes OUT/DATASET/TARGET.md. table5 and table6 come from one measurement.

Each row of table4 and figure5 is trained for --budget; the rows of table7 and figure4 as many
steps as the base model does in it. Without a network: --weights=scratch --tokenizer=FOLDER.

examples:
  %(prog)s table4 --dataset=ml-1m --budget=30m
  %(prog)s table5 --dataset=ml-1m --tokenizer=t5-small-tokenizer
  %(prog)s figure4 --dataset=ml-100k --budget=90s --weights=scratch
  %(prog)s figure5 --dataset=ml-100k --budget=60s --weights=scratch
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the subcommand ``reproduce``; its default ``func`` is `run`."""
    parser = subparsers.add_parser(
        "reproduce",
        help="run the paper's tables and figures",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("target", help="table4 | table5 | table6 | table7 | figure4 | figure5")
    parser.add_argument("-d", "--dataset", default="ml-1m")
    parser.add_argument("--data_path", help="folder of the data sets")
    parser.add_argument(
        "--budget", type=_minutes, default=30.0, metavar="30m", help="training time of a row"
    )
    parser.add_argument("--weights", choices=["pretrained", "scratch"], default="pretrained")
    parser.add_argument("--tokenizer", help="T5's: folder or hub name (P5 and POD)")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--out", default=os.path.join("results", "reproduce"), metavar="DIR")
    parser.set_defaults(
        func=run, interrupted="interrupted; the same command goes on after the last row"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the command line says; the result is the exit status. Errors are raised."""
    from recbole_lite.experiments.reproduce.paper_tables import Request, reproduce
    from recbole_lite.utils.files import check_folder

    check_folder(args.out, "--out")
    request = Request(
        dataset=args.dataset,
        data_path=args.data_path,
        minutes=args.budget,
        weights=args.weights,
        tokenizer=args.tokenizer,
        seed=args.seed,
        out=Path(args.out),
        command=shlex.join(["recbole-lite", *sys.argv[1:]]),
        say=lambda line: print(line, flush=True),
    )
    print(f"\n{reproduce(args.target, request)}")
    return 0


def _minutes(text: str) -> float:
    """Minutes of ``90s``, ``30m``, ``2h``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: write a time such as 90s, 30m or 2h")
    return float(found[1]) * {"s": 1 / 60, "m": 1, "h": 60}[found[2]]

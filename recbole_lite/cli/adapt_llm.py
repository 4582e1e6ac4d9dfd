"""``recbole-lite adapt-llm``: adapt an Item LLM to the histories of a data set."""

from __future__ import annotations

import argparse

from recbole_lite.cli.common import add_command, add_dataset_arguments, config_files

EPILOG = """\
Trains a copy of a language model on the training part of a data set (LLM2Rec, docs/adapt_llm.md)
and writes it to the folder of --out, for item_llm. A causal language model learns to write the next
title, then to see both directions, then to tell items apart; an encoder learns which items follow
each other. Keys of properties/adapt_llm.yaml, and those of the data, can be given as --key=value.

The same command continues an interrupted adaptation. The report, also in report.md, compares the
nearest items before and after.

examples:
  %(prog)s --llm=minilm --dataset=ml-100k --out=adapted/minilm
  recbole-lite run --model=ItemLM --dataset=ml-100k --item_init=text --item_llm=adapted/minilm
"""
INTERRUPTED = "interrupted; the same command continues after the last checkpoint"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "adapt an Item LLM to the histories of a data set"
    parser = add_command(commands, "adapt-llm", text, run, INTERRUPTED, epilog=EPILOG)
    parser.add_argument("--llm", required=True, help="hub name, folder or minilm, as item_llm")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the result")
    add_dataset_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Adapt, and print the report."""
    from recbole_lite.experiments.adapt_llm.adapt import adapt_llm

    with config_files(args):
        report = adapt_llm(args.llm, args.out, args.dataset, args.config_files, args.overrides)
    print(f"{report}\nUse it: --item_llm={args.out}")
    return 0

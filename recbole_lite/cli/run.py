"""``recbole-lite run``: train and evaluate a model; with ``--tune``, a sweep."""

from __future__ import annotations

import argparse

from recbole_lite.cli.common import add_command, add_training_arguments, config_files

EPILOG = """\
Any key of RecBole or of this project can be given as --key=value. Settings are resolved in this
order, highest priority first: the command line, --config_files (the last file first), properties/
of this project, RecBole's own defaults.

examples:
  %(prog)s --model=LiteLLM4Rec --dataset=ml-1m
  %(prog)s --model=LiteLLM4Rec --dataset=ml-100k --item_llm=minilm --rec_llm_init=scratch
  %(prog)s --model=SASRec --dataset=ml-1m --data_path=data --learning_rate=1e-3
  %(prog)s --model=BERT4Rec --dataset=ml-100k --config_files=a.yaml --config_files="my b.yaml"
  %(prog)s --model=S3Rec --dataset=ml-100k --train_stage=pretrain --pretrain_epochs=50
  %(prog)s --model=LiteLLM4Rec --dataset=ml-1m --resume=saved/LiteLLM4Rec-ml-1m-...
  %(prog)s --model=LiteLLM4Rec --dataset=ml-1m --num_workers=4 --ray-address=auto

--tune=FILE searches hyper-parameters with Ray Tune (docs/sweeps.md); the keys of
properties/tune.yaml can then be given as well:
  %(prog)s --model=LiteLLM4Rec --dataset=ml-100k --tune=properties/hyper/LiteLLM4Rec.yaml \\
      --num_samples=20 --max_concurrent=4 --ray-address=auto
  %(prog)s --resume=saved/tune-LiteLLM4Rec-ml-100k-...
"""
INTERRUPTED = "interrupted; --resume=FOLDER continues a run that has saved"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "train and evaluate a model"
    add_training_arguments(add_command(commands, "run", text, run, INTERRUPTED, epilog=EPILOG))


def run(args: argparse.Namespace) -> int:
    """Train a model, or run a sweep."""
    from recbole_lite.cli import tune

    with config_files(args):
        if tune.is_sweep(args.overrides):
            args.interrupted = tune.INTERRUPTED
            return tune.run_sweep(args)
        return train(args)


def train(args: argparse.Namespace) -> int:
    """Train and evaluate a model, and print its result."""
    from recbole_lite import run
    from recbole_lite.report.run_summary import render

    result = run(
        model=args.model,
        dataset=args.dataset,
        config_file_list=args.config_files,
        overrides=args.overrides,
    )
    print(render(result))
    return 0

"""Command line: ``recbole-lite <subcommand>`` and ``run_recbole_lite.py``.

Parses, calls, prints; an error that the user can mend is printed as its message alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from recbole_lite.errors import RecboleLiteError

RUN_EPILOG = """\
Any key of RecBole or of this project can be given as --key=value. What counts, from the
strongest: the command line, --config_files (the last file first), properties/ of this project,
RecBole's own defaults.

examples:
  %(prog)s --model=LiteLLM4Rec --dataset=ml-1m
  %(prog)s --model=LiteLLM4Rec --dataset=ml-100k --item_llm=minilm --rec_llm_init=scratch
  %(prog)s --model=SASRec --dataset=ml-1m --data_path=data --learning_rate=1e-3
  %(prog)s --model=BERT4Rec --dataset=ml-100k --config_files="a.yaml b.yaml"
  %(prog)s --model=S3Rec --dataset=ml-100k --train_stage=pretrain --pretrain_epochs=50
  %(prog)s --model=LiteLLM4Rec --dataset=ml-1m --resume=saved/LiteLLM4Rec-ml-1m-...
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``recbole-lite``; the result is the exit status."""
    parser = argparse.ArgumentParser(
        prog="recbole-lite", description="LITE-LLM4Rec for RecBole.", allow_abbrev=False
    )
    _add_traceback(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run_arguments(
        commands.add_parser(
            "run",
            help="train and evaluate a model",
            epilog=RUN_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    )
    from recbole_lite.data import cli as data_cli

    data_cli.add_parser(commands)
    args, rest = parser.parse_known_args(argv)
    if args.command == "run":
        return _guarded(args, lambda: _run(args, rest))
    if rest:
        parser.error(f"cannot read {' '.join(rest)}")
    return _guarded(args, lambda: args.func(args))


def run_main(argv: Sequence[str] | None = None) -> int:
    """Run ``run_recbole_lite.py``: the subcommand ``run`` alone."""
    parser = argparse.ArgumentParser(
        prog="run_recbole_lite.py",
        description="Train and evaluate a model; RecBole's flags.",
        epilog=RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_run_arguments(parser)
    args, rest = parser.parse_known_args(argv)
    return _guarded(args, lambda: _run(args, rest))


def _add_run_arguments(parser):
    parser.add_argument("-m", "--model", help="LiteLLM4Rec, or one of RecBole's models")
    parser.add_argument("-d", "--dataset", help="name of a dataset")
    parser.add_argument("--config_files", default="", help='YAML files: "a.yaml b.yaml"')
    _add_traceback(parser)


def _add_traceback(parser):
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show where in the code an error was raised",
    )


def _run(args, overrides: list[str]) -> int:
    from recbole_lite import run
    from recbole_lite.report.summary import render

    result = run(
        model=args.model,
        dataset=args.dataset,
        config_file_list=args.config_files.split(),
        overrides=overrides,
    )
    print(render(result))
    return 0


def _guarded(args, action) -> int:
    try:
        return action() or 0
    except RecboleLiteError as error:
        if getattr(args, "traceback", False):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; --resume=FOLDER continues a run that has saved", file=sys.stderr)
        return 130

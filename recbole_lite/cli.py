"""Command line: ``recbole-lite <subcommand>`` and ``run_recbole_lite.py``.

Parses, calls, prints; an error that the user can mend is printed as its message alone.
"""

from __future__ import annotations

import argparse
import shlex
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

--tune=FILE searches hyper-parameters with Ray Tune (docs/sweeps.md); the keys of
properties/tune.yaml can then be given as well:
  %(prog)s --model=LiteLLM4Rec --dataset=ml-100k --tune=properties/hyper/LiteLLM4Rec.yaml \\
      --num_samples=20 --max_concurrent=4 --ray-address=auto
  %(prog)s --resume=saved/tune-LiteLLM4Rec-ml-100k-...
"""

ABLATE_EPILOG = """\
Trains the base configuration, then one model per row. A row is a file of configuration keys,
properties/ablation/ROW.yaml; what it sets wins over --key=value and --config_files, which all
rows share. Shipped: fixT5, fixHead, scratch (the paper's Figure 4), item-t5-small, item-t5-base,
item-bert, item-sbert (its Table 7).

Each result is a file in the folder of --out as soon as it is there; the same command goes on after
the last one, and trains anew only what has other settings. A row that cannot run (no network for
its language model, say) is listed as "not run". Exit status: 0 if the base configuration ran.

examples:
  %(prog)s --dataset=ml-100k --rows=fixT5,fixHead --seeds=2020,2021,2022
  %(prog)s --dataset=ml-1m --train_strategy=sampling
  %(prog)s --dataset=ml-100k --rows_from=my_rows --out=results/mine --config_files=a.yaml
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
    from recbole_lite.reproduce import cli as reproduce_cli

    _add_traceback(reproduce_cli.add_parser(commands))
    _add_ablate_parser(commands)
    args, rest = parser.parse_known_args(argv)
    if args.command == "run":
        typed = shlex.join(["recbole-lite", *(sys.argv[1:] if argv is None else argv)])
        return _run_guarded(args, rest, typed)
    if args.command == "ablate":
        typed = shlex.join(["recbole-lite", *(sys.argv[1:] if argv is None else argv)])
        return _guarded(args, lambda: _ablate(args, rest, typed), AGAIN)
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
    words = sys.argv[1:] if argv is None else argv
    return _run_guarded(args, rest, shlex.join(["python", "run_recbole_lite.py", *words]))


def _add_run_arguments(parser):
    parser.add_argument("-m", "--model", help="LiteLLM4Rec, or one of RecBole's models")
    parser.add_argument("-d", "--dataset", help="name of a dataset")
    parser.add_argument("--config_files", default="", help='YAML files: "a.yaml b.yaml"')
    _add_traceback(parser)


def _add_ablate_parser(commands):
    parser = commands.add_parser(
        "ablate",
        help="train variants of a model and compare them",
        epilog=ABLATE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_run_arguments(parser)
    parser.set_defaults(model="LiteLLM4Rec")
    parser.add_argument("--rows", type=_names, metavar="A,B", help="default: all rows")
    parser.add_argument(
        "--seeds", type=_numbers, metavar="N,N", help="default: the configuration's seed alone"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="results and table (default: results/ablation/DATASET)"
    )
    parser.add_argument(
        "--rows_from", metavar="DIR", help="folder of the rows' files (default: the shipped ones)"
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in _names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write whole numbers, 2020,2021") from None


def _add_traceback(parser):
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show where in the code an error was raised",
    )


def _run_guarded(args, overrides: list[str], typed: str) -> int:
    from recbole_lite.tune import cli as tune_cli

    if tune_cli.is_sweep(overrides):
        action = lambda: tune_cli.run_sweep(args, overrides, typed)  # noqa: E731
        return _guarded(args, action, tune_cli.CONTINUE)
    return _guarded(args, lambda: _run(args, overrides))


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


def _ablate(args, overrides: list[str], typed: str) -> int:
    from recbole_lite.ablate import ROWS, ablate
    from recbole_lite.report.ablation import render

    summary = ablate(
        model=args.model,
        dataset=args.dataset,
        config_file_list=args.config_files.split(),
        overrides=overrides,
        rows=args.rows,
        seeds=args.seeds,
        out=args.out,
        rows_folder=args.rows_from or ROWS,
        command=typed,
        say=lambda line: print(line, flush=True),
    )
    print(f"\n{render(summary)}")
    missing = sum(not row["seeds"] for row in summary["rows"])
    print(f"{missing} of {len(summary['rows'])} rows did not run")
    return 0 if summary["rows"][0]["seeds"] else 2


CONTINUE = "interrupted; --resume=FOLDER continues a run that has saved"
AGAIN = "interrupted; the same command goes on after the last result"


def _guarded(args, action, interrupted: str = CONTINUE) -> int:
    try:
        return action() or 0
    except RecboleLiteError as error:
        if getattr(args, "traceback", False):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130

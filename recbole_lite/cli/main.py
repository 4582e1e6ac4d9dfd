"""Command line: ``recbole-lite <subcommand>`` and ``run_recbole_lite.py``.

Parses, calls, prints; an error that the user can mend is printed as its message alone.
"""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recbole_lite import __version__
from recbole_lite.utils import process
from recbole_lite.utils.errors import ConfigError, RecboleLiteError
from recbole_lite.utils.files import STANDARD, check_folder, spooled

RUN_EPILOG = """\
Any key of RecBole or of this project can be given as --key=value. What counts, from the
strongest: the command line, --config_files (the last file first), properties/ of this project,
RecBole's own defaults.

examples:
  %(prog)s --model=LiteLLM4Rec --dataset=ml-1m
  %(prog)s --model=LiteLLM4Rec --dataset=ml-100k --item_llm=minilm --rec_llm_init=scratch
  %(prog)s --model=SASRec --dataset=ml-1m --data_path=data --learning_rate=1e-3
  %(prog)s --model=BERT4Rec --dataset=ml-100k --config_files=a.yaml --config_files="my b.yaml"
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

CONTINUE = "interrupted; --resume=FOLDER continues a run that has saved"
AGAIN = "interrupted; the same command goes on after the last result"
CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE has ended
# No space, no right, no such place ...: nothing that this program could do about.
OF_THE_SYSTEM = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.EBADF, errno.ENOENT, errno.ENXIO, errno.ELOOP, errno.ESPIPE, errno.EPIPE,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``recbole-lite``; the result is the exit status."""
    return _program(_main, argv)


def run_main(argv: Sequence[str] | None = None) -> int:
    """Run ``run_recbole_lite.py``: the subcommand ``run`` alone."""
    return _program(_run_main, argv)


def _program(parse_and_do: Callable[..., int], argv: Sequence[str] | None) -> int:
    """Parse and do what the words say; `argv` None: this process is the program."""
    process.forget_signals()
    if argv is None:
        process.prepare()
        argv = sys.argv[1:]
    args = argparse.Namespace()  # filled by the parser, so that an error finds what was asked for
    try:
        return _guarded(args, lambda: parse_and_do(args, argv))
    finally:
        process.finish()


def _main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="recbole-lite", description="LITE-LLM4Rec for RecBole.", allow_abbrev=False
    )
    _add_traceback(parser)
    _add_version(parser)
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
    from recbole_lite.cli import data as data_cli
    from recbole_lite.cli import recommend as inference_cli
    from recbole_lite.cli import serve as serve_cli

    data_cli.add_parser(commands)
    inference_cli.add_parsers(commands)
    serve_cli.add_parser(commands)
    from recbole_lite.cli import reproduce as reproduce_cli

    _add_traceback(reproduce_cli.add_parser(commands))
    from recbole_lite.cli import export

    export.add_parser(commands)
    _add_ablate_parser(commands)
    from recbole_lite.cli import report as report_cli

    report_cli.add_parsers(commands)
    _, rest = parser.parse_known_args(argv, args)
    _check_not_empty(args)
    typed = shlex.join(["recbole-lite", *argv])
    if args.command in ("run", "ablate"):
        with _config_files(args):
            return (_run_or_sweep if args.command == "run" else _ablate)(args, rest, typed)
    if rest:
        parser.error(f"cannot read {' '.join(rest)}")
    return args.func(args)


def _run_main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="run_recbole_lite.py",
        description="Train and evaluate a model; RecBole's flags.",
        epilog=RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_version(parser)
    _add_run_arguments(parser)
    _, rest = parser.parse_known_args(argv, args)
    _check_not_empty(args)
    with _config_files(args):
        return _run_or_sweep(args, rest, shlex.join(["python", "run_recbole_lite.py", *argv]))


def _check_not_empty(args: argparse.Namespace) -> None:
    """Refuse ``--out=$UNSET``, which would do something else than what was meant."""
    for name, value in vars(args).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise ConfigError(f"{'RUN' if name == 'runs' else '--' + name} must not be empty")


def _add_run_arguments(parser):
    parser.add_argument("-m", "--model", help="LiteLLM4Rec, or one of RecBole's models")
    parser.add_argument("-d", "--dataset", help="name of a dataset")
    parser.add_argument(
        "--config_files",
        action="append",
        default=[],
        metavar="FILE",
        help='YAML file, -: standard input; repeat it for several, or write "a.yaml b.yaml"',
    )
    _add_traceback(parser)
    parser.set_defaults(interrupted=CONTINUE)


@contextmanager
def _config_files(args: argparse.Namespace) -> Iterator[None]:
    """Let `args.config_files` list paths that can be read again: streams are copied."""
    with ExitStack() as stack:
        paths = [path for given in args.config_files for path in _paths(given)]
        args.config_files = [str(stack.enter_context(spooled(path, ".yaml"))) for path in paths]
        yield


def _paths(given: str) -> list[str]:
    """A path, or RecBole's form, paths with spaces between."""
    parts = given.split()
    if given == STANDARD or len(parts) == 1 or Path(given).exists():
        return [given]
    missing = [part for part in parts if part != STANDARD and not Path(part).exists()]
    if missing:
        raise ConfigError(
            f"--config_files: there is no file {given!r}, and as several files no {missing[0]!r}; "
            "repeat --config_files for each file whose path has a space"
        )
    return parts


def _add_ablate_parser(commands):
    parser = commands.add_parser(
        "ablate",
        help="train variants of a model and compare them",
        epilog=ABLATE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_run_arguments(parser)
    parser.set_defaults(model="LiteLLM4Rec", interrupted=AGAIN)
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


def _add_version(parser):
    parser.add_argument("--version", action="version", version=f"recbole-lite {__version__}")


def _add_traceback(parser):
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show where in the code an error was raised",
    )


def _run_or_sweep(args, overrides: list[str], typed: str) -> int:
    from recbole_lite.cli import tune as tune_cli

    if tune_cli.is_sweep(overrides):
        args.interrupted = tune_cli.CONTINUE
        return tune_cli.run_sweep(args, overrides, typed)
    return _run(args, overrides)


def _run(args, overrides: list[str]) -> int:
    from recbole_lite import run
    from recbole_lite.report.run_summary import render

    result = run(
        model=args.model,
        dataset=args.dataset,
        config_file_list=args.config_files,
        overrides=overrides,
    )
    print(render(result))
    return 0


def _ablate(args, overrides: list[str], typed: str) -> int:
    from recbole_lite.experiments.ablate import ROWS, ablate
    from recbole_lite.report.ablation import render

    if args.out is not None:
        check_folder(args.out, "--out")
    summary = ablate(
        model=args.model,
        dataset=args.dataset,
        config_file_list=args.config_files,
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


def _guarded(args: argparse.Namespace, action: Callable[[], int]) -> int:
    try:
        return _flushed(action)
    except KeyboardInterrupt:
        return _interrupted(args)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and (error.filename or process.is_output_closed()):
            return CLOSED_PIPE
        if process.was_interrupted():  # the signal has torn something apart, a process group say
            return _interrupted(args)
        message = _message(error)
        if message is None or getattr(args, "traceback", False):
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2


def _flushed(action: Callable[[], int]) -> int:
    """Do it; what then cannot be written is an error of the command, ``--help`` included."""
    try:
        status = action() or 0
    except SystemExit:
        process.flush_output()
        raise
    process.flush_output()
    return status


def _interrupted(args: argparse.Namespace) -> int:
    print(getattr(args, "interrupted", "interrupted"), file=sys.stderr)
    return process.interrupted_status()


def _message(error: Exception) -> str | None:
    """What to tell of an error that the user can mend; None: it is the program's."""
    if isinstance(error, RecboleLiteError):
        return str(error)
    if isinstance(error, OSError) and error.errno in OF_THE_SYSTEM:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    return None

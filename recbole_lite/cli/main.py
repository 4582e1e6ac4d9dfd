"""Command line: ``recbole-lite <subcommand>`` and ``run_recbole_lite.py``.

Parses the arguments, runs the subcommand, and prints errors that the user can mend as one message.
"""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import shtab

from recbole_lite import __version__
from recbole_lite.cli import run
from recbole_lite.cli.common import add_traceback, add_training_arguments
from recbole_lite.utils import process
from recbole_lite.utils.errors import ConfigError, RecboleLiteError
from recbole_lite.utils.files import check_folder

SUBCOMMANDS = (  # the first five are those of a newcomer
    "data", "run", "compare", "recommend", "serve",
    "similar", "mcp", "calibrate", "update", "ablate", "reproduce", "adapt-llm", "encode", "report",
    "pack", "export",
)  # fmt: skip
EPILOG = """\
first steps:
  %(prog)s data list                                data sets that can be downloaded
  %(prog)s run --model=SASRec --dataset=ml-100k     train and evaluate; ml-100k needs no download
  %(prog)s compare saved/RUN saved/OTHER_RUN        test whether one run is better than another
  %(prog)s recommend --model=saved/RUN --history="1;50"
  %(prog)s serve --model=saved/RUN                  a web page and an HTTP service

COMMAND --help describes a command. Shell completion for bash:
  eval "$(%(prog)s --print-completion bash)"
"""
CLOSED_PIPE = 141  # a shell's status of a program that SIGPIPE has ended
# No space, no permission, no such path ...: nothing that this program could do about.
SYSTEM_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.EBADF, errno.ENOENT, errno.ENXIO, errno.ELOOP, errno.ESPIPE, errno.EPIPE,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``recbole-lite``; the result is the exit status."""
    return _run_program(build_parser, argv)


def run_main(argv: Sequence[str] | None = None) -> int:
    """Run ``run_recbole_lite.py``: the subcommand ``run`` alone."""
    return _run_program(_run_alone, argv)


def build_parser(argv: Sequence[str] = ()) -> tuple[argparse.ArgumentParser, list[str]]:
    """Parser of ``recbole-lite``, and how the program is called.

    It has one subcommand if `argv` begins with its name: others import packages that it can lack.
    """
    parser = argparse.ArgumentParser(
        prog="recbole-lite",
        description="Text-based sequential recommendation with LITE-LLM4Rec, for RecBole.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_traceback(parser)
    shtab.add_argument_to(parser, "--print-completion")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in argv[:1] if argv and argv[0] in SUBCOMMANDS else SUBCOMMANDS:
        import_module(f"recbole_lite.cli.{name.replace('-', '_')}").add_parser(commands)
    return parser, ["recbole-lite"]


def _run_alone(_: Sequence[str] = ()) -> tuple[argparse.ArgumentParser, list[str]]:
    """Parser of ``run_recbole_lite.py``, and how the program is called."""
    parser = argparse.ArgumentParser(
        prog="run_recbole_lite.py",
        description="Train and evaluate a model, with RecBole's flags.",
        epilog=run.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_training_arguments(parser)
    add_traceback(parser)
    parser.set_defaults(func=run.run, interrupted=run.INTERRUPTED)
    return parser, ["python", "run_recbole_lite.py"]


def _run_program(make_parser: Callable, argv: Sequence[str] | None) -> int:
    """Parse the arguments and run the command; `argv` None: this process is the program."""
    process.clear_signals()
    if argv is None:
        process.prepare()
        argv = sys.argv[1:]
    args = argparse.Namespace()  # filled by the parser, so that an error knows the command
    try:
        return _exit_status(args, lambda: _parse_and_run(args, argv, *make_parser(argv)))
    finally:
        process.finish()


def _parse_and_run(args, argv: Sequence[str], parser, program: list[str]) -> int:
    version = f"recbole-lite {__version__}"
    parser.add_argument("--version", action="version", version=version)
    _, rest = parser.parse_known_args(argv, args)
    if not hasattr(args, "func"):
        parser.print_help()
        return 0
    _check_not_empty(args)
    if getattr(args, "out", None) is not None:
        check_folder(args.out, "--out")
    if rest and not getattr(args, "takes_overrides", False):
        parser.error(f"cannot read {' '.join(rest)}")
    args.overrides, args.typed = rest, shlex.join([*program, *argv])
    return args.func(args)


def _check_not_empty(args: argparse.Namespace) -> None:
    """Refuse ``--out=$UNSET``, which would do something else than what was meant."""
    for name, value in vars(args).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise ConfigError(f"{'RUN' if name == 'runs' else '--' + name} must not be empty")


def _exit_status(args: argparse.Namespace, action: Callable[[], int]) -> int:
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
    if isinstance(error, OSError) and error.errno in SYSTEM_ERRORS:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    return None

"""What subcommands share: how their parsers are made, and arguments that several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recbole_lite.utils.errors import ConfigError, RequestError
from recbole_lite.utils.files import STANDARD, spooled


def add_command(
    commands: argparse._SubParsersAction,
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    interrupted: str = "interrupted",
    **others: str,
) -> argparse.ArgumentParser:
    """Add a subcommand.

    Parameters
    ----------
    commands : argparse action
        What ``ArgumentParser.add_subparsers`` returned.
    name, text : str
        Its name and its line in the list of all.
    run : callable
        Runs it; returns the exit status. Errors are raised.
    interrupted : str
        Printed after Ctrl-C.
    **others
        ``epilog`` or ``description``, printed as they are written.
    """
    parser = commands.add_parser(
        name,
        help=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **others,  # type: ignore[arg-type]
    )
    add_traceback(parser)
    parser.set_defaults(func=run, interrupted=interrupted)
    return parser


def split_names(text: str, separator: str = ",") -> tuple[str, ...]:
    """Names between separators."""
    return tuple(name.strip() for name in text.split(separator) if name.strip())


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """Add ``--traceback``."""
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print the traceback of an error",
    )


# -- training ---------------------------------------------------------------------------------


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a training takes; every other ``--key=value`` is a configuration key."""
    parser.add_argument("-m", "--model", help="LiteLLM4Rec, or one of RecBole's models")
    add_dataset_arguments(parser)


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a data set and settings; every other ``--key=value`` is a configuration key."""
    parser.add_argument("-d", "--dataset", help="name of a dataset")
    parser.add_argument(
        "--config_files",
        action="append",
        default=[],
        metavar="FILE",
        help='YAML file, -: standard input; repeat it for several, or write "a.yaml b.yaml"',
    )
    parser.set_defaults(takes_overrides=True)


@contextmanager
def config_files(args: argparse.Namespace) -> Iterator[None]:
    """Let `args.config_files` list paths that can be read again: streams are copied."""
    with ExitStack() as stack:
        paths = [path for given in args.config_files for path in _split_paths(given)]
        args.config_files = [str(stack.enter_context(spooled(path, ".yaml"))) for path in paths]
        yield


def _split_paths(given: str) -> list[str]:
    """A path, or RecBole's form, paths with spaces between."""
    parts = given.split()
    if given == STANDARD or len(parts) == 1 or Path(given).exists():
        return [given]
    missing = [part for part in parts if part != STANDARD and not Path(part).exists()]
    if missing:
        raise ConfigError(
            f"--config_files: there is no file {given!r}; read as several paths, {missing[0]!r} is "
            "missing; repeat --config_files for each file whose path has a space"
        )
    return parts


# -- a trained model --------------------------------------------------------------------------


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, the folder of a trained model."""
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of the model")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--runtime``."""
    parser.add_argument("--device", default="cpu", help="e.g. cuda (default: cpu)")
    parser.add_argument(
        "--runtime",
        choices=("auto", "onnx", "torch", "blocks", "ann"),
        default="auto",
        help="what computes the scores; auto (default): onnxruntime if available, of more than a "
        "million items torch by blocks; ann: an approximate index",
    )


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add ``--ray``, ``--ray_address`` and ``--cpus_per_worker``."""
    parser.add_argument(
        "--ray", action="store_true", help="spread the work over Ray's workers (docs/scaling.md)"
    )
    parser.add_argument(
        "--ray_address",
        "--ray-address",
        metavar="HOST:PORT",
        help="cluster to use with Ray, or auto (default: $RAY_ADDRESS, else this machine)",
    )
    parser.add_argument(
        "--cpus_per_worker",
        "--cpus-per-worker",
        type=int,
        default=1,
        metavar="N",
        help="with Ray (default: 1)",
    )


def ray_options(args: argparse.Namespace, use_gpu: bool):
    """`RayOptions` of the command line; None where Ray is not asked for.

    Raises
    ------
    RequestError
        No processor is left to a worker.
    """
    from recbole_lite.utils.ray_session import RayOptions

    if args.cpus_per_worker < 1:
        raise RequestError("--cpus_per_worker must be at least 1")
    if not args.ray and args.ray_address is None:
        return None
    return RayOptions(args.ray_address, args.cpus_per_worker, use_gpu)


def load_recommender(args: argparse.Namespace, device: str | None = None):
    """Load the model that the command line names; `device` takes precedence over its.

    Raises
    ------
    RecboleLiteError
        RecBole is not installed, the folder is no model's, or there is no such device.
    """
    from recbole_lite import Recommender

    try:
        return Recommender.load(args.model, device or args.device, args.runtime)
    except (RuntimeError, AssertionError) as error:  # torch's, about the device
        raise RequestError(f"--device={args.device}: {str(error).splitlines()[0]}") from error


def print_ranked(found: Iterable) -> None:
    """Print recommendations as a numbered table, reasons below each."""
    found = list(found)
    width = max((len(one.title) for one in found), default=0)
    for rank, one in enumerate(found, 1):
        print(f"{rank:>7}. {one.title:<{width}}  {one.score:9.4f}  id {one.id}")
        reasons = [
            reason.title if reason.effect is None else f"{reason.title} ({reason.effect:+.2f})"
            for reason in getattr(one, "because", [])
        ]
        if reasons:
            print(f"{'':9}because of {' | '.join(reasons)}")

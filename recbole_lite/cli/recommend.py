"""``recbole-lite recommend`` and ``recbole-lite pack``."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

RECOMMEND_EPILOG = """\
--history takes raw ids or titles (ids first; "The Matrix" finds "Matrix, The"), the earliest
first. --input takes a CSV file with the columns user_id and history (raw ids); the output has
user_id, rank, item_id, title and score. - is standard input or output; pipes work as well.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --history="Toy Story;Heat"
  %(prog)s --model=packed --history="1;6" --k=5 --candidates="Casino;Fargo;Jumanji"
  %(prog)s --model=packed --input=histories.csv --output=recommendations.csv
  zcat histories.csv.gz | %(prog)s --model=packed --input=- --output=- | head
"""

PACK_EPILOG = """\
A finished run's folder needs no packing to be used. Packing copies what recommending needs, with a
model card, into a folder to give away. Without --out it completes the folder of a run that was
interrupted, or that an older version wrote; the data set must be where it was in training.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --out=my-model
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-...
"""


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands.

    Parameters
    ----------
    commands : argparse action
        What ``ArgumentParser.add_subparsers`` returned.
    """
    one = _parser(commands, "recommend", "recommend items with a trained model", RECOMMEND_EPILOG)
    source = one.add_mutually_exclusive_group(required=True)
    source.add_argument("--history", metavar="A;B", help="ids or titles of one user")
    source.add_argument("--input", metavar="FILE", help="CSV file of histories")
    one.add_argument("--output", metavar="FILE", help="with --input: CSV file to write")
    one.add_argument("--k", type=int, default=10, help="items for each user (default: 10)")
    one.add_argument("--candidates", metavar="A;B", help="ids or titles to choose from")
    one.add_argument("--include_seen", action="store_true", help="rank the history's items, too")
    one.add_argument(
        "--unknown",
        choices=("warn", "error"),
        default="warn",
        help="with --input: leave unknown ids out and count them (default), or stop",
    )
    one.add_argument("--separator", default=";", help="between ids (default: ;)")
    one.add_argument("--batch_size", type=int, default=256, help="histories scored together")
    add_runtime(one)
    one.set_defaults(
        func=recommend,
        interrupted="interrupted; a file of recommendations appears only when it is complete",
    )

    one = _parser(commands, "pack", "make a folder that recommends, with a model card", PACK_EPILOG)
    one.add_argument("--out", metavar="DIR", help="folder to write")
    one.set_defaults(
        func=pack, interrupted="interrupted; the folder may lack files: run the command again"
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--runtime``."""
    parser.add_argument("--device", default="cpu", help="e.g. cuda (default: cpu)")
    parser.add_argument(
        "--runtime",
        choices=("auto", "onnx", "torch"),
        default="auto",
        help="what computes scores; auto: onnxruntime where it can (default)",
    )


def _parser(commands, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of the model")
    parser.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS)
    return parser


def load(args: argparse.Namespace):
    """The model that the command line names.

    Raises
    ------
    RecboleLiteError
        RecBole is not installed, the folder is no model's, or there is no such device.
    """
    from recbole_lite import Recommender
    from recbole_lite.utils.errors import RequestError

    try:
        return Recommender.load(args.model, args.device, args.runtime)
    except (RuntimeError, AssertionError) as error:  # torch's, about the device
        raise RequestError(f"--device={args.device}: {str(error).splitlines()[0]}") from error


def recommend(args: argparse.Namespace) -> int:
    """Recommend for one history, or for a file of them."""
    from recbole_lite.utils.errors import RequestError

    if (args.input is None) != (args.output is None):
        raise RequestError("--input and --output go together")
    if args.batch_size < 1:
        raise RequestError("--batch_size must be at least 1")
    recommender = load(args)
    names = _split(args.candidates, args.separator)
    candidates = None if names is None else _ids(recommender, names)
    if args.input is not None:
        from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file
        from recbole_lite.utils.files import STANDARD, is_stream

        options = BatchOptions(
            k=args.k,
            exclude_seen=not args.include_seen,
            candidates=candidates,
            unknown=args.unknown,
            separator=args.separator,
            batch_size=args.batch_size,
            show_progress=sys.stderr.isatty(),
        )
        summary = recommend_file(recommender, args.input, args.output, options)
        streams = is_stream(args.output)  # the rows may be on standard output
        name = "standard output" if args.output == STANDARD else args.output
        print(f"{name}: {summary}", file=sys.stderr if streams else sys.stdout)
        return 0
    history = _ids(recommender, _split(args.history, args.separator))
    (found,) = recommender.recommend(
        [history],
        args.k,
        exclude_seen=not args.include_seen,
        candidates=candidates,
        no_history="error",
    )
    titles = recommender.catalogue.titles
    print("History  " + " | ".join(titles[recommender.catalogue.index[i]] for i in history))
    width = max((len(r.title) for r in found), default=0)
    for rank, (raw, title, score) in enumerate(found, 1):
        print(f"{rank:>7}. {title:<{width}}  {score:9.4f}  id {raw}")
    if not found:
        print("nothing is left to recommend")
    return 0


def pack(args: argparse.Namespace) -> int:
    """Complete a run's folder, or copy it into one to give away."""
    from recbole_lite.utils.errors import CheckpointError
    from recbole_lite.utils.files import check_folder

    if args.out is not None:
        check_folder(args.out, "--out")
        from recbole_lite import Recommender

        recommender = Recommender.load(args.model, runtime="torch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # huggingface_hub's, about cards without a licence
            recommender.save_pretrained(args.out)
        print(f"{args.out}: {recommender.name}, {len(recommender.catalogue):,} items")
        _add_graph(args.out)
        return 0
    from recbole_lite.inference.saved_run import restore_recommender_files

    if not restore_recommender_files(args.model):
        raise CheckpointError(f"{args.model}: a packed model already; it needs nothing more")
    print(f"{args.model}: complete")
    return 0


def _add_graph(folder: str) -> None:
    """Make the graph of a packed model now rather than at its first use."""
    from recbole_lite.inference import graph_file
    from recbole_lite.inference.loading import build_model
    from recbole_lite.inference.model_folder import read_bundle

    bundle = read_bundle(folder)
    if bundle.model not in graph_file.EXPORTABLE:
        return
    missing = graph_file.missing_package()
    if missing:
        print(f"without a graph for onnxruntime: {missing} is not installed")
        return
    path = graph_file.export_graph(bundle, build_model(bundle, "cpu"))
    if isinstance(path, Path):
        print(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB, for onnxruntime")


def _split(names: str | None, separator: str) -> list[str] | None:
    if names is None:
        return None
    return [name for part in names.split(separator) if (name := part.strip())]


def _ids(recommender, names: list[str]) -> list[str]:
    catalogue = recommender.catalogue
    return [catalogue.ids[catalogue.find(name)] for name in names]

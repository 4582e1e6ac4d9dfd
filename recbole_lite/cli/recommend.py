"""``recbole-lite recommend``: items for one history, or for a file of them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from recbole_lite.cli.common import (
    add_command,
    add_model,
    add_ray,
    add_runtime,
    load_recommender,
    print_ranked,
    ray_options,
)
from recbole_lite.utils.errors import RequestError

EPILOG = """\
--history takes raw ids or titles (ids first; "The Matrix" finds "Matrix, The"), oldest first.
--input takes a CSV or Parquet file with the columns user_id and history (raw ids), or a folder, a
pattern or an fsspec URL of such files; the output has user_id, rank, item_id, title and score.
- is standard input or output; pipes work as well. --output=DIR/ writes a folder of parts; the same
command goes on with the parts that are missing. --ray spreads the parts over Ray's workers.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --history="Toy Story;Heat"
  %(prog)s --model=packed --history="1;6" --k=5 --candidates="Casino;Fargo;Jumanji"
  %(prog)s --model=packed --history="1;6" --explain --where="{genre: Comedy, year: {gte: 1990}}"
  %(prog)s --model=packed --input=histories.csv --output=recommendations.csv
  %(prog)s --model=packed --input=histories.parquet --output=recs/ --ray
  zcat histories.csv.gz | %(prog)s --model=packed --input=- --output=- | head
"""
INTERRUPTED = "interrupted; the output file is written only when it is complete"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "recommend items with a trained model"
    one = add_command(commands, "recommend", text, run, INTERRUPTED, epilog=EPILOG)
    add_model(one)
    source = one.add_mutually_exclusive_group(required=True)
    source.add_argument("--history", metavar="A;B", help="ids or titles of one user")
    source.add_argument("--input", metavar="FILE", help="CSV or Parquet of histories")
    add = one.add_argument
    add("--output", metavar="FILE", help="with --input: CSV file or DIR/ to write")
    add("--k", type=int, default=10, help="items for each user (default: 10)")
    add("--candidates", metavar="A;B", help="ids or titles to choose from")
    add("--where", metavar="YAML", help="conditions on the fields of items: '{year: {gte: 1990}}'")
    add("--exclude", metavar="A;B", help="ids or titles that are not recommended")
    add(
        "--diversity",
        type=float,
        default=0.0,
        metavar="X",
        help="from 0 (order of scores, default) to 1 (items unlike those before)",
    )
    add(
        "--explain",
        action="store_true",
        help="with --history: also the items of the history that add most to each score",
    )
    add(
        "--probabilities",
        action="store_true",
        help="calibrated probabilities as scores (recbole-lite calibrate fits them)",
    )
    seen = one.add_mutually_exclusive_group()
    seen.add_argument(
        "--include_seen", action="store_true", help="also rank the items of the history"
    )
    seen.add_argument(
        "--exclude_seen",
        action="store_true",
        help="exclude the items of the history (default: as the run was measured)",
    )
    add(
        "--unknown",
        choices=("warn", "error"),
        default="warn",
        help="with --input: ignore and count unknown ids (default), or stop",
    )
    add("--separator", default=";", help="separator of ids (default: ;)")
    add("--batch_size", type=int, default=256, help="histories scored together")
    add_runtime(one)
    add_ray(one)


def run(args: argparse.Namespace) -> int:
    """Recommend for one history, or for a file of them."""
    if (args.input is None) != (args.output is None):
        raise RequestError("--input and --output go together")
    if args.explain and args.input is not None:
        raise RequestError(
            "--explain goes with --history; a file of recommendations has no reasons"
        )
    ray = ray_options(args, args.device.startswith("cuda"))
    if ray is not None and args.input is None:
        raise RequestError("--ray goes with --input")
    # With Ray, the workers have the device.
    recommender = load_recommender(args, None if ray is None else "cpu")
    choice = {
        "exclude_seen": args.exclude_seen or (False if args.include_seen else None),
        "candidates": _ids(recommender, args.candidates, args.separator),
        "where": _where(args.where),
        "exclude": _ids(recommender, args.exclude, args.separator),
        "diversity": args.diversity,
        "probabilities": args.probabilities,
    }
    if args.input is not None:
        return _recommend_file(args, recommender, choice, ray)
    history = _ids(recommender, args.history, args.separator)
    (found,) = recommender.recommend(
        [history], args.k, no_history="error", explain=args.explain, **choice
    )
    titles = recommender.catalogue.titles
    print("History  " + " | ".join(titles[recommender.catalogue.index[i]] for i in history))
    print_ranked(found)
    if not found:
        print("nothing is left to recommend")
    return 0


def _recommend_file(args: argparse.Namespace, recommender, choice: dict[str, Any], ray) -> int:
    from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file
    from recbole_lite.inference.history_files import is_url
    from recbole_lite.utils.files import STANDARD, is_stream

    options = BatchOptions(
        k=args.k,
        unknown=args.unknown,
        separator=args.separator,
        batch_size=args.batch_size,
        show_progress=sys.stderr.isatty(),
        **choice,
    )
    if ray is not None or args.output.endswith("/") or is_url(args.output):
        from recbole_lite.inference.recommend_folder import recommend_folder

        args.interrupted = "interrupted; the same command goes on with the parts that are missing"
        summary = recommend_folder(
            recommender, args.input, args.output, options, ray, args.device, args.runtime
        )
        print(f"{args.output}: {summary}")
        return 0
    summary = recommend_file(recommender, args.input, args.output, options)
    streams = is_stream(args.output)  # the rows may be on standard output
    name = "standard output" if args.output == STANDARD else args.output
    print(f"{name}: {summary}", file=sys.stderr if streams else sys.stdout)
    return 0


def _where(text: str | None) -> Any:
    if text is None:
        return None
    from recbole_lite.config.command_line import parse_scalar

    return parse_scalar(text) or text  # no mapping: the filter says what it found


def _ids(recommender, names: str | None, separator: str) -> Any:
    """Raw ids of ids or titles; None for None."""
    if names is None:
        return None
    from recbole_lite.inference.history_files import split_ids

    catalogue = recommender.catalogue
    return [catalogue.ids[catalogue.find(name)] for name in split_ids(names, separator)]

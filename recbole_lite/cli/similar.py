"""``recbole-lite similar``: items like one item."""

from __future__ import annotations

import argparse

from recbole_lite.cli.common import add_command, add_model, load_recommender, print_ranked

EPILOG = """\
--item takes a raw id or a title (ids first). The figures are cosines of the items' vectors.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --item="Toy Story"
  %(prog)s --model=packed --item=1 --k=5 --by=text
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = add_command(commands, "similar", "list items like one item", run, epilog=EPILOG)
    add_model(parser)
    parser.add_argument("--item", required=True, metavar="A", help="id or title")
    parser.add_argument("--k", type=int, default=10, help="number of items (default: 10)")
    parser.add_argument(
        "--by",
        choices=("trained", "text"),
        default="trained",
        help="vectors that the model ranks with (default), or those of the items' texts",
    )
    parser.set_defaults(device="cpu", runtime="auto")


def run(args: argparse.Namespace) -> int:
    """Print the items with the most similar vectors."""
    recommender = load_recommender(args)
    catalogue = recommender.catalogue
    place = catalogue.find(args.item)
    found = recommender.similar(catalogue.ids[place], args.k, args.by)
    print(f"Similar to {catalogue.titles[place]} (id {catalogue.ids[place]})")
    print_ranked(found)
    return 0

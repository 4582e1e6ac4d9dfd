"""``recbole-lite update``: a finished run, trained further on new interactions."""

from __future__ import annotations

import argparse

from recbole_lite.cli.common import add_command, add_model

EPILOG = """\
The new interactions are joined with the run's data set in a new one; the newest interaction of each
user is held out, and both models are asked for it. Defaults are in properties/update.yaml; any key
of a run can be given as --key=value (docs/update.md).

examples:
  %(prog)s --model=saved/ItemLM-shop-... --interactions=today.csv
  %(prog)s --model=saved/ItemLM-shop-... --interactions=today.csv --items=items.csv --epochs=5
"""
INTERRUPTED = "interrupted; `recbole-lite run --resume=FOLDER` continues the training of an update"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "continue a finished run with new interactions and items"
    parser = add_command(commands, "update", text, run, INTERRUPTED, epilog=EPILOG)
    add_model(parser)
    add = parser.add_argument
    add("--interactions", required=True, metavar="FILE", help="CSV, TSV, JSON lines or Parquet")
    add("--items", metavar="FILE", help="one row per new item, with its texts")
    add("--name", help="name of the new data set (default: DATASET-update-N)")
    for role in ("user", "item", "time", "rating", "item_id"):
        text = "column of these (default: as in the run's data set, or guessed)"
        add(f"--{role}", metavar="COLUMN", help=text)
    parser.set_defaults(takes_overrides=True)


def run(args: argparse.Namespace) -> int:
    """Update, and print old against new."""
    from recbole_lite.data.sources.join_tables import ROLES
    from recbole_lite.experiments.update.update import render, update

    columns = {role: getattr(args, role) for role in ROLES}
    tables = args.interactions, args.items
    print(render(update(args.model, *tables, args.name, columns, overrides=args.overrides)))
    return 0

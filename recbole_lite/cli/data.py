"""``recbole-lite data``: prepare, check and list data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_lite.cli.common import add_command
from recbole_lite.data.sources.acquire import DEFAULT_DATA_PATH
from recbole_lite.data.sources.check_dataset import check
from recbole_lite.data.sources.list_datasets import list_datasets
from recbole_lite.data.sources.prepare_dataset import prepare


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand with its own three."""
    parser = add_command(commands, "data", "prepare, check and list data sets", run)
    inner = parser.add_subparsers(dest="data_command", required=True)
    one = inner.add_parser("prepare", help="fetch and convert a known data set")
    one.add_argument("name", help="name of a known data set; see `data list`")
    one.add_argument(
        "--from",
        dest="source",
        metavar="PATH",
        help="local source file or folder (default: download)",
    )
    one.set_defaults(interrupted="interrupted; the same command continues the download")
    one = inner.add_parser("check", help="count a data set and compare it with the expected counts")
    one.add_argument("name", help="name of the data set's folder and files")
    inner.add_parser("list", help="list the known data sets")
    for one in inner.choices.values():
        one.add_argument(
            "--data_path",
            default=DEFAULT_DATA_PATH,
            metavar="DIR",
            help="folder of the data sets (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> int:
    """Prepare, check or list; 2 if a check found problems."""
    data_path = Path(args.data_path)
    if args.data_command == "prepare":
        source = None if args.source is None else Path(args.source)
        print(prepare(args.name, data_path, source).render())
        return 0
    if args.data_command == "check":
        report = check(args.name, data_path)
        print(report.render())
        return 0 if report.ok else 2
    print(list_datasets(data_path))
    return 0

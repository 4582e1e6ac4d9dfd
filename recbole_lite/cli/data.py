"""``recbole-lite data``: prepare, import, check and list data sets."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from recbole_lite.cli.common import add_command, config_files, split_names
from recbole_lite.data.sources.acquire import DEFAULT_DATA_PATH
from recbole_lite.data.sources.check_dataset import check
from recbole_lite.data.sources.check_report import CheckReport
from recbole_lite.data.sources.dataset_meta import list_datasets
from recbole_lite.data.sources.import_tables import ImportOptions, import_tables
from recbole_lite.data.sources.prepare_dataset import prepare

MODEL = "LiteLLM4Rec"  # whose run `check` has in mind, where settings do not say it


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand with its own."""
    parser = add_command(commands, "data", "prepare, import, check and list data sets", run)
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
    text = "count a data set and compare it with the expected counts, or with a run's settings"
    one = inner.add_parser("check", help=text, allow_abbrev=False)
    one.add_argument("name", help="name of the data set's folder and files")
    one.add_argument("--model", help=f"of a run whose settings are given (default: {MODEL})")
    one.add_argument(
        "--config_files",
        action="append",
        default=[],
        metavar="FILE",
        help="settings of a run; --key=value works as well. Checks that the run can read the data",
    )
    one.set_defaults(takes_overrides=True, overrides=[])
    inner.add_parser("list", help="list the known data sets")
    _add_import(inner)
    for one in inner.choices.values():
        one.add_argument(
            "--data_path",
            default=DEFAULT_DATA_PATH,
            metavar="DIR",
            help="folder of the data sets (default: %(default)s)",
        )


def _add_import(inner: argparse._SubParsersAction) -> None:
    one = inner.add_parser(
        "import", help="make a data set from CSV, TSV, JSON lines or Parquet", allow_abbrev=False
    )
    add = one.add_argument
    add("--interactions", required=True, metavar="FILE", help="one row per interaction")
    add("--items", metavar="FILE", help="one row per item, with its texts")
    add("--users", metavar="FILE", help="one row per user")
    add("--name", required=True, help="name of the new data set")
    for role in ("user", "item"):
        add(f"--{role}", metavar="COLUMN", help=f"column of the {role}s (default: guessed)")
    for role in ("time", "rating"):
        text = f"column of the {role}s (default: guessed); none: there is none"
        add(f"--{role}", metavar="COLUMN", help=text)
    for role in ("item", "user"):
        text = f"column of the {role}s' ids in --{role}s (default: guessed)"
        add(f"--{role}_id", metavar="COLUMN", help=text)
    add("--text", type=split_names, metavar="A,B", help="text of the items (default: all strings)")
    text = "other columns of --interactions to take over"
    add("--keep", type=split_names, default=(), metavar="A,B", help=text)
    text = "drop users and items with fewer interactions, until none is left to drop"
    add("--k_core", type=int, default=0, metavar="K", help=text)
    add("--min_rating", type=float, metavar="X", help="drop interactions with lower ratings")
    text = "of several interactions of a user with an item keep one"
    add("--deduplicate", choices=("first", "last"), help=text)
    text = "of several rows of an item, or user, keep the first (default: an error)"
    add("--deduplicate_items", choices=("first",), help=text)
    text = "split users into sessions at longer pauses, such as 30m; a session becomes the user"
    add("--session_gap", metavar="TIME", help=text)
    text = "s, ms, us or ns, or a format of strptime, such as %%d/%%m/%%Y (default: guessed)"
    add("--time_format", metavar="FORMAT", help=text)
    add("--separator", metavar="C", help="between the fields of a text (default: guessed)")
    add("--overwrite", action="store_true", help="replace the files of a data set of this name")
    add("--dry_run", action="store_true", help="show what the columns become, write nothing")


def run(args: argparse.Namespace) -> int:
    """Prepare, import, check or list; 2 if a check found problems."""
    data_path = Path(args.data_path)
    if args.data_command == "prepare":
        source = None if args.source is None else Path(args.source)
        print(prepare(args.name, data_path, source).render())
        return 0
    if args.data_command == "check":
        with config_files(args):
            report = _check(args)
        print(report.render())
        return 0 if report.ok else 2
    if args.data_command == "import":
        options = ImportOptions(**{of.name: getattr(args, of.name) for of in fields(ImportOptions)})
        tables = args.interactions, args.items, args.users
        return 0 if import_tables(args.name, data_path, *tables, options) else 2
    print(list_datasets(data_path))
    return 0


def _check(args: argparse.Namespace) -> CheckReport:
    if not (args.model or args.config_files or args.overrides):
        return check(args.name, args.data_path)
    from recbole_lite.config.configurator import LiteConfig
    from recbole_lite.config.yaml_files import read_yaml
    from recbole_lite.quick_start import check_data

    model = args.model
    if not any("model" in read_yaml(path) for path in args.config_files):
        model = model or MODEL
    overrides = list(args.overrides)
    if args.data_path != DEFAULT_DATA_PATH:
        overrides.append(f"--data_path={args.data_path}")
    return check_data(LiteConfig(model, args.name, args.config_files, overrides=overrides))

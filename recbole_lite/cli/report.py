"""``recbole-lite report``: rewrite the reports of finished runs."""

from __future__ import annotations

import argparse

from recbole_lite.cli.common import add_command

DESCRIPTION = """\
Rewrites report.html of finished runs, in comparison with all runs that exist now. Files that could
not be written during a run are written first."""
INTERRUPTED = "interrupted; the same command writes all reports again"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "rewrite report.html of runs"
    parser = add_command(commands, "report", text, run, INTERRUPTED, description=DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")


def run(args: argparse.Namespace) -> int:
    """Write each report, and print its path."""
    from recbole_lite.report.run_report import complete_report

    for folder in args.runs:
        print(complete_report(folder))
    return 0

"""``recbole-lite compare`` and ``recbole-lite report``."""

from __future__ import annotations

import argparse

COMPARE_EPILOG = """\
RUN is the folder of a run, or a result file of `recbole-lite ablate` or `recbole-lite reproduce`.
All are compared with the first one: the difference of each test user's NDCG@10, averaged, with an
interval by bootstrap over the users. Runs with other data, splits, rankings or test users are
refused.

examples:
  %(prog)s saved/SASRec-ml-1m-... saved/LiteLLM4Rec-ml-1m-...
  %(prog)s results/ablation/ml-1m/LiteLLM4Rec-2020.json results/ablation/ml-1m/fixT5-2020.json
  %(prog)s results/reproduce/ml-100k/topn/Pop-2020.json saved/LiteLLM4Rec-ml-100k-...
  %(prog)s saved/A saved/B saved/C --metric=recall@20 --out=results/mine
"""


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands.

    Parameters
    ----------
    commands : argparse action
        What ``ArgumentParser.add_subparsers`` returned.
    """
    parser = commands.add_parser(
        "compare",
        help="compare runs user by user",
        epilog=COMPARE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders or result files")
    parser.add_argument("--metric", default="ndcg@10", help="of the differences (default: ndcg@10)")
    parser.add_argument(
        "--out", metavar="DIR", help="table and plot (default: results/compare/DATASET)"
    )
    parser.set_defaults(func=_compare, interrupted="interrupted; no run was changed")
    parser = commands.add_parser(
        "report",
        help="write report.html of runs anew",
        description="Writes report.html of finished runs anew, beside the runs that are there now, "
        "and first what a run's folder lacks because it could not be written.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.set_defaults(
        func=_report, interrupted="interrupted; the same command writes all reports anew"
    )


def _compare(args) -> int:
    from recbole_lite.experiments.compare.compare import compare, render
    from recbole_lite.utils.files import check_folder

    if args.out is not None:
        check_folder(args.out, "--out")
    summary = compare(args.runs, args.metric, args.out)
    files = summary["files"]
    print(render(summary))
    print(f"Table: {files['md']}\nPlot:  {files['svg']}")
    return 0


def _report(args) -> int:
    from recbole_lite.report.run_report import complete_report

    for folder in args.runs:
        print(complete_report(folder))
    return 0

"""``recbole-lite compare``: runs side by side on the same test users."""

from __future__ import annotations

import argparse

from recbole_lite.cli.common import add_command

EPILOG = """\
RUN is the folder of a run, or a result file of `recbole-lite ablate` or `recbole-lite reproduce`.
Every run is compared with the first one: the mean difference of the test users' NDCG@10, with a
bootstrap interval over the users. Runs with other data, splits, rankings or test users are
refused.

examples:
  %(prog)s saved/SASRec-ml-1m-... saved/LiteLLM4Rec-ml-1m-...
  %(prog)s results/ablation/ml-1m/LiteLLM4Rec-2020.json results/ablation/ml-1m/fixT5-2020.json
  %(prog)s results/reproduce/ml-100k/topn/Pop-2020.json saved/LiteLLM4Rec-ml-100k-...
  %(prog)s saved/A saved/B saved/C --metric=recall@20 --out=results/mine
  %(prog)s results/budget/ml-1m/*.json --by_item --data_path=data
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text, interrupted = "compare runs user by user", "interrupted; no run was changed"
    parser = add_command(commands, "compare", text, run, interrupted, epilog=EPILOG)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders or result files")
    parser.add_argument("--metric", default="ndcg@10", help="metric to compare (default: ndcg@10)")
    parser.add_argument(
        "--out", metavar="DIR", help="table and plot (default: results/compare/DATASET)"
    )
    parser.add_argument(
        "--by_item",
        action="store_true",
        help="also Recall by training frequency of the test item; reads the data set",
    )
    parser.add_argument(
        "--data_path", metavar="DIR", help="folder of the data sets (default: the run's)"
    )


def run(args: argparse.Namespace) -> int:
    """Compare, and print the table."""
    from recbole_lite.experiments.compare.compare import compare, render

    summary = compare(args.runs, args.metric, args.out, args.by_item, args.data_path)
    files = summary["files"]
    print(render(summary))
    print(f"Table: {files['md']}\nPlot:  {files['svg']}")
    return 0

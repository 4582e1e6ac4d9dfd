"""``recbole-lite ablate``: train variants of a model and compare them."""

from __future__ import annotations

import argparse

from recbole_lite.cli.common import add_command, add_training_arguments, config_files, split_names

EPILOG = """\
Trains the base configuration, then one model per row. A row is a file of configuration keys,
properties/ablation/ROW.yaml. Its settings take precedence over --key=value and --config_files,
which all rows share. Included rows: fixT5, fixHead, scratch (the paper's Figure 4), item-t5-small,
item-t5-base, item-bert, item-sbert (its Table 7).

Each result is written to the folder of --out as soon as it is finished. The same command continues
after the last one and trains again only rows with other settings. A row that cannot run (for
example, no network for its language model) is listed as "not run". Exit status: 0 if the base
configuration ran.

examples:
  %(prog)s --dataset=ml-100k --rows=fixT5,fixHead --seeds=2020,2021,2022
  %(prog)s --dataset=ml-1m --train_strategy=sampling
  %(prog)s --dataset=ml-100k --rows_from=my_rows --out=results/mine --config_files=a.yaml
"""
INTERRUPTED = "interrupted; the same command continues after the last result"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "train variants of a model and compare them"
    parser = add_command(commands, "ablate", text, run, INTERRUPTED, epilog=EPILOG)
    add_training_arguments(parser)
    parser.set_defaults(model="LiteLLM4Rec")
    add = parser.add_argument
    add(
        "--rows",
        type=split_names,
        metavar="A,B",
        help="rows to compare with the base row (default: all)",
    )
    add(
        "--seeds",
        type=_numbers,
        metavar="N,N",
        help="seeds of each row (default: the configuration's seed)",
    )
    add("--out", metavar="DIR", help="results and table (default: results/ablation/DATASET)")
    add("--rows_from", metavar="DIR", help="folder of the rows' files (default: the shipped ones)")


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in split_names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write whole numbers, 2020,2021") from None


def run(args: argparse.Namespace) -> int:
    """Train and compare the rows; 2 if the base configuration has no result."""
    from recbole_lite.experiments.ablate import ROWS, AblationOptions, ablate
    from recbole_lite.report.ablation import render

    options = AblationOptions(
        rows=args.rows,
        seeds=args.seeds,
        out=args.out,
        rows_folder=args.rows_from or ROWS,
        command=args.typed,
        log=lambda line: print(line, flush=True),
    )
    with config_files(args):
        summary = ablate(
            model=args.model,
            dataset=args.dataset,
            config_file_list=args.config_files,
            overrides=args.overrides,
            options=options,
        )
    print(f"\n{render(summary)}")
    missing = sum(not row["seeds"] for row in summary["rows"])
    print(f"{missing} of {len(summary['rows'])} rows did not run")
    return 0 if summary["rows"][0]["seeds"] else 2

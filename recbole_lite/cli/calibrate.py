"""``recbole-lite calibrate``."""

from __future__ import annotations

import argparse

from recbole_lite.cli.common import add_command, add_model

EPILOG = """\
Fits the temperature that turns scores into probabilities, on the validation part, and stores it
with the model; pack the folder afterwards. Needs the data set.

example:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-...
"""
INTERRUPTED = "interrupted; the folder is as it was"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "fit probabilities of a finished run"
    parser = add_command(commands, "calibrate", text, run, INTERRUPTED, epilog=EPILOG)
    add_model(parser)
    parser.add_argument("--data_path", metavar="DIR", help="where the data set is now")


def run(args: argparse.Namespace) -> int:
    """Calibrate, and print how reliable the probabilities are."""
    from tabulate import tabulate

    from recbole_lite.inference.temperature import TOP, calibrate

    found = calibrate(args.model, args.data_path)
    print(f"{args.model}: temperature {found['value']:.4g}")
    rows = [
        [name, part["rows"], *part["nll"], *part["expected"], part["hits"]]
        for name in ("valid", "test")
        if (part := found[name])
    ]
    first = f"first {TOP}"
    header = ["", "rows", "NLL, T = 1", "NLL", f"{first}: T = 1", f"{first}: expected", "hits"]
    print(tabulate(rows, header, floatfmt=".4f"))
    return 0

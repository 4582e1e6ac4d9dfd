"""``recbole-lite pack``: a folder that recommends, with a model card."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from recbole_lite.cli.common import add_command, add_model
from recbole_lite.utils.errors import CheckpointError

EPILOG = """\
A finished run's folder can be used without packing. Packing copies the files that recommending
needs, with a model card, into a folder for distribution. Without --out, it completes the folder of
a run that was interrupted or written by an older version; the data set must be at the same path as
in training.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --out=my-model
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-...
"""
INTERRUPTED = "interrupted; the folder may lack files: run the command again"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "write a folder for distribution, with a model card"
    parser = add_command(commands, "pack", text, run, INTERRUPTED, epilog=EPILOG)
    add_model(parser)
    parser.add_argument("--out", metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    """Complete a run's folder, or copy it into one to give away."""
    if args.out is not None:
        from recbole_lite import Recommender

        recommender = Recommender.load(args.model, runtime="torch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # huggingface_hub's, about cards without a licence
            recommender.save_pretrained(args.out)
        print(f"{args.out}: {recommender.name}, {len(recommender.catalogue):,} items")
        _add_graph(args.out)
        return 0
    from recbole_lite.inference.saved_run import restore_recommender_files

    if not restore_recommender_files(args.model):
        raise CheckpointError(f"{args.model}: already a packed model; nothing to do")
    print(f"{args.model}: complete")
    return 0


def _add_graph(folder: str) -> None:
    """Make the graph of a packed model now rather than at its first use."""
    import torch

    from recbole_lite.inference import graph_file
    from recbole_lite.inference.loading import build_model
    from recbole_lite.inference.model_folder import read_bundle

    bundle = read_bundle(folder)
    if bundle.model not in graph_file.EXPORTABLE:
        return
    missing = graph_file.missing_package()
    if missing:
        print(f"without a graph for onnxruntime: {missing} is not installed")
        return
    path = graph_file.export_graph(bundle, build_model(bundle, torch.device("cpu")))
    if isinstance(path, Path):
        print(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB, for onnxruntime")

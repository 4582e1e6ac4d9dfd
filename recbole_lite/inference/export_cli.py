"""``recbole-lite export``: a run's model as files for onnxruntime."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """\
The folder then holds model.onnx, items.json (ids and titles) and export.json (what was measured).
It needs onnxruntime and NumPy, nothing else: examples/onnx_recommend.py.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --out=exported
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --out=exported --int8
"""


USERS = 512  # compared with torch


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the subcommand ``export``; its default ``func`` is `run`."""
    parser = subparsers.add_parser(
        "export",
        help="write a trained model as ONNX",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, metavar="RUN_FOLDER", help="of a finished run")
    parser.add_argument("--format", choices=["onnx"], default="onnx")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--int8", action="store_true", help="also write model.int8.onnx, and measure what it costs"
    )
    parser.add_argument(
        "--data_path", metavar="DIR", help="folder of the data sets (default: the run's)"
    )
    parser.set_defaults(func=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Export, compare with torch on users of the test split, and say what came out.

    Returns
    -------
    int
        Exit status: 0; 2 if the exported model recommends something else than torch.
    """
    from recbole_lite.data.loaders import HistoryMaskLoader
    from recbole_lite.inference.check import TOP, compare, evaluate, of
    from recbole_lite.inference.engine import Engine
    from recbole_lite.inference.export import add_facts, export_onnx, require_onnx
    from recbole_lite.inference.onnx_model import OnnxModel
    from recbole_lite.inference.quantize import quantize
    from recbole_lite.quick_start import load_data_and_model
    from recbole_lite.report.samples import item_titles

    require_onnx()  # before minutes are spent
    _check_paths(args.model, args.out)
    config, model, dataset, _, _, test_data = load_data_and_model(args.model, args.data_path)
    engine = Engine(model)
    raw = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    titles = item_titles(dataset, config["title_field"])
    path = export_onnx(model, list(zip(raw[1:], titles[1:], strict=True)), args.out)
    # A loader of its own: the run's may rank against sampled items only (eval_args, mode).
    loader = HistoryMaskLoader(config, test_data._dataset, None)
    histories = loader.collate_fn(range(min(USERS, len(test_data._dataset))))[0][model.ITEM_SEQ]
    parity = compare(engine, OnnxModel(path), histories.cpu())
    add_facts(args.out, model=config["model"], dataset=config["dataset"], parity=parity.as_dict())
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    print(
        f"  against torch, {parity.users} test users: largest difference of scores "
        f"{parity.max_difference:.1e} (their spread: {parity.spread:.2g}); first {TOP} items the "
        f"same for {parity.same_top:.1%}, but for ties {parity.same_top_but_for_ties:.1%}"
    )
    if args.int8:
        small = quantize(path)
        costs = {
            file.name: evaluate(config, model, loader, of(OnnxModel(file)))
            for file in (path, small)
        }
        add_facts(args.out, test=costs)
        print(f"{small}: {small.stat().st_size / 2**20:.1f} MiB")
        for name, exact in costs[path.name].items():
            print(f"  test {name}: float32 {exact:.4f}, int8 {costs[small.name][name]:.4f}")
    if parity.same_top_but_for_ties < 1:
        print("error: the exported model recommends other items than torch", file=sys.stderr)
        return 2
    return 0


def _check_paths(model: str, out: Path) -> None:
    from recbole_lite.errors import CheckpointError, ConfigError

    if not Path(model).exists():
        raise CheckpointError(f"{model}: no such folder; give the folder of a finished run")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} is a file; name a folder")

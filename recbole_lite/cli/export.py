"""``recbole-lite export``: a trained model as files for onnxruntime."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole_lite.cli.common import add_command, add_model
from recbole_lite.utils.errors import CheckpointError, RequestError

EPILOG = """\
The folder then contains model.onnx, items.json (ids and titles) and export.json (measurements).
Using it needs only onnxruntime and NumPy: examples/onnx_recommend.py.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --out=exported
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-... --out=exported --int8
  %(prog)s --model=packed --out=exported
"""
USERS = 512  # compared with torch
SEED = 2020  # of histories that are drawn


INTERRUPTED = "interrupted; the folder may lack files: run the command again"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "write a trained model as ONNX"
    parser = add_command(commands, "export", text, run, INTERRUPTED, epilog=EPILOG)
    add_model(parser)
    add = parser.add_argument
    add("--out", required=True, metavar="FOLDER")
    add("--opset", type=int, default=20, help="version of ONNX's operators, 18 to 23 (default: 20)")
    add("--int8", action="store_true", help="also write model.int8.onnx, and measure its accuracy")
    add(
        "--data_path", metavar="DIR", help="for a run: folder of the data sets (default: the run's)"
    )


def run(args: argparse.Namespace) -> int:
    """Export, compare with torch, and print the result.

    Returns
    -------
    int
        Exit status: 0; 2 if the exported model recommends something else than torch.
    """
    from recbole_lite.inference.export_parity import TOP, compare_scores
    from recbole_lite.inference.model_folder import is_packed
    from recbole_lite.inference.onnx_export import export_onnx, require_onnx, update_export_file
    from recbole_lite.inference.onnx_runtime import OnnxRuntime
    from recbole_lite.inference.quantize import quantize
    from recbole_lite.inference.torch_runtime import TorchRuntime

    require_onnx(args.opset)  # before minutes are spent
    if not Path(args.model).exists():
        raise CheckpointError(f"{args.model}: no such folder; give a run's or a packed one")
    args.out = Path(args.out)
    packed = is_packed(args.model)
    source = (_of_packed if packed else _of_run)(args)
    reference = TorchRuntime(source.model)
    path = export_onnx(source.model, source.items, args.out, args.opset)
    parity = compare_scores(reference, OnnxRuntime(path), source.histories)
    facts = {"model": source.name, "dataset": source.dataset}
    update_export_file(args.out, **facts, parity={**asdict(parity), "of": source.users})
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    print(
        f"  against torch, {parity.users} {source.users}: largest difference of scores "
        f"{parity.max_difference:.1e} (their spread: {parity.spread:.2g}); first {TOP} items the "
        f"same for {parity.same_top:.1%}, but for ties {parity.same_top_but_for_ties:.1%}"
    )
    if args.int8:
        small = quantize(path)
        print(f"{small}: {small.stat().st_size / 2**20:.1f} MiB")
        if packed:
            rough = compare_scores(reference, OnnxRuntime(small), source.histories)
            update_export_file(args.out, int8={**asdict(rough), "of": source.users})
            print(
                f"  against torch, {rough.users} {source.users}: largest difference of scores "
                f"{rough.max_difference:.1e}; first {TOP} items the same for {rough.same_top:.1%}"
            )
        else:
            _print_costs(args.out, source, path, small)
    if parity.same_top_but_for_ties < 1:
        print("error: the exported model recommends different items than torch", file=sys.stderr)
        return 2
    return 0


@dataclass
class _Source:
    """What is exported, and the histories to compare by."""

    model: Any
    name: str
    dataset: str
    items: list[tuple[str, str]]  # raw id and title
    histories: Any  # [B, L] internal ids
    users: str  # whose they are
    config: Any = None  # of a run
    loader: Any = None


def _of_run(args) -> _Source:
    from recbole_lite.data.item_titles import item_titles
    from recbole_lite.data.loaders import HistoryMaskLoader
    from recbole_lite.inference.onnx_export import check_exportable
    from recbole_lite.inference.saved_run import load_data_and_model

    config, model, dataset, _, _, test_data = load_data_and_model(args.model, args.data_path)
    check_exportable(model)
    raw = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    titles = item_titles(dataset, config["title_field"])
    # A loader of its own: the run's may rank against sampled items only (eval_args, mode).
    loader = HistoryMaskLoader(config, test_data._dataset, None)
    histories = loader.collate_fn(range(min(USERS, len(test_data._dataset))))[0][model.ITEM_SEQ]
    items = list(zip(raw[1:], titles[1:], strict=True))
    names = config["model"], config["dataset"]
    return _Source(model, *names, items, histories.cpu().numpy(), "test users", config, loader)


def _of_packed(args) -> _Source:
    """Its data set is not at hand: histories are drawn, any item as likely as any other."""
    import numpy as np

    from recbole_lite import Recommender
    from recbole_lite.inference.onnx_export import check_exportable

    if args.data_path:
        raise RequestError(
            f"--data_path: {args.model} is a packed model, which is exported without its data set; "
            "leave it out"
        )
    recommender = Recommender.load(args.model, runtime="torch")
    model, catalogue = recommender.model, recommender.catalogue
    check_exportable(model)
    draw = np.random.default_rng(SEED)
    shape = USERS, int(model.max_seq_length)  # type: ignore[arg-type]
    histories = draw.integers(1, len(catalogue) + 1, shape)
    histories *= np.arange(shape[1]) < draw.integers(1, shape[1] + 1, (USERS, 1))
    items = list(zip(catalogue.ids[1:], catalogue.titles[1:], strict=True))
    model_name, _, dataset = recommender.name.partition("-")
    return _Source(model, model_name, dataset, items, histories, "histories drawn at random")


def _print_costs(out: Path, source: _Source, path: Path, small: Path) -> None:
    """Metrics of the test split by both files."""
    from recbole_lite.inference.export_parity import evaluate_scores
    from recbole_lite.inference.onnx_export import update_export_file
    from recbole_lite.inference.onnx_runtime import OnnxRuntime

    costs = {
        file.name: evaluate_scores(
            source.config, source.model, source.loader, OnnxRuntime(file).scores
        )
        for file in (path, small)
    }
    update_export_file(out, test=costs)
    for name, exact in costs[path.name].items():
        print(f"  test {name}: float32 {exact:.4f}, int8 {costs[small.name][name]:.4f}")

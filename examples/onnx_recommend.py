"""Recommend from an exported model; needs onnxruntime and NumPy, not torch or RecBole.

recbole-lite export --model=saved/LiteLLM4Rec-... --out=exported
python examples/onnx_recommend.py exported 1,2571,260
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(folder: str, history: str, k: int = 10) -> None:
    """Print the best `k` items after `history` (raw item ids, commas between)."""
    folder = Path(folder)
    try:
        items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
        about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {folder}: not what `recbole-lite export` writes: {error}")
    session = onnxruntime.InferenceSession(folder / "model.onnx")

    number = {item["id"]: internal for internal, item in enumerate(items) if internal}
    names = [name for raw in history.split(",") if (name := raw.strip())]
    unknown = [name for name in names if name not in number]
    if unknown:
        sys.exit(f"error: {folder / 'items.json'} has no item {', '.join(map(repr, unknown))}")
    if not names:
        sys.exit("error: the history is empty; give ids of items with commas between")
    had = [number[name] for name in names]
    scores, ids = session.run(
        ["scores", "ids"],
        {
            "items": np.array([had[-about["max_length"] :]]),
            "exclude": np.array([had]),
            "k": np.array([min(k, len(items) - 1 - len(set(had)))]),
        },
    )
    for score, internal in zip(scores[0], ids[0], strict=True):
        print(f"{score:8.3f}  {items[internal]['id']:>8}  {items[internal]['title']}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER ID,ID,...")
    main(*sys.argv[1:])

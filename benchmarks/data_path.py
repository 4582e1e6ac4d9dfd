"""From atomic files to the first training batch: RecBole's own dataset against ours.

    python benchmarks/data_path.py --dataset=ml-1m --data_path=DIR
    python benchmarks/data_path.py --synthetic            # 1, 3 and 10 million interactions, ours

Each measurement runs in a process of its own. "Extra memory" is the peak resident size less what
the interpreter holds after the imports. Both sides get the same settings (SASRec, leave-one-out,
windows of RecBole's default length of 50) and only columns of ``.inter``, because RecBole fails
on pandas 3 when it reads a ``token_seq`` column. Medians over --repeats.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from shared import in_child, medians, parser_of, peak_mib, write
from tabulate import tabulate

SIZES = {  # interactions: users, items
    1_000_000: (100_000, 50_000),
    3_000_000: (300_000, 100_000),
    10_000_000: (1_000_000, 200_000),
}


def measure(side: str, dataset: str, data_path: str, batches: int) -> dict[str, float]:
    """Run in a child: load, split, and take `batches` batches."""
    import warnings

    warnings.simplefilter("ignore")
    from recbole.data.dataset import SequentialDataset
    from recbole.data.utils import data_preparation as recbole_data_preparation

    from recbole_lite import LiteConfig, create_dataset, data_preparation, get_model

    get_model("SASRec")
    settings = {
        "data_path": data_path,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        # A data set's own name columns of .item.
        "item_attribute": "item_id",
        "selected_features": ["item_id"],
        "MAX_ITEM_LIST_LENGTH": 50,
        "eval_exclude_history": False,
    }
    config = LiteConfig("SASRec", dataset, config_dict=settings)
    before = peak_mib()
    started = time.perf_counter()
    if side == "ours":
        loaders = data_preparation(config, create_dataset(config))
    else:
        loaders = recbole_data_preparation(config, SequentialDataset(config))
    iterator = iter(loaders[0])
    first = next(iterator)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    for _, batch in zip(range(batches), iterator, strict=False):
        batch["item_id_list"].sum()
    return {
        "seconds": seconds,
        "extra_mib": peak_mib() - before,
        "peak_mib": peak_mib(),
        "batch_ms": 1000 * (time.perf_counter() - started) / batches,
        "rows": len(first),
        "windows": len(loaders[0]._dataset),
    }


def child(side: str, dataset: str, data_path: str, batches: int) -> dict[str, float]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:  # RecBole writes its log where it stands
        there = {"initializer": os.chdir, "initargs": (folder,)}
        return in_child(measure, side, dataset, data_path, batches, **there)


def compare(args) -> dict:
    data_path = str(Path(args.data_path).resolve())
    runs = {"recbole": [], "ours": []}
    for _ in range(args.repeats):
        for side in runs:  # in turn, so that a busy machine slows both
            runs[side].append(child(side, args.dataset, data_path, args.batches))
    result = {side: medians(measured) for side, measured in runs.items()}
    recbole, ours = result["recbole"], result["ours"]
    keys = ["seconds", "extra_mib", "peak_mib", "batch_ms"]
    rows = [
        [name, recbole[name], ours[name], f"{recbole[name] / ours[name]:.1f}x"] for name in keys
    ]
    print(f"{args.dataset}, median of {args.repeats} runs, {int(ours['windows']):,} windows")
    print(tabulate(rows, headers=["", "RecBole", "recbole-lite", "ratio"], floatfmt=",.1f"))
    return {"dataset": args.dataset, "repeats": args.repeats, **result, "runs": runs}


def write_synthetic(folder: Path, interactions: int) -> str:
    """Write random interactions; popularity falls off, times are unix seconds, rows shuffled."""
    users, items = SIZES[interactions]
    rng = np.random.default_rng(0)
    name = f"synthetic-{interactions}"
    (folder / name).mkdir()
    # Every user has some rows; the rest goes to random users.
    owner = np.concatenate([np.arange(users), rng.integers(0, users, interactions - users)])
    item = (items * rng.random(interactions) ** 3).astype(np.int64)
    stamp = 1_300_000_000 + rng.integers(0, 300_000_000, interactions)
    order = rng.permutation(interactions)
    with (folder / name / f"{name}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for part in np.array_split(order, max(1, interactions // 1_000_000)):
            rows = zip(owner[part].tolist(), item[part].tolist(), stamp[part].tolist(), strict=True)
            file.writelines(f"u{u}\ti{i}\t{t}\n" for u, i, t in rows)
    return name


def synthetic(args) -> dict:
    result = {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        for interactions in SIZES:
            name = write_synthetic(Path(folder), interactions)
            runs = [child("ours", name, folder, args.batches) for _ in range(args.repeats)]
            result[interactions] = medians(runs)
    sizes, seconds = list(result), [r["seconds"] for r in result.values()]
    memory = [r["extra_mib"] for r in result.values()]
    exponents = {"seconds": slope(sizes, seconds), "extra_mib": slope(sizes, memory)}
    rows = [
        [f"{n:,}", *map("{:,}".format, SIZES[n]), r["seconds"], r["peak_mib"], r["batch_ms"]]
        for n, r in result.items()
    ]
    head = ["interactions", "users", "items", "seconds", "peak MiB", "ms per batch"]
    print(tabulate(rows, headers=head, floatfmt=",.1f"))
    print("grows as n^k: " + ", ".join(f"{name} k = {k:.2f}" for name, k in exponents.items()))
    return {"sizes": result, "exponents": exponents}


def slope(sizes: list[int], values: list[float]) -> float:
    """Exponent k of values ~ sizes^k, least squares over logarithms."""
    return float(np.polyfit([math.log(n) for n in sizes], [math.log(v) for v in values], 1)[0])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--synthetic", action="store_true", help="growth from 1 to 10 million")
    parser.add_argument("--scratch", help="where to write the synthetic sets")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    write(args.json, synthetic(args) if args.synthetic else compare(args))


if __name__ == "__main__":
    main()

"""A large data set on one machine: Parquet to the first steps of a training; memory and time.

    python benchmarks/large_data.py --interactions=10M --folder=DIR --out=results/data
    python benchmarks/large_data.py --interactions=100M --folder=DIR --steps=0      # reading alone
    python benchmarks/large_data.py --interactions=3M --items=1M --workers=2 --out=results/scaling
    python benchmarks/large_data.py --interactions=12M --items=10M --users=2000 --hidden_size=128 \
        --workers=2 --losses "SCE, sparse_item_updates" --evaluate --out=results/scaling

The data set is synthetic: 20 interactions per user (--users), 100 per item (--items), Zipf
popularity, rows in the order of time, ids of up to 40 bits. It is written to --folder unless it is
there. "First start" reads the Parquet file and writes the sequence store, "second start" opens the
store; both end with the first batch of ``train_strategy: prefix``. Each runs in a process of its
own. The peak is that of the resident memory, in which pages of mapped files count, too.

With --workers, a training of so many processes is measured instead, with the whole item table in
each of them and with ``shard_items``. Memory is what the largest process adds from the model on.
--evaluate ranks all items for every user after it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from shared import in_child, parser_of, peak_mib, write
from tabulate import tabulate

ROWS_PER_GROUP = 2_000_000
SETTINGS = {
    "train_strategy": "prefix",
    "loss_type": "SCE",
    "loss_exclude_history": False,
    "num_negatives": 4096,
    "sparse_item_updates": True,
    "eval_exclude_history": True,
    "hidden_size": 64,
    "inner_size": 256,
    "n_layers": 1,
    "train_batch_size": 128,
    "epochs": 1,
    "warmup_ratio": 0.0,
    "show_progress": False,
}
# With --workers: loss -> what it is trained with beside SETTINGS.
LOSSES = {
    "CE": {"loss_type": "CE", "train_batch_size": 8, "sparse_item_updates": False},
    "SCE": {"sparse_item_updates": False},
    "SCE, sparse_item_updates": {},
    "SCE, sparse_item_updates, bfloat16": {"item_dtype": "bfloat16"},
}


def write_parquet(path: Path, interactions: int, items: int, users: int) -> None:
    """Write random interactions, a row group at a time; the first have each item once."""
    rng = np.random.default_rng(0)
    popularity = np.cumsum(1 / np.arange(10, items + 10))
    popularity /= popularity[-1]
    schema = pa.schema([(name, pa.int64()) for name in ("user_id", "item_id", "timestamp")])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with pq.ParquetWriter(temporary, schema) as writer:
        for begin in range(0, interactions, ROWS_PER_GROUP):
            n = min(ROWS_PER_GROUP, interactions - begin)
            user = (users * rng.random(n) ** 1.5).astype(np.int64)
            item = np.searchsorted(popularity, rng.random(n))
            if items > interactions // 100:  # else all are drawn often
                once = np.arange(begin, min(begin + n, max(items, begin)))
                item[: len(once)] = once
            # An odd factor permutes the numbers below a power of two.
            columns = [user * 2654435761 % 2**40, item * 40503 % 2**32]
            seconds = 1_300_000_000 + (begin + np.arange(n)) * 300_000_000 // interactions
            writer.write_table(pa.table([*columns, seconds], schema))
    os.replace(temporary, path)


def measure(name: str, folder: str, steps: int) -> dict[str, float]:
    """Run in a child: load, split, take a batch, and train `steps` steps."""
    import warnings

    warnings.simplefilter("ignore")
    import torch

    from recbole_lite import LiteConfig, create_dataset, data_preparation
    from recbole_lite.config.registry import get_trainer

    torch.set_num_threads(1)
    settings = {**SETTINGS, "data_path": folder, "max_steps": max(steps, 1), "state": "WARNING"}
    config = LiteConfig("ItemLM", name, config_dict=settings)
    before, started, worked = peak_mib(), time.perf_counter(), time.process_time()
    dataset = create_dataset(config)
    found = {"interactions": dataset.inter_num, "users": dataset.user_num - 1}
    found |= {"items": dataset.item_num - 1, "imports_mib": before, "read_mib": peak_mib()}
    loaders = data_preparation(config, dataset)
    next(iter(loaders[0]))
    found |= {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}
    found["cpu_seconds"] = time.process_time() - worked
    if steps:
        model = config.model_class(config, loaders[0]._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        started, worked = time.perf_counter(), time.process_time()
        trainer.fit(loaders[0], saved=False, verbose=False)
        found["steps_per_second"] = steps / (time.perf_counter() - started)
        found["steps_per_cpu_second"] = steps / (time.process_time() - worked)
        found["trained_peak_mib"] = peak_mib()
    return found


def measure_workers(config_dict: dict, name: str, evaluate: bool) -> dict[str, float]:
    """Run in each process of a training: memory and time of its steps, and of ranking all items."""
    import torch
    import torch.distributed as dist

    from recbole_lite import LiteConfig, create_dataset, data_preparation
    from recbole_lite.config.registry import get_trainer

    config, steps = LiteConfig("ItemLM", name, config_dict=config_dict), config_dict["max_steps"]
    loaders = data_preparation(config, create_dataset(config))
    next(iter(loaders[0]))
    before = peak_mib()
    torch.manual_seed(dist.get_rank())
    model = config.model_class(config, loaders[0]._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    started, worked = time.perf_counter(), time.process_time()
    trainer.fit(loaders[0], saved=False, verbose=False)
    found = {"seconds": (time.perf_counter() - started) / steps}
    found |= {"cpu_seconds": (time.process_time() - worked) / steps}
    found |= {"mib": peak_mib() - before, "loss": trainer.train_losses[0] / steps}
    if evaluate:
        started, worked = time.perf_counter(), time.process_time()
        result = trainer.evaluate(loaders[1], load_best_model=False)
        found["evaluation_seconds"] = time.perf_counter() - started
        found["evaluation_cpu_seconds"] = time.process_time() - worked
        found |= {"evaluation_mib": peak_mib() - before, "recall@10": result["recall@10"]}
        found |= {"items": loaders[1]._dataset.item_num - 1, "users": len(loaders[1]._dataset)}
    everyone: list[dict[str, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    for key in set(found) & {"mib", "evaluation_mib"}:
        found[key] = max(one[key] for one in everyone)
    for key in set(found) & {"cpu_seconds", "evaluation_cpu_seconds"}:
        found[key] = sum(one[key] for one in everyone)
    return found


def compare_workers(name: str, folder: Path, args) -> list[dict]:
    """Measure trainings with whole tables and with shards."""
    from recbole_lite import LiteConfig
    from recbole_lite.trainer.launch import launch

    results = []
    for loss in args.losses:
        changes = LOSSES[loss]
        for shards in (False, True):
            settings = {**SETTINGS, **changes, "shard_items": shards, "nproc": args.workers}
            settings |= {"data_path": str(folder), "max_steps": args.steps, "state": "ERROR"}
            settings |= {"hidden_size": args.hidden_size, "inner_size": 4 * args.hidden_size}
            settings["lm_dropout"] = 0.0  # its draws are each process's own
            if settings["sparse_item_updates"] and not shards:
                continue  # processes that hold the whole table sum dense gradients
            config = LiteConfig("ItemLM", name, config_dict=settings)
            given = {"config_dict": settings, "name": name, "evaluate": args.evaluate}
            found = launch(measure_workers, config, given)
            results.append({"loss_type": loss, "shard_items": shards, **found})
            print(results[-1], flush=True)
    return results


def count_of(text: str) -> int:
    """Number written like 10M."""
    return int(float(text.upper().removesuffix("M")) * 1_000_000)


def main() -> None:
    parser = parser_of(__doc__, data=False)
    parser.add_argument("--interactions", type=count_of, nargs="+", default=[1_000_000])
    parser.add_argument("--folder", type=Path, help="of the data sets; default: a temporary one")
    parser.add_argument("--steps", type=int, default=20, help="of the training; 0: none")
    parser.add_argument("--items", type=count_of, help="default: a hundredth of the interactions")
    parser.add_argument("--users", type=int, help="default: a twentieth of the interactions")
    parser.add_argument("--workers", type=int, help="compare trainings of so many processes")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--hidden_size", type=int, default=SETTINGS["hidden_size"])
    parser.add_argument("--evaluate", action="store_true", help="with --workers: rank all items")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        folder, results = (args.folder or Path(scratch)).resolve(), []
        os.chdir(scratch)  # RecBole writes its log where it stands
        for interactions in args.interactions:
            items = args.items or max(interactions // 100, 50)
            name = f"large-{interactions}" + (f"-{items}" if args.items else "")
            name += f"-{args.users}" if args.users else ""
            path = folder / name / f"{name}.inter.parquet"
            if not path.is_file():
                write_parquet(path, interactions, items, args.users or interactions // 20)
            if args.workers:
                results += compare_workers(name, folder, args)
                continue
            shutil.rmtree(folder / name / ".sequences", ignore_errors=True)
            first = in_child(measure, name, str(folder), 0)
            second = in_child(measure, name, str(folder), args.steps)
            results.append({"first": first, "second": second})
            print(f"{interactions:,}: {results[-1]}", flush=True)
    if args.workers:
        os.chdir(here)
        text = tabulate(results, "keys", tablefmt="github", floatfmt=",.2f")
        write(args.out and args.out / "sharded_items.json", {"results": results}, text)
        return
    keys = ("seconds", "cpu_seconds", "peak_mib")
    of_second = (*keys, "steps_per_second", "steps_per_cpu_second", "trained_peak_mib")
    rows = [
        [f"{first['interactions']:,}", *map(first.get, keys), *map(second.get, of_second)]
        for first, second in (result.values() for result in results)
    ]
    head = ["interactions", "first start s", "CPU s", "peak MiB", "second start s", "CPU s"]
    head += ["peak MiB", "steps / s", "steps / CPU s", "peak MiB"]
    os.chdir(here)
    text = tabulate(rows, head, tablefmt="github", floatfmt=",.1f", missingval="-")
    write(args.out and args.out / "large_data.json", {"results": results}, text)


if __name__ == "__main__":
    main()

"""What a file of histories costs: seconds and memory as it grows (recbole-lite recommend --input).

    python benchmarks/recommend_file.py --model=saved/RUN --users=10000,50000 --out=FILE.json

Histories are drawn from the model's catalogue, lengths 5 to 200 as on ml-1m. Each size runs in a
process of its own. "cpu" is processor time, which other work on the machine does not change as
it does wall time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tabulate import tabulate

from recbole_lite.utils.environment import environment
from recbole_lite.utils.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--users", default="10000,50000")
    parser.add_argument("--out")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for users in map(int, args.users.split(",")):
            source = Path(folder, f"{users}.csv")
            write_histories(args.model, source, users)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
                found = child.submit(measure, args.model, str(source)).result()
            rows.append({"users": users, "input MiB": source.stat().st_size / 2**20, **found})
            print(tabulate(rows, headers="keys", floatfmt=",.1f"), flush=True)
    if args.out:
        report = {
            "sizes": rows,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "environment": environment(),
        }
        write_json(args.out, report)


def write_histories(model: str, path: Path, users: int) -> None:
    from recbole_lite.inference.catalogue import Catalogue

    ids = np.array(Catalogue.load(Path(model, "items.jsonl")).ids[1:])
    rng = np.random.default_rng(0)
    lengths = np.minimum(5 + rng.geometric(1 / 100, users), 200)
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id,history\n")
        for user, length in enumerate(lengths):
            file.write(f"{user},{';'.join(rng.choice(ids, length))}\n")


def measure(model: str, source: str) -> dict[str, float]:
    from recbole_lite import Recommender
    from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file

    recommender = Recommender.load(model)
    before, cpu = time.perf_counter(), time.process_time()
    summary = recommend_file(
        recommender, source, f"{source}.out", BatchOptions(show_progress=False)
    )
    seconds, cpu = time.perf_counter() - before, time.process_time() - cpu
    os.unlink(f"{source}.out")
    return {
        "wall s": seconds,
        "cpu s": cpu,
        "users / cpu s": summary.users / cpu,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()

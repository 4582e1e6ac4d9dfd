"""What a file of histories costs: seconds and memory as it grows (recbole-lite recommend --input).

    python benchmarks/recommend_file.py --model=saved/RUN --users=10000,50000 --out=FILE.json

Histories are drawn from the model's catalogue, lengths 5 to 200 as on ml-1m. Each size runs in a
process of its own. "cpu" is processor time, which other work on the machine does not change as it
does wall time; "read cpu s" is one of the two passes over the input, which with --ray the command
itself makes while workers rank.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from shared import in_child, parser_of, peak_mib, write
from tabulate import tabulate


def main() -> None:
    parser = parser_of(__doc__, data=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--users", default="10000,50000")
    parser.add_argument("--out")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for users in map(int, args.users.split(",")):
            source = Path(folder, f"{users}.csv")
            write_histories(args.model, source, users)
            found = in_child(measure, args.model, str(source))
            rows.append({"users": users, "input MiB": source.stat().st_size / 2**20, **found})
            print(tabulate(rows, headers="keys", floatfmt=",.1f"), flush=True)
    write(args.out, {"sizes": rows})


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
    from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file, resolved

    recommender = Recommender.load(model)
    cpu = time.process_time()
    for _ in resolved(recommender, [source], BatchOptions(), None):
        pass
    reading = time.process_time() - cpu
    before, cpu = time.perf_counter(), time.process_time()
    summary = recommend_file(
        recommender, source, f"{source}.out", BatchOptions(show_progress=False)
    )
    seconds, cpu = time.perf_counter() - before, time.process_time() - cpu
    os.unlink(f"{source}.out")
    return {
        "wall s": seconds,
        "cpu s": cpu,
        "read cpu s": reading,
        "users / cpu s": summary.users / cpu,
        "peak MiB": peak_mib(),
    }


if __name__ == "__main__":
    main()

"""Top 10 of millions of items: by blocks in three precisions, and from the approximate index.

    python benchmarks/large_ranking.py --items 1M 10M --out=results/recommend

Items and users are products of a fixed matrix with random vectors of 32 numbers, plus noise: like
trained vectors, and unlike independent noise, items have neighbours. Each way runs in a process of
its own. "Memory" is the peak resident size less the interpreter's, the vectors included; recall@10
is the share of the exact top 10 (float32) that is found.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from large_data import count_of
from shared import in_child, parser_of, peak_mib, write
from tabulate import tabulate

WAYS = {  # runtime and type of the vectors
    "blocks, float32": ("blocks", "float32"),
    "blocks, bfloat16": ("blocks", "bfloat16"),
    "blocks, float16": ("blocks", "float16"),
    "index, float16": ("ann", "float16"),
}
BLOCK = 2**17


class RandomModel(torch.nn.Module):
    """Items and users without a language model; the last item of a history is a user's number."""

    def __init__(self, items: int, size: int, dtype: str, users: int = 256):
        super().__init__()
        self.n_items, self.max_seq_length, self.reader = items + 1, 1, None
        torch.manual_seed(0)
        turn = torch.randn(32, size) / 32**0.5
        self.register_parameter("users", torch.nn.Parameter(torch.randn(users, 32) @ turn))
        self.head = torch.empty(items, size, dtype=getattr(torch, dtype))
        for begin in range(0, items, BLOCK):
            n = min(BLOCK, items - begin)
            vectors = torch.randn(n, 32) @ turn + 0.3 * torch.randn(n, size)
            self.head[begin : begin + n] = vectors / size**0.5

    def keep_items(self, dtype: torch.dtype) -> torch.Tensor:
        """Head in a precision."""
        return self.head.to(dtype)

    def score_users(self, users: torch.Tensor) -> torch.Tensor:
        """Users as they are."""
        return users

    def forward(self, histories: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Vectors of users."""
        return self.users[histories[:, -1] - 1]


def measure(n_items: int, runtime: str, dtype: str, args) -> dict:
    """Run in a child: make the vectors and the runtime, rank."""
    from recbole_lite.inference.block_runtime import BlockRuntime, IndexRuntime

    torch.set_num_threads(args.threads)
    before = peak_mib()
    model = RandomModel(n_items, args.size, dtype)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        if runtime == "ann":
            ranker = IndexRuntime(model, Path(folder, "items.faiss"), dtype)
        else:
            ranker = BlockRuntime(model, dtype)
        found = {"build_seconds": time.perf_counter() - started}
        histories = [[user + 1] for user in range(args.users)]
        found["items"] = ranker.rank(histories, 10)[0].tolist()
        for count in (1, args.users):
            times = []
            for _ in range(args.repeats):
                started = time.perf_counter()
                ranker.rank(histories[:count], 10, histories[:count])
                times.append(time.perf_counter() - started)
            found[f"ms_{count}"] = 1000 * min(times)
    return {**found, "memory_mib": peak_mib() - before}


def main() -> None:
    parser = parser_of(__doc__, data=False)
    parser.add_argument("--items", type=count_of, nargs="+", default=[1_000_000])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--users", type=int, default=32, help="ranked at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--scratch", help="where the index is written")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results, rows = {}, []
    for n_items in args.items:
        for way in args.ways:
            found = in_child(measure, n_items, *WAYS[way], args)
            exact = results.get((n_items, args.ways[0]), found)["items"]
            pairs = zip(found["items"], exact, strict=True)
            found["recall"] = sum(len({*a} & {*b}) / 10 for a, b in pairs) / len(exact)
            results[n_items, way] = found
            rows.append([f"{n_items:,}", way, found["memory_mib"], found["build_seconds"]])
            rows[-1] += [found["ms_1"], found[f"ms_{args.users}"], found["recall"]]
            print(rows[-1], flush=True)
    head = ["items", "way", "memory MiB", "start s", "ms, 1 user", f"ms, {args.users} users"]
    formats = ("", "", ",.0f", ".1f", ",.1f", ",.1f", ".3f")
    text = tabulate(rows, [*head, "recall@10"], tablefmt="github", floatfmt=formats)
    for found in results.values():
        del found["items"]
    figures = {f"{items} {way}": found for (items, way), found in results.items()}
    write(args.out and args.out / "large_ranking.json", {"results": figures}, text)


if __name__ == "__main__":
    main()

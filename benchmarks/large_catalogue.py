r"""Cross entropy over a catalogue of a million items: memory and time, naive and in chunks.

    python benchmarks/large_catalogue.py --items=1000000 --rows=512 --out=results/training
    python benchmarks/large_catalogue.py --items=12101 --rows=896 --repeats=15 \
        --out=results/training

One step each, in a process of its own: scores of `rows` user vectors over all items, loss,
gradients of the users and of the head. "Extra memory" is the peak resident size less what the
vectors, the head and its gradient take. The sampled loss (``loss_type: SCE``) is beside them; it
is another loss, and the table says how far its value is from the full one.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
import torch.nn.functional as F
from shared import in_child, parser_of, peak_mib, write
from tabulate import tabulate

from recbole_lite.model.layers.softmax_loss import cross_entropy, sampled_cross_entropy
from recbole_lite.trainer.matmul_backend import matrix_products

LOSSES = {
    "naive": lambda users, head, targets, _: F.cross_entropy(users @ head.T, targets),
    "chunks (CE)": lambda users, head, targets, _: cross_entropy(users, head, targets),
    "sampled (SCE)": lambda users, head, targets, n: sampled_cross_entropy(users, head, targets, n),
}


def measure(name: str, args) -> dict:
    """Run in a child, so that peaks do not mix."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    head = torch.nn.Parameter(torch.randn(args.items, args.size) / args.size**0.5)
    users = torch.randn(args.rows, args.size, requires_grad=True)
    targets = torch.randint(args.items, (args.rows,))
    head.grad = torch.zeros_like(head)  # held by both ways
    before = peak_mib()
    seconds = []
    with matrix_products(args.matmul_backend, torch.device("cpu")):
        for _ in range(args.repeats):
            started = time.perf_counter()
            loss = LOSSES[name](users, head, targets, args.negatives)
            loss.backward()
            seconds.append(time.perf_counter() - started)
    return {
        "loss": name,
        "value": loss.item(),
        "seconds": statistics.median(seconds),
        "extra_mib": peak_mib() - before,
        "gradient_norm": users.grad.norm().item(),
    }


def run_child(name: str, args) -> dict:
    """Measure, or say that the child was killed (out of memory)."""
    try:
        return in_child(measure, name, args)
    except BrokenProcessPool:
        return {"loss": name, "failed": "killed"}


def main() -> None:
    parser = parser_of(__doc__, data=False)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="the median time counts")
    parser.add_argument("--matmul_backend", default="torch")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = [run_child(name, args) for name in LOSSES]
    head = ["loss", "value", "seconds", "extra MiB"]
    rows = [
        [r["loss"], r.get("value", r.get("failed")), r.get("seconds"), r.get("extra_mib")]
        for r in results
    ]
    held = 2 * 4 * args.items * args.size / 2**20
    size = f"{args.items:,} items, {args.rows} rows, d = {args.size}"
    print(f"{size}; head and its gradient {held:,.0f} MiB")
    print(tabulate(rows, head, floatfmt=("", ".4f", ".3f", ",.0f"), missingval="-"))
    path = args.out and args.out / f"large_catalogue-{args.items}-{args.rows}.json"
    write(path, {"head_and_gradient_mib": held, "results": results})


if __name__ == "__main__":
    main()

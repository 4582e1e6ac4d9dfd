"""Cross entropy over a catalogue of a million items: memory and time, naive and in chunks.

    python benchmarks/large_catalogue.py --items=1000000 --rows=512 --out=results/training

One step each, in a process of its own: scores of `rows` user vectors over all items, loss,
gradients of the users and of the head. "Extra memory" is the peak resident size less what the
vectors, the head and its gradient take. The sampled loss (``loss_type: SCE``) is beside them; it
is another loss, and the table says how far its value is from the full one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate

from recbole_lite.model.layers.softmax_loss import cross_entropy, sampled_cross_entropy
from recbole_lite.utils.environment import environment
from recbole_lite.utils.files import write_json

LOSSES = {
    "naive": lambda users, head, targets, _: F.cross_entropy(users @ head.T, targets),
    "chunks (CE)": lambda users, head, targets, _: cross_entropy(users, head, targets),
    "sampled (SCE)": lambda users, head, targets, n: sampled_cross_entropy(users, head, targets, n),
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, args) -> dict:
    """Run in a child, so that peaks do not mix."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    head = torch.nn.Parameter(torch.randn(args.items, args.size) / args.size**0.5)
    users = torch.randn(args.rows, args.size, requires_grad=True)
    targets = torch.randint(args.items, (args.rows,))
    head.grad = torch.zeros_like(head)  # held by both ways
    before = peak_mib()
    started = time.perf_counter()
    loss = LOSSES[name](users, head, targets, args.negatives)
    loss.backward()
    return {
        "loss": name,
        "value": loss.item(),
        "seconds": time.perf_counter() - started,
        "extra_mib": peak_mib() - before,
        "gradient_norm": users.grad.norm().item(),
    }


def run_child(name: str, args) -> dict:
    """Measure, or say that the child was killed (out of memory)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        try:
            return child.submit(measure, name, args).result()
        except BrokenProcessPool:
            return {"loss": name, "failed": "killed"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
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
    print(tabulate(rows, head, floatfmt=("", ".4f", ".2f", ",.0f"), missingval="-"))
    if args.out:
        content = {
            "command": " ".join(["python", *sys.argv]),
            "environment": environment(),
            "head_and_gradient_mib": held,
            "results": results,
        }
        write_json(args.out / f"large_catalogue-{args.items}-{args.rows}.json", content)


if __name__ == "__main__":
    main()

"""What each idea of the engine brings: the engine against itself with one of them taken away.

    python benchmarks/inference_ideas.py --data_path=DIR --lengths_from=amazon-games --threads=1 \
        --out=results/inference

Sizes, users and options as in benchmarks/inference.py; the encoder alone (no head, no top-k), in
turns, in random order, the processor's milliseconds for a batch (on a GPU the wall clock's). With
--compile also torch.compile (inductor, with frozen weights), and the time it takes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from inference import Users, clock, lengths_of, load
from tabulate import tabulate

from recbole_lite.inference.blocks import read_blocks
from recbole_lite.inference.dense import Dense, PackedDense
from recbole_lite.inference.encoder import FastEncoder, build_encoder
from recbole_lite.model.pooling import UserPooling
from recbole_lite.report.environment import environment

ALL = "engine"


def variants(model, args) -> dict:
    """Name -> (items, padded) -> user vectors."""
    engine = build_encoder(model, kind=PackedDense)
    unfolded = build_encoder(model, kind=PackedDense)
    unfolded.first = None
    as_any_batch = build_encoder(model, kind=PackedDense)
    as_any_batch.exact_rows = 0
    mkl = build_encoder(model, kind=Dense)
    blocks = read_blocks(model.rec_llm.encoder, model.rec_llm.causal, model.max_seq_length)
    last = {
        kind: FastEncoder(blocks, pooling, engine.table, torch.float32, PackedDense)
        for kind, pooling in (("last", UserPooling("last")), ("every", _LastOfAll("last")))
    }

    def plain(items, padded):
        mask = items != 0
        return model.pooling(model.rec_llm(model.item_tower(items), mask), mask)

    found = {
        "Hugging Face": plain,
        ALL: engine,
        "without oneDNN's kernels": mkl,
        "with padding computed": lambda items, padded: engine(items.clamp_min(1), False),
        "without the first layer's table": unfolded,
        "one history as any batch": as_any_batch,
        "bfloat16": build_encoder(model, torch.bfloat16, PackedDense),
        "user_pooling: last": last["last"],
        "the same, every output made": last["every"],
    }
    if args.compile:
        found["torch.compile"] = compiled(mkl)
    for side in found.values():
        if isinstance(side, FastEncoder):
            side.warm_up(32 * model.max_seq_length)
    return found


class _LastOfAll(UserPooling):
    """Pooling ``last`` that the encoder does not know as such."""

    def __init__(self, kind):
        super().__init__(kind)
        self.kind = "last of all"

    def forward(self, hidden, mask):
        """Last output, ``[B, d]``."""
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]


def compiled(encoder: FastEncoder):
    """The encoder through inductor; whole batches only, for each shape anew."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    inner = torch.compile(lambda items: encoder(items, False), dynamic=False)
    seconds = {}

    def run(items, padded):
        items = items.clamp_min(1)
        shape = str(tuple(items.shape))
        if shape not in seconds:
            started = time.perf_counter()
            inner(items)
            seconds[shape] = time.perf_counter() - started
            print(f"compiled for {shape} in {seconds[shape]:.0f} s", file=sys.stderr)
        return inner(items)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--model", help="folder of a trained LiteLLM4Rec")
    parser.add_argument("--lengths_from")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for ideas.json and ideas.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    _, model, test = load(args)
    users = Users(model, test, lengths_of(args))
    times: dict = {}
    draw = random.Random(2020)
    with torch.no_grad():  # inductor does not take inference mode's tensors
        sides = variants(model, args)
        for kind in users.kinds:
            for size in (1, 32):
                repeats = args.repeats if size > 1 else 5 * args.repeats
                batches = [users.batch(kind, n, size)[0].to(args.device) for n in range(repeats)]
                kept = {name: [] for name in sides}
                for number in range(-2, repeats):  # two warm-ups
                    items = batches[number]
                    padded = bool((items == 0).any())
                    # In random order: who comes behind Hugging Face finds the caches emptied.
                    for name, side in draw.sample(list(sides.items()), len(sides)):
                        took = clock(lambda s=side, i=items, p=padded: s(i, p), args.device)
                        if number >= 0:
                            kept[name].append(1000 * took[args.device == "cpu"])
                times[f"{kind}, batch {size}"] = {n: float(np.median(v)) for n, v in kept.items()}
    rows = [
        [name, *(f"{t[name]:.2f} ({t[name] / t[ALL]:.2f}x)" for t in times.values())]
        for name in sides
    ]
    text = tabulate(rows, ["ms", *times], tablefmt="github", disable_numparse=True)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = {
            "command": " ".join(["python", *sys.argv]),
            "environment": environment(),
            "times": times,
        }
        (args.out / "ideas.json").write_text(json.dumps(content, indent=1) + "\n")
        (args.out / "ideas.md").write_text(text + "\n")


if __name__ == "__main__":
    main()

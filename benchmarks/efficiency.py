"""Inference time of LITE-LLM4Rec and its rivals: Tables 1, 5, 6 and Figure 2 of the paper.

    python benchmarks/efficiency.py --dataset=ml-1m --data_path=DIR --tokenizer=FOLDER \
        --out=results/efficiency

From a batch of users (32, real histories from the test split, on the device) to their top 20
items, the paper's "time between inputting the data to the model and obtaining the final
recommendations" (Section 5.3). All language models are of T5-small's size, but for "LiteLLM4Rec
(prefix)", the small encoder of `properties/prefix/ml-1m.yaml`. Their weights are random, which
cost the same as trained ones; only where a beam search may stop early does the time depend on
them.
The sides take turns in one process, after a warm-up; medians, and the whole range.

"plain loop" is what one writes with the tokenizer and ``generate`` alone: it shows that the
rivals here are not slowed down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from transformers import AutoTokenizer, GenerationConfig

from recbole_lite import LiteConfig, create_dataset, data_preparation
from recbole_lite.model.generative.beam import write
from recbole_lite.model.generative.numbers import item_numbers
from recbole_lite.report.environment import environment

TOP = 20
PAPER_MS = {"P5": 2280, "POD": 2170, "LiteLLM4Rec": 6.13}  # Table 5, ML-1m
PAPER_TOKENS = {"P5": 112.2, "POD": 85.0, "LiteLLM4Rec": 21}  # Table 6, ML-1m
NO_DECODER = {"decoder": False}
TITLES = {**NO_DECODER, "item_in_prompt": "title"}
SIDES = {
    "P5": ("P5", {}),
    "P5 w/o_d": ("P5", NO_DECODER),
    "P5 w/o_d_TID": ("P5", TITLES),
    "POD": ("POD", {}),
    "POD w/o_d": ("POD", NO_DECODER),
    "POD w/o_d_TID": ("POD", TITLES),
    "LightLM": ("LightLM", {}),
    "BERT4Rec": ("BERT4Rec", {}),
    "SASRec": ("SASRec", {}),
    "LiteLLM4Rec": ("LiteLLM4Rec", {}),
    "LiteLLM4Rec (prefix)": ("LiteLLM4Rec", {"config_files": ["properties/prefix/ml-1m.yaml"]}),
}
COMMON = {
    "llm_init": "scratch",
    "rec_llm_init": "scratch",
    "item_llm": "minilm",
    "show_progress": False,
    "state": "WARNING",
}


class Side:
    """A model with the users of its test split."""

    def __init__(self, model: str, changes: dict, args):
        settings = {**COMMON, "data_path": args.data_path, "eval_batch_size": args.batch, **changes}
        files = settings.pop("config_files", None)
        if model in ("P5", "POD"):
            settings["tokenizer"] = args.tokenizer
        self.config = LiteConfig(model, args.dataset, files, config_dict=settings)
        if self.config["item_in_prompt"] == "title" and self.config["title_field"]:
            settings["item_text_template"] = f"{{{self.config['title_field']}}}"
            self.config = LiteConfig(model, args.dataset, files, config_dict=settings)
        self.dataset = create_dataset(self.config)
        train, _, self.test = data_preparation(self.config, self.dataset)
        torch.manual_seed(2020)
        self.model = self.config.model_class(self.config, train._dataset)
        self.model.to(self.config["device"]).eval()
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.rows = torch.arange(len(self.test._dataset.inter_feat))

    def batch(self, number: int, size: int, length: int | None = None):
        """`size` users, the `number`-th such batch; histories cut to their last `length`."""
        begin = number * size % max(len(self.rows) - size, 1)
        batch = self.test.collate_fn(self.rows[begin : begin + size])[0]
        if length is not None:
            key = self.model.ITEM_SEQ
            last = batch[self.model.ITEM_SEQ_LEN]
            first = (last - length).clamp_min(0)
            places = first[:, None] + torch.arange(length)
            items = batch[key].gather(1, places.clamp_max(batch[key].shape[1] - 1))
            batch.interaction[key] = items * (places < last[:, None])
            batch.interaction[self.model.ITEM_SEQ_LEN] = last.clamp_max(length)
        return batch.to(self.config["device"])

    def recommend(self, batch) -> torch.Tensor:
        """Top items, ``[B, TOP]``."""
        return self.model.full_sort_predict(batch).topk(TOP, dim=1).indices


def seconds(call: Callable, device) -> float:
    """Wall time of a call, with what a GPU has still to do."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def median(values: list[float]) -> dict[str, float]:
    """Milliseconds: median, smallest, largest."""
    values = sorted(1000 * value for value in values)
    return {"ms": statistics.median(values), "least": values[0], "most": values[-1]}


def take_turns(calls: dict[str, Callable[[int], None]], device, repeats: int) -> dict[str, dict]:
    """Call each side once as a warm-up, then `repeats` times in turn."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call(0)
    for repeat in range(1, repeats + 1):
        for name, call in calls.items():
            times[name].append(seconds(lambda call=call, n=repeat: call(n), device))
    return {name: median(values) for name, values in times.items()}


def time_of_batches(sides: dict[str, Side], size: int, repeats: int, length=None) -> dict:
    """Time per batch of each side; making the batch itself is not part of it."""
    any_side = next(iter(sides.values()))
    batches = {
        name: [side.batch(n, size, length) for n in range(repeats + 1)]
        for name, side in sides.items()
    }
    calls = {
        name: lambda n, side=side, name=name: side.recommend(batches[name][n])
        for name, side in sides.items()
    }
    return take_turns(calls, any_side.config["device"], repeats)


def plain_loop(side: Side) -> Callable:
    """Recommend with the tokenizer, ``generate`` and the tokenizer again, as text."""
    tokenizer = AutoTokenizer.from_pretrained(side.config["tokenizer"])
    numbers = [0, *item_numbers(side.config, side.dataset.item_num)]
    settings = GenerationConfig(
        num_beams=TOP, num_return_sequences=TOP, max_new_tokens=side.model.paths.longest,
        early_stopping=True, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip

    def recommend(batch):
        users, histories = batch["user_id"].tolist(), batch[side.model.ITEM_SEQ].tolist()
        texts = [
            f"user_{user} " + " ".join(f"item_{numbers[item]}" for item in items if item)
            for user, items in zip(users, histories, strict=True)
        ]
        inputs = tokenizer(texts, padding=True, return_tensors="pt").to(side.config["device"])
        sequences = side.model.llm.generate(**inputs, generation_config=settings)
        written = tokenizer.batch_decode(sequences, skip_special_tokens=True)
        return [int(text) if text.isdigit() else None for text in written]

    return recommend


def parts(side: Side, size: int, repeats: int) -> dict[str, dict]:
    """Time of each component (Figure 2): preparation, encoder, beam search, ids to items."""
    model, device = side.model, side.config["device"]
    times: dict[str, list[float]] = {}

    def clocked(name, call):
        out = []
        times.setdefault(name, []).append(seconds(lambda: out.append(call()), device))
        return out[0]

    for n in range(repeats + 1):
        batch = side.batch(n, size)
        if n == 1:
            times.clear()  # the first was the warm-up
        prompt = clocked("data preparation", lambda b=batch: model.tokens(b))
        states, mask = clocked("encoder", lambda p=prompt: model.encode(*p))
        written = clocked(
            "beam search",
            lambda s=states, m=mask: write(
                model.llm, s, m, model.paths, model.width, model.constrained
            ),
        )
        clocked("ids to items", lambda w=written: model.paths.items(w))
    return {name: median(values) for name, values in times.items()}


def input_lengths(sides: dict[str, Side], size: int) -> dict[str, dict]:
    """Average number of tokens (vectors, for LiteLLM4Rec) that the encoder reads per user."""
    lengths = {}
    for name, side in sides.items():
        total = longest = users = 0
        for begin in range(0, len(side.rows), size):
            batch = side.test.collate_fn(side.rows[begin : begin + size])[0]
            batch = batch.to(side.config["device"])
            if hasattr(side.model, "tokens"):
                mask = side.model.tokens(batch)[2]
            else:
                mask = batch[side.model.ITEM_SEQ] > 0
            total, users = total + int(mask.sum()), users + len(mask)
            longest += mask.shape[1] * len(mask)
        lengths[name] = {"tokens": total / users, "padded": longest / users}
        prompt = getattr(side.model, "prompt_vectors", ())
        lengths[name]["prompt_vectors"] = len(prompt)
    return lengths


def sweeps(sides: dict[str, Side], args) -> dict[str, dict]:
    """Time against beams, batch size and history length, for POD and LiteLLM4Rec."""
    chosen = {name: sides[name] for name in ("POD", "LiteLLM4Rec")}
    found: dict[str, dict] = {"beams": {}, "batch size": {}, "history length": {}}
    width = sides["POD"].model.width
    for beams in (1, 5, 10, 20):
        sides["POD"].model.width = beams
        found["beams"][beams] = time_of_batches({"POD": sides["POD"]}, args.batch, args.repeats)
    sides["POD"].model.width = width
    for size in (1, 8, 32, 128):
        found["batch size"][size] = time_of_batches(chosen, size, args.repeats)
    for length in (1, 5, 10, 20):
        found["history length"][length] = time_of_batches(chosen, args.batch, args.repeats, length)
    return found


def markdown(result: dict) -> str:
    """Tables of a result."""
    times, lite = result["times"], result["times"]["LiteLLM4Rec"]["ms"]
    lengths = result["input_lengths"]
    rows = [
        [
            name,
            f"{result['parameters'].get(name, 0) / 1e6:.1f}" if name in lengths else "",
            f"{t['ms']:,.1f}",
            f"{t['least']:,.1f} .. {t['most']:,.1f}",
            f"{t['ms'] / lite:,.1f}x",
            f"{PAPER_MS[name]:,}" if name in PAPER_MS else "",
            f"{lengths[name]['tokens']:.1f}" if name in lengths else "",
            PAPER_TOKENS.get(name, ""),
        ]
        for name, t in times.items()
    ]
    head = ["", "million parameters", "ms per batch", "range", "to LiteLLM4Rec", "paper: ms"]
    text = [tabulate(rows, [*head, "input length", "paper: length"], tablefmt="github")]
    for name, shares in result["parts"].items():
        total = sum(part["ms"] for part in shares.values())
        cells = [[part, f"{t['ms']:,.1f}", f"{t['ms'] / total:.1%}"] for part, t in shares.items()]
        text.append(tabulate(cells, [name, "ms", "share"], tablefmt="github"))
    for name, points in result["sweeps"].items():
        sides = list(next(iter(points.values())))
        cells = [[x, *(f"{points[x][side]['ms']:,.1f}" for side in sides)] for x in points]
        text.append(tabulate(cells, [name, *(f"{s}, ms" for s in sides)], tablefmt="github"))
    return "\n\n".join(text)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--tokenizer", required=True, help="folder (or hub name) of T5's tokenizer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--autocast", choices=["bfloat16", "float16"], help="else float32")
    parser.add_argument("--sides", default=",".join(SIDES), help="names, comma-separated")
    parser.add_argument("--no_sweeps", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for efficiency-<dataset>.json and .md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = dict.fromkeys([*args.sides.split(","), "LiteLLM4Rec"])
    sides = {name: Side(*SIDES[name], args) for name in names}
    if args.autocast:
        device = sides["LiteLLM4Rec"].config["device"].type
        # For the rest of the process; the context manager would indent all that follows.
        torch.autocast(device, getattr(torch, args.autocast)).__enter__()
    times = time_of_batches(sides, args.batch, args.repeats)
    if "POD" in sides:
        loop, pod = plain_loop(sides["POD"]), sides["POD"]
        batches = [pod.batch(n, args.batch) for n in range(args.repeats + 1)]
        times.update(
            take_turns(
                {
                    "POD again": lambda n: pod.recommend(batches[n]),
                    "POD, plain loop": lambda n: loop(batches[n]),
                },
                pod.config["device"],
                args.repeats,
            )
        )
    result = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "dtype": args.autocast or "float32",
        "batch": args.batch,
        "repeats": args.repeats,
        "times": times,
        "parameters": {name: side.parameters for name, side in sides.items()},
        "parts": {
            name: parts(sides[name], args.batch, args.repeats)
            for name in ("P5", "POD", "LightLM")
            if name in sides
        },
        "input_lengths": input_lengths(sides, args.batch),
        "sweeps": {} if args.no_sweeps or "POD" not in sides else sweeps(sides, args),
    }
    text = markdown(result)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        name = [args.dataset, *([args.autocast] if args.autocast else [])]
        stem = args.out / "-".join(["efficiency", *name])
        stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        stem.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()

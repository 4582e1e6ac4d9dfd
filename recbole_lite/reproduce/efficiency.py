"""Inference time of LITE-LLM4Rec and its rivals: Tables 1, 5, 6 and Figure 2 of the paper.

From a batch of users (real histories from the test split, on the device) to their top 20 items,
the paper's "time between inputting the data to the model and obtaining the final
recommendations" (Section 5.3). All language models are of T5-small's size, but for "LiteLLM4Rec
(prefix)", the small encoder of ``properties/prefix/ml-1m.yaml``. Their weights are random, which
cost the same as trained ones; only where a beam search may stop early does the time depend on
them. The sides take turns in one process, after a warm-up; medians, and the whole range.

"(onnx)" is the same model as it is served on a CPU (``recbole_lite/inference/runtime.py``);
all others run as they are evaluated.

"plain loop" is what one writes with the tokenizer and ``generate`` alone, as P5's and POD's authors
do: it shows that the rivals here are not slowed down.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from recbole_lite.config import OVER_VALUES, LiteConfig
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.errors import ConfigError, RecboleLiteError
from recbole_lite.model.generative.beam import write
from recbole_lite.model.generative.numbers import item_numbers
from recbole_lite.paths import PROPERTIES
from recbole_lite.products import matrix_products
from recbole_lite.report.environment import environment
from recbole_lite.text.attention import set_attention
from recbole_lite.text.llm_files import one_line

TOP = 20
NO_DECODER = {"decoder": False}
TITLES = {**NO_DECODER, "item_in_prompt": "title"}
PREFIX = {"config_files": [PROPERTIES / "prefix" / "ml-1m.yaml"]}
ONNX = {"runtime": "onnx"}
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
    "FDSA": ("FDSA", {}),
    "ItemLM": ("ItemLM", {}),
    "LiteLLM4Rec": ("LiteLLM4Rec", {}),
    "LiteLLM4Rec (onnx)": ("LiteLLM4Rec", ONNX),
    "LiteLLM4Rec (prefix)": ("LiteLLM4Rec", PREFIX),
    "LiteLLM4Rec (prefix + onnx)": ("LiteLLM4Rec", {**PREFIX, **ONNX}),
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

    def __init__(self, name: str, dataset: str, settings: Mapping[str, Any], tokenizer=None):
        model, changes = SIDES[name]
        settings = {**COMMON, **settings, **changes}
        files, runtime = settings.pop("config_files", None), settings.pop("runtime", None)
        if model in ("P5", "POD"):
            settings["tokenizer"] = tokenizer
        self.config = LiteConfig(model, dataset, files, config_dict=settings)
        if self.config["item_in_prompt"] == "title" and self.config["title_field"]:
            settings["item_text_template"] = f"{{{self.config['title_field']}}}"
            self.config = LiteConfig(model, dataset, files, config_dict=settings)
        self.dataset = create_dataset(self.config)
        train, _, self.test = data_preparation(self.config, self.dataset)
        torch.manual_seed(2020)
        self.model = self.config.model_class(self.config, train._dataset)
        self.model.to(self.config["device"]).eval()
        self.runtime = _onnx(self.model) if runtime else None
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
        if self.runtime is not None:
            return torch.from_numpy(self.runtime.rank(batch[self.model.ITEM_SEQ].numpy(), TOP)[0])
        return self.model.full_sort_predict(batch).topk(TOP, dim=1).indices


def _onnx(model):
    """The model's graph in onnxruntime, with torch's number of threads."""
    from recbole_lite.inference.export import build_graph
    from recbole_lite.inference.runtime import OnnxRuntime

    if next(model.parameters()).device.type != "cpu":
        raise ConfigError("sides with onnx run on the CPU; leave them out on a GPU")
    return OnnxRuntime(build_graph(model), torch.get_num_threads())


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


def time_of_batches(
    sides: dict[str, Side], size: int, repeats: int, length=None, plain_too: bool = False
) -> dict:
    """Time per batch of each side; making the batch itself is not part of it.

    With `plain_too` also that of the plain loops.
    """
    any_side = next(iter(sides.values()))
    batches = {
        name: [side.batch(n, size, length) for n in range(repeats + 1)]
        for name, side in sides.items()
    }
    calls = {
        name: lambda n, side=side, name=name: side.recommend(batches[name][n])
        for name, side in sides.items()
    }
    for name in [name for name in ("P5", "POD") if plain_too and name in sides]:
        loop = plain_loop(sides[name])
        calls[f"{name}, plain loop"] = lambda n, loop=loop, name=name: loop(batches[name][n])
    return take_turns(calls, any_side.config["device"], repeats)


def plain_loop(side: Side) -> Callable:
    """Recommend with the tokenizer, ``generate`` and the tokenizer again, as text."""
    llm = copy.deepcopy(side.model.llm)
    set_attention(llm, "sdpa")  # transformers' default; beams share nothing
    template = side.config["prompt_templates"][0]
    tokenizer = AutoTokenizer.from_pretrained(side.config["tokenizer"])
    numbers = [0, *item_numbers(side.config, side.dataset.item_num)]
    settings = GenerationConfig(
        num_beams=TOP, num_return_sequences=TOP, max_new_tokens=side.model.paths.longest,
        early_stopping=True, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip

    def recommend(batch):
        users, histories = batch["user_id"].tolist(), batch[side.model.ITEM_SEQ].tolist()
        texts = [
            template.format(
                user=f"user_{user}",
                items=" ".join(f"item_{numbers[item]}" for item in items if item),
            )
            for user, items in zip(users, histories, strict=True)
        ]
        inputs = tokenizer(texts, padding=True, return_tensors="pt").to(side.config["device"])
        sequences = llm.generate(**inputs, generation_config=settings)
        written = tokenizer.batch_decode(sequences, skip_special_tokens=True)
        return [int(text) if text.strip().isdigit() else None for text in written]

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


def sweeps(sides: dict[str, Side], size: int, repeats: int) -> dict[str, dict]:
    """Time against beams, batch size and history length, for POD and LiteLLM4Rec."""
    chosen = {name: sides[name] for name in ("POD", "LiteLLM4Rec")}
    found: dict[str, dict] = {"beams": {}, "batch size": {}, "history length": {}}
    width = sides["POD"].model.width
    for beams in (1, 5, 10, 20):
        sides["POD"].model.width = beams
        found["beams"][beams] = time_of_batches({"POD": sides["POD"]}, size, repeats)
    sides["POD"].model.width = width
    for several in (1, 8, 32, 128):
        found["batch size"][several] = time_of_batches(chosen, several, repeats)
    for length in (1, 5, 10, 20):
        found["history length"][length] = time_of_batches(chosen, size, repeats, length)
    return found


def _build(names, dataset, settings, tokenizer) -> tuple[dict[str, Side], dict[str, str]]:
    """Sides by name, and why others cannot be built; without LiteLLM4Rec there is no table."""
    sides, problems = {}, {}
    for name in names:
        try:
            sides[name] = Side(name, dataset, settings, tokenizer)
        except (RecboleLiteError, *OVER_VALUES) as error:
            problems[name] = one_line(error, limit=110)
    if "LiteLLM4Rec" not in sides:
        raise ConfigError(f"LiteLLM4Rec cannot be built: {problems['LiteLLM4Rec']}")
    return sides, problems


@torch.no_grad()
def measure(
    dataset: str,
    settings: Mapping[str, Any],
    tokenizer: str | None = None,
    names: Iterable[str] = SIDES,
    size: int = 32,
    repeats: int = 7,
    with_sweeps: bool = True,
    autocast: str | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Time the sides.

    Parameters
    ----------
    dataset : str
    settings : mapping
        Configuration keys of all sides, ``data_path`` for one.
    tokenizer : str, optional
        Folder or hub name of T5's, for P5 and POD.
    names : iterable of str
        Of `SIDES`; LiteLLM4Rec is always among them.
    size, repeats : int
        Users in a batch; batches timed.
    with_sweeps : bool
        Whether to time other numbers of beams and users and other lengths, too.
    autocast : {"bfloat16", "float16"}, optional
        Number type; float32 if None.
    command : str
        For the record.

    Raises
    ------
    ConfigError
        An unknown side; no tokenizer; LiteLLM4Rec cannot be built. Other sides that cannot are
        listed with their reasons in ``problems``.
    """
    names = list(dict.fromkeys([*names, "LiteLLM4Rec"]))
    unknown = [name for name in names if name not in SIDES]
    if unknown:
        raise ConfigError(f"unknown: {', '.join(unknown)}; there are {', '.join(SIDES)}")
    if tokenizer is None and any(SIDES[name][0] in ("P5", "POD") for name in names):
        raise ConfigError("P5 and POD need T5's tokenizer: --tokenizer=FOLDER, or a hub name")
    settings = {"eval_batch_size": size, **settings}
    sides, problems = _build(names, dataset, settings, tokenizer)
    config = sides["LiteLLM4Rec"].config
    device = config["device"]
    fewer_bits = torch.autocast(device.type, getattr(torch, autocast)) if autocast else None
    with fewer_bits or nullcontext(), matrix_products(config["matrix_products"], device):
        return {
            "command": command,
            "environment": environment(),
            "dataset": dataset,
            "dtype": autocast or "float32",
            "batch": size,
            "repeats": repeats,
            "times": time_of_batches(sides, size, repeats, plain_too=True),
            "parameters": {name: side.parameters for name, side in sides.items()},
            "parts": {
                name: parts(sides[name], size, repeats)
                for name in ("P5", "POD", "LightLM")
                if name in sides
            },
            "input_lengths": input_lengths(sides, size),
            "problems": problems,
            "sweeps": sweeps(sides, size, repeats) if with_sweeps and "POD" in sides else {},
        }

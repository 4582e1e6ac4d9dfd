"""Inference time of LITE-LLM4Rec and its baselines: Tables 1, 5, 6 and Figure 2 of the paper.

From a batch of users (real histories from the test split, on the device) to their top 20 items,
the paper's "time between inputting the data to the model and obtaining the final
recommendations" (Section 5.3). All language models are of T5-small's size, but for "LiteLLM4Rec
(prefix)", the small encoder of ``properties/prefix/ml-1m.yaml``. Their weights are random, which
cost the same as trained ones; only where a beam search may stop early does the time depend on
them. The models take turns in one process, after a warm-up; medians, and the whole range.

"(onnx)" is the same model as it is served on a CPU (``recbole_lite/inference/onnx_runtime.py``);
all others run as they are evaluated.

"plain loop" is what one writes with the tokenizer and ``generate`` alone, as P5's and POD's authors
do: it shows that the baselines here are not slowed down.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from recbole_lite.config.configurator import OVER_VALUES, LiteConfig
from recbole_lite.data import create_dataset, data_preparation
from recbole_lite.experiments.reproduce.protocol import check_names
from recbole_lite.model.generative.beam_search import generate
from recbole_lite.model.generative.item_indexing import item_numbers
from recbole_lite.text.attention import set_attention
from recbole_lite.trainer.matmul_backend import matrix_products
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import ConfigError, RecboleLiteError, one_line
from recbole_lite.utils.paths import PROPERTIES

TOP = 20
NO_DECODER = {"decoder": False}
TITLES = {**NO_DECODER, "item_in_prompt": "title"}
PREFIX = {"config_files": [PROPERTIES / "prefix" / "ml-1m.yaml"]}
ONNX = {"runtime": "onnx"}
MODELS = {
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


class TimedModel:
    """A model with the users of its test split."""

    def __init__(self, name: str, dataset: str, settings: Mapping[str, Any], tokenizer=None):
        model, changes = MODELS[name]
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
            keys = self.model.ITEM_SEQ, self.model.ITEM_SEQ_LEN
            items, counts = last_items(*(batch[key] for key in keys), torch.tensor(length))
            batch.interaction.update(zip(keys, (items[:, :length], counts), strict=True))
        return batch.to(self.config["device"])

    def recommend(self, batch) -> torch.Tensor:
        """Top items, ``[B, TOP]``."""
        if self.runtime is not None:
            return torch.from_numpy(self.runtime.rank(batch[self.model.ITEM_SEQ].numpy(), TOP)[0])
        return self.model.full_sort_predict(batch).topk(TOP, dim=1).indices


def last_items(
    items: torch.Tensor, counts: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut histories ``[B, L]``, zeros behind, to their last `lengths` ``[B]`` items.

    Returns
    -------
    tuple
        Histories ``[B, L]`` and their numbers of items ``[B]``.
    """
    kept, places = torch.minimum(lengths, counts), torch.arange(items.shape[1])
    shifted = ((counts - kept)[:, None] + places).clamp_max(items.shape[1] - 1)
    return items.gather(1, shifted) * (places < kept[:, None]), kept


def _onnx(model):
    """The model's graph in onnxruntime, with torch's number of threads."""
    from recbole_lite.inference.onnx_export import build_graph
    from recbole_lite.inference.onnx_runtime import OnnxRuntime

    if next(model.parameters()).device.type != "cpu":
        raise ConfigError("models with onnx run on the CPU; leave them out on a GPU")
    return OnnxRuntime(build_graph(model), torch.get_num_threads())


def seconds(call: Callable, device) -> float:
    """Wall time of a call, with what a GPU has still to do."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def milliseconds(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest of some seconds."""
    values = sorted(1000 * value for value in values)
    return {"ms": statistics.median(values), "least": values[0], "most": values[-1]}


def time_batches(
    models: dict[str, TimedModel], size: int, repeats: int, length=None, plain_too: bool = False
) -> dict[str, dict]:
    """Time per batch of each model; making the batch itself is not part of it.

    The models take turns, after a warm-up each. With `plain_too` also that of the plain loops.
    """
    batches = {
        name: [model.batch(n, size, length) for n in range(repeats + 1)]
        for name, model in models.items()
    }
    calls = {name: (model.recommend, batches[name]) for name, model in models.items()}
    for name in [name for name in ("P5", "POD") if plain_too and name in models]:
        calls[f"{name}, plain loop"] = plain_loop(models[name]), batches[name]
    device = next(iter(models.values())).config["device"]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call, inputs in calls.values():
        call(inputs[0])
    for n in range(1, repeats + 1):
        for name, (call, inputs) in calls.items():
            times[name].append(seconds(partial(call, inputs[n]), device))
    return {name: milliseconds(values) for name, values in times.items()}


def plain_loop(timed: TimedModel) -> Callable:
    """Recommend with the tokenizer, ``generate`` and the tokenizer again, as text."""
    llm = copy.deepcopy(timed.model.llm)
    set_attention(llm, "sdpa")  # transformers' default; beams share nothing
    template = timed.config["prompt_templates"][0]
    tokenizer = AutoTokenizer.from_pretrained(timed.config["tokenizer"])
    numbers = [0, *item_numbers(timed.config, timed.dataset.item_num)]
    settings = GenerationConfig(
        num_beams=TOP, num_return_sequences=TOP, max_new_tokens=timed.model.paths.max_length,
        early_stopping=True, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip

    def recommend(batch):
        users, histories = batch["user_id"].tolist(), batch[timed.model.ITEM_SEQ].tolist()
        texts = [
            template.format(
                user=f"user_{user}",
                items=" ".join(f"item_{numbers[item]}" for item in items if item),
            )
            for user, items in zip(users, histories, strict=True)
        ]
        inputs = tokenizer(texts, padding=True, return_tensors="pt").to(timed.config["device"])
        sequences = llm.generate(**inputs, generation_config=settings)
        written = tokenizer.batch_decode(sequences, skip_special_tokens=True)
        return [int(text) if text.strip().isdigit() else None for text in written]

    return recommend


def parts(timed: TimedModel, size: int, repeats: int) -> dict[str, dict]:
    """Time of each component (Figure 2): preparation, encoder, beam search, ids to items."""
    model, device = timed.model, timed.config["device"]
    times: dict[str, list[float]] = {}

    def clocked(name, call):
        out = []
        times.setdefault(name, []).append(seconds(lambda: out.append(call()), device))
        return out[0]

    for n in range(repeats + 1):
        batch = timed.batch(n, size)
        if n == 1:
            times.clear()  # the first was the warm-up
        prompt = clocked("data preparation", lambda b=batch: model.tokens(b))
        states, mask = clocked("encoder", lambda p=prompt: model.encode(*p))
        written = clocked(
            "beam search",
            lambda s=states, m=mask: generate(
                model.llm, s, m, model.paths, model.num_beams, model.constrained_beams
            ),
        )
        clocked("ids to items", lambda w=written: model.paths.items(w))
    return {name: milliseconds(values) for name, values in times.items()}


def input_lengths(models: dict[str, TimedModel], size: int) -> dict[str, dict]:
    """Average number of tokens (vectors, for LiteLLM4Rec) that the encoder reads per user."""
    lengths = {}
    for name, timed in models.items():
        total = longest = users = 0
        for begin in range(0, len(timed.rows), size):
            batch = timed.test.collate_fn(timed.rows[begin : begin + size])[0]
            batch = batch.to(timed.config["device"])
            if hasattr(timed.model, "tokens"):
                mask = timed.model.tokens(batch)[2]
            else:
                mask = batch[timed.model.ITEM_SEQ] > 0
            total, users = total + int(mask.sum()), users + len(mask)
            longest += mask.shape[1] * len(mask)
        lengths[name] = {"tokens": total / users, "padded": longest / users}
        prompt = getattr(timed.model, "prompt_vectors", ())
        lengths[name]["prompt_vectors"] = len(prompt)
    return lengths


def sweeps(models: dict[str, TimedModel], size: int, repeats: int) -> dict[str, dict]:
    """Time against beams, batch size and history length, for POD and LiteLLM4Rec."""
    chosen = {name: models[name] for name in ("POD", "LiteLLM4Rec")}
    pod, found = models["POD"], {"beams": {}}
    width = pod.model.num_beams
    for beams in (1, 5, 10, 20):
        pod.model.num_beams = beams
        found["beams"][beams] = time_batches({"POD": pod}, size, repeats)
    pod.model.num_beams = width
    found["batch size"] = {n: time_batches(chosen, n, repeats) for n in (1, 8, 32, 128)}
    lengths = (1, 5, 10, 20)
    found["history length"] = {n: time_batches(chosen, size, repeats, n) for n in lengths}
    return found


def _build(names, dataset, settings, tokenizer) -> tuple[dict[str, TimedModel], dict[str, str]]:
    """Models by name, and why others cannot be built; without LiteLLM4Rec there is no table."""
    models, problems = {}, {}
    for name in names:
        try:
            models[name] = TimedModel(name, dataset, settings, tokenizer)
        except (RecboleLiteError, *OVER_VALUES) as error:
            problems[name] = one_line(error, limit=110)
    if "LiteLLM4Rec" not in models:
        raise ConfigError(f"LiteLLM4Rec cannot be built: {problems['LiteLLM4Rec']}")
    return models, problems


@dataclass(frozen=True)
class TimingOptions:
    """What is timed."""

    models: tuple[str, ...] = tuple(MODELS)  # LiteLLM4Rec is always among them
    batch: int = 32  # users
    repeats: int = 7  # batches timed
    with_sweeps: bool = True  # other numbers of beams and users and other lengths, if POD is there
    autocast: str | None = None  # bfloat16 or float16; None: float32

    def match(self, result: dict[str, Any]) -> bool:
        """Whether a result was measured with these options, and without a problem."""
        same = (result.get("batch"), result.get("repeats")) == (self.batch, self.repeats)
        has_all = set(self.models) <= result.get("times", {}).keys()
        return same and has_all and not result.get("problems")


@torch.no_grad()
def measure(
    dataset: str,
    settings: Mapping[str, Any],
    tokenizer: str | None = None,
    options: TimingOptions | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Time the models.

    `settings` are configuration keys of all models, ``data_path`` for one; `tokenizer` is T5's
    folder or hub name, for P5 and POD; `command` is for the record.

    Raises
    ------
    ConfigError
        An unknown model; no tokenizer; LiteLLM4Rec cannot be built. Other models that cannot are
        listed with their reasons in ``problems``.
    """
    options = options or TimingOptions()
    size, repeats = options.batch, options.repeats
    names = list(dict.fromkeys([*options.models, "LiteLLM4Rec"]))
    check_names(names, MODELS)
    if tokenizer is None and any(MODELS[name][0] in ("P5", "POD") for name in names):
        raise ConfigError("P5 and POD need T5's tokenizer: --tokenizer=FOLDER, or a hub name")
    settings = {"eval_batch_size": size, **settings}
    models, problems = _build(names, dataset, settings, tokenizer)
    config = models["LiteLLM4Rec"].config
    device, dtype = config["device"], options.autocast
    precision = torch.autocast(device.type, getattr(torch, dtype)) if dtype else nullcontext()
    with_sweeps = options.with_sweeps and "POD" in models
    with precision, matrix_products(config["matmul_backend"], device, False):
        return {
            "command": command,
            "environment": environment(),
            "dataset": dataset,
            "dtype": dtype or "float32",
            "batch": size,
            "repeats": repeats,
            "times": time_batches(models, size, repeats, plain_too=True),
            "parameters": {name: timed.parameters for name, timed in models.items()},
            "parts": {
                name: parts(models[name], size, repeats)
                for name in ("P5", "POD", "LightLM")
                if name in models
            },
            "input_lengths": input_lengths(models, size),
            "problems": problems,
            "sweeps": sweeps(models, size, repeats) if with_sweeps else {},
        }

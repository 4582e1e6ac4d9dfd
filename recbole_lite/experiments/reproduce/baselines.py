"""The models of the comparison tables, with their settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_lite.utils.paths import PROPERTIES

PREFIX = [PROPERTIES / "prefix" / "ml-1m.yaml"]
RELATED_WORK = PROPERTIES / "related_work"
# What papers that compare with SASRec found to matter (properties of RecBole: dropout 0.5), and
# smaller batches, because RecBole's 2,048 leave few steps in a short time.
TUNED = {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "train_batch_size": 256}
LONGER = {"MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 64}
ONE_TARGET = {"train_batch_size": 256}  # as in the paper
STRATEGIES = {
    "prefix": {},
    "prefix, all": {**ONE_TARGET, "train_strategy": "all"},
    "prefix, sampling": {**ONE_TARGET, "train_strategy": "sampling"},
    "prefix, frozen": {"item_llm_training": "frozen"},
    "prefix, tied": {"tie_head": True},
}
TEXT = {"item_init": "text", "item_llm": "minilm"}
ITEM_LMS = {
    "ItemLM": {},
    "ItemLM, text": TEXT,
    "ItemLM, text+id": {**TEXT, "item_init": "text_plus_id"},
    "ItemLM, window 50": LONGER,
    "ItemLM, text, window 50": {**TEXT, **LONGER},
    "ItemLM, llama": {"lm_architecture": "llama"},
}
STUDENT = {"n_layers": 2, "hidden_size": 128, "inner_size": 512}


@dataclass
class ModelSpec:
    """A model with its settings."""

    name: str  # of its row and file
    model: str
    settings: dict[str, Any] = field(default_factory=dict)  # configuration keys
    files: Sequence[str | Path] = ()  # configuration files
    base_files: Sequence[str | Path] = ()  # benchmark: those that a data set's file overrides
    two_stages: bool = False  # train with frozen item vectors first, then the vectors as well
    pretrain: float = 0.0  # share of the time for the first of two phases
    # What is trained in it; None: the model itself (S3Rec's train_stage). AdaptLLM is
    # `recbole-lite adapt-llm`, which takes its share at most.
    first_phase: ModelSpec | None = None
    reads: str = "item_vectors"  # setting of the second phase that gets the folder of the first
    # Its files decide where its language models start from, whatever --weights is.
    decides_weights: bool = False
    rival: bool = False  # one that this project's own models are compared with (benchmark)

    @property
    def stem(self) -> str:
        """The name in names of files."""
        return self.name.replace(", ", "-").replace(" ", "-")


# 9,600 pairs of items: five minutes of a core (docs/adapt_llm.md).
ADAPTED = ModelSpec(
    "adapted MiniLM", "AdaptLLM",
    {"next_item_steps": 150, "next_item_batch_size": 64, "next_item_learning_rate": 1e-4},
)  # fmt: skip
# Systems that the paper does not compare with (docs/related_work.md), by their name in ``--with``.
RELATED = {
    "tiger": ModelSpec("TIGER", "TIGER", {}, [RELATED_WORK / "tiger.yaml"]),
    "e4srec": ModelSpec(
        "E4SRec", "LiteLLM4Rec", {}, [RELATED_WORK / "e4srec.yaml"], pretrain=0.25,
        first_phase=ModelSpec("SASRec", "SASRec", TUNED), decides_weights=True,
    ),
    "hllm": ModelSpec(
        "HLLM", "LiteLLM4Rec", {}, [RELATED_WORK / "hllm.yaml"], decides_weights=True
    ),
    "llm2rec": ModelSpec(
        "LLM2Rec", "ItemLM", TEXT, pretrain=0.5, first_phase=ADAPTED, reads="item_llm"
    ),
    "slmrec": ModelSpec(
        "SLMRec", "ItemLM", {**TEXT, **STUDENT}, pretrain=0.5, reads="distill_from",
        first_phase=ModelSpec("ItemLM, 4 layers", "ItemLM", {**TEXT, "n_layers": 4}),
    ),
}  # fmt: skip
RELATED_NOTE = """\
Rows of `--with` (docs/related_work.md): a quarter of E4SRec's time trains the SASRec whose item
vectors it reads. LLM2Rec is ItemLM with text whose Item LLM was adapted before, in at most half of
the time. SLMRec is ItemLM with text, 2 layers and d = 128, which learns from one with 4 layers and
d = 256 that was trained in half of the time. The language models of E4SRec and HLLM start from
MiniLM's trained weights, as TIGER's item vectors do with `--weights=scratch`."""


def _all_specs() -> Iterator[ModelSpec]:
    # The paper's baselines (Table 4) as RecBole and this project ship them.
    for name in ("BERT4Rec", "SASRec", "FDSA", "LightLM", "P5", "POD"):
        yield ModelSpec(name, name)
    # P5 and POD with more steps in the same time: 16 sequences in place of 64.
    for name in ("P5", "POD"):
        yield ModelSpec(f"{name}, batches of 16", name, {"train_batch_size": 16})
    # LITE-LLM4Rec as the paper trains it.
    for strategy in ("sampling", "all"):
        yield ModelSpec(f"LiteLLM4Rec, {strategy}", "LiteLLM4Rec", {"train_strategy": strategy})
    # RecBole's models with better settings than its defaults.
    for name in ("SASRec", "BERT4Rec", "FDSA"):
        yield ModelSpec(f"{name}, tuned", name, TUNED)
    yield ModelSpec("S3Rec, tuned", "S3Rec", TUNED, pretrain=0.5)
    # The small encoder of prefix/ml-1m.yaml under every training strategy.
    for name, changes in STRATEGIES.items():
        yield ModelSpec(name, "LiteLLM4Rec", changes, PREFIX)
    yield ModelSpec("prefix, two stages", "LiteLLM4Rec", {}, PREFIX, two_stages=True)
    # ItemLM, by what an item is and by architecture.
    for name, changes in ITEM_LMS.items():
        yield ModelSpec(name, "ItemLM", changes)
    yield from RELATED.values()


MODELS = {spec.name: spec for spec in _all_specs()}  # by the name of the row
TABLE_4 = (
    "BERT4Rec", "SASRec", "FDSA", "LightLM", "P5", "POD",
    "LiteLLM4Rec, sampling", "LiteLLM4Rec, all", "prefix",
)  # fmt: skip


# -- benchmark --------------------------------------------------------------------------------

FOLDER = PROPERTIES / "benchmark"
RECOMMENDED = PROPERTIES / "recommended.yaml"  # what this project's own models have in common


def _benchmark_specs() -> Iterator[ModelSpec]:
    sasrec = ModelSpec("SASRec", "SASRec", files=[FOLDER / "SASRec.yaml"], rival=True)
    yield sasrec
    for name in ("BERT4Rec", "GRU4Rec", "FDSA"):
        yield ModelSpec(name, name, files=[FOLDER / f"{name}.yaml"], rival=True)
    yield ModelSpec("S3Rec", "S3Rec", files=[FOLDER / "S3Rec.yaml"], pretrain=0.3, rival=True)
    for spec in RELATED.values():
        first = sasrec if spec.reads == "item_vectors" and spec.first_phase else spec.first_phase
        # LLM2Rec and SLMRec are ItemLM, adapted and distilled: settings of this project's model.
        yield replace(spec, first_phase=first, rival=spec.model != "ItemLM")
    files = [FOLDER / "LiteLLM4Rec-paper.yaml"]
    yield ModelSpec("LiteLLM4Rec, paper", "LiteLLM4Rec", files=files)
    for name in ("ItemLM", "ItemLM, text", "ItemLM, text+id"):
        files = [FOLDER / f"{name.replace(', ', '-')}.yaml"]
        yield ModelSpec(name, "ItemLM", files=files, base_files=[RECOMMENDED])


BENCHMARK = {spec.name: spec for spec in _benchmark_specs()}  # by the name of the row

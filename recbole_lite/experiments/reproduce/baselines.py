"""The models of the comparison tables, with their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_lite.utils.paths import PROPERTIES

PREFIX = [PROPERTIES / "prefix" / "ml-1m.yaml"]
# What papers that compare with SASRec found to matter (properties of RecBole: dropout 0.5), and
# smaller batches, because RecBole's 2,048 leave few steps in a short time.
TUNED = {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "train_batch_size": 256}
LONGER = {"MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 64}
ONE_TARGET = {"train_batch_size": 256}  # as in the paper


@dataclass
class ModelSpec:
    """A model with its settings.

    Attributes
    ----------
    name : str
        Of its row and file.
    model : str
    settings : dict
        Configuration keys.
    files : list of str or Path
        Configuration files.
    two_stages : bool
        Train with frozen item vectors first, then the vectors as well.
    pretrain : float
        Share of the time for the first of two phases (S3Rec's ``train_stage``).
    """

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    files: Sequence[str | Path] = ()
    two_stages: bool = False
    pretrain: float = 0.0


def paper_baselines() -> list[ModelSpec]:
    """The paper's baselines (Table 4) as RecBole and this project ship them."""
    names = ("BERT4Rec", "SASRec", "FDSA", "LightLM", "P5", "POD")
    return [ModelSpec(name, name) for name in names]


def small_batches() -> list[ModelSpec]:
    """P5 and POD with more steps in the same time: 16 sequences in place of 64."""
    settings = {"train_batch_size": 16}
    return [ModelSpec(f"{name}, batches of 16", name, settings) for name in ("P5", "POD")]


def paper_models() -> list[ModelSpec]:
    """LITE-LLM4Rec as the paper trains it."""
    return [
        ModelSpec(f"LiteLLM4Rec, {strategy}", "LiteLLM4Rec", {"train_strategy": strategy})
        for strategy in ("sampling", "all")
    ]


def tuned() -> list[ModelSpec]:
    """RecBole's models with better settings than its defaults."""
    specs = [ModelSpec(f"{name}, tuned", name, TUNED) for name in ("SASRec", "BERT4Rec", "FDSA")]
    return [*specs, ModelSpec("S3Rec, tuned", "S3Rec", TUNED, pretrain=0.5)]


def strategies() -> list[ModelSpec]:
    """The small encoder of prefix/ml-1m.yaml under every training strategy."""
    changes = {
        "prefix": {},
        "prefix, all": {**ONE_TARGET, "train_strategy": "all"},
        "prefix, sampling": {**ONE_TARGET, "train_strategy": "sampling"},
        "prefix, frozen": {"item_llm_training": "frozen"},
        "prefix, tied": {"tie_head": True},
    }
    specs = [ModelSpec(name, "LiteLLM4Rec", own, PREFIX) for name, own in changes.items()]
    return [*specs, ModelSpec("prefix, two stages", "LiteLLM4Rec", {}, PREFIX, two_stages=True)]


def item_lms() -> list[ModelSpec]:
    """ItemLM, by what an item is and by architecture."""
    text = {"item_llm": "minilm"}
    return [
        ModelSpec("ItemLM", "ItemLM"),
        ModelSpec("ItemLM, text", "ItemLM", {"item_init": "text", **text}),
        ModelSpec("ItemLM, text+id", "ItemLM", {"item_init": "text_plus_id", **text}),
        ModelSpec("ItemLM, window 50", "ItemLM", LONGER),
        ModelSpec("ItemLM, text, window 50", "ItemLM", {"item_init": "text", **text, **LONGER}),
        ModelSpec("ItemLM, llama", "ItemLM", {"lm_architecture": "llama"}),
    ]


def all_models() -> dict[str, ModelSpec]:
    """Every model by the name of its row."""
    groups = (paper_baselines, small_batches, paper_models, tuned, strategies, item_lms)
    return {spec.name: spec for group in groups for spec in group()}

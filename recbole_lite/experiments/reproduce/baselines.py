"""The models of the comparison tables, with their settings."""

from __future__ import annotations

from recbole_lite.experiments.reproduce.time_budget import Side
from recbole_lite.utils.paths import PROPERTIES

PREFIX = [PROPERTIES / "prefix" / "ml-1m.yaml"]
# What papers that compare with SASRec found to matter (properties of RecBole: dropout 0.5), and
# smaller batches, because RecBole's 2,048 leave few steps in a short time.
TUNED = {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "train_batch_size": 256}
LONGER = {"MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 64}
ONE_TARGET = {"train_batch_size": 256}  # as in the paper


def rivals() -> list[Side]:
    """The paper's rivals (Table 4) as RecBole and this project ship them."""
    names = ("BERT4Rec", "SASRec", "FDSA", "LightLM", "P5", "POD")
    return [Side(name, name) for name in names]


def small_batches() -> list[Side]:
    """P5 and POD with more steps in the same time: 16 sequences in place of 64."""
    settings = {"train_batch_size": 16}
    return [Side(f"{name}, batches of 16", name, settings) for name in ("P5", "POD")]


def paper_models() -> list[Side]:
    """LITE-LLM4Rec as the paper trains it."""
    return [
        Side(f"LiteLLM4Rec, {strategy}", "LiteLLM4Rec", {"train_strategy": strategy})
        for strategy in ("sampling", "all")
    ]


def tuned() -> list[Side]:
    """RecBole's models with better settings than its defaults."""
    sides = [Side(f"{name}, tuned", name, TUNED) for name in ("SASRec", "BERT4Rec", "FDSA")]
    return [*sides, Side("S3Rec, tuned", "S3Rec", TUNED, pretrain=0.5)]


def strategies() -> list[Side]:
    """The small encoder of prefix/ml-1m.yaml under every training strategy."""
    changes = {
        "prefix": {},
        "prefix, all": {**ONE_TARGET, "train_strategy": "all"},
        "prefix, sampling": {**ONE_TARGET, "train_strategy": "sampling"},
        "prefix, frozen": {"item_llm_training": "frozen"},
        "prefix, tied": {"tie_head": True},
    }
    sides = [Side(name, "LiteLLM4Rec", own, PREFIX) for name, own in changes.items()]
    return [*sides, Side("prefix, two stages", "LiteLLM4Rec", {}, PREFIX, two_stages=True)]


def item_lms() -> list[Side]:
    """ItemLM, by what an item is and by architecture."""
    text = {"item_llm": "minilm"}
    return [
        Side("ItemLM", "ItemLM"),
        Side("ItemLM, text", "ItemLM", {"item_init": "text", **text}),
        Side("ItemLM, text+id", "ItemLM", {"item_init": "text_plus_id", **text}),
        Side("ItemLM, window 50", "ItemLM", LONGER),
        Side("ItemLM, text, window 50", "ItemLM", {"item_init": "text", **text, **LONGER}),
        Side("ItemLM, llama", "ItemLM", {"lm_architecture": "llama"}),
    ]


def all_sides() -> dict[str, Side]:
    """Every side by its name."""
    groups = (rivals, small_batches, paper_models, tuned, strategies, item_lms)
    return {side.name: side for group in groups for side in group()}

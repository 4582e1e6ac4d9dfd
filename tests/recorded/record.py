"""Record what must stay when code moves; run by hand, before such a change:

    python tests/recorded/record.py [sets names command_line settings runs]

Writes tests/recorded/*.json, which tests/test_compatibility.py compares with. A file is recorded
anew only where a change of behaviour is meant; the difference then shows what it changes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from recorded import folders, places, surface  # noqa: E402
from tiny_data import QUICK  # noqa: E402

from recbole_lite import Recommender, run  # noqa: E402

COMMON = {
    **QUICK,
    "data_path": "data",
    "item_llm": "llms/bert",
    "item_embedding_cache_dir": "cache",
}
COMMON |= {"use_gpu": False, "matrix_products": "torch", "checkpoint_dir": "saved", "epochs": 1}
TOPN = {"task": "topn", "topn_negatives": 6, "metrics": ["Hit", "NDCG"], "valid_metric": "Hit@5"}
STAGES = [
    {"epochs": 1, "item_llm_training": "frozen", "learning_rate": 0.01},
    {"epochs": 2, "item_llm_training": "embeddings", "learning_rate": 0.005},
]
WRITER = {"llm": "llms/writer", "llm_init": "pretrained", "llm_config": {}, "num_beams": 5}
WRITER["constrained_beams"] = True  # weights like these write no item by themselves
LIGHT = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}
PRINCIPAL = {"item_adapter": "principal", "item_vector_std": 0.05}
SMALLER = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
# Name -> model and what its run sets.
RUNS = {
    "lite": ("LiteLLM4Rec", {"item_vector_norm": "unit", "end_epoch": 1, "epochs": 2}),
    "lite-principal": (
        "LiteLLM4Rec",
        {
            **PRINCIPAL,
            "rec_llm_config": SMALLER,
            "train_strategy": "prefix",
            "rec_llm_causal": True,
            "tie_head": True,
            "user_pooling": "recency",
            "loss_exclude_history": True,
            "item_vector_norm": "standardize",
        },
    ),
    "lite-stages": (
        "LiteLLM4Rec",
        {"stages": STAGES, "train_strategy": "sampling", "loss_type": "SCE",
         "rec_llm_config": SMALLER},
    ),
    "lite-full": (
        "LiteLLM4Rec",
        {"item_llm_training": "full", "rec_llm_config": SMALLER, "item_vector_norm": "unit"},
    ),
    "lite-topn": ("LiteLLM4Rec", {**TOPN, "topn_history": True}),
    "lite-bert": (
        "LiteLLM4Rec",
        {"rec_llm": "llms/bert", "rec_llm_init": "pretrained", "rec_llm_config": {},
         "frozen_parts": ["rec_llm"]},
    ),
    "itemlm": ("ItemLM", {"n_heads": 2}),
    "itemlm-text": ("ItemLM", {"item_init": "text", "hidden_size": 8, "n_heads": 2}),
    "itemlm-text-id": (
        "ItemLM",
        {**PRINCIPAL, "item_init": "text+id", "hidden_size": 8, "n_heads": 2, "tie_head": False},
    ),
    "itemlm-t5": (
        "ItemLM",
        {"item_init": "text+id", "lm_architecture": "t5", "n_heads": 2, "hidden_size": 8,
         "user_pooling": "recency", "train_strategy": "all"},
    ),
    "p5": ("P5", WRITER),
    "p5-titles": ("P5", {**WRITER, "decoder": False, "item_in_prompt": "title"}),
    "p5-topn": ("P5", {**WRITER, **TOPN}),
    "pod": ("POD", WRITER),
    "lightlm": (
        "LightLM",
        {"llm_init": "scratch", "llm_config": {**LIGHT, "num_heads": 2}, "num_beams": 5,
         "lightlm_clusters": 3},
    ),
    "pop": ("Pop", {}),
    "sasrec": ("SASRec", {}),
    "bert4rec": ("BERT4Rec", {"mask_ratio": 0.5}),
    "fdsa": ("FDSA", {}),
    "bpr": ("BPR", {}),
    "lightgcn": ("LightGCN", {}),
}  # fmt: skip
NO_DROPOUT = {"user_dropout": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
# Runs that `end_epoch` interrupts; what their continuation gives is recorded.
INTERRUPTED = {
    "sasrec": ("SASRec", {**NO_DROPOUT, "epochs": 3, "end_epoch": 1, "lr_scheduler": "linear"}),
    "lite": (
        "LiteLLM4Rec",
        {
            **NO_DROPOUT, **PRINCIPAL, "rec_llm_config": SMALLER, "rec_llm_dropout": 0.0,
            "stages": STAGES, "end_epoch": 2, "lr_scheduler": "linear", "warmup_ratio": 0.1,
        },
    ),
    "itemlm": (
        "ItemLM",
        {**NO_DROPOUT, **PRINCIPAL, "item_init": "text+id", "hidden_size": 8, "n_heads": 2,
         "lm_dropout": 0.0, "epochs": 3, "end_epoch": 2},
    ),
}  # fmt: skip
TEXTS = ("config.json", "vocabulary.jsonl", "items.jsonl")


def sets() -> dict:
    """Sets of keys, values by key, choices."""
    return {
        **{f"keys {name}": places.keys_at(place) for name, place in places.KEYS.items()},
        **{f"values {name}": places.values_at(place) for name, place in places.VALUES.items()},
        **{f"choices {name}": places.choices_at(place) for name, place in places.CHOICES.items()},
    }


def names() -> dict:
    """Public names and classes of errors."""
    found = {
        f"{name}.{part}": v for name, d in surface.public_names().items() for part, v in d.items()
    }
    return {"names": sorted(surface.public_names()), "errors": surface.errors(), **found}


def command_line() -> dict:
    """Options."""
    return surface.command_line()


def settings() -> dict:
    """Defaults and known keys of models, and which values settings take."""
    defaults = {model: surface.defaults(model) for model in surface.MODELS}
    every = surface.default_of_each(defaults)
    found = {f"defaults {model}": values for model, values in defaults.items()}
    known = {model: set(surface.known(model)) for model in surface.MODELS}
    common = set.intersection(*known.values())
    found |= {"known": sorted(common)}
    found |= {f"known {model}": sorted(keys - common) for model, keys in known.items()}
    return found | {"taken": {key: surface.taken(key, every[key]) for key in sorted(every)}}


def runs() -> dict:
    """Folders of runs and what they give. Their weights are replaced before they are measured."""
    found = {}
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)
        folders.prepare(Path(root))
        for name, (model, changes) in RUNS.items():
            folder = _trained(model, changes)
            record = _record(folder, ("best.safetensors", "model.safetensors"))
            copy = _rewritten(name, record)
            record["results"] = folders.results(copy)
            if (copy / "items.jsonl").exists():
                record["recommended"] = folders.recommended(copy)
            found[f"run {name}"] = record
            if name in ("lite", "lite-full", "sasrec"):
                packed = Path("packed", name)
                Recommender.load(copy, runtime="torch").save_pretrained(packed)
                record = _record(packed, ("model.safetensors",))
                record["recommended"] = folders.recommended(_rewritten(f"packed-{name}", record))
                found[f"packed {name}"] = record
        for name, (model, changes) in INTERRUPTED.items():
            folder = _trained(model, changes)
            record = _record(folder, ("*.safetensors",), (*TEXTS, "config.yaml"))
            record["states"] = {
                path.name: folders.described_state(torch.load(path, weights_only=True))
                for path in sorted(folder.glob("*.pt"))
            }
            record["resumed"] = folders.resumed(_rewritten(f"interrupted-{name}", record))
            found[f"interrupted {name}"] = record
        os.chdir(here)
    return folders.compact(found)


def _trained(model: str, changes: dict) -> Path:
    return Path(run(model, "tiny", config_dict={**COMMON, **changes})["run_dir"])


def _record(folder: Path, patterns: tuple[str, ...], names: tuple[str, ...] = TEXTS) -> dict:
    texts = {n: (folder / n).read_text("utf-8") for n in names if (folder / n).exists()}
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {"texts": texts, "weights": {path.name: folders.described(path) for path in paths}}


def _rewritten(name: str, record: dict) -> Path:
    folder = Path("rewritten", name)
    folders.write(folder, record)
    return folder


def main() -> None:
    """Write the files that are named, or all."""
    parts = {part.__name__: part for part in (sets, names, command_line, settings, runs)}
    for name in sys.argv[1:] or parts:
        entries = parts[name]()
        lines = [
            f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"
            for key, value in entries.items()
        ]
        path = HERE / f"{name}.json"
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

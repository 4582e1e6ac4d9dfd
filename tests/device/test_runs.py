import math
import pytest
import torch
from conftest import STILL
from recbole_lite import run
from recbole_lite.checkpoint import BEST_FILE, load_weights
from pathlib import Path

pytestmark = pytest.mark.device

GPT2 = {
    "rec_llm": "gpt2", "rec_llm_causal": True, "user_pooling": "recency", "item_vector_norm": "unit",
    "rec_llm_config": {"n_layer": 1, "n_embd": 16, "n_inner": 16, "n_head": 2, "n_positions": 6, "activation_function": "gelu_new"},
}
BERT = {"rec_llm": "bert-base-uncased", "rec_llm_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}}
PREFIX = {**GPT2, "train_strategy": "prefix"}
TOPN = {"task": "topn", "topn_negatives": 6, "metrics": ["Hit"], "valid_metric": "Hit@5"}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
LIGHT = {"llm_init": "scratch", "llm_config": T5, "num_beams": 5, "lightlm_clusters": 3, "eval_step": 1}
WRITER = {"llm_init": "pretrained", "llm_config": {}, "num_beams": 5, "eval_step": 1}
RUNS = {
    "paper": ("LiteLLM4Rec", {"item_vector_norm": "standardize"}),
    "bert": ("LiteLLM4Rec", BERT),
    "causal T5": ("LiteLLM4Rec", {"rec_llm_causal": True, "user_pooling": "last"}),
    "gpt2": ("LiteLLM4Rec", GPT2),
    "prefix": ("LiteLLM4Rec", {**PREFIX, "prefix_overlap": 2}),
    "prefix, t5": ("LiteLLM4Rec", {"train_strategy": "prefix", "rec_llm_causal": True}),
    "prefix, excl": ("LiteLLM4Rec", {**PREFIX, "loss_exclude_history": True, "item_llm_training": "embeddings"}),
    "excl": ("LiteLLM4Rec", {"loss_exclude_history": True}),
    "SCE": ("LiteLLM4Rec", {"loss_type": "SCE", "sce_negatives": 16}),
    "prefix SCE": ("LiteLLM4Rec", {**PREFIX,"loss_type": "SCE", "sce_negatives": 16}),
    "sampling": ("LiteLLM4Rec", {"train_strategy": "sampling"}),
    "tied": ("LiteLLM4Rec", {"tie_head": True}),
    "principal": ("LiteLLM4Rec", {"item_adapter": "principal", "tie_head": True, "rec_llm_config": {"d_model": 8, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}}),
    "full": ("LiteLLM4Rec", {"item_llm_training": "full", "item_vector_norm": "standardize", "item_llm_batch_size": 5}),
    "stages": ("LiteLLM4Rec", {"stages": [{"epochs": 1}, {"epochs": 1, "item_llm_training": "full", "frozen_parts": ["head"], "lr_scheduler": "cosine", "warmup_ratio": 0.2, "max_steps": 3}]}),
    "clip": ("LiteLLM4Rec", {"clip_grad_norm": {"max_norm": 0.1}, "learner": "adam"}),
    "topn": ("LiteLLM4Rec", {**TOPN}),
    "topn history": ("LiteLLM4Rec", {**TOPN, "topn_history": True}),
    "topn history bert": ("LiteLLM4Rec", {**TOPN, **BERT, "topn_history": True, "user_pooling": "recency"}),
    "uni99": ("LiteLLM4Rec", {"eval_args": {"mode": "uni9"}}),
    "no mask": ("LiteLLM4Rec", {"eval_exclude_history": False}),
    "metrics": ("LiteLLM4Rec", {"metrics": ["Recall", "MRR", "NDCG", "Hit", "MAP", "Precision", "ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]}),
    "ItemLM": ("ItemLM", {"n_heads": 2}),
    "ItemLM prefix": ("ItemLM", {"n_heads": 2, "train_strategy": "prefix"}),
    "ItemLM text": ("ItemLM", {"n_heads": 2, "item_init": "text"}),
    "ItemLM text+id llama": ("ItemLM", {"n_heads": 2, "item_init": "text+id", "lm_architecture": "llama"}),
    "ItemLM qwen": ("ItemLM", {"n_heads": 2, "lm_architecture": "qwen3"}),
    "ItemLM t5": ("ItemLM", {"n_heads": 2, "lm_architecture": "t5"}),
    "P5": ("P5", WRITER),
    "P5 constrained": ("P5", {**WRITER, "constrained_beams": True}),
    "P5 no decoder": ("P5", {**WRITER, "decoder": False}),
    "P5 topn": ("P5", {**WRITER, **TOPN, "constrained_beams": True}),
    "POD": ("POD", {**WRITER, "prompt_length": 3}),
    "LightLM": ("LightLM", LIGHT),
    "LightLM topn": ("LightLM", {**LIGHT, **TOPN}),
    "Pop": ("Pop", {}),
    "Pop topn": ("Pop", {**TOPN}),
    "SASRec": ("SASRec", {}),
    "BERT4Rec": ("BERT4Rec", {}),
    "GRU4Rec": ("GRU4Rec", {}),
    "FDSA": ("FDSA", {}),
    "BPR": ("BPR", {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}),
}

@pytest.mark.parametrize("name", RUNS)
def test_same(name, quick, on_device, llm_folders):
    model, changes = RUNS[name]
    settings = {**STILL, **changes}
    if changes.get("llm_init") == "pretrained":
        settings["llm"] = str(llm_folders["writer"])
    settings = quick(**settings, eval_step=1) if "eval_step" not in settings else quick(**settings)
    with on_device():
        there = run(model, "tiny", config_dict=settings)
    here = run(model, "tiny", config_dict=settings)
    print([e["train_loss"] for e in here["history"]], [e["train_loss"] for e in there["history"]])
    print(here["test_result"])
    for a, b in zip(here["history"], there["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["valid_result"] == pytest.approx(b["valid_result"], abs=1e-4)
    assert here["test_result"] == pytest.approx(there["test_result"], abs=1e-4)
    weights, others = (load_weights(Path(r["run_dir"], BEST_FILE))[0] for r in (here, there))
    for n in weights:
        assert torch.allclose(weights[n].float(), others[n].float(), rtol=1e-3, atol=1e-4), n

"""Settings of the runs that are tried on the device: name -> (model, changes)."""

import os

# Of a real device; else the pretend one is taken. Its sums are made in another order than the
# CPU's, which Adam turns into whole steps where gradients are near 0; its random numbers are
# others, and a rank may change where scores are nearly equal.
REAL = os.environ.get("RECBOLE_LITE_TEST_DEVICE", "")
LOSSES, METRICS = (3e-2, 0.1) if REAL else (1e-4, 2e-3)  # tolerances

# What draws random numbers while a model is trained draws others on a GPU: left out, so that
# losses can be compared.
STILL = {
    "user_dropout": 0.0, "item_dropout": 0.0, "rec_llm_dropout": 0.0, "lm_dropout": 0.0,
    "llm_dropout": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0,
    "item_embedding_cache_dir": None, "eval_step": 1, "train_batch_size": 24,
}  # fmt: skip
SMALL = {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16}
BERT = {
    "rec_llm": "bert-base-uncased",
    "rec_llm_config": {**SMALL, "intermediate_size": 16},
    "user_pooling": "recency",
}
GPT2 = {
    "rec_llm": "gpt2",
    "rec_llm_causal": True,
    "rec_llm_config": {"n_layer": 1, "n_embd": 16, "n_inner": 16, "n_head": 2, "n_positions": 6},
    "user_pooling": "recency",
    "item_vector_norm": "unit",
}
PREFIX = {**GPT2, "train_strategy": "prefix", "prefix_overlap": 2}
EXCLUDE = {"loss_exclude_history": True}
SCE = {"loss_type": "SCE", "num_negatives": 16}
NCE = {"loss_type": "InfoNCE", "num_negatives": 16, "tie_head": True}
LORA = {"rec_llm_lora": {"r": 2, "alpha": 4, "target_modules": ["c_attn", "c_fc"]}}
NARROW = {"d_model": 8, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
FULL = {
    "item_llm_training": "full",
    "item_vector_norm": "standardize",
    "item_llm_batch_size": 9,  # several chunks
    "train_batch_size": 64,
}
STAGES = [
    {"epochs": 1, "lr_scheduler": "cosine", "warmup_ratio": 0.2},
    {"epochs": 1, "item_llm_training": "full", "frozen_parts": ["head"]},
]
TOPN = {"task": "topn", "topn_negatives": 6, "metrics": ["Hit"], "valid_metric": "Hit@5"}
HEADS = {"n_heads": 2}
WRITER = {"llm_init": "pretrained", "llm_config": {}, "num_beams": 5}  # and llm
LIGHT = {
    "llm_init": "scratch",
    "llm_config": {**NARROW, "num_decoder_layers": 1},
    "num_beams": 5,
    "lightlm_clusters": 3,
}
CODES = {
    "llm_config": {**NARROW, "num_decoder_layers": 1},
    "num_beams": 5,
    "codebook_size": 4,
    "rqvae_epochs": 2,
}
LISTS = {"metrics": ["MRR", "NDCG", "MAP", "ItemCoverage", "GiniIndex", "AveragePopularity"]}

RUNS = {
    "T5": ("LiteLLM4Rec", {"item_vector_norm": "standardize"}),
    "T5, causal, every list metric": (
        "LiteLLM4Rec",
        {"rec_llm_causal": True, "user_pooling": "last", **LISTS},
    ),
    "BERT": ("LiteLLM4Rec", BERT),
    "GPT-2": ("LiteLLM4Rec", GPT2),
    "embeddings": ("LiteLLM4Rec", {"item_llm_training": "embeddings"}),
    "full": ("LiteLLM4Rec", FULL),
    "stages": ("LiteLLM4Rec", {"stages": STAGES, "train_batch_size": 64}),
    "sampling": ("LiteLLM4Rec", {"train_strategy": "sampling"}),
    "prefix": ("LiteLLM4Rec", PREFIX),
    "prefix, embeddings, without history": (
        "LiteLLM4Rec",
        {**PREFIX, **EXCLUDE, "item_llm_training": "embeddings"},
    ),
    "prefix, InfoNCE": ("LiteLLM4Rec", {**PREFIX, **NCE}),
    "full, InfoNCE": ("LiteLLM4Rec", {**FULL, **NCE, "item_llm_pooling": "item_token"}),
    "LoRA": ("LiteLLM4Rec", {**GPT2, **LORA}),
    "prefix, SCE": ("LiteLLM4Rec", {**PREFIX, **SCE}),
    "without history": ("LiteLLM4Rec", EXCLUDE),
    "SCE": ("LiteLLM4Rec", SCE),
    "tied": ("LiteLLM4Rec", {"tie_head": True}),
    "tied, principal": (
        "LiteLLM4Rec",
        {"tie_head": True, "item_adapter": "pca", "rec_llm_config": NARROW},
    ),
    "clipped": ("LiteLLM4Rec", {"clip_grad_norm": {"max_norm": 0.1}, "learner": "sgd"}),
    "uni9": ("LiteLLM4Rec", {"eval_args": {"mode": "uni9"}, "epochs": 1}),
    "RecBole's protocol": ("LiteLLM4Rec", {"eval_exclude_history": False}),
    "topn": ("LiteLLM4Rec", TOPN),
    "topn, history": ("LiteLLM4Rec", {**TOPN, **BERT, "topn_history": True}),
    "ItemLM": ("ItemLM", HEADS),
    "ItemLM, text": ("ItemLM", {**HEADS, "item_init": "text", "lm_architecture": "t5"}),
    "ItemLM, text+id": (
        "ItemLM",
        {**HEADS, "item_init": "text_plus_id", "lm_architecture": "llama"},
    ),
    "distilled, hidden": ("ItemLM", {**HEADS, "distill_loss": "hidden", "hidden_size": 8}),
    "distilled, scores": ("ItemLM", {**HEADS, "distill_loss": "scores"}),
    "distilled SASRec": ("SASRec", {"distill_loss": "scores", "distill_temperature": 2.0}),
    "P5": ("P5", WRITER),
    "P5, constrained, topn": ("P5", {**WRITER, **TOPN, "constrained_beams": True}),
    "P5, no decoder": ("P5", {**WRITER, "decoder": False}),
    "POD": ("POD", {**WRITER, "prompt_length": 3}),
    "LightLM": ("LightLM", LIGHT),
    "LightLM, topn": ("LightLM", {**LIGHT, **TOPN}),
    "TIGER": ("TIGER", CODES),
    "Pop": ("Pop", {}),
    "Pop, topn": ("Pop", TOPN),
    "SASRec": ("SASRec", {}),
    "BERT4Rec": ("BERT4Rec", {}),
    "BERT4Rec, whole windows": ("BERT4Rec", {"train_strategy": "prefix"}),
    "GRU4Rec": ("GRU4Rec", {}),
    "FDSA": ("FDSA", {}),
    "BPR": ("BPR", {}),
}

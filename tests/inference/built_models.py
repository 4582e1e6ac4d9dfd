"""Models with random weights of every kind that has a graph, and their graphs, made once."""

import numpy as np
import torch

from recbole_lite import create_dataset, data_preparation
from recbole_lite.inference.onnx_export import build_graph

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
GPT2 = {"n_layer": 2, "n_embd": 16, "n_inner": 24, "n_head": 2, "n_positions": 6}
BERT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
MPNET = {**BERT, "vocab_size": 30}
LM = {"n_layers": 2, "hidden_size": 16, "inner_size": 24, "n_heads": 2}
KINDS = {
    "t5": {"rec_llm_config": T5},
    "t5 of another width": {"rec_llm_config": {**T5, "d_model": 12, "d_kv": 5}},
    "t5 with a gate": {"rec_llm_config": {**T5, "feed_forward_proj": "gated-gelu"}},
    "t5, causal": {"rec_llm_config": T5, "rec_llm_causal": True, "user_pooling": "last"},
    "gpt2, recency": {"rec_llm": "gpt2", "rec_llm_config": GPT2, "user_pooling": "recency"},
    "gpt2, last": {
        "rec_llm": "gpt2", "rec_llm_config": GPT2, "rec_llm_causal": True, "user_pooling": "last",
    },
    "t5, last": {"rec_llm_config": T5, "user_pooling": "last"},
    "gpt2, tied": {"rec_llm": "gpt2", "rec_llm_config": GPT2, "tie_head": True},
    "bert": {"rec_llm": "bert-base-uncased", "rec_llm_config": BERT},
    "topn": {"rec_llm_config": T5, "task": "topn", "topn_negatives": 4, "topn_history": True},
    "item llm trained": {
        "rec_llm_config": T5, "item_llm_training": "full", "item_vector_norm": "standardize",
    },
    "ItemLM, gpt2": {**LM},
    "ItemLM, t5": {**LM, "lm_architecture": "t5", "item_init": "text_plus_id"},
    "ItemLM, llama": {**LM, "lm_architecture": "llama", "user_pooling": "mean"},
    "ItemLM, qwen3, fewer keys": {
        **LM, "lm_architecture": "qwen3", "lm_config": {"num_key_value_heads": 1}, "tie_head": True,
    },
}  # fmt: skip
# Longer than the six items that are read, and shorter.
HISTORIES = [[3], [5, 1, 2], [7, 7, 8, 9, 10, 11], [4, 6], list(range(1, 20))]
_graphs = {}


def build(config_for, kind="t5", **changes):
    name = "ItemLM" if kind.startswith("ItemLM") else "LiteLLM4Rec"
    config = config_for(name, **{**KINDS[kind], **changes})
    train_data, *_ = data_preparation(config, create_dataset(config))
    torch.manual_seed(1)
    model = config.model_class(config, train_data._dataset).eval()
    with torch.no_grad():  # scales and shifts of norms that are not 1 and 0; vectors that differ
        for name, parameter in model.named_parameters():
            if not name.startswith("item_tower"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def graph_of(model, kind):
    """The graph of what :func:`build` gives for a kind without changes."""
    if kind not in _graphs:
        _graphs[kind] = build_graph(model)
    return _graphs[kind]


def rows_of(histories, length):
    """What a loader of this project makes of histories: the last items, padding behind."""
    rows = np.zeros((len(histories), length), np.int64)
    for row, items in zip(rows, histories, strict=True):
        row[: len(items[-length:])] = items[-length:]
    return rows


def scores_of(model, histories):
    rows = torch.from_numpy(rows_of(histories, model.max_seq_length))
    batch = {model.ITEM_SEQ: rows, model.ITEM_SEQ_LEN: (rows > 0).sum(1)}
    with torch.no_grad():
        return model.full_sort_predict(batch).numpy()

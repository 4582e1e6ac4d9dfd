"""Batches that are cut to their longest history give the scores and losses of padded ones."""

import random

import numpy as np
import pytest
import torch

from recbole_lite import create_dataset, data_preparation
from recbole_lite.config import registry
from recbole_lite.data.windows import Windows
from recbole_lite.model.abstract_recommender import NextItemModel

TOPN = {"task": "topn", "topn_negatives": 6, "metrics": ["Hit"], "valid_metric": "Hit@5"}
WRITER = {"num_beams": 5, "constrained_beams": True}
OURS = {
    "mean": ("LiteLLM4Rec", {}),
    "prefix": (
        "LiteLLM4Rec",
        {"train_strategy": "prefix", "rec_llm_causal": True, "user_pooling": "recency",
         "loss_exclude_history": True},
    ),
    "InfoNCE": (
        "LiteLLM4Rec",
        {"train_strategy": "prefix", "rec_llm_causal": True, "user_pooling": "last",
         "tie_head": True, "loss_type": "InfoNCE", "num_negatives": 8},
    ),
    "LoRA": (
        "LiteLLM4Rec",
        {"rec_llm_lora": {"r": 2, "target_modules": ["q", "v"]}, "rec_llm_causal": True,
         "user_pooling": "last"},
    ),
    "topn": ("LiteLLM4Rec", {**TOPN, "topn_history": True, "user_pooling": "recency"}),
    "gpt2": ("ItemLM", {"n_heads": 2}),
    "llama": ("ItemLM", {"n_heads": 2, "lm_architecture": "llama", "loss_type": "SCE",
                         "loss_exclude_history": False}),
    "t5": ("ItemLM", {"n_heads": 2, "lm_architecture": "t5", "user_pooling": "mean"}),
    "P5": ("P5", WRITER),
    "POD without decoder": ("POD", {"decoder": False}),
    "P5 topn": ("P5", {**WRITER, **TOPN}),
    "LightLM": ("LightLM", {"num_beams": 5, "llm_config": {
        "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}}),
    "TIGER": ("TIGER", {"num_beams": 5, "codebook_size": 4, "rqvae_epochs": 1, "llm_config": {
        "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}}),
}  # fmt: skip
THEIRS = sorted(registry._ANY_LENGTH)
LONGEST = 3  # of 6


def seeded(function, *arguments):
    """Result with the draws (negatives, masks, templates) of a seed."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    return function(*arguments)


def total(loss):
    return sum(loss) if isinstance(loss, tuple) else loss


@pytest.fixture
def built(config_for):
    """``built(model, key=value, ...)`` -> model in evaluation mode, loader of short histories."""

    def build(name, **changes):
        config = config_for(name, train_batch_size=1000, **changes)
        train, *_ = data_preparation(config, create_dataset(config))
        model = config.model_class(config, train._dataset).eval()
        torch.manual_seed(2)
        with torch.no_grad():  # far from symmetric: what is mixed up shows
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
        windows = train._dataset.inter_feat
        rows = np.flatnonzero(windows.lengths() <= LONGEST)[:20]
        return model, train, rows.tolist()

    return build


def batch_of(train, rows, cut):
    train._dataset.inter_feat.cuts_padding = cut
    batch = seeded(train.collate_fn, rows)
    assert batch["item_id_list"].shape[1] == (LONGEST if cut else 6)
    return batch


def compare(model, train, rows):
    padded, cut = (batch_of(train, rows, cut) for cut in (False, True))
    with torch.no_grad():
        scores = [model.full_sort_predict(batch).view(len(rows), -1) for batch in (padded, cut)]
        torch.testing.assert_close(scores[1], scores[0], rtol=1e-4, atol=1e-5)
        if isinstance(model, NextItemModel):  # what an evaluation computes once
            with model.fixed_items():
                for n in (2, len(rows), 3):
                    fixed = model.full_sort_predict(cut[:n])
                    torch.testing.assert_close(fixed, scores[1][:n], rtol=1e-4, atol=1e-5)
    losses = [total(seeded(model.calculate_loss, batch)) for batch in (padded, cut)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    return losses[1]


@pytest.mark.parametrize("name", OURS)
def test_ours(name, built, llm_folders):
    model, changes = OURS[name]
    if model in ("P5", "POD"):
        changes = {**changes, "llm": str(llm_folders["writer"])}
    net, train, rows = built(model, **changes)
    assert train._dataset.inter_feat.cuts_padding  # by default
    compare(net, train, rows)


PACKED = ["mean", "prefix", "InfoNCE", "LoRA", "gpt2", "llama", "t5", "TIGER"]


@pytest.mark.parametrize("name", PACKED)
def test_a_training_batch_is_packed(name, built):
    model, changes = OURS[name]
    plain = {
        "LiteLLM4Rec": {"user_dropout": 0.0, "rec_llm_dropout": 0.0},
        "ItemLM": {"user_dropout": 0.0, "lm_dropout": 0.0},
    }.get(model, {"llm_dropout": 0.0, "train_strategy": "all"})
    net, train, _ = built(model, **changes, **plain)
    batch = train.collate_fn(list(range(len(train._dataset)))[:60])
    found, n_rows = [], []
    encoder = net.encoder if hasattr(net, "beam_counts") else net.reader.encoder
    encoder.register_forward_pre_hook(
        lambda *given: n_rows.append(len(given[2]["inputs_embeds"])), with_kwargs=True
    )
    for packed in (True, False):
        net.train().packs_rows = packed
        loss = seeded(net.calculate_loss, batch)
        parameters = [p for p in net.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append([loss, *(g for g in gradients if g is not None)])
    assert n_rows[0] < 0.8 * n_rows[1] == 0.8 * len(batch)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_encoders_with_positions(kind, built, llm_folders):
    encoder = {"rec_llm": str(llm_folders[kind]), "rec_llm_init": "pretrained"}
    compare(*built("LiteLLM4Rec", **encoder, rec_llm_config={}))


@pytest.mark.parametrize("name", THEIRS)
def test_recboles(name, built, workdir):
    is_mean = registry.loss_is_mean_over_rows(registry.get_model(name))
    changes = {"num_layers": 1, "bucket_by_length": is_mean}
    if name == "S3Rec":
        net, *_ = built(name, train_stage="pretrain")
        torch.save({"state_dict": net.state_dict()}, "pre.pth")
        changes |= {"train_stage": "finetune", "pre_model_path": "pre.pth"}
    net, train, rows = built(name, **changes)
    loss = compare(net, train, rows)
    train._dataset.inter_feat.cuts_padding = True
    parts = [rows[:7], rows[7:]]
    losses = [
        total(seeded(net.calculate_loss, seeded(train.collate_fn, part))) * len(part)
        for part in parts
    ]
    found = torch.allclose(sum(losses) / len(rows), loss, rtol=1e-5, atol=1e-6)
    assert found == is_mean == (train.buckets is not None)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("Caser", {}), ("NextItNet", {}), ("LightSANs", {}), ("SASRec", {"cut_padding": False}),
     ("S3Rec", {"train_stage": "pretrain"})],
)  # fmt: skip
def test_others_are_padded(name, changes, config_for):
    config = config_for(name, **changes)
    train, _, test = data_preparation(config, create_dataset(config))
    for loader in (train, test):
        windows = loader._dataset.inter_feat
        assert isinstance(windows, Windows)
        assert not windows.cuts_padding
    assert next(iter(test))[0]["item_id_list"].shape[1] == 6


def test_a_class_of_ones_own_says_so_itself(config_for):
    class Own(registry.get_model("SASRec")):
        pass

    assert not registry.reads_any_length(Own)
    assert not registry.can_train_prefixes(Own)
    Own.reads_any_length = True
    assert registry.reads_any_length(Own)

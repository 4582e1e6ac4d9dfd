"""Scores that are cosines: ``loss_type: InfoNCE`` and ``cosine_head`` in models."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from test_lite_llm4rec import batch_of, build

from recbole_lite import Recommender, run
from recbole_lite.model import abstract_recommender
from recbole_lite.utils.errors import ConfigError, RequestError

CAUSAL = {"rec_llm_causal": True, "rec_llm_dropout": 0.0, "user_dropout": 0.0}
NCE = {**CAUSAL, "loss_type": "InfoNCE"}
HLLM = {**NCE, "train_strategy": "prefix", "tie_head": True, "user_pooling": "last"}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cosines(users, items):
    return unit(users) @ unit(items).T


@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_of_a_batch(tied, config_for):
    """All 24 items are drawn, so that each is a negative of every target once."""
    model, _ = build(config_for("LiteLLM4Rec", **NCE, tie_head=tied, num_negatives=5000))
    histories, targets = [[3, 7], [5], [2, 4, 6]], [5, 1, 9]
    batch = batch_of(histories, 6, targets)
    with torch.no_grad():
        users = model.forward(batch["item_id_list"], batch["item_length"]).double().numpy()
        items = model.head_weight().double().numpy()
    loss = 0.0
    for user, target in zip(users, targets, strict=True):
        scores = cosines(user, items) / 0.07
        like = cosines(items[target - 1], items)
        negatives = (like <= 0.99) & (np.arange(24) != target - 1)
        loss -= math.log(
            np.exp(scores[target - 1])
            / (np.exp(scores[target - 1]) + np.exp(scores[negatives]).sum())
        )
    assert model.calculate_loss(batch).item() == pytest.approx(loss / 3, rel=1e-4)
    scores = model.full_sort_predict(batch).detach().numpy()
    assert np.allclose(scores[:, 1:], cosines(users, items) / 0.07, atol=1e-4)
    assert model.predict(batch).tolist() == pytest.approx(
        [scores[row, target] for row, target in enumerate(targets)], abs=1e-4
    )


def test_negatives_are_the_batch_and_the_sample(config_for, monkeypatch):
    """Two targets and one drawn item: three rows of the head are read, no others."""
    model, _ = build(config_for("LiteLLM4Rec", **NCE, num_negatives=3))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([8, 2, 8]))
    read = []
    rows = model.head_rows
    model.head_rows = lambda items: read.append(items.tolist()) or rows(items)
    model.calculate_loss(batch_of([[3, 7], [5]], 6, [9, 2]))
    assert read == [[2, 8, 9]]


@pytest.mark.parametrize("loss_type", ["CE", "SCE"])
def test_cosine_head(loss_type, config_for):
    """SCE with all items in its sample is CE but for the noise of the sample."""
    changes = {**CAUSAL, "loss_type": loss_type, "cosine_head": True, "num_negatives": 20000}
    model, _ = build(config_for("LiteLLM4Rec", **changes))
    with torch.no_grad():
        model.scale.log_scale.fill_(math.log(3))
    targets = [5, 1, 9]
    batch = batch_of([[3, 7], [5], [2, 4, 6]], 6, targets)
    with torch.no_grad():
        users = model.forward(batch["item_id_list"], batch["item_length"]).double().numpy()
        scores = 3 * cosines(users, model.head_weight().double().numpy())
    own = scores[range(3), np.array(targets) - 1]
    expected = np.mean(np.log(np.exp(scores).sum(1)) - own)
    loss = model.calculate_loss(batch)
    assert loss.item() == pytest.approx(expected, rel=1e-5 if loss_type == "CE" else 0.02)
    loss.backward()
    assert model.scale.log_scale.grad.abs() > 0
    assert np.allclose(model.full_sort_predict(batch).detach().numpy()[:, 1:], scores, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        HLLM,
        {**NCE, "train_strategy": "sampling"},
        {**CAUSAL, "cosine_head": True, "train_strategy": "sampling"},
    ],
)
def test_training_and_recommending(changes, quick):
    result = run("LiteLLM4Rec", "tiny", config_dict=quick(**changes, num_negatives=8))
    folder = result["run_dir"]
    lists = []
    for runtime in ("torch", "onnx"):
        recommender = Recommender.load(folder, runtime=runtime)
        lists.append(recommender.recommend([["i1", "i2"], ["i5"]], k=4))
    scale = recommender.model.scale().item()
    for one, other in zip(*lists, strict=True):
        assert [item.id for item in one] == [item.id for item in other]
        assert all(abs(item.score) <= scale * 1.0001 for item in one)
        assert [item.score for item in one] == pytest.approx([i.score for i in other], abs=1e-3)
    if not changes.get("tie_head"):
        with pytest.raises(RequestError, match=r"scores by cosines .* need tie_head: True"):
            recommender.add_items(["toy story"])


def test_item_lm(config_for):
    model, _ = build(
        config_for("ItemLM", n_heads=2, loss_type="InfoNCE", loss_exclude_history=False)
    )
    batch = batch_of([[3, 7], [5]], 6, [9, 2])
    model.calculate_loss(batch).backward()
    assert model.scale.log_scale.grad is not None
    assert model.full_sort_predict(batch)[:, 1:].abs().max() <= 1.0001 / 0.07


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_exclude_history": True}, "loss_exclude_history works with loss_type: CE only"),
        ({"label_smoothing": 0.1}, "label_smoothing works with loss_type: CE and SCE only"),
        ({"task": "topn"}, "a loss over the candidates alone; set loss_type: CE"),
        ({"loss_type": "NCE"}, "loss_type must be one of CE, SCE, InfoNCE .*found 'NCE'|CE or BPR"),
        (
            {"item_llm_training": "full", "tie_head": True, "loss_type": "CE"},
            "tie_head: True with item_llm_training: full needs loss_type: InfoNCE",
        ),
    ],
)
def test_what_is_refused(changes, message, config_for):
    with pytest.raises(ConfigError, match=message):
        build(config_for("LiteLLM4Rec", **{**NCE, **changes}))


# -- HLLM: both language models, a learned token ----------------------------------------------


def hllm(quick, llm_folders, **changes):
    own = {"item_llm": str(llm_folders["gpt2"]), "rec_llm": str(llm_folders["gpt2"])}
    own |= {"rec_llm_init": "pretrained", "rec_llm_config": {}, "item_llm_training": "full"}
    return quick(**{**HLLM, **own, "item_llm_pooling": "item_token", "num_negatives": 8, **changes})


def test_an_item_is_encoded_once_in_a_step(quick, llm_folders, config_for):
    """Loss and gradients are those of vectors that are encoded where they are read."""
    changes = {"train_strategy": "all", "num_negatives": 3}
    model, _ = build(config_for("LiteLLM4Rec", **hllm(quick, llm_folders, **changes)))
    item_llm, encoded, found = model.item_tower.item_llm, [], []
    encode = item_llm._encode
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    item_llm._encode = lambda items: encoded.extend(items.tolist()) or encode(items)
    batch = batch_of([[3, 7, 4], [5, 9]], 6, [9, 2])
    for once in (True, False):
        if not once:
            item_llm.encoding_once = nullcontext
        torch.manual_seed(0)
        loss = model.calculate_loss(batch)
        found.append([loss, *torch.autograd.grad(loss, list(item_llm.parameters()))])
        assert (len(encoded) == len(set(encoded))) == once
        encoded.clear()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_gradients_of_hllm(quick, llm_folders, config_for):
    model, _ = build(config_for("LiteLLM4Rec", **hllm(quick, llm_folders, train_strategy="all")))
    model.train().calculate_loss(batch_of([[3, 7], [5]], 6, [9, 2])).backward()
    for part in (
        model.item_tower.item_llm.item_token,
        model.item_tower.item_llm.encoder.wte.weight,
        model.rec_llm.encoder.h[0].attn.c_attn.weight,
        model.scale.log_scale,
    ):
        assert part.grad.abs().max() > 0
    model.eval()
    with model.fixed_items():
        fixed = model.full_sort_predict(batch_of([[3, 7]], 6))
    plain = model.full_sort_predict(batch_of([[3, 7]], 6))
    torch.testing.assert_close(fixed, plain.detach())


def test_a_large_catalogue_is_scored_as_a_small_one_and_its_head_computed_once(
    config_for, monkeypatch
):
    model, _ = build(config_for("LiteLLM4Rec", **CAUSAL, cosine_head=True, tie_head=True))
    model.eval()
    batch = batch_of([[3, 7], [5]], 6)
    expected = model.full_sort_predict(batch).detach()
    monkeypatch.setattr(abstract_recommender, "_COPIED", 0)
    heads, compute = [], model.head_weight
    monkeypatch.setattr(model, "head_weight", lambda: heads.append(compute()) or heads[-1])
    with model.fixed_items():
        for _ in range(2):
            torch.testing.assert_close(model.full_sort_predict(batch), expected)
    assert len(heads) == 1

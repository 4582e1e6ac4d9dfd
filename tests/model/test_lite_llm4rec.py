"""LiteLLM4Rec against the paper's equations, written out by hand."""

import math

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_lite import create_dataset, data_preparation
from recbole_lite.model.layers.rec_llm import RecommendationLLM
from recbole_lite.utils.errors import ConfigError, ModelFilesError

TINY_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}


def build(config):
    dataset = create_dataset(config)
    train_data, *_ = data_preparation(config, dataset)
    torch.manual_seed(1)
    return config.model_class(config, train_data._dataset).eval(), dataset


def batch_of(sequences, length, targets=None):
    """Histories of item ids, padded behind to `length`."""
    rows = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, items in enumerate(sequences):
        rows[row, : len(items)] = torch.tensor(items)
    fields = {"item_id_list": rows, "item_length": torch.tensor([len(s) for s in sequences])}
    if targets is not None:
        fields["item_id"] = torch.tensor(targets)
    return Interaction(fields)


# -- equations 3 to 6 -------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def t5_block(x, weights, heads=2, d_kv=8):
    """One T5 encoder block and the final norm in NumPy; ``x`` is ``[L, d]``."""

    def rms(v, w):
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6) * w

    block = "block.0.layer."
    h = rms(x, weights[block + "0.layer_norm.weight"])
    q, k, v = (h @ weights[f"{block}0.SelfAttention.{n}.weight"].T for n in "qkv")
    bias_table = weights[block + "0.SelfAttention.relative_attention_bias.weight"]
    out = np.zeros_like(q)
    for head in range(heads):
        part = slice(head * d_kv, (head + 1) * d_kv)
        scores = q[:, part] @ k[:, part].T  # T5 does not scale
        for i in range(len(x)):
            for j in range(len(x)):
                # Distances below 8 have a bucket of their own; 16 more for looking ahead.
                scores[i, j] += bias_table[abs(j - i) + (16 if j > i else 0), head]
        out[:, part] = softmax(scores) @ v[:, part]
    x = x + out @ weights[block + "0.SelfAttention.o.weight"].T
    h = rms(x, weights[block + "1.layer_norm.weight"])
    h = np.maximum(h @ weights[block + "1.DenseReluDense.wi.weight"].T, 0)
    x = x + h @ weights[block + "1.DenseReluDense.wo.weight"].T
    return rms(x, weights["final_layer_norm.weight"])


def test_two_items_by_hand(config_for):
    """Vectors -> encoder -> mean -> head -> cross entropy, against NumPy."""
    config = config_for("LiteLLM4Rec", rec_llm_config=TINY_T5)
    model, _ = build(config)
    weights = {
        name: tensor.double().numpy()
        for name, tensor in model.rec_llm.encoder.encoder.state_dict().items()
    }
    history, target = [3, 7], 5
    x = model.item_tower.vectors[history].double().numpy()  # d_item = d: no adapter
    h_u = t5_block(x, weights).mean(0)  # equation 4
    logits = model.head.weight.double().detach().numpy() @ h_u  # equation 5
    loss = -np.log(softmax(logits)[target - 1])  # equation 6

    batch = batch_of([history], 6, [target])
    scores = model.full_sort_predict(batch)[0].detach().numpy()
    assert np.allclose(scores[1:], logits, atol=1e-4)
    assert scores[0] == -np.inf
    assert model.calculate_loss(batch).item() == pytest.approx(loss, abs=1e-4)
    assert model.predict(batch).item() == pytest.approx(logits[target - 1], abs=1e-4)


def test_item_vectors_are_the_item_llms_masked_means(config_for, llm_folders):
    """Equations 1 to 3: one text at a time, the mean over its tokens."""
    from transformers import AutoTokenizer, BertModel

    model, dataset = build(config_for("LiteLLM4Rec"))
    tokenizer = AutoTokenizer.from_pretrained(llm_folders["bert"])
    bert = BertModel.from_pretrained(llm_folders["bert"]).eval()
    columns = dataset.item_text_columns()
    for item in (1, 2, dataset.item_num - 1):
        text = ", ".join(f"{field}: {values[item]}" for field, values in columns.items())
        with torch.no_grad():
            hidden = bert(**tokenizer(text, return_tensors="pt")).last_hidden_state
        assert torch.allclose(model.item_tower.vectors[item], hidden[0].mean(0), atol=1e-5)
    assert not model.item_tower.vectors[0].any()


# -- padding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_padding_never_changes_a_score(kind, config_for, llm_folders):
    changes = {"rec_llm": str(llm_folders[kind]), "rec_llm_init": "pretrained"}
    config = config_for("LiteLLM4Rec", rec_llm_config={}, MAX_ITEM_LIST_LENGTH=20, **changes)
    model, _ = build(config)
    histories = [[4], [9, 2, 5], [1, 2, 3, 4, 5, 6, 7]]
    short = model.full_sort_predict(batch_of(histories, 7))
    long = model.full_sort_predict(batch_of(histories, 20))
    assert torch.allclose(short[:, 1:], long[:, 1:], atol=1e-5)
    alone = torch.cat([model.full_sort_predict(batch_of([h], len(h))) for h in histories])
    assert torch.allclose(short[:, 1:], alone[:, 1:], atol=1e-5)


# -- parts ------------------------------------------------------------------------------------


def test_the_head_has_no_bias_and_one_row_per_item(config_for):
    model, dataset = build(config_for("LiteLLM4Rec"))
    assert model.head.bias is None
    assert model.head.weight.shape == (dataset.item_num - 1, 16)


@pytest.mark.parametrize("kind", ["t5", "bert", "roberta", "bart", "gpt2"])
def test_any_hugging_face_encoder_reads_the_vectors(kind, config_for, llm_folders):
    config = config_for(
        "LiteLLM4Rec",
        rec_llm=str(llm_folders[kind]),
        rec_llm_init="pretrained",
        rec_llm_config={},
    )
    model, _ = build(config)
    model.train()
    loss = model.calculate_loss(batch_of([[3, 7], [2]], 6, [5, 1]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert any(p.grad is not None and p.grad.any() for p in model.rec_llm.parameters())


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_the_word_embedding_table_is_not_kept(kind, llm_folders):
    llm = RecommendationLLM(str(llm_folders[kind]), "pretrained", {}, None, 6)
    rows = {parameter.shape[0] for parameter in llm.parameters() if parameter.dim() == 2}
    assert 17 not in rows  # the tiny models' vocabulary
    assert not any("pooler" in name or "embed_tokens" in name for name in llm.state_dict())


def test_pretrained_weights_are_those_of_the_folder(llm_folders):
    from transformers import T5EncoderModel

    llm = RecommendationLLM(str(llm_folders["t5"]), "pretrained", {}, None, 6).eval()
    reference = T5EncoderModel.from_pretrained(llm_folders["t5"]).eval()
    vectors, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = reference(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
    assert torch.allclose(llm(vectors, mask.bool()), expected, atol=1e-6)


def test_scratch_t5_small_is_the_papers_size_and_needs_no_download(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    llm = RecommendationLLM("t5-small", "scratch", {}, None, 20)
    config = llm.encoder.config
    assert (config.num_layers, config.num_heads, config.d_model, config.d_ff) == (6, 8, 512, 2048)
    # 6 x (4 attention matrices of 512 x 512, 2 of 512 x 2048, 2 norms), bias table, last norm
    per_layer = 4 * 512 * 512 + 2 * 512 * 2048 + 2 * 512
    assert sum(p.numel() for p in llm.parameters()) == 6 * per_layer + 32 * 8 + 512


def test_an_adapter_only_where_sizes_differ(config_for):
    same, _ = build(config_for("LiteLLM4Rec"))
    assert isinstance(same.item_tower.adapter, torch.nn.Identity)
    wide = {**TINY_T5, "d_model": 32}
    other, _ = build(config_for("LiteLLM4Rec", rec_llm_config=wide))
    assert other.item_tower.adapter.weight.shape == (32, 16)


def test_dropout_rate_reaches_the_encoder(config_for):
    model, _ = build(config_for("LiteLLM4Rec", rec_llm_dropout=0.35))
    rates = {m.p for m in model.rec_llm.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.35}


# -- items without text -----------------------------------------------------------------------


def test_items_without_text_share_a_learned_vector(data_path, config_for, caplog):
    path = data_path / "tiny" / "tiny.item"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(row for row in rows if not row.startswith(("i3\t", "i4\t"))) + "\n")
    config = config_for("LiteLLM4Rec")
    model, dataset = build(config)
    assert "2 of 24 items have no text" in caplog.text
    lacking = dataset.token2id("item_id", ["i3", "i4"]).tolist()
    assert model.item_tower.lacks_text.nonzero().flatten().tolist() == sorted(lacking)
    with torch.no_grad():
        model.item_tower.no_text_vector.fill_(0.5)
    assert torch.equal(model.item_tower(torch.tensor(lacking)), torch.full((2, 16), 0.5))
    model.calculate_loss(batch_of([[lacking[0], 1]], 6, [5])).backward()
    assert model.item_tower.no_text_vector.grad.any()


@pytest.mark.parametrize("how", ["unit", "standardize"])
def test_item_vector_norm(how, config_for):
    model, _ = build(config_for("LiteLLM4Rec", item_vector_norm=how))
    vectors = model.item_tower.vectors[1:]
    if how == "unit":
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5)
    else:
        assert torch.allclose(vectors.mean(0), torch.zeros(16), atol=1e-5)
        assert torch.allclose(vectors.std(0), torch.ones(16), atol=1e-4)


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rec_llm_init": "random"}, "rec_llm_init must be one of pretrained, scratch"),
        ({"rec_llm_config": {"n_layer": 2}}, "a t5 configuration has no 'n_layer'"),
        ({"rec_llm_init": "pretrained"}, "rec_llm_config changes the architecture"),
        ({"item_vector_norm": "l2"}, "item_vector_norm must be one of none, unit, standardize"),
        ({"loss_type": "BPR"}, "loss_type must be one of CE"),
        (
            {"rec_llm": "bert-base-uncased", "rec_llm_config": {"max_position_embeddings": 4}},
            "reads at most 4 positions, MAX_ITEM_LIST_LENGTH is 6",
        ),
    ],
)
def test_bad_settings(changes, message, config_for):
    with pytest.raises(ConfigError, match=message):
        build(config_for("LiteLLM4Rec", **changes))


def test_weights_that_cannot_be_had(config_for, tmp_path):
    changes = {"rec_llm": str(tmp_path / "absent"), "rec_llm_init": "pretrained"}
    with pytest.raises(ModelFilesError, match="--rec_llm_init=scratch"):
        build(config_for("LiteLLM4Rec", rec_llm_config={}, **changes))


def test_weights_with_tensors_missing_are_refused(config_for, llm_copy):
    """transformers would fill them with random numbers and go on."""
    from safetensors.torch import load_file, save_file

    folder = llm_copy("t5")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    changes = {"rec_llm": str(folder), "rec_llm_init": "pretrained", "rec_llm_config": {}}
    with pytest.raises(ModelFilesError, match=r"rec_llm .* the weights lack 1 tensors"):
        build(config_for("LiteLLM4Rec", **changes))


def test_the_same_seed_gives_the_same_model(config_for):
    first, _ = build(config_for("LiteLLM4Rec"))
    second, _ = build(config_for("LiteLLM4Rec"))
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# -- tied head --------------------------------------------------------------------------------

WIDE = {**TINY_T5, "d_model": 32}  # d_item is 16: an adapter


@pytest.mark.parametrize("architecture", [TINY_T5, WIDE], ids=["same size", "adapter"])
def test_a_tied_head_scores_with_the_item_vectors(architecture, config_for):
    changes = {"tie_head": True, "rec_llm_config": architecture, "item_llm_training": "embeddings"}
    model, dataset = build(config_for("LiteLLM4Rec", user_dropout=0.0, **changes))
    batch = batch_of([[3, 7, 2], [9]], 6, [5, 1])
    users = model(batch["item_id_list"], batch["item_length"])
    table = model.item_tower.adapter(model.item_tower.vectors)  # [n_items, d]
    scores = model.full_sort_predict(batch)
    assert torch.allclose(scores[:, 1:], users @ table[1:].T, atol=1e-5)
    assert torch.allclose(model.predict(batch), scores[[0, 1], [5, 1]], atol=1e-5)
    assert not any(name.startswith("head") for name, _ in model.named_parameters())
    model.calculate_loss(batch).backward()
    # As outputs, items that are in no history are trained, too; padding is not.
    rows = model.item_tower.vectors.grad.any(1)
    assert rows[1:].all()
    assert not rows[0]
    assert len(rows) == dataset.item_num


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frozen_parts": ["head"]}, "with tie_head: True there is no head to freeze"),
        (
            {"stages": [{}, {"item_llm_training": "full"}]},
            "item_llm_training: full needs loss_type: InfoNCE",
        ),
    ],
)
def test_what_a_tied_head_does_not_go_with(changes, message, config_for):
    with pytest.raises(ConfigError, match=message):
        build(config_for("LiteLLM4Rec", tie_head=True, **changes))

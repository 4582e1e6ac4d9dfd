"""The fast path against the model it was made from."""

import pytest
import torch
from transformers.activations import ACT2FN

from recbole_lite import create_dataset, data_preparation
from recbole_lite.errors import ConfigError, RequestError
from recbole_lite.inference.dense import Dense, Head, PackedDense, fastest, round_up, usual
from recbole_lite.inference.encoder import FastEncoder, PlainEncoder
from recbole_lite.inference.engine import Engine

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
GPT2 = {"n_layer": 2, "n_embd": 16, "n_inner": 24, "n_head": 2, "n_positions": 6}
BERT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
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
}  # fmt: skip
HISTORIES = [[3], [5, 1, 2], [7, 7, 8, 9, 10, 11], [4, 6], list(range(1, 20))]


def build(config_for, kind="t5", **changes):
    config = config_for("LiteLLM4Rec", **{**KINDS[kind], **changes})
    train_data, *_ = data_preparation(config, create_dataset(config))
    torch.manual_seed(1)
    model = config.model_class(config, train_data._dataset).eval()
    with torch.no_grad():  # scales and shifts of norms that are not 1 and 0; vectors that differ
        for name, parameter in model.named_parameters():
            if not name.startswith("item_tower"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def rows_of(histories, length):
    """What a loader of this project makes of histories: the last items, padding behind."""
    rows = torch.zeros(len(histories), length, dtype=torch.long)
    for row, items in zip(rows, histories, strict=True):
        row[: len(items[-length:])] = torch.tensor(items[-length:])
    return rows


def scores_of(model, histories):
    rows = rows_of(histories, model.max_seq_length)
    batch = {model.ITEM_SEQ: rows, model.ITEM_SEQ_LEN: (rows > 0).sum(1)}
    with torch.no_grad():
        return model.full_sort_predict(batch)


@pytest.fixture(params=[Dense, PackedDense])
def layers(request, monkeypatch):
    """Each kind of layer, whichever is faster here."""
    monkeypatch.setattr("recbole_lite.inference.encoder.fastest", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_model(config_for, layers, kind):
    model = build(config_for, kind)
    engine = Engine(model)
    assert isinstance(engine.encoder, PlainEncoder if kind in ("bert", "topn") else FastEncoder)
    expected = scores_of(model, HISTORIES)
    assert expected[:, 1:].std() > 0.1  # or anything would agree
    found = engine.scores(HISTORIES)
    assert found[:, 0].isneginf().all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # Alone, without padding, and as the loader's tensor.
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(engine.scores([history]), expected[[row]], rtol=1e-4, atol=1e-4)
    padded = rows_of(HISTORIES, 25)
    torch.testing.assert_close(engine.scores(padded), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "t5, causal", "gpt2, recency", "gpt2, last"])
def test_one_history_is_computed_as_it_is_in_a_batch(config_for, layers, kind, monkeypatch):
    engine = Engine(build(config_for, kind))
    one = FastEncoder._one
    met = []
    monkeypatch.setattr(
        FastEncoder, "_one", lambda self, ids: met.append(len(ids)) or one(self, ids)
    )
    alone = [engine.users([history]) for history in HISTORIES]
    assert met == [1, 3, 6, 2, 6]  # 6: as much as the model reads
    torch.testing.assert_close(torch.cat(alone), engine.users(HISTORIES), rtol=1e-4, atol=1e-4)
    engine.encoder.exact_rows = 2  # longer ones as any batch
    again = [engine.users([history]) for history in HISTORIES]
    assert met == [1, 3, 6, 2, 6, 1, 2]
    torch.testing.assert_close(alone, again, rtol=1e-4, atol=1e-4)


def test_items_without_text_have_their_learned_vector(config_for, data_path):
    path = data_path / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n")
    model = build(config_for)
    assert model.item_tower.has_gaps
    torch.nn.init.normal_(model.item_tower.no_text_vector)
    missing = int(model.item_tower.lacks_text.nonzero()[0])
    histories = [[missing], [1, missing, 2]]
    torch.testing.assert_close(
        Engine(model).scores(histories), scores_of(model, histories), rtol=1e-4, atol=1e-4
    )


def test_top_items_leave_out_what_was_seen(config_for):
    model = build(config_for)
    engine = Engine(model)
    seen = [[3, 1], [], [7, 8, 9, 10, 11], [4, 6, 6], list(range(1, 20))]
    expected = scores_of(model, HISTORIES)
    for row, items in zip(expected, seen, strict=True):
        row[items] = -torch.inf
    values, ids = engine.topk(HISTORIES, 5, seen=seen)
    torch.testing.assert_close(values, expected.topk(5).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(expected.gather(1, ids), values, rtol=1e-4, atol=1e-4)
    as_tensor = engine.topk(HISTORIES, 5, seen=rows_of(seen, 30))
    assert torch.equal(as_tensor[1], ids)


def test_top_items_among_candidates(config_for):
    model = build(config_for)
    candidates = [20, 3, 3, 9, 14]
    values, ids = Engine(model).topk(HISTORIES, 4, candidates=candidates)
    expected = scores_of(model, HISTORIES)[:, [3, 9, 14, 20]]
    torch.testing.assert_close(values, expected.sort(1, descending=True).values)
    assert (ids.sort(1).values == torch.tensor([3, 9, 14, 20])).all()


def test_fewer_items_left_than_asked_for(config_for):
    engine = Engine(build(config_for))
    values, ids = engine.topk([[1]], engine.n_items - 1, seen=[[*range(3, engine.n_items)]])
    assert sorted(ids[0, :2].tolist()) == [1, 2]
    assert (ids[0, 2:] == 0).all()
    assert values[0, 2:].isneginf().all()


def test_a_large_batch_goes_in_parts(config_for, monkeypatch):
    monkeypatch.setattr("recbole_lite.inference.engine.USERS_AT_ONCE", 2)
    model = build(config_for)
    engine = Engine(model)
    expected = scores_of(model, HISTORIES)
    torch.testing.assert_close(engine.scores(HISTORIES), expected, rtol=1e-4, atol=1e-4)
    seen = [[i + 1] for i in range(5)]
    values, _ = engine.topk(HISTORIES, 3, seen=seen)
    for row, items in zip(expected, seen, strict=True):
        row[items] = -torch.inf
    torch.testing.assert_close(values, expected.topk(3).values, rtol=1e-4, atol=1e-4)


def test_warming_up_meets_the_shapes_that_requests_have(config_for, layers, monkeypatch):
    engine = Engine(build(config_for))
    shapes = set()
    plain = PackedDense.forward

    def watch(self, x):
        shapes.add((*x.shape, self.shape[1]))
        return plain(self, x)

    monkeypatch.setattr(PackedDense, "forward", watch)
    engine.warm_up(5)
    met = set(shapes)
    assert bool(met) == (layers is PackedDense)
    for count in range(1, 6):
        engine.scores(HISTORIES[:count])
    assert shapes == met


def test_bfloat16_is_near(config_for, layers):
    model = build(config_for)
    expected = scores_of(model, HISTORIES)[:, 1:]
    found = Engine(model, dtype="bfloat16").scores(HISTORIES)[:, 1:]
    assert found.dtype == torch.float32
    error = (found - expected).abs().max()
    assert 0 < error < 0.05 * expected.std()


def affine(rows=48, columns=32):
    torch.manual_seed(3)
    return torch.randn(rows, columns), torch.randn(columns)


@pytest.mark.parametrize(
    "activation", [None, torch.nn.ReLU(), torch.nn.GELU(), torch.nn.SiLU(), ACT2FN["gelu_new"]]
)
def test_both_kinds_of_layers_are_the_product(activation):
    weight, bias = affine()
    x = torch.randn(5, 48)
    expected = x @ weight + bias
    expected = expected if activation is None else activation(expected)
    for kind in (Dense, PackedDense):
        layer = kind((weight, bias), torch.float32, activation)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("users", [1, 2, 4, 37])
def test_the_head_scores_all_items_but_padding(users):
    weight, x = torch.randn(32, 48), torch.randn(users, 48)
    for kind in (Dense, PackedDense):
        found = Head(weight, kind)(x)
        assert found[:, 0].isneginf().all()
        torch.testing.assert_close(found[:, 1:], x @ weight.T, rtol=1e-4, atol=1e-4)


def test_the_usual_kind_is_chosen_by_rule(monkeypatch):
    for wants, kind in ((True, PackedDense), (False, Dense)):
        monkeypatch.setattr("recbole_lite.inference.dense.wants_onednn", lambda wants=wants: wants)
        assert usual(torch.device("cpu")) is kind
        assert usual(torch.device("cuda")) is Dense


def test_without_the_operators_of_onednn_torch_multiplies(monkeypatch):
    for error in (AttributeError("no such operator"), RuntimeError("not supported")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(PackedDense, "__init__", fail)
        assert fastest(affine(), torch.float32) is Dense


def test_a_wrong_product_is_not_used(monkeypatch):
    monkeypatch.setattr(PackedDense, "forward", lambda self, x: torch.zeros(len(x), 32))
    assert fastest(affine(), torch.float32) is Dense


def test_few_numbers_of_rows_do_for_all():
    rounded = [round_up(rows) for rows in range(1, 1025)]
    assert all(0 <= up - n <= max(3, n / 8) for n, up in enumerate(rounded, 1))
    assert len(set(rounded)) < 50


def test_the_engine_leaves_the_model_as_it_was(config_for):
    model = build(config_for, "gpt2, recency")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Engine(model).topk(HISTORIES, 3)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in model.rec_llm.parameters())


@pytest.mark.parametrize(
    "histories, message",
    [
        ([], "no history"),
        ([[1], []], "history 2 is empty"),
        (torch.zeros(2, 3, dtype=torch.long), "history 1 is empty"),
        (torch.tensor([[1, 0, 2]]), "history 1: 0 is padding"),
        ([[1, 0]], "history 1: 0 is padding"),
        ([[1], [2, 99]], "history 2: there is no item 99; internal ids go from 1 to 24"),
        ([[-1]], "history 1: there is no item -1"),
        ([[4, 25]], "history 1: there is no item 25; internal ids go from 1 to 24"),
        ([[]], "history 1 is empty"),
        ([["a"]], "internal ids are whole numbers"),
        (torch.ones(2, 3), "whole numbers"),
        (torch.ones(3, dtype=torch.long), "whole numbers"),
    ],
)
def test_bad_histories_are_named(config_for, histories, message):
    with pytest.raises(RequestError, match=message):
        Engine(build(config_for)).topk(histories, 3)


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"k": 0}, "k is 0"),
        ({"k": 25}, "k is 25; there are 24 items"),
        ({"k": 3, "candidates": [1, 2]}, "k is 3; there are 2 items"),
        ({"k": 1, "candidates": [1, 40]}, "candidates: there is no item 40"),
        ({"k": 1, "candidates": [0, 4]}, "candidates: 0 is padding"),
        ({"k": 1, "candidates": []}, "candidates: give at least one"),
        ({"k": 1, "seen": [[1], [2]]}, "seen has 2 rows for 1 histories"),
        ({"k": 1, "seen": [[77]]}, "seen 1: there is no item 77"),
    ],
)
def test_bad_requests_are_named(config_for, request_, message):
    with pytest.raises(RequestError, match=message):
        Engine(build(config_for)).topk([[1, 2]], **request_)


def test_what_has_no_fast_path_is_refused(config_for):
    config = config_for("SASRec")
    train_data, *_ = data_preparation(config, create_dataset(config))
    with pytest.raises(ConfigError, match="found SASRec"):
        Engine(config.model_class(config, train_data._dataset))
    with pytest.raises(ConfigError, match="needs T5's encoder or GPT-2, found Bert"):
        Engine(build(config_for, "bert"), dtype="bfloat16")
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        Engine(build(config_for), dtype="int3")

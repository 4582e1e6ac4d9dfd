"""Prefix training against one target at a time, and who is trained in it."""

import math

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_lite import create_dataset, data_preparation
from recbole_lite.config.stages import Stage
from recbole_lite.data.prefix_windows import TARGETS
from recbole_lite.model.layers import softmax_loss
from recbole_lite.model.layers.user_pooling import UserPooling
from recbole_lite.utils.errors import ConfigError

POOLINGS = ("mean", "last", "recency")
ENCODERS = ["t5", "bert", "gpt2", "roberta"]
CAUSAL = {"rec_llm_causal": True, "train_strategy": "prefix", "train_batch_size": 8}
WIDE = {"d_model": 24, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}  # with an adapter


def batch_of(sequences, length):
    rows = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, items in enumerate(sequences):
        rows[row, : len(items)] = torch.tensor(items)
    lengths = torch.tensor([len(items) for items in sequences])
    return Interaction({"item_id_list": rows, "item_length": lengths})


BATCH = batch_of([[3, 7, 7, 1, 20, 9], [4], [9, 2, 5]], 6)


@pytest.fixture
def lite(config_for, llm_folders):
    """``lite(kind, key=value, ...)`` -> model in evaluation mode, training loader."""

    def build(kind=None, **changes):
        settings = {**CAUSAL, **changes}
        if kind:
            settings |= {"rec_llm": str(llm_folders[kind]), "rec_llm_init": "pretrained"}
            settings["rec_llm_config"] = {}
        config = config_for("LiteLLM4Rec", **settings)
        train, *_ = data_preparation(config, create_dataset(config))
        torch.manual_seed(1)
        return config.model_class(config, train._dataset).eval(), train

    return build


@pytest.fixture
def with_gaps(data_path):
    """Take the text of two items."""
    path = data_path / "tiny" / "tiny.item"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(row for row in rows if not row.startswith(("i3\t", "i4\t"))) + "\n")


# -- prefixes of one pass are what they would be alone -----------------------------------------


def assert_prefixes_as_alone(model):
    pooled = model.pooling.prefixes(model.encode(BATCH["item_id_list"]))
    for row, length in enumerate(BATCH["item_length"].tolist()):
        for end in range(1, length + 1):
            alone = BATCH["item_id_list"][row : row + 1, :end]
            expected = model(alone, torch.tensor([end]))
            torch.testing.assert_close(pooled[row, end - 1], expected[0], rtol=0, atol=1e-5)


def influence_of_later_items(model):
    """Largest gradient of an output in a vector behind it, relative to that in its own."""
    items = BATCH["item_id_list"][:1]
    vectors = model.item_tower(items).detach().requires_grad_()
    outputs = model.rec_llm(vectors, items != 0)[0]  # [L, d]
    weights = torch.arange(1.0, outputs.shape[1] + 1).sin()
    later, own = 0.0, math.inf
    for step, output in enumerate(outputs):
        (gradient,) = torch.autograd.grad(output @ weights, vectors, retain_graph=True)
        later = max([later, *gradient[0, step + 1 :].abs().flatten().tolist()])
        own = min(own, gradient[0, step].abs().max().item())
    return later / own


@pytest.mark.parametrize("kind", ENCODERS)
def test_each_prefix_is_encoded_and_pooled_as_if_it_were_alone(kind, lite):
    model, _ = lite(kind)
    for pooling in POOLINGS:
        model.pooling = UserPooling(pooling)
        assert_prefixes_as_alone(model)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("training", [False, True])
def test_later_items_never_change_earlier_outputs(kind, training, lite):
    model, _ = lite(kind)
    assert influence_of_later_items(model.train(training)) == 0


@pytest.mark.parametrize("kind", ENCODERS)
def test_another_continuation_leaves_the_prefix_alone(kind, lite):
    model, _ = lite(kind)
    changed = BATCH["item_id_list"].clone()
    changed[:, 3:] = torch.tensor([[2, 11, 5], [8, 8, 8], [0, 0, 0]])
    first, second = (model.encode(items)[:, :3] for items in (BATCH["item_id_list"], changed))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["t5", "bert", "roberta"])  # GPT-2 looks back by itself
def test_both_tests_fail_for_a_model_that_looks_ahead(kind, lite):
    model, _ = lite(kind, rec_llm_causal=False, train_strategy="all")
    assert influence_of_later_items(model) > 1e-3
    with pytest.raises(AssertionError, match="not close"):
        assert_prefixes_as_alone(model)


# -- the loss ---------------------------------------------------------------------------------


def questions_of(batch):
    """``(row, history, target)`` of every target of a batch, history as the model sees it."""
    inputs, lengths = batch["item_id_list"].tolist(), batch["item_length"].tolist()
    if TARGETS not in batch:
        rows = zip(inputs, lengths, batch["item_id"].tolist(), strict=True)
        return [(row, items[:n], target) for row, (items, n, target) in enumerate(rows)]
    return [
        (row, items[: step + 1], target)
        for row, (items, targets) in enumerate(zip(inputs, batch[TARGETS].tolist(), strict=True))
        for step, target in enumerate(targets)
        if target
    ]


def loss_one_by_one(model, batch, left_out=None):
    """Mean of the single losses; ``left_out(row, history)`` gives items not to be ranked."""
    losses = []
    for row, history, target in questions_of(batch):
        scores = model.full_sort_predict(batch_of([history], len(history)))
        if left_out:
            had = sorted(left_out(row, history) - {target})
            scores[:, had] = -torch.inf
        losses.append(F.cross_entropy(scores[:, 1:], torch.tensor([target - 1])))
    return torch.stack(losses).mean()


def assert_same_loss(model, batch, expected):
    """Value, and gradients of the head and of the encoder."""
    loss = model.calculate_loss(batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    parameters = [model.head.weight, *(p for p in model.rec_llm.parameters() if p.dim() > 1)]
    ours, theirs = (
        torch.autograd.grad(value, parameters, allow_unused=True) for value in (loss, expected)
    )
    for gradient, wanted in zip(ours, theirs, strict=True):
        assert (gradient is None) is (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_loss_is_the_mean_of_single_targets(kind, pooling, lite):
    model, train = lite(kind, user_pooling=pooling, prefix_overlap=2)
    batch = next(iter(train))
    assert (batch[TARGETS] > 0).sum() > len(batch)
    assert_same_loss(model, batch, loss_one_by_one(model, batch))


def sequences_with_repetitions(data_path):
    """Six items for 12 users with up to 14 interactions: every user has some item twice."""
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(12):
        for step in range(6 + user % 9):
            rows.append(f"u{user}\ti{(user + step * step) % 6}\t3\t{100 * user + step}")
    (data_path / "tiny" / "tiny.inter").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("strategy", ["all", "sampling", "prefix"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_loss_exclude_history(strategy, chunk, lite, data_path, monkeypatch):
    """Left out is all that the user had before the target, also what no window shows."""
    sequences_with_repetitions(data_path)
    model, train = lite(train_strategy=strategy, loss_exclude_history=True, MAX_ITEM_LIST_LENGTH=3)
    if chunk:
        monkeypatch.setattr(softmax_loss, "_FEWEST_ROWS", 1)
        monkeypatch.setattr(softmax_loss, "_SCORES", {"cpu": chunk * (model.n_items - 1)})
    store = train._dataset.inter_feat.store
    users, items, times = (
        store.columns[name].tolist() for name in ("user_id", "item_id", "timestamp")
    )
    again = beyond = 0
    for batch in train:

        def had(row, history, batch=batch):
            end = batch["timestamp_list"][row, len(history) - 1].item()
            rows = zip(users, items, times, strict=True)
            user = batch["user_id"][row].item()
            return {item for owner, item, time in rows if owner == user and time <= end}

        for row, history, target in questions_of(batch):
            again += target in had(row, history)
            beyond += bool(had(row, history) - {*history, target})
        assert_same_loss(model, batch, loss_one_by_one(model, batch, had))
    assert again
    assert beyond


def test_without_exclusion_the_loss_ranks_everything(lite, data_path):
    sequences_with_repetitions(data_path)
    model, train = lite()
    batch = next(iter(train))
    assert_same_loss(model, batch, loss_one_by_one(model, batch))


@pytest.mark.parametrize("strategy", ["all", "prefix"])
def test_sampled_negatives(strategy, lite):
    """``loss_type: SCE`` trains, and a large sample comes near the full loss."""
    model, train = lite(loss_type="SCE", num_negatives=100_000, train_strategy=strategy)
    batch = next(iter(train))
    torch.manual_seed(0)
    loss = model.calculate_loss(batch)
    torch.testing.assert_close(loss, loss_one_by_one(model, batch), rtol=0.01, atol=0)
    loss.backward()
    assert model.head.weight.grad.any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss_exclude_history": True}, "loss_exclude_history works with loss_type: CE only"),
        ({"num_negatives": 0}, "num_negatives must be a whole number of at least 1, found 0"),
        ({"num_negatives": 2.5}, r"num_negatives must be a whole number .* found 2\.5"),
    ],
)
def test_bad_settings_of_the_sampled_loss(changes, message, lite):
    with pytest.raises(ConfigError, match=message):
        lite(loss_type="SCE", **changes)


def test_a_column_named_target_is_not_taken_for_targets(lite, data_path):
    path = data_path / "tiny" / "tiny.inter"
    path.write_text(path.read_text().replace("rating:float", "target:float"))
    columns = {"inter": ["user_id", "item_id", "target", "timestamp"]}
    model, train = lite(train_strategy="all", load_col=columns)
    batch = next(iter(train))
    assert "target_list" in batch
    assert_same_loss(model, batch, loss_one_by_one(model, batch))


# -- the item tower ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 8], ids=["fewer inputs than items", "more"])
@pytest.mark.parametrize("shape", [None, WIDE], ids=["same size", "adapter"])
def test_trained_vectors_get_gradients_where_items_are(n_rows, shape, lite):
    changes = {"rec_llm_config": shape} if shape else {}
    model, _ = lite(item_llm_training="embeddings", **changes)
    batch = batch_of([[3, 7, 7], *[[5, 1]] * (n_rows - 1)], 6)
    batch.interaction[TARGETS] = torch.zeros(n_rows, 6, dtype=torch.long)
    batch[TARGETS][:, :2] = 4
    model.calculate_loss(batch).backward()
    gradient = model.item_tower.vectors.grad
    expected = {3, 7} | ({1, 5} if n_rows > 1 else set())
    assert set(gradient.any(1).nonzero().flatten().tolist()) == expected  # not row 0, padding


def test_a_step_leaves_the_padding_vector_zero(lite):
    model, train = lite(item_llm_training="embeddings")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    before = model.item_tower.vectors.clone()
    model.train().calculate_loss(next(iter(train))).backward()
    optimizer.step()
    assert not model.item_tower.vectors[0].any()
    assert not torch.equal(model.item_tower.vectors, before)


@pytest.mark.parametrize("training", ["frozen", "embeddings"])
def test_vectors_begin_as_the_item_llms(training, lite):
    frozen, _ = lite()
    model, train = lite(item_llm_training=training)
    assert torch.equal(model.item_tower.vectors, frozen.item_tower.vectors)
    model.calculate_loss(next(iter(train))).backward()
    trains = training == "embeddings"
    assert model.item_tower.vectors.requires_grad is trains
    assert (model.item_tower.vectors.grad is not None) is trains


@pytest.mark.usefixtures("with_gaps")
def test_many_inputs_and_few_have_the_same_vectors_and_gradients(lite):
    """Beyond as many inputs as items, each item goes through the adapter once."""
    model, _ = lite(item_llm_training="embeddings", rec_llm_config=WIDE)
    tower = model.item_tower
    torch.nn.init.normal_(tower.no_text_vector)
    assert tower.lacks_text.sum() == 2
    ids = torch.randint(25, (4, 11), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(4, 11, 24, generator=torch.Generator().manual_seed(1))
    results, rows = [], []
    tower.adapter.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    many, few = tower(ids), torch.stack([tower(row) for row in ids])
    assert rows == [25, 11, 11, 11, 11]
    for vectors in (many, few):
        gradients = torch.autograd.grad((vectors * weights).sum(), list(tower.parameters()))
        results.append((vectors, *gradients))
    assert len(results[0]) == 1 + 4  # vectors, no_text_vector, adapter's weight and bias
    for many, few in zip(*results, strict=True):
        assert few.any()
        torch.testing.assert_close(many, few, rtol=1e-4, atol=1e-5)


# -- who is trained ---------------------------------------------------------------------------

PARTS = {
    "rec_llm": ("rec_llm.", "pooling."),
    "adapter": ("item_tower.adapter.",),
    "head": ("head.",),
    "vectors": ("item_tower.vectors",),
}


def names_of(model, parts):
    prefixes = tuple(prefix for part in parts for prefix in PARTS[part])
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def step(model, batch):
    """One step of every parameter that wants one; names of those that changed."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.zero_grad()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model.train().calculate_loss(batch).backward()
    optimizer.step()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.usefixtures("with_gaps")
@pytest.mark.parametrize("frozen", [[], ["rec_llm"], ["adapter"], ["head"], [*PARTS][:3]])
@pytest.mark.parametrize("training", ["frozen", "embeddings"])
def test_frozen_parts_are_not_trained_and_all_others_are(frozen, training, lite):
    model, train = lite(
        frozen_parts=frozen,
        item_llm_training=training,
        rec_llm_config=WIDE,
        user_pooling="recency",
        train_batch_size=64,
        loss_exclude_history=True,
    )
    assert all(names_of(model, [part]) for part in PARTS)
    not_trained = names_of(model, [*frozen, *(["vectors"] if training == "frozen" else [])])
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == not_trained
    everything = {name for name, _ in model.named_parameters()}
    assert step(model, next(iter(train))) == everything - not_trained


def stage(training, frozen=()):
    return Stage(1, 0.1, 0.0, 1, "constant", 0.0, training, list(frozen))


@pytest.mark.usefixtures("with_gaps")
def test_a_stage_takes_back_what_the_one_before_froze(lite):
    model, train = lite(frozen_parts=["head"], item_llm_training="embeddings", rec_llm_config=WIDE)
    batch = next(iter(train))
    everything = {name for name, _ in model.named_parameters()}
    assert step(model, batch) == everything - names_of(model, ["head"])
    model.start_stage(stage("frozen", ["rec_llm"]))
    assert step(model, batch) == everything - names_of(model, ["rec_llm", "vectors"])
    model.start_stage(stage("embeddings"))
    assert step(model, batch) == everything


# -- the Item LLM in the graph (item_llm_training: full) ---------------------------------------


@pytest.mark.usefixtures("with_gaps")
@pytest.mark.parametrize("norm", ["none", "unit", "standardize"])
@pytest.mark.parametrize("shape", [None, WIDE], ids=["same size", "adapter"])
def test_a_trained_item_llm_begins_with_the_frozen_ones_scores(norm, shape, lite):
    changes = {"item_vector_norm": norm, **({"rec_llm_config": shape} if shape else {})}
    frozen, _ = lite(**changes)
    full, _ = lite(item_llm_training="full", **changes)
    shared = {**full.state_dict(), **frozen.state_dict()}
    full.load_state_dict({name: shared[name] for name in full.state_dict()})
    for model in (frozen, full):
        torch.nn.init.constant_(model.item_tower.no_text_vector, 0.3)
    ids = torch.arange(25)
    torch.testing.assert_close(full.item_tower(ids), frozen.item_tower(ids), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        full.full_sort_predict(BATCH), frozen.full_sort_predict(BATCH), rtol=0, atol=1e-3
    )


def test_a_trained_item_llm_changes_with_its_weights(lite):
    model, train = lite(item_llm_training="full", item_vector_norm="unit")
    scores = model.full_sort_predict(BATCH)
    changed = step(model, next(iter(train)))
    for part in ("embeddings.word_embeddings", "layer.0.attention", "layer.1.output"):
        assert any("item_llm" in name and part in name for name in changed), part
    vectors = F.normalize(model.item_tower.item_llm.encode_all(), dim=-1)[1:]
    model.eval()
    torch.testing.assert_close(model.item_tower(torch.arange(1, 25)), vectors)
    assert not torch.allclose(model.full_sort_predict(BATCH)[:, 1:], scores[:, 1:], atol=1e-3)


def test_until_its_stage_the_item_llm_is_fixed_and_asked_once(lite):
    """In a frozen stage before a full one no batch may cost a pass over all items' texts."""
    stages = [{"item_llm_training": "frozen"}, {"item_llm_training": "full"}]
    model, train = lite(stages=stages)
    passes = []
    encoder = model.item_tower.item_llm.encoder
    encoder.register_forward_pre_hook(lambda *_: passes.append(1))
    plain, _ = lite()
    for _ in range(2):
        model.train()
        for batch in train:
            changed = step(model, batch)
            assert not any("item_llm" in name for name in changed)
    assert len(passes) == 1
    ids = torch.arange(25)
    vectors = plain.item_tower(ids)
    for training in (True, False):  # without dropout, also in training
        torch.testing.assert_close(model.train(training).item_tower(ids), vectors)
    model.train().start_stage(stage("full"))
    assert encoder.training
    assert any("item_llm" in name for name in step(model, batch))
    model.start_stage(stage("frozen"))
    assert model.training
    assert not encoder.training

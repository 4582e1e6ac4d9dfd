"""RecBole's models with methods overridden: the values, against dense arithmetic."""

import random
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import bert4rec, s3rec

from recbole_lite import create_dataset, data_preparation, get_model
from recbole_lite.data.prefix_windows import TARGETS
from recbole_lite.model.layers.softmax_loss import smooth_labels
from recbole_lite.model.recbole_overrides import LightGCN, SpectralCF, adjacency

# Users 0 (padding), 1, 2; items 0 (padding), 1, 2, 3; user 1 had item 3 twice.
PAIRS = [(1, 1), (1, 3), (1, 3), (2, 3)]
CAUSAL = {"SASRec": {"n_heads": 2}, "GRU4Rec": {}, "FDSA": {"n_heads": 2}, "S3Rec": {"n_heads": 2}}
EDGES = [(1, 4), (1, 6), (2, 6)]  # items behind the three users


@pytest.fixture
def dense():
    graph = np.zeros((7, 7))
    for a, b in EDGES:
        graph[a, b] = graph[b, a] = 1
    return graph


@pytest.fixture
def interactions():
    users, items = zip(*PAIRS, strict=True)
    return sp.coo_matrix((np.ones(4), (users, items)), shape=(3, 4), dtype=np.float32)


class Holder:
    def __init__(self, interactions):
        self.interaction_matrix = interactions


def test_repeated_interactions_are_one_edge(interactions, dense):
    np.testing.assert_array_equal(adjacency(interactions).toarray(), dense)


def test_normalised_adjacency(interactions, dense):
    found = LightGCN.get_norm_adj_mat(Holder(interactions)).to_dense().numpy()
    degrees = dense.sum(1) + 1e-7
    np.testing.assert_allclose(found, dense / np.sqrt(np.outer(degrees, degrees)), atol=1e-6)


def test_laplacian(interactions, dense):
    found = SpectralCF.get_laplacian_matrix(Holder(interactions)).to_dense().numpy()
    degrees = dense.sum(1) + 1e-7
    np.testing.assert_allclose(found, np.eye(7) - dense / degrees[:, None], atol=1e-6)


def test_ncl_takes_as_many_clusters_as_there_are_rows(config_for, caplog):
    config = config_for("NCL", num_clusters=1000)
    train = data_preparation(config, create_dataset(config))[0]
    model = get_model("NCL")(config, train.dataset)
    assert model.k == 25  # 24 items and padding, fewer than the users
    assert "num_clusters 1000 is more than the users or items" in caplog.text
    centroids, labels = model.run_kmeans(np.array([[1, 0], [0, 1], [9, 9]] * 9, np.float32))
    assert labels[0] == labels[3] != labels[2]
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(25))


def test_random_scores_are_fixed_and_differ_by_user(config_for):
    config = config_for("Random")
    train = data_preparation(config, create_dataset(config))[0]
    model = get_model("Random")(config, train.dataset)
    users = torch.arange(1, 31)
    scores = model.full_sort_predict({"user_id": users}).view(30, -1)
    pairs = model.predict({"user_id": users, "item_id": torch.full((30,), 7)})
    torch.testing.assert_close(pairs, scores[:, 7])
    orders = {tuple(row.argsort().tolist()) for row in scores}
    assert len(orders) == 30
    # 750 numbers that are uniform in [0, 1): their mean has a deviation of 0.011.
    assert 0 <= scores.min() <= scores.max() < 1
    assert scores.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "FDSA", "S3Rec"])
def test_each_position_is_trained_as_if_its_prefix_were_alone(name, config_for):
    """The loss of prefixes is the mean of RecBole's over single targets, less padding's score."""
    changes = {**CAUSAL[name], "train_strategy": "prefix", "train_batch_size": 9}
    config = config_for(name, **changes)
    train = data_preparation(config, create_dataset(config))[0]
    model = get_model(name)(config, train._dataset).eval()
    batch = next(iter(train))
    assert len(batch["item_length"].unique()) > 1  # rows of several lengths, in any order
    losses, n_items = [], train._dataset.item_num
    for row, targets in zip(batch["item_id_list"], batch[TARGETS], strict=True):
        for step in targets.nonzero().flatten().tolist():
            alone = {"item_id_list": row[None, : step + 1], "item_length": torch.tensor([step + 1])}
            scores = model.full_sort_predict(alone)[:, 1:n_items]
            losses.append(torch.nn.functional.cross_entropy(scores, targets[step, None] - 1))
    assert model.loss_terms(batch) == len(losses) > 5
    model.train_stage = "finetune"
    torch.testing.assert_close(model.calculate_loss(batch), torch.stack(losses).mean())


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "FDSA"])
def test_label_smoothing_with_one_target_per_sequence(name, config_for):
    config = config_for(name, **CAUSAL[name], label_smoothing=0.3, train_batch_size=9)
    train = data_preparation(config, create_dataset(config))[0]
    model = get_model(name)(config, train._dataset).eval()
    smooth_labels(model, 0.3)
    batch = next(iter(train))
    logs = model.full_sort_predict(batch).log_softmax(1)
    expected = -0.7 * logs[torch.arange(len(logs)), batch["item_id"]] - 0.3 * logs.mean(1)
    torch.testing.assert_close(model.calculate_loss(batch), expected.mean())


def test_s3rec_pretrains_on_windows(config_for):
    """With prefixes its four losses are those of the windows, RecBole's for the same rows."""
    config = config_for("S3Rec", **CAUSAL["S3Rec"], train_strategy="prefix", train_batch_size=9)
    train = data_preparation(config, create_dataset(config))[0]
    model = get_model("S3Rec")(config, train._dataset).eval()
    batch, losses = next(iter(train)), []
    for calculate in (model.calculate_loss, partial(s3rec.S3Rec.calculate_loss, model)):
        random.seed(7)
        losses.append(calculate(batch))
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_bert4rec_is_recboles(loss_type, config_for):
    config = config_for(
        "BERT4Rec", loss_type=loss_type, mask_ratio=0.5, train_batch_size=9, n_heads=2
    )
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model("BERT4Rec")(config, train._dataset).eval()
    batch, recboles = next(iter(train)), bert4rec.BERT4Rec
    torch.testing.assert_close(model.calculate_loss(batch), recboles.calculate_loss(model, batch))
    tested = next(iter(test))[0]
    tested.update(Interaction({"item_id": tested["item_length"] + 1}))
    for score in ("predict", "full_sort_predict"):
        expected = getattr(recboles, score)(model, tested)
        torch.testing.assert_close(getattr(model, score)(tested), expected)


def cloze(config_for, **changes):
    fixed = {"train_strategy": "prefix", "train_batch_size": 30, "n_heads": 2}
    config = config_for("BERT4Rec", **fixed, **changes)
    train = data_preparation(config, create_dataset(config))[0]
    return train, get_model("BERT4Rec")(config, train._dataset).eval()


def alone(model, sequence):
    """Outputs ``[L, d]`` of one sequence without padding."""
    return model.forward(torch.tensor([sequence]))[0]


@pytest.mark.parametrize("ratio, smoothing", [(1.0, 0.0), (0.4, 0.3)])
@pytest.mark.parametrize("overlap", [0, 3])
def test_bert4rec_masks_whole_windows(ratio, smoothing, overlap, config_for, monkeypatch):
    """Each input but the first may be masked, and so may the last target; read again in a loop."""
    changes = {"mask_ratio": ratio, "label_smoothing": smoothing, "prefix_overlap": overlap}
    train, model = cloze(config_for, **changes)
    batch, seen = next(iter(train)), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda items: seen.extend(items) or forward(items))
    torch.manual_seed(3)
    found = model.calculate_loss(batch)
    monkeypatch.undo()
    losses, n_asked, longest = [], 0, model.max_seq_length
    lengths = batch["item_length"].tolist()
    assert longest in lengths  # of which the oldest item is lost
    assert min(lengths) + 1 < longest
    order = sorted(range(len(batch)), key=lambda row: -min(lengths[row] + 1, longest))
    for row, masked in zip(order, seen, strict=True):
        targets = batch[TARGETS][row].tolist()[: lengths[row]]
        window = batch["item_id_list"][row].tolist()[: lengths[row]] + targets[-1:]
        asked = [False] + [target > 0 for target in targets]
        n_asked += sum(asked)
        window, asked = window[-longest:], asked[-longest:]
        masked = masked.tolist()[: len(window)]
        places = [place for place, item in enumerate(masked) if item == model.mask_token]
        assert all(asked[place] for place in places)
        assert ratio < 1 or len(places) == sum(asked)
        assert [item for item in masked if item != model.mask_token] == [
            item for place, item in enumerate(window) if place not in places
        ]
        scores = alone(model, masked) @ model.item_embedding.weight[: model.n_items].T
        logs = (scores + model.output_bias)[:, 1:].log_softmax(1)
        for place in places:
            own, all_items = logs[place, window[place] - 1], logs[place].mean()
            losses.append(-(1 - smoothing) * own - smoothing * all_items)
    assert model.loss_terms(batch) == n_asked
    assert ratio == 1 or 0.2 * n_asked < len(losses) < 0.6 * n_asked
    torch.testing.assert_close(found, torch.stack(losses).sum() / (ratio * n_asked))


def test_bert4rec_without_a_mask_has_no_loss(config_for):
    train, model = cloze(config_for, mask_ratio=1e-9)
    loss = model.calculate_loss(next(iter(train)))
    loss.backward()
    assert loss == 0


def test_bert4rec_counts_positions_of_windows_from_the_last_item(config_for):
    """As RecBole's on inputs padded at the left, with its table of positions reversed."""
    _, model = cloze(config_for)
    longest = model.max_seq_length
    sequences = [[model.mask_token], [2, 3, model.mask_token], list(range(1, longest + 1))]
    found = model.forward(torch.tensor([s + [0] * (longest - len(s)) for s in sequences]))
    model.position_embedding.weight.data = model.position_embedding.weight.flip(0)
    at_left = torch.tensor([[0] * (longest - len(s)) + s for s in sequences])
    expected = bert4rec.BERT4Rec.forward(model, at_left)
    for row, length in enumerate(map(len, sequences)):
        torch.testing.assert_close(found[row, :length], expected[row, longest - length :])


def test_bert4rec_reads_whole_histories(config_for):
    """With prefixes only a full history loses its oldest item to the mask."""
    _, model = cloze(config_for, mask_ratio=0.5)
    longest = model.max_seq_length
    histories = [[1], [2, 3, 4], list(range(1, longest)), list(range(1, longest + 1))]
    padded = torch.tensor([h + [0] * (longest - len(h)) for h in histories])
    lengths = torch.tensor(list(map(len, histories)))
    batch = {"item_id_list": padded, "item_length": lengths, "item_id": torch.tensor([5, 6, 7, 8])}
    model.output_bias.data.normal_()
    scores = []
    for history in histories:
        output = alone(model, [*history, model.mask_token][-longest:])[-1]
        scores.append(model.item_embedding.weight[: model.n_items] @ output + model.output_bias)
    scores = torch.stack(scores)
    torch.testing.assert_close(model.full_sort_predict(batch), scores)
    torch.testing.assert_close(model.predict(batch), scores[torch.arange(4), batch["item_id"]])
    # Batches that are cut to their longest history have room for all.
    cut = {"item_id_list": padded[:2, :3], "item_length": lengths[:2]}
    torch.testing.assert_close(model.full_sort_predict(cut), scores[:2])

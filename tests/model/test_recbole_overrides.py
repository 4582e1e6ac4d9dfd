"""RecBole's models with methods overridden: the values, against dense arithmetic."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_lite.model.recbole_overrides import LightGCN, SpectralCF, adjacency

# Users 0 (padding), 1, 2; items 0 (padding), 1, 2, 3; user 1 had item 3 twice.
PAIRS = [(1, 1), (1, 3), (1, 3), (2, 3)]
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
    from recbole_lite import create_dataset, data_preparation, get_model

    config = config_for("NCL", num_clusters=1000)
    train = data_preparation(config, create_dataset(config))[0]
    model = get_model("NCL")(config, train.dataset)
    assert model.k == 25  # 24 items and padding, fewer than the users
    assert "num_clusters 1000 is more than the users or items" in caplog.text
    centroids, labels = model.run_kmeans(np.array([[1, 0], [0, 1], [9, 9]] * 9, np.float32))
    assert labels[0] == labels[3] != labels[2]
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(25))


def test_random_scores_are_fixed_and_differ_by_user(config_for):
    from recbole_lite import create_dataset, data_preparation, get_model

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


def test_sasrec_trains_each_position_as_if_its_prefix_were_alone(config_for):
    """The loss of prefixes is the mean of RecBole's over single targets, less padding's score."""
    from recbole_lite import create_dataset, data_preparation, get_model
    from recbole_lite.data.prefix_windows import TARGETS

    config = config_for("SASRec", train_strategy="prefix", train_batch_size=9, n_heads=2)
    train = data_preparation(config, create_dataset(config))[0]
    model = get_model("SASRec")(config, train._dataset).eval()
    batch = next(iter(train))
    assert len(batch["item_length"].unique()) > 1  # rows of several lengths, in any order
    losses = []
    for row, targets in zip(batch["item_id_list"], batch[TARGETS], strict=True):
        for step in targets.nonzero().flatten().tolist():
            h_u = model.forward(row[None, : step + 1], torch.tensor([step + 1]))
            scores = h_u @ model.item_embedding.weight[1:].T
            losses.append(torch.nn.functional.cross_entropy(scores, targets[step, None] - 1))
    assert model.loss_terms(batch) == len(losses) > 5
    torch.testing.assert_close(model.calculate_loss(batch), torch.stack(losses).mean())

"""InfoNCE against a NumPy reference."""

import math

import numpy as np
import pytest
import torch

from recbole_lite.model.layers.contrastive_loss import LearnedScale, info_nce


def reference(users, items, targets, scale):
    """One row after another, as in the paper's equation."""
    losses = []
    for user, target in zip(users, targets, strict=True):
        cosine = [user @ v / np.linalg.norm(user) / np.linalg.norm(v) for v in items]
        right = items[target]
        like = [right @ v / np.linalg.norm(right) / np.linalg.norm(v) for v in items]
        own = math.exp(scale * cosine[target])
        others = sum(
            math.exp(scale * c) for j, c in enumerate(cosine) if j != target and like[j] <= 0.99
        )
        losses.append(-math.log(own / (own + others)))
    return np.mean(losses)


def test_the_loss_of_a_few_rows():
    draw = np.random.default_rng(3)
    users, items = draw.normal(size=(5, 4)), draw.normal(size=(7, 4))
    items[6] = 3 * items[2] + 0.01  # nearly the same direction: no negative of item 2
    targets = [2, 0, 6, 3, 2]
    found = info_nce(
        torch.tensor(users), torch.tensor(items), torch.tensor(targets), torch.tensor(9.0)
    )
    assert found.item() == pytest.approx(reference(users, items, targets, 9.0), rel=1e-5)
    items[6] = -items[6]  # now it is one
    found = info_nce(
        torch.tensor(users), torch.tensor(items), torch.tensor(targets), torch.tensor(9.0)
    )
    assert found.item() == pytest.approx(reference(users, items, targets, 9.0), rel=1e-5)


def test_the_caller_says_which_items_are_no_negatives():
    draw = np.random.default_rng(3)
    queries, keys = draw.normal(size=(2, 4, 3))
    same = np.eye(4, dtype=bool)
    for pairs in ([], [(0, 2), (3, 1)]):
        for pair in pairs:
            same[pair] = True
        found = info_nce(
            torch.tensor(queries), torch.tensor(keys), torch.arange(4), 5.0, torch.tensor(same)
        )
        unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (queries, keys)]
        scores = np.exp(5.0 * unit[0] @ unit[1].T)
        own = np.diag(scores)
        others = (scores * ~same).sum(1)
        assert found.item() == pytest.approx(-np.log(own / (own + others)).mean(), rel=1e-5)


def test_a_target_is_no_negative_of_itself():
    """Alone among its likes it costs nothing, also where its vector is zeros."""
    users = torch.tensor([[1.0, 2.0]])
    for items in (torch.tensor([[3.0, 1.0], [6.0, 2.0]]), torch.zeros(1, 2)):
        assert info_nce(users, items, torch.tensor([0]), torch.tensor(5.0)).item() == 0


def test_no_rows():
    users = torch.zeros(0, 2, requires_grad=True)
    assert info_nce(users, torch.ones(3, 2), torch.zeros(0).long(), torch.tensor(1.0)).item() == 0


def test_the_scale_is_bounded_and_comes_back():
    scale = LearnedScale()
    assert scale().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.log_scale.fill_(9.0)
    assert scale().item() == pytest.approx(100, rel=1e-5)
    scale().backward()
    assert scale.log_scale.grad.item() == pytest.approx(100, rel=1e-5)

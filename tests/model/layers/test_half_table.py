"""Rounding to half precision at random, and rows of tables in it."""

import pytest
import torch

from recbole_lite.model.layers.half_table import (
    ItemEmbedding,
    look_up,
    round_stochastically,
    scores_by_blocks,
)

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
# Ordinary and negative numbers, a step of Adam on a large weight, and numbers below float16's
# smallest normal one (6.1e-5) and below its smallest one (6e-8).
VALUES = [0.3, -0.7, 1.0001, -1.0001, 100.7, 6.2e-5, 1e-5, -3e-7, 2e-8]


@HALVES
@pytest.mark.parametrize("value", VALUES)
def test_results_are_the_neighbours_and_their_mean_is_the_value(value, dtype):
    torch.manual_seed(0)
    value = torch.tensor(value)
    found = round_stochastically(value.expand(40_000), dtype)
    assert found.dtype == dtype
    nearest = value.to(dtype)
    other = torch.tensor(torch.inf if value > nearest else -torch.inf, dtype=dtype)
    bits = nearest.view(torch.int16)
    away = 1 if (other > 0) == (value > 0) else -1  # to the next number, away from 0 or towards it
    other = (bits + away).to(torch.int16).view(dtype)
    low, high = sorted((nearest.item(), other.item()))
    assert low < value < high
    assert found.unique().tolist() == [low, high]
    share = (value.item() - low) / (high - low)
    deviation = (share * (1 - share) / 40_000) ** 0.5
    assert (found == high).float().mean().item() == pytest.approx(share, abs=5 * deviation)


@HALVES
def test_numbers_of_the_type_stay(dtype):
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-24, 6.103515625e-05, 0.0201, torch.inf])
    values = values.to(dtype).float().expand(500, -1)
    found = round_stochastically(values, dtype)
    assert torch.equal(found, values.to(dtype))
    assert torch.equal(found.signbit(), values.signbit())
    assert round_stochastically(values, torch.float32) is values


@HALVES
def test_gradients_of_rows_are_summed_in_float32(dtype):
    """Three uses of row 1: 1 + 2^-12 + 2^-12 would be 1 in half precision."""
    table = ItemEmbedding(4, 2, sparse=True, dtype=dtype)
    table.weight.grad_dtype = torch.float32
    first = table(torch.tensor([1, 3]))
    assert first.dtype == torch.float32
    assert torch.equal(first, table.weight[[1, 3]].float())
    loss = first.sum() + 2**-12 * table(torch.tensor([[1, 1]])).sum()
    loss.backward()
    gradient = table.weight.grad
    assert gradient.is_sparse
    wanted = torch.tensor([[0.0], [1 + 2**-11], [0.0], [1.0]]).expand(-1, 2)
    assert torch.equal(gradient.to_dense(), wanted)
    assert look_up(torch.empty(0, 3, dtype=torch.long), table.weight).shape == (0, 3, 2)


def test_scores_by_blocks_are_the_products(monkeypatch):
    monkeypatch.setattr("recbole_lite.model.layers.half_table._ROWS_AT_ONCE", 4)
    users, head = torch.randn(3, 5), torch.randn(10, 5).bfloat16()
    found = scores_by_blocks(users, head, lambda rows: 2 * rows)
    torch.testing.assert_close(found, 2 * users @ head.float().T)

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_lite.text.token_pooling import masked_mean

NAN = float("nan")


def test_masked_mean_by_hand_on_both_padding_sides():
    right = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [NAN, 9.0]]])
    left = right.flip(1)
    assert masked_mean(right, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 4.0]]
    assert masked_mean(left, torch.tensor([[0, 1, 1]])).tolist() == [[2.0, 4.0]]
    assert masked_mean(left, torch.tensor([[False, True, True]])).tolist() == [[2.0, 4.0]]


def test_a_row_without_positions_gives_zeros_and_finite_gradients():
    hidden = torch.tensor([[[NAN, 1.0]], [[2.0, 4.0]]], requires_grad=True)
    pooled = masked_mean(hidden, torch.tensor([[0], [1]]))
    assert pooled.tolist() == [[0.0, 0.0], [2.0, 4.0]]
    pooled.sum().backward()
    assert hidden.grad.tolist() == [[[0.0, 0.0]], [[1.0, 1.0]]]


def test_gradients_against_finite_differences():
    hidden = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert torch.autograd.gradcheck(lambda h: masked_mean(h, mask), hidden)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_long_rows_keep_their_dtype_and_their_mean(dtype):
    hidden = torch.full((1, 1001, 2), 3.0, dtype=dtype)  # 1001 is no bfloat16 number
    pooled = masked_mean(hidden, torch.ones(1, 1001))
    assert pooled.dtype == dtype
    assert pooled.tolist() == [[3.0, 3.0]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 10**6))
def test_masked_mean_equals_the_mean_of_the_kept_rows(kept, seed):
    hidden = torch.randn(len(kept), 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([kept])
    pooled = masked_mean(hidden.unsqueeze(0), mask)[0]
    expected = hidden[mask[0]].mean(dim=0) if any(kept) else torch.zeros(3)
    torch.testing.assert_close(pooled, expected)

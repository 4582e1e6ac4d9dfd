"""Histories packed side by side into rows."""

import torch

from recbole_lite.model.layers.row_packing import pack_rows

# Lengths 1, 3, 2, 1 in rows of 3: two rows would be full with 6 items, the 7th needs a third.
ITEMS = torch.tensor([[1, 0, 0], [2, 3, 4], [5, 6, 0], [7, 0, 0], [0, 0, 0]])


def test_best_fit():
    packing = pack_rows(ITEMS != 0, ITEMS.device)
    assert packing.pack(ITEMS).tolist() == [[2, 3, 4], [5, 6, 1], [7, 0, 0]]
    assert packing.histories.tolist() == [[2, 2, 2], [3, 3, 1], [4, 0, 0]]
    assert packing.positions.tolist() == [[0, 1, 2], [0, 1, 0], [0, 0, 0]]
    rows = packing.pack(ITEMS)[..., None] * torch.tensor([1.0, 2.0])
    assert torch.equal(packing.unpack(rows), ITEMS[..., None] * torch.tensor([1.0, 2.0]))


def test_attention_stays_within_a_history():
    packing = pack_rows(ITEMS != 0, ITEMS.device)
    for causal, expected in (
        (False, [[1, 1, 0], [1, 1, 0], [0, 0, 1]]),
        (True, [[1, 0, 0], [1, 1, 0], [0, 0, 1]]),
    ):
        mask = packing.attention_mask(causal, torch.float32)
        assert mask.shape == (3, 1, 3, 3)
        assert (mask[1, 0] == 0).int().tolist() == expected
        assert mask[mask != 0].unique().tolist() == [torch.finfo(torch.float32).min]


def test_batches_with_little_padding_are_left_alone():
    assert pack_rows(torch.ones(4, 3, dtype=torch.bool), torch.device("cpu")) is None
    mask = torch.tensor([[True, False]] * 2 + [[True, True]] * 3)
    assert pack_rows(mask, torch.device("cpu")) is not None  # 4 rows of 5
    assert pack_rows(mask[1:], torch.device("cpu")) is None  # 4 of 4

"""The items' trie: steps, continuations, the way from tokens to items."""

import pytest
import torch

from recbole_lite.model.generative.trie import ItemTrie
from recbole_lite.utils.errors import DataError

EOS = 1
PATHS = [[], [12], [12, 34], [12, 56], [7, 8, 9]]  # the first is a prefix of the next two


def test_sequences_spell_items():
    paths = ItemTrie(PATHS, EOS)
    sequences = torch.tensor(
        [
            [12, 1, 0, 0],  # item 1, then padding
            [12, 34, 1, 0],
            [12, 34, 0, 0],  # not ended
            [12, 34, 56, 1],
            [7, 8, 9, 1],
            [7, 9, 8, 1],
            [1, 0, 0, 0],
            [12, 1, 34, 1],  # what comes behind the end is not read
            [99999, 1, 0, 0],
            [0, 0, 0, 0],
        ]
    )
    assert paths.items(sequences).tolist() == [1, 2, 0, 0, 4, 0, 0, 1, 0, 0]
    assert paths.items(sequences[:, :0]).tolist() == [0] * 10
    assert paths.max_length == 4


def test_continuations_by_hand():
    paths = ItemTrie(PATHS, EOS)
    sequences = torch.tensor([[12, 34], [12, 1], [7, 8], [5, 5]])
    states = torch.cat([torch.tensor([0]), paths.walk(torch.tensor([[12]])), paths.walk(sequences)])
    rows, tokens = paths.continuations(states)
    found = {row: set(tokens[rows == row].tolist()) for row in range(len(states))}
    assert found == {0: {7, 12}, 1: {1, 34, 56}, 2: {1}, 3: set(), 4: {9}, 5: set()}
    assert len(rows) == 7


def test_against_a_plain_dictionary():
    generator = torch.Generator().manual_seed(3)
    plain = {}
    while len(plain) < 200:
        length = int(torch.randint(1, 5, (), generator=generator))
        path = tuple(torch.randint(2, 9, (length,), generator=generator).tolist())
        plain.setdefault(path, len(plain) + 1)
    paths = ItemTrie([[], *plain], EOS)
    sequences = torch.randint(1, 9, (5000, 5), generator=generator)

    def spelled(tokens):
        return plain.get(tuple(tokens[: tokens.index(EOS)]), 0) if EOS in tokens else 0

    expected = [spelled(tokens) for tokens in sequences.tolist()]
    assert paths.items(sequences).tolist() == expected
    assert sum(item > 0 for item in expected) > 100


def test_states_towards_some_items_by_hand():
    """What a user's beams may reach: the states on the paths of the items that are left."""
    paths = ItemTrie(PATHS, EOS)
    candidates, seen = torch.tensor([[1, 2, 0], [4, 3, 2]]), torch.tensor([[2, 2, 0], [4, 0, 0]])
    for items, excluded, left in (
        (candidates, None, [{1, 2}, {2, 3, 4}]),
        (None, seen, [{1, 3, 4}, {1, 2, 3}]),
        (candidates, seen, [{1}, {2, 3}]),
        (None, torch.tensor([[1, 3, 2, 1]]), [{4}]),
    ):
        found = paths.states_towards(items, excluded)
        for row, kept in enumerate(left):
            labels = [
                [token for token in paths.labels[item].tolist() if token >= 0] for item in kept
            ]
            starts = [torch.tensor([path[:n]]) for path in labels for n in range(1, len(path) + 1)]
            expected = {int(paths.walk(start)) for start in starts}
            assert set(found[row].nonzero().flatten().tolist()) == expected


def test_labels_end_with_the_end_of_sequence():
    labels = ItemTrie(PATHS, EOS).labels
    assert labels.tolist() == [
        [-100] * 4,
        [12, 1, -100, -100],
        [12, 34, 1, -100],
        [12, 56, 1, -100],
        [7, 8, 9, 1],
    ]


@pytest.mark.parametrize(
    "paths, message",
    [
        ([[], [3, 4], [5], [3, 4]], r"items <1> and <3> have the same tokens"),
        ([[], [3], []], r"item <2> has no tokens"),
    ],
)
def test_items_that_cannot_be_told_apart(paths, message):
    with pytest.raises(DataError, match=message):
        ItemTrie(paths, EOS, lambda item: f"<{item}>")

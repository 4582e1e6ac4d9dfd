"""Numbers in tokens, against the tokenizer's own decoding."""

import pytest
import torch
from transformers import AutoTokenizer

from recbole_lite.model.generative.numeric_ids import NumericItemTrie

PAD, EOS, UNK = 0, 1, 2


@pytest.fixture
def tokenizer(llm_folders):
    return AutoTokenizer.from_pretrained(llm_folders["writer"])


@pytest.fixture
def paths(tokenizer):
    """Items 1 ... 30 with the numbers 200, 199 ... 171."""
    texts = [str(201 - item) for item in range(1, 31)]
    spelled = tokenizer(texts, add_special_tokens=False).input_ids
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pieces[:3] = ["", "", ""]  # <pad> </s> <unk>
    return NumericItemTrie([[], *spelled], EOS, pieces)


@pytest.mark.parametrize(
    "pieces, item",
    [
        (["▁19", "1"], 10),
        (["▁1", "91"], 10),
        (["▁1", "9", "1"], 10),
        (["1", "91"], 10),
        (["▁", "1", "91"], 10),
        (["▁", "▁1", "91", "▁"], 10),
        (["▁1", "▁91"], 0),  # 1 91
        (["▁1", "▁", "91"], 0),
        (["▁1", "91", "0"], 0),  # 1910 is no item
        (["▁0", "1", "91"], 0),  # 0191 is another text
        (["▁1", "91", "▁toy"], 0),
        (["▁", "▁"], 0),
        ([], 0),
    ],
)
def test_by_hand(pieces, item, paths, tokenizer):
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in pieces]
    for row in ([*ids, EOS, PAD], [*ids, UNK, 10**4], [PAD, *ids, -100]):  # those are skipped
        assert paths.items(torch.tensor([row])).tolist() == [item]


def test_against_decoding(paths, tokenizer):
    generator = torch.Generator().manual_seed(0)
    pieces = ["▁", "▁1", "1", "9", "8", "0", "2", "▁19", "80", "71", "▁2", "00", "</s>", "a"]
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(pieces))
    rows = ids[torch.randint(len(ids), (5_000, 4), generator=generator)]
    numbers = {str(201 - item): item for item in range(1, 31)}
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    expected = [numbers.get(text.strip(), 0) for text in texts]
    assert paths.items(rows).tolist() == expected
    assert 50 < sum(map(bool, expected)) < 2_000


def test_own_labels_are_their_items(paths):
    assert paths.items(paths.labels[1:]).tolist() == list(range(1, 31))
    assert paths.items(paths.labels[1:, :-1]).tolist() == list(range(1, 31))  # their end cut off


def test_more_digits_than_a_number_holds(paths, tokenizer):
    ids = tokenizer.convert_tokens_to_ids(["99"] * 12)
    assert paths.items(torch.tensor([ids])).tolist() == [0]

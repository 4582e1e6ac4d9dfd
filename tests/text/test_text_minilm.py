"""The packaged MiniLM, with its real weights."""

from __future__ import annotations

import pytest
import torch
from transformers import BertModel, BertTokenizer

from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.text.llm_files import resolve_llm

pytestmark = pytest.mark.integration

TITLES = [
    "Toy Story (1995) animation",
    "Toy Story 2 (1999) animation",
    "The Silence of the Lambs (1991) crime thriller",
]


def test_minilm_tells_films_apart_and_pools_as_its_authors_do(settings, items):
    config = settings(item_llm="minilm", item_text_template="{title}")
    result = load_item_vectors(config, items(title=TITLES))
    assert result.vectors.shape == (4, 384)
    film, sequel, other = torch.nn.functional.normalize(result.vectors[1:], dim=1)
    assert film @ sequel > 0.8
    assert film @ other < 0.4

    folder = resolve_llm("minilm")
    batch = BertTokenizer.from_pretrained(folder)(TITLES, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = BertModel.from_pretrained(folder).eval()(**batch)[0]
    weights = batch["attention_mask"].unsqueeze(-1).float()
    expected = (tokens * weights).sum(1) / weights.sum(1)
    torch.testing.assert_close(result.vectors[1:], expected, rtol=0, atol=1e-5)

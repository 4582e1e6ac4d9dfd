"""A trained model's folder on the pretend device: lists, candidates, added items; the Item LLM."""

import pytest
import torch
from device_cases import RUNS, STILL

from recbole_lite import Recommender
from recbole_lite.text.sentence_transformers_folder import Recipe
from recbole_lite.text.text_encoder import TextEncoder

pytestmark = pytest.mark.device

HISTORIES = [["i1", "i2", "i3", "i1", "i9", "i8", "i7"], ["i3"]]
NEW = {"text": "title: toy story 99, year: 1991, genre: comedy", "id": "new", "title": "Toy"}


@pytest.mark.parametrize(
    "name",
    [
        "T5",
        "BERT",
        "tied",
        "ItemLM",
        "SASRec",
        "GRU4Rec",
        "BERT4Rec",
        "GPT-2",
        "prefix, embeddings, without history",
    ],
)
def test_recommendations_equal_the_cpus(name, trained, device, llm_folders):
    model, changes = RUNS[name]
    still = {key: value for key, value in STILL.items() if key != "item_embedding_cache_dir"}
    folder = trained(model, **{**still, **changes})
    has_text = model == "LiteLLM4Rec"
    found = []
    for place in ("cpu", device):
        recommender = Recommender.load(folder, device=place, runtime="torch")
        lists = recommender.recommend(HISTORIES, k=5)
        lists += recommender.recommend(HISTORIES, k=2, candidates=["i4", "i5", "i20"])
        if has_text:
            assert recommender.add_items([NEW]) == ["new"]
            lists += recommender.recommend([["i1", "new"], ["new"]], k=25, exclude_seen=False)
        found.append([item for items in lists for item in items])
    here, there = found
    assert [item.id for item in there] == [item.id for item in here]
    assert [item.score for item in there] == pytest.approx([i.score for i in here], abs=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "gpt2", "bart"])
def test_item_vectors_equal_the_cpus(kind, llm_folders, device):
    texts = ["toy story", "golden eye four rooms", "", "copycat"]
    vectors = []
    for place in ("cpu", device):
        encoder = TextEncoder(
            llm_folders[kind],
            recipe=Recipe(),
            max_length=None,
            batch_size=2,
            dtype="float32",
            device=place,
        )
        vectors.append(encoder.encode(texts))
    assert vectors[1].device.type == "cpu"
    assert torch.allclose(*vectors, atol=1e-5)

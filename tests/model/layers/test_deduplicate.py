"""Many items asked of one user: the history is read once, the scores are those of the ranking."""

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_lite import create_dataset, data_preparation
from recbole_lite.model.layers.deduplicate import distinct_rows


def test_rows_by_hand():
    rows = Interaction(
        {
            "user": torch.tensor([1, 1, 2, 2, 2, 1]),
            "seq": torch.tensor([[5, 6], [5, 6], [5, 6], [5, 0], [5, 0], [5, 6]]),
            "item": torch.arange(6),
        }
    )
    distinct, belongs = distinct_rows(rows, "user", "seq")
    assert belongs.tolist() == [0, 0, 1, 2, 2, 3]
    assert distinct["item"].tolist() == [0, 2, 3, 5]
    without_users = Interaction({"seq": rows["seq"]})
    assert distinct_rows(without_users, "user", "seq")[1].tolist() == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("name", ["LiteLLM4Rec", "P5"])
@torch.no_grad()
def test_predictions_are_the_scores_of_the_ranking(name, config_for, llm_folders):
    settings = {"llm": str(llm_folders["writer"]), "num_beams": 20, "constrained_beams": True}
    config = config_for(name, **(settings if name == "P5" else {}))
    train, _, test = data_preparation(config, create_dataset(config))
    torch.manual_seed(1)
    model = config.model_class(config, train._dataset).eval()
    batch = next(iter(test))[0]
    scores = model.full_sort_predict(batch)
    asked = batch.repeat_interleave(3)
    items = torch.arange(48) % 24 + 1
    asked.update(Interaction({"item_id": items}))
    sizes = []  # of what the encoder reads
    encoder = model.rec_llm.encoder if name == "LiteLLM4Rec" else model.encoder
    encoder.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    expected = scores.repeat_interleave(3, 0)[torch.arange(48), items]
    assert torch.allclose(model.predict(asked), expected, rtol=1e-4, atol=1e-5)
    assert sizes == [16]

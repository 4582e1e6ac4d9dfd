"""The module that is exported, in torch: the scores of the model, without padding."""

import pytest
import torch
from built_models import HISTORIES, KINDS, build, rows_of, scores_of

from recbole_lite.inference.packed_encoder import Packing, ScoringModule


def test_both_layouts_by_hand():
    packing = Packing.from_padded(torch.tensor([[5, 9, 0], [7, 0, 0], [4, 4, 2]]))
    assert packing.ids.tolist() == [5, 9, 7, 4, 4, 2]
    assert packing.users.tolist() == [0, 0, 1, 2, 2, 2]
    assert packing.positions.tolist() == [0, 1, 0, 0, 1, 2]
    assert packing.lengths.tolist() == [2, 1, 3]
    assert packing.mask.tolist() == [[True, True, False], [True, False, False], [True] * 3]
    rows = torch.arange(6.0)[:, None]
    by_user = packing.unpack(rows)
    assert by_user[packing.mask][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(packing.pack(by_user), rows)


def scored(module, histories):
    with torch.no_grad():
        return module(*vars(Packing.from_padded(torch.from_numpy(rows_of(histories, 6)))).values())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_model(config_for, kind):
    model = build(config_for, kind)
    module = ScoringModule(model)
    assert module.packs
    expected = torch.from_numpy(scores_of(model, HISTORIES))
    assert expected[:, 1:].std() > 0.1  # or anything would agree
    torch.testing.assert_close(scored(module, HISTORIES), expected, rtol=1e-4, atol=1e-4)
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(
            scored(module, [history])[0, 1:], expected[row, 1:], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("limit", [0, 2**20])
def test_the_first_layer_is_kept_where_it_is_small(config_for, monkeypatch, limit):
    monkeypatch.setattr("recbole_lite.inference.packed_encoder.FIRST_LAYER_BYTES", limit)
    model = build(config_for)
    module = ScoringModule(model)
    assert any(name.endswith("item_projections") for name, _ in module.named_buffers()) == (
        limit > 0
    )
    expected = torch.from_numpy(scores_of(model, HISTORIES))
    torch.testing.assert_close(scored(module, HISTORIES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fault", ["raises", "differs"])
def test_an_encoder_that_cannot_be_packed_keeps_its_padding(config_for, monkeypatch, fault):
    def packed(self, vectors, packing):
        if fault == "raises":
            raise TypeError("unexpected argument 'packing'")
        return vectors

    model = build(config_for, "gpt2, recency")
    monkeypatch.setattr(ScoringModule, "_packed", packed)
    module = ScoringModule(model)
    assert not module.packs
    expected = torch.from_numpy(scores_of(model, HISTORIES))
    torch.testing.assert_close(scored(module, HISTORIES), expected, rtol=1e-4, atol=1e-4)


def test_items_without_text_have_their_learned_vector(config_for, data_path):
    path = data_path / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n")
    model = build(config_for)
    assert model.item_tower.has_gaps
    torch.nn.init.normal_(model.item_tower.no_text_vector)
    missing = int(model.item_tower.lacks_text.nonzero()[0])
    histories = [[missing], [1, missing, 2]]
    expected = torch.from_numpy(scores_of(model, histories))
    found = scored(ScoringModule(model), histories)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_model_stays_as_it_was(config_for):
    model = build(config_for, "gpt2, recency")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    implementation = model.rec_llm.encoder.config._attn_implementation
    ScoringModule(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in model.rec_llm.parameters())
    assert model.rec_llm.encoder.config._attn_implementation == implementation

"""TIGER: prompts and paths of codes, beams, whole runs, resume, and as a Recommender."""

from pathlib import Path
from zlib import crc32

import pytest
import torch

from recbole_lite import Recommender, create_dataset, data_preparation, load_data_and_model, run
from recbole_lite.data.windows import SEEN
from recbole_lite.model.generative import semantic_ids
from recbole_lite.model.tiger import EOS, FIRST_CODE
from recbole_lite.utils.errors import ConfigError, RequestError

TINY = {
    "llm_config": {
        "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": 1,
        "num_decoder_layers": 1,
    },
    "codebook_size": 4, "rqvae_layers": [8, 4], "rqvae_epochs": 3, "num_beams": 8,
    "eval_step": 1, "item_text_fields": ["title", "genre"],
}  # fmt: skip


@pytest.fixture
def built(config_for):
    """``built(key=value, ...)`` -> model in evaluation mode, test batch, data set."""

    def build(**changes):
        config = config_for("TIGER", **{**TINY, **changes})
        train, _, test = data_preparation(config, create_dataset(config))
        torch.manual_seed(1)
        model = config.model_class(config, train._dataset).eval()
        return model, next(iter(test))[0], train._dataset

    return build


@pytest.fixture
def fresh_codes(monkeypatch):
    """Semantic ids that are made anew differ from any before, as on another machine."""

    def shuffle():
        make = semantic_ids.make_codes
        monkeypatch.setattr(semantic_ids, "make_codes", lambda *given: 3 - make(*given))

    return shuffle


# -- tokens -------------------------------------------------------------------------------------


def test_a_prompt_is_the_user_and_the_codes_of_the_history(built):
    model, batch, dataset = built(user_tokens=7)
    ids, widths = model.semantic_ids.tolist(), [4, 4, 4]
    first_user = FIRST_CODE + 12 + max(row[3] for row in ids) + 1
    tokens, _, mask = model.tokens(batch)
    for row, there, user, history in zip(
        tokens, mask, batch["user_id"].tolist(), batch["item_id_list"].tolist(), strict=True
    ):
        raw = dataset.id2token("user_id", user)
        expected = [first_user + crc32(raw.encode()) % 7]
        for item in filter(None, history):
            expected += [FIRST_CODE + sum(widths[:at]) + c for at, c in enumerate(ids[item])]
        assert row[there].tolist() == [*expected, EOS]
    assert model.llm.config.vocab_size == first_user + 7
    assert model.paths.labels[5].tolist() == [*model.prompts.items.table[5].tolist(), EOS]


def test_each_item_has_a_tuple_of_its_own(built):
    model, *_ = built()
    labels = model.paths.labels[1:]
    assert len(labels.unique(dim=0)) == len(labels) == 24
    assert model.paths.items(labels).tolist() == list(range(1, 25))


def test_the_user_is_read_in_training_and_in_evaluation(built):
    """The encoder's states, dropout and all, differ where another user's token is."""
    model, batch, _ = built(user_tokens=7)
    users, tokens = batch["user_id"], model.user_numbers(batch)
    differs = tokens != tokens[0]
    assert differs.any()
    for training in (False, True):
        states = []
        for ids in (users, users[:1].expand(len(users))):
            batch.interaction["user_id"] = ids
            torch.manual_seed(0)
            states.append(model.train(training).encode(*model.tokens(batch))[0])
        assert torch.equal((states[0] != states[1]).any(2).any(1), differs)


def test_without_user_tokens(built):
    model, batch, _ = built()
    tokens, _, mask = model.tokens(batch)
    histories = (batch["item_id_list"] > 0).sum(1)
    assert mask.sum(1).tolist() == (4 * histories + 1).tolist()
    del batch.interaction["user_id"]
    assert torch.equal(model.tokens(batch)[0], tokens)


def test_the_default_is_the_size_of_the_paper(config_for):
    from recbole_lite.model.layers.llm_architecture import read_architecture

    config = config_for("TIGER")
    _, t5 = read_architecture(config["llm"], config["llm_init"], {}, None, "llm")
    sizes = (t5.d_model, t5.d_kv, t5.num_heads, t5.d_ff, t5.num_layers, t5.num_decoder_layers)
    assert sizes == (128, 64, 6, 1024, 4, 4)


# -- beams --------------------------------------------------------------------------------------


def test_as_many_beams_as_items_rank_all_by_their_probability(built):
    model, batch, _ = built(num_beams=24, eval_exclude_history=False)
    model.requires_grad_(False)
    states, mask = model.encode(*model.tokens(batch))
    labels = model.paths.labels[1:]
    beams = model.beams(batch)
    for at in range(len(beams)):
        logits = model.llm(
            encoder_outputs=(states[at : at + 1].expand(24, -1, -1),),
            attention_mask=mask[at : at + 1].expand(24, -1),
            labels=labels,
        ).logits
        scores = torch.log_softmax(logits, -1).gather(2, labels[..., None]).mean((1, 2))
        assert sorted(beams[at].tolist()) == list(range(1, 25))
        ranked = scores[beams[at] - 1]
        assert torch.allclose(ranked, scores.sort(descending=True).values, atol=1e-5)


def test_an_evaluation_searches_what_a_user_has_not_had(built):
    """24 items, 12 beams: each names an item, and none that the user has had."""
    model, batch, _ = built(num_beams=12, MAX_ITEM_LIST_LENGTH=2)
    assert batch[SEEN].any()  # items before the window
    beams = model.beams(batch)
    had = torch.cat([batch[SEEN], batch["item_id_list"]], 1)
    for found, items in zip(beams.tolist(), had.tolist(), strict=True):
        assert len(set(found)) == 12
        assert not set(found) & {0, *items}
    model, batch, _ = built(num_beams=12, eval_exclude_history=False)
    assert SEEN not in batch


# -- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"semantic_ids": "rkmeans", "decoder": False}])
def test_whole_runs(changes, quick):
    result = run("TIGER", "tiny", config_dict=quick(**{**TINY, **changes}, epochs=1))
    assert set(result["test_result"]) == {"recall@3", "recall@5", "ndcg@3", "ndcg@5"}
    if not changes:
        assert result["beams"]["no_item"] == result["beams"]["repeated"] == 0
    assert len(Recommender.load(result["run_dir"]).recommend([["i1", "i2"]], k=5)[0]) == 5


def test_a_resumed_run_keeps_its_codes(quick, fresh_codes):
    settings = {**TINY, "llm_dropout": 0.0, "item_embedding_cache_dir": None}
    whole = run("TIGER", "tiny", config_dict=quick(**settings))
    half = run("TIGER", "tiny", config_dict=quick(**settings, last_epoch=1))
    fresh_codes()
    resumed = quick(**settings, resume=half["run_dir"])
    result = run("TIGER", "tiny", config_dict=resumed)
    losses = [[entry["train_loss"] for entry in r["history"]] for r in (whole, result)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert result["test_result"] == pytest.approx(whole["test_result"])


def test_a_trained_model_keeps_its_codes(trained, fresh_codes):
    folder = trained("TIGER", **TINY)
    fresh_codes()
    _, model, _, _, _, test = load_data_and_model(
        folder, changes={"item_embedding_cache_dir": None}
    )
    recommender = Recommender.load(folder)
    assert torch.equal(recommender.model.semantic_ids, model.semantic_ids)
    tensors = {**model.state_dict()}
    for name, tensor in recommender.model.state_dict().items():
        assert torch.equal(tensor, tensors[name])
    batch = next(iter(test))[0]
    expected = model.eval().beams(batch)
    rows = torch.cat([batch[SEEN], batch["item_id_list"]], 1)
    histories = [[item for item in row if item] for row in rows.tolist()]
    ranked = list(recommender.rank(histories, 8))
    assert [items for items, _ in ranked] == expected.tolist()


def test_as_a_recommender(trained, tmp_path):
    """The search is among what may be recommended, however few or many that is."""
    recommender = Recommender.load(trained("TIGER", **TINY))
    history, ids = ["i1", "i2", "i3"], [f"i{n}" for n in range(24)]
    every = [one.id for one in recommender.recommend([history], k=24, exclude_seen=False)[0]]
    assert sorted(every) == sorted(ids)  # 24 beams, although num_beams is 8

    def found(**how):
        lists = recommender.recommend([history, ["i4"]], **{"exclude_seen": False, **how})
        assert all([one.score for one in row] == [-n for n in range(len(row))] for row in lists)
        return [[one.id for one in row] for row in lists]

    # What a search among all with 8 beams would not find.
    few = [one for one in every if one not in history][-6:]
    assert found(k=6, candidates=few)[0] == few
    assert found(k=4, candidates=[few, ids[:3]])[0] == few[:4]
    assert set(found(k=4, candidates=[few, ids[:3]])[1]) == set(ids[:3])
    new = found(k=21, exclude_seen=True)
    assert new[0] == [one for one in every if one not in history]
    assert len(set(new[1])) == 21
    assert "i4" not in new[1]
    assert found(k=9, candidates=history[:2] + few, exclude_seen=True)[0] == few
    assert found(k=6, exclude=every[:18])[0] == every[18:]
    for ask in (
        lambda: recommender.recommend([history], explain=True),
        lambda: recommender.recommend([history], diversity=0.5),
        lambda: recommender.similar("i1"),
        recommender.item_vectors,
        lambda: recommender.user_vectors([history]),
    ):
        with pytest.raises(RequestError, match="TIGER finds items by beam search"):
            ask()
    recommender.save_pretrained(tmp_path / "packed")
    again = Recommender.load(tmp_path / "packed")
    assert again.recommend([history], k=8) == recommender.recommend([history], k=8)
    assert again.recommend([], k=8) == []
    with pytest.raises(RequestError, match="TIGER identifies items by id only"):
        again.add_items(["a new toy"])


def test_a_recommender_knows_no_users(trained):
    with pytest.raises(ConfigError, match=r"^user_tokens: 7: .*; train with user_tokens: 0$"):
        Recommender.load(trained("TIGER", **TINY, user_tokens=7))


def test_init_from_another_number_of_codebooks(trained, quick):
    folder = trained("TIGER", **TINY)
    settings = quick(**{**TINY, "n_codebooks": 2, "init_from": str(folder)})
    with pytest.raises(ConfigError, match="n_codebooks: 2, but the model to start from was"):
        run("TIGER", "tiny", config_dict=settings)
    kept = {**TINY, "init_from": str(folder), "item_text_fields": ["title"], "epochs": 1}
    result = run("TIGER", "tiny", config_dict=quick(**kept))
    codes = [load_data_and_model(one)[1].semantic_ids for one in (folder, Path(result["run_dir"]))]
    assert torch.equal(*codes)

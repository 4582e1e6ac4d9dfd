"""P5, POD and LightLM against teacher forcing, plain generate loops and hand-made beams."""

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from recbole_lite import create_dataset, data_preparation, run
from recbole_lite.evaluator.collector import LiteCollector
from recbole_lite.evaluator.evaluator import LiteEvaluator
from recbole_lite.model.generative import item_indexing
from recbole_lite.model.generative.beam_search import BeamCounts, duplicates
from recbole_lite.model.generative.generative_recommender import beam_scores
from recbole_lite.model.generative.item_indexing import item_numbers
from recbole_lite.utils.errors import ConfigError, DataError, ModelFilesError

LLM = {"llm_init": "scratch", "num_beams": 5, "llm_config": {}}
TINY = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}


@pytest.fixture
def settings(llm_folders):
    """Settings of a tiny model of each name."""

    def make(name, **changes):
        own = {"llm": "t5-small", "llm_config": {**TINY, "num_heads": 2}}
        if name != "LightLM":
            own = {"llm": str(llm_folders["writer"]), "llm_init": "pretrained", "llm_config": {}}
        return {**LLM, **own, "lightlm_clusters": 3, **changes}

    return make


@pytest.fixture
def built(settings, config_for):
    """``built("P5", key=value, ...)`` -> model in evaluation mode, its test batch."""

    def build(name, **changes):
        config = config_for(name, **settings(name, **changes))
        train, _, test = data_preparation(config, create_dataset(config))
        torch.manual_seed(1)
        model = config.model_class(config, train._dataset).eval()
        return model, next(iter(test))[0]

    return build


def log_probabilities(model, batch):
    """Mean log-probability of each item's tokens by teacher forcing, ``[B, n_items - 1]``."""
    states, mask = model.encode(*model.tokens(batch))
    labels = model.paths.labels[1:]
    columns = []
    for row in labels:
        path = row[row >= 0].expand(len(states), -1)
        start = torch.zeros(len(states), 1, dtype=torch.int64)
        logits = model.llm(
            encoder_outputs=(states,),
            attention_mask=mask,
            decoder_input_ids=torch.cat([start, path[:, :-1]], 1),
        ).logits
        chosen = torch.log_softmax(logits, -1).gather(2, path[..., None]).squeeze(2)
        columns.append(chosen.mean(1))
    return torch.stack(columns, 1)


# -- beams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["P5", "POD", "LightLM"])
@torch.no_grad()
def test_as_many_constrained_beams_as_items_rank_them_by_their_probability(name, built):
    model, batch = built(name, num_beams=24, constrained_beams=True)
    expected = log_probabilities(model, batch)
    beams = model.beams(batch)
    for row, ranked in zip(expected, beams, strict=True):
        assert sorted(ranked.tolist()) == list(range(1, 25))
        found = row[ranked - 1]
        assert torch.allclose(found, row.sort(descending=True).values, atol=1e-5)


@torch.no_grad()
def test_free_beams_are_those_of_a_loop_over_users(built, llm_folders):
    """One user at a time, by ``generate`` on text and with the text decoded, as POD's code does."""
    model, batch = built("P5", num_beams=12, prompt_templates="after {user} what {items} next")
    torch.nn.init.zeros_(model.whole_words.weight)  # generate knows nothing of them
    tokenizer = AutoTokenizer.from_pretrained(llm_folders["writer"])
    config = GenerationConfig(
        num_beams=12, num_return_sequences=12, max_new_tokens=model.paths.max_length,
        early_stopping=True, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    item_of = {
        tokenizer.decode([t for t in row if t >= 0], skip_special_tokens=True).strip(): item
        for item, row in enumerate(model.paths.labels.tolist())
    }
    beams = model.beams(batch)
    prompts, _, mask = model.tokens(batch)
    for tokens, there, ranked in zip(prompts, mask, beams, strict=True):
        out = model.llm.generate(input_ids=tokens[there][None], generation_config=config)
        texts = tokenizer.batch_decode(out, skip_special_tokens=True)
        assert [item_of.get(text.strip(), 0) for text in texts] == ranked.tolist()
    assert (beams == 0).any()


@torch.no_grad()
def test_constrained_beams_spell_items_only(built):
    for name in ("P5", "LightLM"):
        model, batch = built(name, num_beams=7, constrained_beams=True)
        items = model.beams(batch)
        assert (items > 0).all()
        assert not duplicates(items).any()


@torch.no_grad()
def test_a_tokenizer_that_marks_spaces_otherwise_can_write_items(built, monkeypatch):
    pieces = item_indexing._pieces
    monkeypatch.setattr(
        item_indexing, "_pieces", lambda tok: [p.replace("\u2581", "\u0120") for p in pieces(tok)]
    )
    model, batch = built("P5", num_beams=7, constrained_beams=True)
    assert (model.beams(batch) > 0).all()


def test_scores_of_beams_by_hand():
    items = torch.tensor([[3, 0, 1, 3], [0, 0, 0, 0]])
    inf = float("inf")
    assert beam_scores(items, 5).tolist() == [[-inf, -2, -inf, 0, -inf], [-inf] * 5]


def test_counts_by_hand():
    items = torch.tensor([[3, 0, 3, 3], [0, 0, 1, 2]])
    assert duplicates(items).long().tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    counts = BeamCounts()
    assert str(counts) == "no beams"
    counts.add(items)
    assert (counts.users, counts.beams, counts.no_item, counts.repeated) == (2, 8, 3, 2)
    assert "8 beams of 2 users: 37.50% spell no item, 25.00%" in str(counts)


def test_what_is_not_recommended_is_never_a_hit(config_for):
    """The right items: first of the list; last in it; without a score, and low in number."""
    config = config_for("SASRec", metrics=["Recall", "MRR"], topk=[3], valid_metric="Recall@3")
    collector = LiteCollector(config)
    inf = float("inf")
    scores = torch.tensor([[-inf, 5, 4, 3], [-inf, 5, 4, 3], [-inf, -inf, -inf, 1]])
    collector.eval_batch_collect(scores, None, torch.arange(3), torch.tensor([1, 3, 1]))
    collector.eval_batch_collect(scores[2:], None, torch.arange(1), torch.tensor([3]))
    collected = collector.get_data_struct().get("rec.topk")
    assert collected.tolist() == [[1, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1]]
    assert LiteEvaluator(config)


# -- prompts and loss -------------------------------------------------------------------------


@torch.no_grad()
def test_the_loss_is_that_of_the_language_model_on_the_text(built, llm_folders):
    model, batch = built("P5", prompt_templates="after {user} what {items} next")
    torch.nn.init.zeros_(model.whole_words.weight)
    tokenizer = AutoTokenizer.from_pretrained(llm_folders["writer"])
    numbers = [0, *item_numbers({"item_numbers": "random", "seed": 2020}, 25)]
    texts, answers = [], []
    histories, targets = batch["item_id_list"].tolist(), batch["item_id"].tolist()
    for user, items, target in zip(batch["user_id"].tolist(), histories, targets, strict=True):
        listed = " ".join(f"item_{numbers[item]}" for item in items if item)
        texts.append(f"after user_{user} what {listed} next")
        answers.append(str(numbers[target]))
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    labels = tokenizer(answers, padding=True, return_tensors="pt")
    ignored = labels.input_ids.masked_fill(labels.attention_mask == 0, -100)
    expected = model.llm(**inputs, labels=ignored).loss
    assert float(model.calculate_loss(batch)) == pytest.approx(float(expected), rel=1e-5)
    torch.nn.init.ones_(model.whole_words.weight)
    assert float(model.calculate_loss(batch)) != pytest.approx(float(expected), rel=1e-5)


@torch.no_grad()
def test_pods_prompt_is_vectors_before_the_bare_numbers(built):
    model, batch = built("POD")
    tokens, words, mask = model.tokens(batch)
    vectors = {}
    model.encoder.register_forward_pre_hook(
        lambda _, __, kwargs: vectors.update(kwargs), with_kwargs=True
    )
    model.encode(tokens, words, mask)
    assert vectors["inputs_embeds"].shape[1] == tokens.shape[1] + 3
    assert torch.equal(vectors["inputs_embeds"][:, :3], model.prompt_vectors.expand(16, -1, -1))
    expected = model.llm.shared(tokens) + model.whole_words(words)
    assert torch.equal(vectors["inputs_embeds"][:, 3:], expected)
    assert vectors["attention_mask"].sum(1).tolist() == (mask.sum(1) + 3).tolist()
    # user _ 7 | item _ 12 ... </s>: no words
    assert (tokens > 0).sum(1).max() <= 3 + 3 * 6 + 1


def test_templates_are_drawn_in_training_and_fixed_in_evaluation(built):
    model, batch = built("P5")
    seen = []
    tokens = model.tokens
    model.tokens = lambda interaction, template=None: (
        seen.append(template) or tokens(interaction, template)
    )
    for _ in range(10):
        model.calculate_loss(batch)
    model.full_sort_predict(batch)
    drawn = torch.cat(seen[:-1])
    assert set(drawn.tolist()) == set(range(model.prompts.n_templates))
    assert seen[-1] is None


@torch.no_grad()
def test_without_a_decoder_a_head_scores_the_mean(built):
    for changes in ({}, {"item_in_prompt": "title", "item_text_fields": ["title"]}):
        model, batch = built("P5", decoder=False, **changes)
        assert not hasattr(model, "llm")
        states, mask = model.encode(*model.tokens(batch))
        mean = torch.stack([s[m.bool()].mean(0) for s, m in zip(states, mask, strict=True)])
        scores = model.full_sort_predict(batch)
        assert torch.allclose(scores[:, 1:], mean @ model.head.weight.T, atol=1e-5)
        assert torch.isneginf(scores[:, 0]).all()
        targets = batch["item_id"]
        expected = torch.nn.functional.cross_entropy(scores[:, 1:], targets - 1)
        model.prompts.n_templates = 1
        assert float(model.calculate_loss(batch)) == pytest.approx(float(expected), rel=1e-5)


def test_titles_stand_in_the_prompt(built, llm_folders):
    titles = {"item_in_prompt": "title", "item_text_template": "{title}", "decoder": False}
    model, batch = built("POD", **titles)
    tokenizer = AutoTokenizer.from_pretrained(llm_folders["writer"])
    tokens, words, _ = model.tokens(batch)
    text = tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert "item_" not in text
    assert int(words[0].max()) == int((batch["item_id_list"][0] > 0).sum()) + 1


def test_numbers_are_shuffled_by_the_seed():
    one, again, other = (
        item_numbers({"item_numbers": "random", "seed": seed}, 50) for seed in (3, 3, 4)
    )
    assert one == again != other
    assert sorted(one) == list(range(1, 50))
    assert item_numbers({"item_numbers": "internal"}, 5) == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["P5", "LightLM"])
def test_a_loaded_model_keeps_the_tokens_that_it_was_trained_with(name, built):
    """Here the other model has numbered, or cluster-numbered, its items by another seed."""
    trained, batch = built(name, constrained_beams=True)
    other, _ = built(name, constrained_beams=True, seed=7)
    with torch.no_grad():
        expected = trained.beams(batch)
        other.load_state_dict(trained.state_dict())
        assert torch.equal(other.beams(batch), expected)
    assert torch.equal(other.paths.labels, trained.paths.labels)


# -- whole runs, bad input --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["P5", "POD", "LightLM"])
def test_whole_runs(name, settings, quick):
    values = settings(name, epochs=1, sample_users=4, num_beams=3)
    result = run(name, "tiny", config_dict=quick(**values))
    assert all(len(sample["recommended"]) <= 3 for sample in result["samples"])
    assert set(result["test_result"]) == {"recall@3", "recall@5", "ndcg@3", "ndcg@5"}
    beams = result["beams"]
    assert (beams["users"], beams["beams"]) == (30, 90)  # of the test alone
    assert (beams["no_item"] == 0) is (name == "LightLM")


def test_a_batch_learned_by_heart_is_recommended(built):
    model, batch = built("LightLM", num_beams=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    with torch.no_grad():
        best = model.full_sort_predict(batch).argmax(1)
    assert (best == batch["item_id"]).float().mean() > 0.9


@pytest.mark.parametrize(
    "name, changes, error, message",
    [
        ("P5", {"num_beams": 25}, ConfigError, "25 beams, but there are only 24 items"),
        ("P5", {"num_beams": 0}, ConfigError, "num_beams must be a whole number of at least 1"),
        (
            "POD",
            {"prompt_length": -1},
            ConfigError,
            "prompt_length must be .* at least 0, found -1",
        ),
        ("P5", {"item_numbers": "none"}, ConfigError, "item_numbers must be one of random, int"),
        ("P5", {"item_in_prompt": "name"}, ConfigError, "item_in_prompt must be one of id, title"),
        ("P5", {"prompt_templates": []}, ConfigError, "prompt_templates must be a list"),
        ("P5", {"prompt_templates": ["{user}"]}, ConfigError, "must hold"),
        ("P5", {"tokenizer": "./absent"}, ModelFilesError, "tokenizer './absent': no such dir"),
        ("P5", {"llm_init": "some"}, ConfigError, "llm_init must be one of pretrained, scratch"),
        ("LightLM", {"llm_config": {"d_fff": 1}}, ConfigError, "llm_config: a t5 .* no 'd_fff'"),
        (
            "LightLM",
            {"llm": "gpt2", "llm_config": {}},
            ModelFilesError,
            "a gpt2 model does not generate text",
        ),
        ("LightLM", {"lightlm_clusters": 1}, ConfigError, "lightlm_clusters"),
    ],
)
def test_bad_settings(name, changes, error, message, built):
    with pytest.raises(error, match=message):
        built(name, **changes)


def test_items_that_the_tokenizer_cannot_tell_apart(built, llm_copy):
    """A tokenizer that does not know the digits writes every number as <unk>."""
    folder = llm_copy("t5")
    with pytest.raises(DataError, match=r"items 'i\d+' and 'i\d+' have the same tokens"):
        built("P5", tokenizer=str(folder))


@torch.no_grad()
def test_a_history_from_outside_and_one_that_is_empty(built):
    model, batch = built("P5")
    batch["item_id_list"][:] = 0
    assert model.beams(batch).shape == (16, 5)
    batch["item_id_list"][2, 1] = 25
    with pytest.raises(DataError, match="the history holds item 25; there are 24 items"):
        model.beams(batch)

"""Models that read candidates: the order is nothing, the scores are those of the formula."""

import math

import pytest
import torch
from recbole.data.interaction import Interaction
from transformers import AutoTokenizer

from recbole_lite import create_dataset, data_preparation
from recbole_lite.data.windows import CANDIDATES
from recbole_lite.model.generative.item_indexing import item_numbers
from recbole_lite.model.generative.prompts import split_candidate_template
from recbole_lite.model.layers.candidate_scores import append_candidates, scatter_to_catalogue
from recbole_lite.model.layers.user_pooling import UserPooling
from recbole_lite.utils.errors import ConfigError

TOPN = {"task": "topn", "topn_negatives": 6, "item_vector_norm": "standardize"}
WRITER = {"llm_init": "pretrained", "llm_config": {}, "num_beams": 5}
ROBERTA = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


@pytest.fixture
def built(config_for, llm_folders):
    """``built("POD", key=value, ...)`` -> model in evaluation mode, its test batch."""

    def build(name="LiteLLM4Rec", **changes):
        settings = {**TOPN}
        if name != "LiteLLM4Rec":
            settings |= {**WRITER, "llm": str(llm_folders["writer"])}
        config = config_for(name, **{**settings, **changes})
        train, _, test = data_preparation(config, create_dataset(config))
        torch.manual_seed(1)
        model = config.model_class(config, train._dataset).eval()
        with torch.no_grad():  # biases by distance are small at first, and would hide a mistake
            for key, parameter in model.named_parameters():
                if "relative_attention_bias" in key or "position_embeddings" in key:
                    parameter.normal_(std=2.0)
        return model, next(iter(test))[0]

    return build


def changed(batch, **fields):
    return Interaction({**batch.interaction, **fields})


# -- the order of the candidates --------------------------------------------------------------

ENCODERS = {
    "t5": {},
    "t5, causal": {"rec_llm_causal": True},
    "t5, recency": {"user_pooling": "recency"},
    "t5, causal, last": {"rec_llm_causal": True, "user_pooling": "last"},
    "bert": {"rec_llm": "bert"},
    "roberta": {"rec_llm": "roberta"},
    "gpt2, causal": {"rec_llm": "gpt2", "rec_llm_causal": True, "user_pooling": "recency"},
}


@pytest.fixture
def of_encoder(built, llm_folders):
    def build(name, **changes):
        settings = {**ENCODERS[name], **changes}
        if "rec_llm" in settings:
            folder = str(llm_folders[settings["rec_llm"]])
            settings |= {"rec_llm": folder, "rec_llm_init": "pretrained", "rec_llm_config": {}}
        return built(**settings)

    return build


@pytest.mark.parametrize("shows_history", [False, True], ids=["alone", "history"])
@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_permuting_the_candidates_permutes_the_scores(encoder, shows_history, of_encoder):
    model, batch = of_encoder(encoder, topn_history=shows_history)
    scores = model.candidate_scores(batch)
    assert scores.std(1).min() > 1e-3
    for seed in range(5):
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        permuted = changed(batch, **{CANDIDATES: batch[CANDIDATES][:, order]})
        other = model.candidate_scores(permuted)
        assert torch.allclose(other, scores[:, order], rtol=1e-4, atol=1e-5)
        assert torch.allclose(
            model.full_sort_predict(permuted), model.full_sort_predict(batch), 1e-4, 1e-5
        )


@torch.no_grad()
def test_without_the_shared_position_the_order_would_count(built):
    """The test above can fail: T5's bias by distance, switched back on."""
    model, batch = built(topn_history=True)
    scores = model.candidate_scores(batch)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    model.rec_llm.shared_position = None
    for bias in model.rec_llm.modules():
        if hasattr(bias, "n_candidates"):
            bias.n_candidates = 0
    plain = model.candidate_scores(batch)
    permuted = changed(batch, **{CANDIDATES: batch[CANDIDATES][:, order]})
    assert not torch.allclose(model.candidate_scores(permuted), plain[:, order], 1e-2, 1e-3)
    assert not torch.allclose(plain, scores, 1e-2, 1e-3)


@pytest.mark.parametrize("encoder", ["gpt2", "bart"])
def test_an_encoder_that_reads_an_order_is_refused(encoder, built, llm_folders):
    with pytest.raises(ConfigError, match="cannot read candidates without an order"):
        built(rec_llm=str(llm_folders[encoder]), rec_llm_init="pretrained", rec_llm_config={})


def test_the_candidates_need_a_position(of_encoder):
    of_encoder("gpt2, causal", topn_history=True, MAX_ITEM_LIST_LENGTH=31)
    message = "at most 32 positions, MAX_ITEM_LIST_LENGTH is 32, and the candidates need one more"
    with pytest.raises(ConfigError, match=message):
        of_encoder("gpt2, causal", topn_history=True, MAX_ITEM_LIST_LENGTH=32)
    of_encoder("gpt2, causal", topn_history=False, MAX_ITEM_LIST_LENGTH=32)


# -- what goes in and comes out ---------------------------------------------------------------


@torch.no_grad()
def test_alone_the_candidates_are_all_that_the_model_reads(built):
    """No history: the mean of the encoder's outputs, times the candidates' rows of the head."""
    model, batch = built()
    scores = model.full_sort_predict(batch)
    for row, candidates in enumerate(batch[CANDIDATES]):
        vectors = model.item_tower(candidates)[None]
        mask = torch.ones(1, 7, dtype=torch.bool)
        h_u = model.rec_llm(vectors, mask, n_candidates=7)[0].mean(0)
        expected = model.head.weight[candidates - 1] @ h_u
        assert torch.allclose(scores[row, candidates], expected, atol=1e-5)
        others = torch.ones(25, dtype=torch.bool)
        others[candidates] = False
        assert torch.isneginf(scores[row, others]).all()
    blank = changed(batch, item_id_list=torch.zeros_like(batch["item_id_list"]))
    assert torch.equal(model.full_sort_predict(blank), scores)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["t5", "bert", "t5, causal"])
def test_with_a_history_a_single_candidate_is_the_next_item(encoder, of_encoder):
    """One candidate behind a history is a sequence, read as the sequential model reads it."""
    model, batch = of_encoder(encoder, topn_history=True)
    one = batch[CANDIDATES][:, :1]
    inputs = append_candidates(batch["item_id_list"], one)
    seen = model.encode(inputs, n_candidates=1)
    for row, n in enumerate(batch["item_length"].tolist()):
        sequence = torch.cat([batch["item_id_list"][row, :n], one[row]])[None]
        alone = model.encode(sequence)
        assert torch.allclose(seen[row, -n - 1 :], alone[0], rtol=1e-4, atol=1e-5)


def test_the_history_ends_before_the_candidates_by_hand():
    histories = torch.tensor([[5, 6, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]])
    inputs = append_candidates(histories, torch.tensor([[9, 8]] * 3))
    assert inputs.tolist() == [[0, 0, 5, 6, 9, 8], [1, 2, 3, 4, 9, 8], [0, 0, 0, 0, 9, 8]]
    assert append_candidates(histories[:, :0], torch.tensor([[9, 8]] * 3)).tolist() == [[9, 8]] * 3


def test_the_loss_is_the_cross_entropy_among_the_candidates(built):
    model, batch = built(topn_history=True)
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        chances = torch.softmax(scores, 1)  # exp(-inf) = 0: the candidates alone
        expected = -chances[torch.arange(len(batch)), batch["item_id"]].log().mean()
        assert float(model.calculate_loss(batch)) == pytest.approx(float(expected), rel=1e-5)
        assert torch.equal(model.predict(batch), scores[torch.arange(len(batch)), batch["item_id"]])
    model.calculate_loss(batch).backward()
    (bias,) = (p for n, p in model.named_parameters() if "relative_attention_bias" in n)
    assert bias.grad.abs().sum() > 0


def test_the_last_places_pool_as_one_by_hand():
    hidden = torch.tensor([[[1.0], [2.0], [10.0], [20.0]]])
    mask = torch.tensor([[False, True, True, True]])
    assert float(UserPooling("last")(hidden, mask, n_candidates=2)) == 15
    pooling = UserPooling("recency").requires_grad_(False)
    w = 1 / (1 + math.exp(0))  # exp(-softplus(0))
    expected = (2 * w + 10 + 20) / (w + 2)
    assert float(pooling(hidden, mask, n_candidates=2)) == pytest.approx(expected, rel=1e-6)
    assert float(pooling(hidden, mask, n_candidates=1)) == pytest.approx(
        float(pooling(hidden, mask)), rel=1e-6
    )


def test_scores_over_all_items_by_hand():
    scores = scatter_to_catalogue(torch.tensor([[5.0, 6.0]]), torch.tensor([[3, 1]]), 5)
    inf = float("inf")
    assert scores.tolist() == [[-inf, 6, -inf, 5, -inf]]


# -- P5 and POD -------------------------------------------------------------------------------


def text_of(model, batch, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens, words, mask = model.tokens(batch)
    texts = [tokenizer.decode(row[kept]) for row, kept in zip(tokens, mask, strict=True)]
    return texts, words


@pytest.mark.parametrize(
    "template", ["{user} {candidates}", "after {user} {items} what {candidates} next"]
)
def test_the_prompt_names_the_candidates_in_their_order(template, built, llm_folders):
    model, batch = built("POD", topn_templates=[template])
    texts, words = text_of(model, batch, llm_folders["writer"])
    numbers = [0, *item_numbers({"item_numbers": "random", "seed": 2020}, 25)]
    tokenizer = AutoTokenizer.from_pretrained(llm_folders["writer"])
    for row, text in enumerate(texts):
        listed = [
            " ".join(f"item_{numbers[item]}" for item in items if item)
            for items in (batch["item_id_list"][row].tolist(), batch[CANDIDATES][row].tolist())
        ]
        values = {"user": f"user_{int(batch['user_id'][row])}"}
        written = template.format(**values, items=listed[0], candidates=listed[1])
        assert text == tokenizer.decode(tokenizer(written).input_ids)
    # Whole words: the user is 1, the history 2 ... 7 (here shown or not), the candidates 8 ... 14.
    assert set(words.flatten().tolist()) >= {1, *range(8, 15)}
    assert bool(set(words.flatten().tolist()) & set(range(2, 8))) is ("{items}" in template)
    assert len(model.whole_words.weight) + len(model.candidate_words.weight) == 15


@torch.no_grad()
def test_constrained_beams_rank_the_candidates_by_their_probability(built):
    model, batch = built("P5", num_beams=7, constrained_beams=True)
    beams = model.beams(batch)
    assert torch.equal(beams.sort(1).values, batch[CANDIDATES].sort(1).values)
    states, mask = model.encode(*model.tokens(batch))
    for row in range(4):
        chances = []
        for item in beams[row].tolist():
            path = [token for token in model.paths.labels[item].tolist() if token >= 0]
            logits = model.llm(
                encoder_outputs=(states[row : row + 1],),
                attention_mask=mask[row : row + 1],
                decoder_input_ids=torch.tensor([[0, *path[:-1]]]),
            ).logits
            chosen = torch.log_softmax(logits[0], -1)[range(len(path)), path]
            chances.append(float(chosen.mean()))
        assert chances == pytest.approx(sorted(chances, reverse=True), abs=1e-5)
    scores = model.full_sort_predict(batch)
    assert torch.equal((~torch.isneginf(scores)).sum(1), torch.full((16,), 7))
    assert model.beam_counts.no_candidate == 0


@torch.no_grad()
def test_beams_that_name_no_candidate_are_no_recommendation(built):
    model, batch = built("POD", num_beams=20)
    beams = torch.arange(20).expand(16, -1)  # 0: no item
    model.beams = lambda _: beams
    scores = model.full_sort_predict(batch)
    outside = 0
    for row, candidates in enumerate(batch[CANDIDATES].tolist()):
        scored = (~torch.isneginf(scores[row])).nonzero().flatten().tolist()
        assert scored == [item for item in range(1, 20) if item in candidates]
        assert scores[row, scored].tolist() == [-item for item in scored]
        outside += 19 - len(scored)
    assert (model.beam_counts.no_candidate, model.beam_counts.no_item) == (outside, 16)
    share = f"{outside / 320:.2%} an item that is no candidate"
    assert share in str(model.beam_counts)


@torch.no_grad()
def test_free_beams_may_write_anything(built):
    model, batch = built("POD", num_beams=5)
    free = model.beams(batch)
    model.constrained_beams = True
    kept = model.beams(batch)
    assert (kept > 0).all()
    assert not torch.equal(free, kept)


@torch.no_grad()
def test_beams_of_a_model_that_does_not_read_the_candidates_stay_among_them(config_for):
    llm = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}
    settings = {"llm_init": "scratch", "llm_config": {**llm, "num_heads": 2}, "num_beams": 7}
    config = config_for("LightLM", **TOPN, **settings, constrained_beams=True, lightlm_clusters=3)
    train, _, test = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train._dataset).eval()
    assert CANDIDATES not in next(iter(train))
    batch = next(iter(test))[0]
    assert torch.equal(model.beams(batch).sort(1).values, batch[CANDIDATES].sort(1).values)


@torch.no_grad()
def test_without_a_decoder_the_head_scores_the_candidates(built):
    model, batch = built("P5", decoder=False)
    model.candidate_prompts.n_templates = 1
    scores = model.full_sort_predict(batch)
    assert torch.equal((~torch.isneginf(scores)).sum(1), torch.full((16,), 7))
    chances = torch.softmax(scores, 1)
    expected = -chances[torch.arange(16), batch["item_id"]].log().mean()
    assert float(model.calculate_loss(batch)) == pytest.approx(float(expected), rel=1e-5)


def test_templates_are_split_at_their_slots():
    assert split_candidate_template("{user} {candidates}") == ("", "", None, "")
    split = split_candidate_template("for {user} with {items} choose from {candidates} now")
    assert split == ("for", "with", "choose from", "now")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"topn_templates": ["{user} {items}"]}, "must hold {user} and behind it {candidates}"),
        ({"topn_templates": ["{candidates} {user}"]}, "must hold {user} and behind it"),
        ({"topn_templates": ["{user}: {candidates}"]}, "must hold {user} and behind it"),
        ({"topn_templates": []}, "topn_templates must be a list"),
        ({"topn_history": True}, "topn_history: a prompt shows the history where"),
        ({"num_beams": 8, "constrained_beams": True}, "8 beams, but there are only 7 candidates"),
    ],
)
def test_bad_settings_of_prompts(changes, message, built):
    with pytest.raises(ConfigError, match=message):
        built("P5", **changes)

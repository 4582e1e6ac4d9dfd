from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BartModel,
    BertForMaskedLM,
    BertModel,
    GPT2Model,
    RobertaModel,
    T5EncoderModel,
)

from recbole_lite.text.sentence_transformers_folder import Recipe
from recbole_lite.text.text_encoder import TextEncoder, resolve_dtype
from recbole_lite.utils.errors import ConfigError, ModelFilesError

TEXTS = [
    "toy story",
    "golden eye action thriller comedy",
    "copycat",
    "four rooms get shorty golden eye toy story animation comedy action thriller",
    "unknownword story",
    "get shorty",
    "action comedy thriller",
]
CLASSES = {"bert": BertModel, "roberta": RobertaModel, "gpt2": GPT2Model, "t5": T5EncoderModel}
CASES = [
    *[(kind, pooling) for kind in CLASSES for pooling in ("mean", "cls", "lasttoken")],
    ("bert", "pooler"),
    ("roberta", "pooler"),
]
CASES.remove(("gpt2", "cls"))  # refused


def encoder(folder, **changes):
    options = {"max_length": None, "batch_size": 3, "dtype": "float32", "device": "cpu"}
    recipe = Recipe((changes.pop("pooling", "mean"),))
    return TextEncoder(folder, **{"recipe": recipe, **options, **changes})


@torch.no_grad()
def one_at_a_time(model, tokenizer, pooling):
    """Independent reference: no batch, so no padding and no mask."""
    vectors = []
    for text in TEXTS:
        output = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
        if pooling == "pooler":
            vectors.append(output.pooler_output[0])
        elif pooling in ("cls", "lasttoken"):
            vectors.append(output.last_hidden_state[0, 0 if pooling == "cls" else -1])
        else:
            vectors.append(output.last_hidden_state[0].mean(dim=0))
    return torch.stack(vectors)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind, pooling", CASES)
def test_vectors_are_those_of_the_stock_model_whatever_the_batch(llm_folders, kind, pooling):
    folder = llm_folders[kind]
    model = CLASSES[kind].from_pretrained(folder).eval()
    expected = one_at_a_time(model, AutoTokenizer.from_pretrained(folder), pooling)
    assert expected.std(dim=0).min() > 1e-3  # the texts are told apart
    for batch_size in (1, 3, 64):
        vectors = encoder(folder, pooling=pooling, batch_size=batch_size).encode(TEXTS)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind, pooling", CASES)
def test_a_tokenizer_that_pads_on_the_left_changes_nothing(llm_folders, llm_copy, kind, pooling):
    folder = llm_copy(kind)
    edit_json(folder / "tokenizer_config.json", padding_side="left")
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
    vectors = encoder(folder, pooling=pooling, batch_size=64).encode(TEXTS)
    expected = encoder(llm_folders[kind], pooling=pooling, batch_size=1).encode(TEXTS)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)


def test_a_batch_holds_texts_of_like_length_the_longest_first(llm_folders, monkeypatch):
    ours = encoder(llm_folders["bert"], batch_size=2)
    lengths = []
    forward = ours._encode_batch

    def spy(tokens):
        lengths.append([len(token) for token in tokens])
        return forward(tokens)

    monkeypatch.setattr(ours, "_encode_batch", spy)
    ours.encode(TEXTS)
    assert lengths == [[14, 7], [5, 4], [4, 4], [3]]


def test_t5_is_its_encoder_alone(llm_folders):
    ours = encoder(llm_folders["t5"])
    assert type(ours.model) is T5EncoderModel
    assert not any("decoder" in name for name, _ in ours.model.named_parameters())


def test_another_encoder_decoder_is_its_encoder_alone(llm_folders):
    ours = encoder(llm_folders["bart"])
    stock = BartModel.from_pretrained(llm_folders["bart"]).eval()
    expected = one_at_a_time(stock.encoder, ours.tokenizer, "mean")
    torch.testing.assert_close(ours.encode(TEXTS), expected, rtol=0, atol=1e-5)


def test_results_can_be_trained_on_and_are_repeatable(llm_folders):
    ours = encoder(llm_folders["bert"])
    assert not ours.model.training
    vectors = ours.encode(TEXTS)
    assert not vectors.is_inference()
    assert not vectors.requires_grad
    assert torch.equal(vectors, ours.encode(TEXTS))
    (torch.nn.Parameter(torch.ones(16)) * vectors).sum().backward()


def test_no_text_and_text_without_tokens(llm_folders):
    assert encoder(llm_folders["bert"]).encode([]).shape == (0, 16)
    gpt2 = encoder(llm_folders["gpt2"])  # adds no special tokens: a blank is nothing at all
    vectors = gpt2.encode(["toy", " ", "toy"])
    assert vectors[1].eq(0).all()
    assert torch.equal(vectors[0], vectors[2])
    assert gpt2.encode([" "]).shape == (1, 16)


def test_progress_is_shown_only_on_a_terminal(llm_folders, capsys):
    encoder(llm_folders["bert"]).encode(TEXTS, show_progress=True)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("kind, limit", [("bert", 32), ("roberta", 31), ("gpt2", 32)])
def test_the_model_states_the_longest_text(llm_folders, kind, limit):
    ours = encoder(llm_folders[kind])
    assert ours.max_length == limit
    assert ours.encode(["toy " * 100]).isfinite().all()
    with pytest.raises(ConfigError, match=f"item_llm_max_length: {limit + 1}; .* at most {limit}"):
        encoder(llm_folders[kind], max_length=limit + 1)


def test_max_length_cuts_but_keeps_the_special_tokens(llm_folders):
    short = encoder(llm_folders["bert"], max_length=4)
    torch.testing.assert_close(
        short.encode(["toy story golden eye", "toy story"])[0],
        encoder(llm_folders["bert"]).encode(["toy story"])[0],
        rtol=0,
        atol=1e-5,
    )
    with pytest.raises(ConfigError, match="item_llm_max_length: 2; must be more than 2"):
        encoder(llm_folders["bert"], max_length=2)


def test_the_tokenizer_can_state_a_shorter_text(llm_copy):
    folder = llm_copy("t5")
    assert encoder(folder).max_length == 512  # T5 has no position limit
    edit_json(folder / "tokenizer_config.json", model_max_length=8)
    assert encoder(folder).max_length == 8
    assert encoder(folder, max_length=600).max_length == 600


def test_dtypes(llm_folders, monkeypatch):
    exact = encoder(llm_folders["bert"]).encode(TEXTS)
    half = encoder(llm_folders["bert"], dtype="bfloat16")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    vectors = half.encode(TEXTS)
    assert vectors.dtype == torch.float32
    assert torch.cosine_similarity(vectors, exact).min() > 0.99
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert resolve_dtype("auto", torch.device("cuda")) == torch.float32


@pytest.mark.parametrize("kind", ["t5", "gpt2", "bart"])
def test_a_model_without_pooler_is_refused_for_pooler(llm_folders, kind):
    with pytest.raises(
        ConfigError, match=r"item_llm_pooling: pooler, .*use mean, cls or lasttoken"
    ):
        encoder(llm_folders[kind], pooling="pooler")


@pytest.mark.parametrize("pooling", ["cls", "pooler"])
def test_the_first_token_is_refused_where_it_sees_nothing_else(llm_folders, llm_copy, pooling):
    folder = llm_copy("bert")
    edit_json(folder / "config.json", is_decoder=True)  # BERT with causal attention
    for causal in [folder, llm_folders["gpt2"]][: 1 if pooling == "pooler" else 2]:
        with pytest.raises(ConfigError, match=f"{pooling} takes the first .* lasttoken or mean"):
            encoder(causal, pooling=pooling)


def test_an_untrained_pooler_is_refused_and_the_rest_works(llm_copy):
    folder = llm_copy("bert")
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)  # keeps no pooler
    with pytest.raises(ConfigError, match="no trained pooler"):
        encoder(folder, pooling="pooler")
    assert encoder(folder, pooling="cls").encode(TEXTS).shape == (7, 16)


def test_weights_that_lack_a_tensor_are_refused(llm_copy):
    folder = llm_copy("bert")
    weights = load_file(folder / "model.safetensors")
    removed = next(name for name in weights if "layer.1.attention" in name)
    del weights[removed]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFilesError, match="lack 1 tensors") as caught:
        encoder(folder)
    assert removed in str(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_truncated_files_are_refused_on_one_line(llm_copy, file):
    folder = llm_copy("bert")
    path = folder / file
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelFilesError, match="cannot be loaded") as caught:
        encoder(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_vector_that_is_not_finite_names_its_text(llm_copy):
    folder = llm_copy("bert")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "word_embeddings" in name)
    weights[name][-1] = float("nan")  # the last word: thriller
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFilesError, match="item text 'golden eye thriller' in float32"):
        encoder(folder).encode(["toy story", "golden eye thriller", "copycat"])


CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Model: pass\nclass Config: pass\n"


@pytest.mark.parametrize("model_type, loads", [("bert", True), ("of_my_own", False)])
def test_code_in_the_folder_never_runs(llm_copy, tmp_path, model_type, loads):
    folder = llm_copy("bert")
    mark = tmp_path / "executed"
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    own = {
        "AutoConfig": "own.Config",
        "AutoModel": "own.Model",
        "AutoModelForTextEncoding": "own.Model",
    }
    edit_json(folder / "config.json", auto_map=own, model_type=model_type)
    tokenizers = {"AutoTokenizer": ["own.Model", "own.Model"]}
    edit_json(folder / "tokenizer_config.json", auto_map=tokenizers)
    if loads:
        assert type(encoder(folder).model) is BertModel
    else:
        with pytest.raises(ModelFilesError, match="custom code") as caught:
            encoder(folder)
        assert "\n" not in str(caught.value)
    assert not mark.exists()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_weights_load_but_cannot_run_code(llm_folders, llm_copy, tmp_path):
    folder = llm_copy("bert")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    expected = encoder(llm_folders["bert"]).encode(TEXTS)
    torch.testing.assert_close(encoder(folder).encode(TEXTS), expected)

    mark = tmp_path / "executed"
    torch.save({**weights, "bomb": Bomb(str(mark))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelFilesError, match="Weights only load failed") as caught:
        encoder(folder)
    assert str(caught.value).isprintable()
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(str(mark)))).close()
    assert mark.exists()  # the bomb does work where pickles are trusted


def test_a_config_cannot_choose_an_attention_kernel(llm_copy):
    folder = llm_copy("bert")
    edit_json(folder / "config.json", attn_implementation="somebody/kernel")
    assert encoder(folder).model.config._attn_implementation == "sdpa"

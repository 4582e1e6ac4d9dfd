"""An Item LLM that is a sentence-transformers folder: its recipe against that library itself."""

from __future__ import annotations

import json
import logging
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm, Normalize
from tiny_llms import save_recipe

from recbole_lite import Recommender, load_data_and_model, run
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.text.sentence_transformers_folder import MODULES, POOLINGS, Recipe, read_recipe
from recbole_lite.text.text_encoder import TextEncoder
from recbole_lite.text.trainable_item_llm import TrainableItemLLM
from recbole_lite.utils.errors import ConfigError, ModelFilesError

TEXTS = [
    "toy story",
    "Golden EYE action thriller comedy",
    "copycat",
    "four rooms get shorty golden eye toy story animation comedy action thriller",
    "unknownword story",
    "get shorty",
]
PROMPTS = {"query": "get ", "passage": "toy story "}


def dense(out, **options):
    return lambda size: (Dense(size, out, **options), out)


def plain(module):
    return lambda size: (module(), size)


NORMALIZE, DROPOUT = plain(Normalize), plain(Dropout)
RELU = {"activation_function": torch.nn.ReLU(), "bias": False}
RECIPES = {
    **{f"{kind} {mode}": (kind, {"pooling_mode": mode}) for mode in POOLINGS for kind in ["bert"]},
    "gpt2 lasttoken": ("gpt2", {"pooling_mode": "lasttoken"}),
    "gpt2 weightedmean": ("gpt2", {"pooling_mode": "weightedmean"}),
    "roberta max": ("roberta", {"pooling_mode": "max"}),
    "t5 mean, dense, unit": ("t5", {"layers": [dense(12, **RELU), NORMALIZE]}),
    "two poolings": ("bert", {"pooling_mode": ["cls", "mean"], "layers": [dense(8)]}),
    "residual": ("bert", {"layers": [dense(16, use_residual=True), dense(6, use_residual=True)]}),
    "norm": ("bert", {"layers": [lambda size: (LayerNorm(size), size), DROPOUT]}),
    "prompt": ("bert", {"prompts": PROMPTS, "default": "passage"}),
    "no default prompt": ("bert", {"prompts": PROMPTS}),
    **{
        f"prompt not pooled, {mode}": (
            "bert",
            {"prompts": PROMPTS, "default": "passage", "include_prompt": False,
             "pooling_mode": mode},
        )
        for mode in POOLINGS
    },
    "prompt not pooled, gpt2": (
        "gpt2", {"prompts": PROMPTS, "default": "query", "include_prompt": False},
    ),
    "short": ("bert", {"max_seq_length": 5}),
    "lower case": ("bert", {"max_seq_length": 30, "do_lower_case": True}),
}  # fmt: skip


def encoder(folder, **changes):
    options = {"max_length": None, "batch_size": 3, "dtype": "float32", "device": "cpu"}
    options["recipe"] = changes.pop("recipe", None) or read_recipe(folder)
    return TextEncoder(folder, **{**options, **changes})


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def own_folder(llm_folders, tmp_path):
    """``own_folder("bert", ...)``: a folder of one's own, with a recipe."""
    return lambda kind, **options: save_recipe(tmp_path / "own", llm_folders[kind], **options)


@pytest.mark.parametrize("name", RECIPES)
def test_vectors_are_those_of_sentence_transformers(name, own_folder, settings, items):
    kind, options = RECIPES[name]
    folder = own_folder(kind, **options)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    ours = encoder(folder).encode(TEXTS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.std(dim=0).min() > 1e-4  # the texts are told apart

    config = settings(item_llm=str(folder), item_llm_pooling="auto", item_text_template="{title}")
    data = items(title=TEXTS)
    loaded = load_item_vectors(config, data)
    torch.testing.assert_close(loaded.vectors[1:], theirs, rtol=0, atol=1e-5)
    module = TrainableItemLLM(config, data)
    assert module.hidden_size == theirs.size(1)
    torch.testing.assert_close(module.encode_all()[1:], theirs, rtol=0, atol=1e-5)
    module.train()(torch.arange(1, 7)).sin().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_older_files_mean_the_same(own_folder):
    folder = own_folder("bert", pooling_mode=["cls", "max"], layers=[dense(8), NORMALIZE])
    expected = encoder(folder).encode(TEXTS)
    switches = {"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}
    switches |= {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(switches))
    (folder / "3_Normalize" / "config.json").unlink()
    (folder / "config_sentence_transformers.json").unlink()
    (folder / "sentence_bert_config.json").unlink()
    modules = json.loads((folder / MODULES).read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    (folder / MODULES).write_text(json.dumps(modules))
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    (folder / "2_Dense" / "model.safetensors").unlink()
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(encoder(folder).encode(TEXTS), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-5)


def test_a_padding_side_changes_nothing(own_folder):
    folder = own_folder("gpt2", pooling_mode=["lasttoken", "weightedmean"])
    expected = encoder(folder).encode(TEXTS)
    edit(folder / "tokenizer_config.json", padding_side="left")
    torch.testing.assert_close(encoder(folder).encode(TEXTS), expected, rtol=0, atol=1e-6)


def test_a_recipe_that_is_trained_is_saved_and_loaded(own_folder, quick):
    folder = own_folder("bert", pooling_mode="lasttoken", layers=[dense(16), NORMALIZE])
    changes = {"item_llm": str(folder), "item_llm_training": "full", "epochs": 1}
    result = run("LiteLLM4Rec", "tiny", config_dict=quick(**changes))
    _, model, *_ = load_data_and_model(result["run_dir"])
    before = load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"]
    after = model.item_tower.item_llm.head.layers[0].linear.weight
    assert not torch.allclose(before, after.cpu())
    (row,) = Recommender.load(result["run_dir"]).recommend([["i1", "i2"]], k=3)
    assert len(row) == 3


# -- settings over the recipe -----------------------------------------------------------------


@pytest.fixture
def load(own_folder, settings, items, caplog):
    """Vectors of three titles by a folder with a recipe, and what was logged."""
    options = {"prompts": PROMPTS, "default": "passage", "layers": [dense(8), NORMALIZE]}
    folder = own_folder("bert", pooling_mode="cls", **options)
    caplog.set_level(logging.INFO)

    def vectors(titles=TEXTS[:3], **changes):
        caplog.clear()
        base = {"item_llm": str(folder), "item_text_template": "{title}"}
        config = settings(**base, **{"item_llm_pooling": "auto", **changes})
        return load_item_vectors(config, items(title=titles)), caplog.text

    vectors.folder = folder
    return vectors


def test_a_pooling_replaces_the_whole_recipe_and_says_so(load, llm_folders):
    own, text = load()
    assert "by its modules.json: pooling cls, Dense, Normalize, prompt 'toy story '" in text
    other, text = load(item_llm_pooling="mean")
    assert "pooling mean (item_llm_pooling) replaces its own recipe: pooling cls, Dense" in text
    bare = encoder(llm_folders["bert"], recipe=Recipe())
    torch.testing.assert_close(other.vectors[1:], bare.encode(TEXTS[:3]), rtol=0, atol=1e-5)
    assert own.vectors.shape[1] == 8
    for changes, expected in ({}, own), ({"item_llm_pooling": "mean"}, other):
        again, _ = load(**changes)
        assert again.from_cache
        assert torch.equal(again.vectors, expected.vectors)


@pytest.mark.parametrize("prompt", ["get ", ""])
def test_a_prompt_replaces_that_of_the_recipe(load, prompt):
    vectors, text = load(item_llm_prompt=prompt)
    assert f"item_llm_prompt: {prompt!r} replaces the prompt 'toy story '" in text
    theirs = SentenceTransformer(str(load.folder), device="cpu")
    expected = theirs.encode(TEXTS[:3], prompt=prompt, convert_to_tensor=True)
    torch.testing.assert_close(vectors.vectors[1:], expected, rtol=0, atol=1e-5)
    assert not load()[0].from_cache


def test_prompts_without_a_default_are_named(own_folder, settings, items, caplog):
    caplog.set_level(logging.INFO)
    folder = own_folder("bert", prompts=PROMPTS)
    config = settings(item_llm=str(folder), item_llm_pooling="auto")
    load_item_vectors(config, items())
    assert "pooling mean, no default among its prompts for passage/query" in caplog.text


def test_a_prompt_without_a_recipe(settings, items, llm_folders):
    config = settings(item_llm_prompt="get ", item_llm_pooling="auto", item_text_template="{title}")
    found = load_item_vectors(config, items(title=TEXTS[:2])).vectors[1:]
    bare = encoder(llm_folders["bert"], recipe=Recipe())
    expected = bare.encode([f"get {text}" for text in TEXTS[:2]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_vectors_of_the_former_default_are_found_again(settings, items):
    before = load_item_vectors(settings(item_llm_pooling="mean"), items())
    now = load_item_vectors(settings(item_llm_pooling="auto"), items())
    assert now.from_cache
    assert now.path == before.path


def test_the_cache_follows_the_recipe_and_serves_without_the_model(load, caplog):
    first, _ = load()
    path = load.folder / "2_Dense" / "model.safetensors"
    save_file({name: 2 * weight for name, weight in load_file(path).items()}, path)
    second, _ = load()
    assert not second.from_cache
    assert not torch.equal(first.vectors, second.vectors)
    assert load()[0].from_cache
    first.path.unlink()
    load.folder.rename(load.folder.with_name("elsewhere"))
    third, text = load()
    assert third.path == second.path
    assert "without checking the weights" in text


@pytest.mark.integration
def test_minilm_stays_the_papers_mean_and_says_so(settings, items, caplog):
    caplog.set_level(logging.INFO)
    base = {"item_llm": "minilm", "item_text_template": "{title}"}
    auto = load_item_vectors(settings(**base, item_llm_pooling="auto"), items(title=TEXTS[:2]))
    assert (
        "Item LLM minilm: pooling mean (the paper's) replaces its own recipe: pooling mean, "
        "Normalize, at most 256 tokens" in caplog.text
    )
    mean = load_item_vectors(settings(**base, item_llm_pooling="mean"), items(title=TEXTS[:2]))
    assert mean.from_cache
    assert auto.path == mean.path


# -- folders that cannot be used --------------------------------------------------------------


def other_module(folder, kind):
    modules = json.loads((folder / MODULES).read_text())
    modules[2]["type"] = kind
    (folder / MODULES).write_text(json.dumps(modules))


def moved(folder, path):
    modules = json.loads((folder / MODULES).read_text())
    modules[2]["path"] = path
    (folder / MODULES).write_text(json.dumps(modules))


def cut_weights(folder):
    path = folder / "2_Dense" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


DENSE = "2_Dense/config.json"
FAULTS = {
    "no JSON": (lambda f: (f / MODULES).write_text("[{"), "modules.json cannot be read"),
    "no list": (lambda f: (f / MODULES).write_text("{}"), "holds no list of modules"),
    "strings": (lambda f: (f / MODULES).write_text('["a"]'), "has no type or no path: 'a'"),
    "empty": (lambda f: (f / MODULES).write_text("[]"), "lists no module; supported are"),
    "own code": (lambda f: other_module(f, "modeling.Head"), "'modeling.Head' is code of its own"),
    "unknown": (
        lambda f: other_module(f, "sentence_transformers.models.CNN"),
        "lists Transformer, Pooling, CNN, Normalize;",
    ),
    "outside": (lambda f: moved(f, "../2_Dense"), "'../2_Dense' is no folder beside this file"),
    "absolute": (lambda f: moved(f, "/etc"), "'/etc' is no folder beside this file"),
    "no folder": (lambda f: moved(f, "9_Dense"), "9_Dense/config.json: missing, and modules.json"),
    "no pooling": (
        lambda f: edit(f / "1_Pooling/config.json", pooling_mode="median"),
        "pooling_mode must be one or several of cls, max, .* found",
    ),
    "pooling of another size": (
        lambda f: edit(f / "1_Pooling/config.json", embedding_dimension=20),
        "the Pooling reads vectors of 20 numbers, the language model gives 16",
    ),
    "input size": (lambda f: edit(f / DENSE, in_features=20), "reads vectors of 20 numbers, but"),
    "output size": (lambda f: edit(f / DENSE, out_features=9), "does not hold the weights that"),
    "no size": (lambda f: (f / DENSE).write_text("{}"), "no Dense can be built .KeyError"),
    "activation": (
        lambda f: edit(f / DENSE, activation_function="os.system"), "'os.system' is no activation"
    ),
    "tokens": (lambda f: edit(f / DENSE, module_input_name="token_embeddings"), "is not supported"),
    "no weights": (lambda f: (f / "2_Dense/model.safetensors").unlink(), "has no model.safetensor"),
    "weights": (cut_weights, "does not hold the weights that"),
    "prompt": (
        lambda f: edit(f / "config_sentence_transformers.json", default_prompt_name="doc"),
        "default_prompt_name is 'doc', but its prompts are: ",
    ),
    "max length": (
        lambda f: edit(f / "sentence_bert_config.json", max_seq_length="long"),
        "max_seq_length must be a positive number, found 'long'",
    ),
    "task": (
        lambda f: edit(f / "sentence_bert_config.json", transformer_task="fill-mask"),
        "not supported: transformer_task: 'fill-mask'",
    ),
    "chat": (
        lambda f: edit(f / "sentence_bert_config.json", modality_config={"message": {}}),
        "not supported: modality_config",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_folder_is_refused_on_one_line(name, load):
    damage, message = FAULTS[name]
    damage(load.folder)
    with pytest.raises(ModelFilesError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert str(load.folder) in str(caught.value)
    vectors, text = load(item_llm_pooling="mean")  # the remedy
    assert vectors.vectors.shape == (4, 16)
    assert "pooling mean (item_llm_pooling) replaces its own recipe" in text


def test_no_class_of_a_file_is_imported(load, tmp_path, monkeypatch):
    (tmp_path / "modeling_bomb.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for kind in ("modeling_bomb.Head", "sentence_transformers.bomb.Bomb"):
        other_module(load.folder, kind)
        with pytest.raises(ModelFilesError):
            load()
    assert "modeling_bomb" not in sys.modules


def test_pickled_weights_run_no_code(load, tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "mark"), "w")

    (load.folder / "2_Dense" / "model.safetensors").unlink()
    torch.save({"linear.weight": Bomb()}, load.folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelFilesError, match="does not hold the weights"):
        load()
    assert not (tmp_path / "mark").exists()


def test_a_recipe_that_takes_the_first_token_of_a_causal_model_is_refused(own_folder):
    folder = own_folder("gpt2", pooling_mode=["mean", "cls"])
    with pytest.raises(ConfigError, match="cls takes the first token, which sees no other"):
        encoder(folder)


def test_a_prompt_that_fills_the_model_is_refused(own_folder):
    folder = own_folder("bert", prompts={"p": "toy " * 30}, default="p")
    with pytest.raises(ConfigError, match=r"item_llm_prompt: .* has 31 tokens and leaves no room"):
        encoder(folder)


# -- warnings ---------------------------------------------------------------------------------


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_texts_that_are_cut_are_counted(settings, items, caplog):
    titles = ["toy " * 9 + "story", "toy " * 9 + "copycat", "toy story", "toy " * 4]
    config = settings(item_llm_max_length=6, item_text_template="{title}")
    load_item_vectors(config, items(title=titles))
    cut, equal = warnings(caplog)
    assert cut == (
        "2 of 4 item texts (50.0%) have more than 6 tokens (the longest 12); the rest of each is "
        "not read (item_llm_max_length, item_text_fields)"
    )
    assert equal.startswith("3 of 4 distinct item texts have the same vector as another, e.g. ")
    caplog.clear()
    load_item_vectors(config, items(title=titles))  # from the cache
    assert warnings(caplog) == [equal]


def test_distinct_texts_with_one_vector_are_named(settings, items, caplog):
    titles = ["toy nobody", "copycat", "toy somebody", "golden eye", "copycat"]
    load_item_vectors(settings(item_text_template="{title}"), items(title=titles))
    (message,) = warnings(caplog)
    assert message.startswith("2 of 4 distinct item texts have the same vector as another, e.g. ")
    assert "'toy nobody'" in message
    assert "'toy somebody'" in message

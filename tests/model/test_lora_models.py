"""LiteLLM4Rec with low-rank adapters: training, checkpoints, resuming, recommending."""

import json

import pytest
import torch
from safetensors import safe_open
from test_lite_llm4rec import build

from recbole_lite import Recommender, run
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.text.lora import is_adapter
from recbole_lite.utils.errors import CheckpointError, ConfigError

LORA = {"r": 2, "alpha": 4, "dropout": 0.1, "target_modules": ["c_attn", "mlp.c_proj"]}
FROZEN = "rec_llm.encoder.h.0.attn.c_attn.base_layer.weight"
HISTORIES = [["i1", "i2", "i3"], ["i7"]]


@pytest.fixture
def adapted(quick, llm_folders):
    """Settings of a causal Recommendation LLM with trained weights and adapters."""

    def settings(**changes):
        own = {"rec_llm": str(llm_folders["gpt2"]), "rec_llm_init": "pretrained"}
        own |= {"rec_llm_config": {}, "rec_llm_causal": True, "rec_llm_lora": LORA}
        return quick(**{**own, "user_pooling": "last", **changes})

    return settings


def names_in(path):
    with safe_open(path, "pt") as file:
        return set(file.keys())


def recommended(folder, runtime):
    return [
        [(item.id, pytest.approx(item.score, abs=1e-4)) for item in items]
        for items in Recommender.load(folder, runtime=runtime).recommend(HISTORIES, k=5)
    ]


def test_a_run_with_adapters(adapted):
    """Adapters and head are trained; the recommender's weights are the merged ones."""
    result = run("LiteLLM4Rec", "tiny", config_dict=adapted())
    folder = result["run_dir"]
    # GPT-2: 2 layers of c_attn (16 to 48) and mlp.c_proj (64 to 16); a head of 24 rows.
    assert result["parameters"] == 2 * 2 * (16 + 48 + 64 + 16) + 24 * 16
    names = names_in(f"{folder}/best.safetensors")
    assert FROZEN in names
    assert any(map(is_adapter, names))
    merged = names_in(f"{folder}/model.safetensors")
    assert merged == {n.replace(".base_layer", "") for n in names if not is_adapter(n)}
    config, model, *_ = load_data_and_model(folder)
    assert config["rec_llm_lora"] == LORA
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        scores = model.eval().full_sort_predict({"item_id_list": ids, "item_length": None})[0]
    loaded = Recommender.load(folder, runtime="torch")
    found = loaded.model.full_sort_predict({"item_id_list": ids, "item_length": None})[0]
    assert torch.allclose(found[1:], scores[1:], atol=1e-4)
    assert recommended(folder, "torch") == recommended(folder, "onnx")


def test_checkpoints_of_adapters_alone(adapted):
    changes = {"checkpoint_adapters_only": True, "epochs": 2}
    whole = run("LiteLLM4Rec", "tiny", config_dict=adapted(epochs=2))
    part = run("LiteLLM4Rec", "tiny", config_dict=adapted(**changes))
    assert part["best_valid_score"] == whole["best_valid_score"]
    folder = part["run_dir"]
    names = names_in(f"{folder}/best.safetensors")
    assert not [n for n in names if n.startswith("rec_llm.encoder.") and not is_adapter(n)]
    assert {"head.weight", "item_tower.vectors"} <= names
    assert recommended(folder, "torch") == recommended(whole["run_dir"], "torch")
    # Interrupted after its first epoch and continued, it ends as the one that went through.
    stopped = run("LiteLLM4Rec", "tiny", config_dict=adapted(**changes, last_epoch=1))
    again = run("LiteLLM4Rec", "tiny", config_dict=adapted(**changes, resume=stopped["run_dir"]))
    assert again["best_valid_score"] == part["best_valid_score"]
    assert again["test_result"] == part["test_result"]


def test_adapters_of_other_files_are_refused(adapted, llm_copy):
    copy = llm_copy("gpt2")
    changes = {"checkpoint_adapters_only": True, "epochs": 1, "rec_llm": str(copy)}
    folder = run("LiteLLM4Rec", "tiny", config_dict=adapted(**changes))["run_dir"]
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "resid_pdrop": 0.2}))
    with pytest.raises(CheckpointError, match="adapters of other language models than rec_llm"):
        load_data_and_model(folder)


def test_adapters_of_the_item_llm(quick):
    lora = {"r": 2, "target_modules": ["query"]}
    changes = {"item_llm_training": "full", "item_llm_lora": lora, "epochs": 1}
    result = run("LiteLLM4Rec", "tiny", config_dict=quick(**changes, frozen_parts=["rec_llm"]))
    # BERT: 2 layers of query (16 to 16), and its head of 24 rows.
    assert result["parameters"] == 2 * 2 * (16 + 16) + 24 * 16
    assert len(recommended(result["run_dir"], "torch")[0]) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_llm_lora": LORA}, "item_llm_lora trains the Item LLM; set item_llm_training: full"),
        ({"rec_llm_lora": {"target_modules": ["q"]}}, "rec_llm_lora: target_modules: 'q' matches"),
        ({"rec_llm_lora": 8}, "rec_llm_lora must be a mapping .* found 8"),
        (
            {"rec_llm_lora": None, "checkpoint_adapters_only": True},
            "needs adapters: set rec_llm_lora or item_llm_lora",
        ),
        (
            {"rec_llm": "gpt2", "rec_llm_init": "scratch", "checkpoint_adapters_only": True},
            "checkpoint_adapters_only: True needs rec_llm_init: pretrained",
        ),
    ],
)
def test_what_is_refused(changes, message, adapted, config_for):
    if changes.get("rec_llm_init"):
        changes["rec_llm_config"] = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    with pytest.raises(ConfigError, match=message):
        build(config_for("LiteLLM4Rec", **adapted(**changes)))

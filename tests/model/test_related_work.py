"""Configurations of E4SRec and HLLM (properties/related_work), with tiny language models."""

import pytest
import torch

from recbole_lite import LiteConfig, Recommender, run
from recbole_lite.inference.saved_run import load_data_and_model
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import PROPERTIES

FOLDER = PROPERTIES / "related_work"
# Of conftest's `quick`, what the configurations must decide.
DECIDED = ("rec_llm_init", "rec_llm_config", "item_llm", "user_dropout", "learning_rate")


@pytest.fixture
def run_file(quick, llm_folders):
    """``run_file(name, key=value, ...)`` -> result of a run with a file and a tiny BERT."""

    def run_it(name, **changes):
        settings = {key: value for key, value in quick().items() if key not in DECIDED}
        settings |= {"rec_llm": str(llm_folders["bert"]), "epochs": 1}
        files = [str(FOLDER / f"{name}.yaml")]
        return run(
            "LiteLLM4Rec", "tiny", config_file_list=files, config_dict={**settings, **changes}
        )

    return run_it


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_files_are_valid(path):
    LiteConfig("LiteLLM4Rec", "ml-100k", config_file_list=[str(path)])


def test_e4srec(run_file, trained):
    """SASRec's item embeddings are read and stay; adapters, projection and head learn."""
    source = trained("SASRec")
    folder = run_file("e4srec", item_vectors=str(source))["run_dir"]
    _, sasrec, *_ = load_data_and_model(source)
    _, model, *_ = load_data_and_model(folder)
    table = sasrec.item_embedding.weight
    assert torch.equal(model.item_tower.vectors[1:], table[1:].detach())
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "head.weight" in trainable
    assert {name.partition(".lora_")[0] for name in trainable if ".lora_" in name} == {
        f"rec_llm.encoder.encoder.layer.{layer}.{part}.dense"
        for layer in (0, 1)
        for part in ("attention.output", "intermediate", "output")
    }
    assert not {n for n in trainable if n.startswith("rec_llm.") and ".lora_" not in n}
    assert len(Recommender.load(folder, runtime="torch").recommend([["i1", "i2"]], k=3)[0]) == 3


def test_e4srec_needs_item_vectors(run_file):
    with pytest.raises(ConfigError, match=r"item_llm: not set; .* or item_vectors in its place"):
        run_file("e4srec")


def test_hllm(run_file, llm_folders):
    """The folder recommends by cosines times the learned factor; a resumed run ends alike."""
    changes = {"item_llm": str(llm_folders["bert"]), "item_llm_max_length": 12, "epochs": 2}
    changes |= {"MAX_ITEM_LIST_LENGTH": 6, "num_negatives": 8, "item_llm_prompt": "get "}
    result = run_file("hllm", **changes)
    recommender = Recommender.load(result["run_dir"], runtime="torch")
    scale = recommender.model.scale().item()
    found = recommender.recommend([["i1", "i2"]], k=4)[0]
    assert all(abs(item.score) <= scale * 1.0001 for item in found)
    onnx = Recommender.load(result["run_dir"], runtime="onnx").recommend([["i1", "i2"]], k=4)[0]
    assert [item.id for item in onnx] == [item.id for item in found]
    stopped = run_file("hllm", **changes, last_epoch=1)
    again = run_file("hllm", **changes, resume=stopped["run_dir"])
    assert again["test_result"] == result["test_result"]

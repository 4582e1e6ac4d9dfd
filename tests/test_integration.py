"""Real data (ml-100k) and real weights (MiniLM), in the demo's configuration made smaller."""

import pytest

from recbole_lite import run
from recbole_lite.utils.paths import PROPERTIES

SMALLER = {
    "MAX_ITEM_LIST_LENGTH": 5,
    "rec_llm_config": {"num_layers": 1, "d_model": 64, "d_ff": 128, "num_heads": 2, "d_kv": 32},
    "epochs": 2,
    "learning_rate": 0.003,
    "show_progress": False,
    "state": "INFO",
}


@pytest.mark.integration
def test_the_demo_in_small_beats_popularity_and_reads_its_cache(workdir, caplog):
    caplog.set_level("INFO")
    demo = [PROPERTIES / "demo.yaml"]
    first = run("LiteLLM4Rec", "ml-100k", config_file_list=demo, config_dict=SMALLER)
    assert first["data"] == {"users": 943, "items": 1682, "interactions": 100000}
    assert "encoding 1,682 items (1,664 distinct texts)" in caplog.text
    pop = first["baselines"]["Pop"]["best_valid_result"]["recall@10"]
    assert first["best_valid_result"]["recall@10"] > 1.5 * pop
    assert [len(sample["recommended"]) for sample in first["samples"]] == [5, 5, 5]

    caplog.clear()
    changes = {**SMALLER, "epochs": 0, "baselines": []}
    run("LiteLLM4Rec", "ml-100k", config_file_list=demo, config_dict=changes)
    assert "(0 texts encoded)" in caplog.text
    assert "Item LLM minilm: encoding" not in caplog.text

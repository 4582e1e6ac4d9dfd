"""RecBole's other sequential models run over our data, trainer and checkpoints."""

import pkgutil

import pytest
from recbole.model import sequential_recommender

from recbole_lite import load_data_and_model, run

FILES = {info.name for info in pkgutil.iter_modules(sequential_recommender.__path__)}
NEED_A_KNOWLEDGE_GRAPH = {"GRU4RecKG", "KSR"}
# Their defaults want hundreds of items, or longer windows than the tiny data set's.
NEED_MORE_DATA = {"GRU4RecCPR", "SASRecCPR", "FEARec"}
ELSEWHERE = {"SASRec", "BERT4Rec", "GRU4Rec", "FDSA", "S3Rec"}  # tests/test_quick_start.py
NAMES = sorted(
    name for name in vars(sequential_recommender) if name.lower() in FILES and name[0].isupper()
)
RUN = sorted({*NAMES} - NEED_A_KNOWLEDGE_GRAPH - NEED_MORE_DATA - ELSEWHERE)


@pytest.mark.parametrize("name", RUN)
def test_it_trains_and_its_checkpoint_loads(name, quick):
    result = run(name, "tiny", config_dict=quick(epochs=1, num_layers=1))
    assert set(result["test_result"]) == {"recall@3", "recall@5", "ndcg@3", "ndcg@5"}
    load_data_and_model(result["run_dir"])

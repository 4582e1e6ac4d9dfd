"""A catalogue is encoded on two Ray nodes, of which one is killed."""

import doomed
import pytest
import torch

from recbole_lite.data import create_dataset
from recbole_lite.text import ray_encoding
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.utils.ray_session import RayOptions

pytestmark = pytest.mark.cluster


def test_a_node_dies_and_the_vectors_are_those_of_one_process(
    cluster, config_for, monkeypatch, tmp_path
):
    monkeypatch.setattr(ray_encoding, "_SHARD_BATCHES", 2)
    monkeypatch.setattr(ray_encoding, "_encode", doomed.encode)
    settings = {"item_llm_batch_size": 2, "use_gpu": False}
    config = config_for("LiteLLM4Rec", item_embedding_cache_dir=tmp_path / "ray", **settings)
    dataset = create_dataset(config)
    killing = cluster.kill_second()
    found = load_item_vectors(config, dataset, RayOptions(cluster.address))
    killing.join()
    assert (cluster.held / "started").exists()  # it died at work
    alone = config_for("LiteLLM4Rec", item_embedding_cache_dir=tmp_path / "alone", **settings)
    expected = load_item_vectors(alone, dataset)
    assert found.path.name == expected.path.name
    assert not found.from_cache
    torch.testing.assert_close(found.vectors, expected.vectors, rtol=0, atol=1e-6)
    assert not [*found.path.parent.glob("*.shards")]

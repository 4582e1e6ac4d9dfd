"""Recommendations for all users on two Ray nodes, of which one is killed."""

import random

import doomed
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from recbole_lite import Recommender
from recbole_lite.inference import recommend_folder as module
from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file
from recbole_lite.inference.recommend_folder import recommend_folder
from recbole_lite.utils.ray_session import RayOptions

pytestmark = pytest.mark.cluster


def test_a_node_dies_and_the_rows_are_those_of_one_process(cluster, trained, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_PART_CHUNKS", 1)  # 32 rows
    monkeypatch.setattr(module, "_rank_part", doomed.rank_part)
    draw = random.Random(3)
    histories = [
        [f"i{draw.randrange(24)}" for _ in range(draw.randrange(1, 9))] for _ in range(150)
    ]
    table = pa.table({"user_id": list(range(150)), "history": histories})
    source = tmp_path / "histories.parquet"
    pq.write_table(table, source)
    recommender, options = Recommender.load(trained("SASRec")), BatchOptions(k=4, batch_size=2)
    killing = cluster.kill_second()
    found = recommend_folder(
        recommender, source, tmp_path / "recs", options, RayOptions(cluster.address)
    )
    killing.join()
    assert (cluster.held / "started").exists()  # it died at work
    expected = recommend_file(recommender, source, tmp_path / "alone.csv", options)
    assert (found.users, found.rows) == (expected.users, expected.rows) == (150, 600)
    names = [f"part-{number:05}.parquet" for number in range(5)]
    assert sorted(path.name for path in (tmp_path / "recs").iterdir()) == [
        "_recommendations.json", *names,
    ]  # fmt: skip
    rows = pa.dataset.dataset(tmp_path / "recs", format="parquet").to_table().to_pydict()
    text = pa.csv.ConvertOptions(column_types={"user_id": pa.string()})
    alone = pa.csv.read_csv(tmp_path / "alone.csv", convert_options=text).to_pydict()
    assert rows.pop("score") == pytest.approx(alone.pop("score"), 1e-4)
    assert rows == alone

"""Recommendations into a folder of parts: the rows of one process, kept, resumed, refused."""

import csv
import json
import random
import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_lite import Recommender
from recbole_lite.cli.main import main
from recbole_lite.inference import recommend_folder as module
from recbole_lite.inference.batch_recommend import BatchOptions, recommend_file
from recbole_lite.inference.recommend_folder import MANIFEST, recommend_folder
from recbole_lite.utils.errors import CheckpointError, DataError

OPTIONS = BatchOptions(k=3, batch_size=2)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(module, "_PART_CHUNKS", 1)  # 32 rows


@pytest.fixture(scope="module")
def ray_here():
    pytest.importorskip("ray")
    from local_ray import local_ray

    with local_ray(2):
        yield


@pytest.fixture
def model(trained):
    return trained("SASRec")


@pytest.fixture
def recommender(model):
    return Recommender.load(model)


@pytest.fixture
def source(workdir):
    """70 histories: three parts; one has unknown items alone."""
    draw = random.Random(1)
    with open("in.csv", "w") as file:
        file.write("user_id,history\n")
        for user in range(69):
            ids = [f"i{draw.randrange(24)}" for _ in range(draw.randrange(1, 12))]
            file.write(f'"u,{user}",{";".join(ids)}\n')
        file.write("last,zz\n")
    return "in.csv"


def lines(path):
    return Path(path).read_text().splitlines()


def test_parts_hold_the_lines_of_one_file(recommender, source):
    expected = recommend_file(recommender, source, "out.csv", OPTIONS)
    found = recommend_folder(recommender, source, "recs", OPTIONS)
    assert found == expected
    names = sorted(path.name for path in Path("recs").iterdir())
    assert names == [MANIFEST, "part-00000.csv", "part-00001.csv", "part-00002.csv"]
    header, *rows = lines("out.csv")
    parts = [lines(f"recs/{name}") for name in names[1:]]
    assert [part[0] for part in parts] == [header] * 3
    assert [row for part in parts for row in part[1:]] == rows


def test_missing_parts_are_written_and_no_others(recommender, source):
    recommend_folder(recommender, source, "recs", OPTIONS)
    before = {path.name: path.read_text() for path in Path("recs").iterdir()}
    Path("recs/part-00001.csv").unlink()
    Path("recs/.part-00001.csv.1.tmp").touch()  # of a killed process
    Path("recs/part-00002.csv").write_text("kept as it is")
    found = recommend_folder(recommender, source, "recs", OPTIONS)
    assert str(found).endswith("; 2 parts were there already, their rows are not counted")
    after = {path.name: path.read_text() for path in Path("recs").iterdir()}
    assert after == {**before, "part-00002.csv": "kept as it is"}
    assert found.rows == 32 * 3


def test_storage_of_a_url(recommender, source):
    recommend_folder(recommender, source, "recs", OPTIONS)
    recommend_folder(recommender, source, "memory://recs/", OPTIONS)
    memory = fsspec.filesystem("memory")
    names = {Path(path).name for path in memory.ls("/recs", detail=False)}
    assert names == {path.name for path in Path("recs").iterdir()}
    for name in names:
        assert memory.cat_file(f"/recs/{name}") == Path("recs", name).read_bytes()
    memory.rm("/recs/part-00000.csv")
    assert recommend_folder(recommender, source, "memory://recs/", OPTIONS).kept == 2


def test_an_empty_input_is_an_empty_part(recommender, workdir):
    Path("in.csv").write_text("user_id,history\n")
    assert recommend_folder(recommender, "in.csv", "recs").users == 0
    assert lines("recs/part-00000.csv") == ["user_id,rank,item_id,title,score"]


# -- mistakes -----------------------------------------------------------------------------------


def test_folders_that_hold_something_else(recommender, trained, source):
    recommend_folder(recommender, source, "recs", OPTIONS)

    def refused(target="recs", source=source, options=OPTIONS, model=recommender):
        with pytest.raises(DataError) as error:
            recommend_folder(model, source, target, options)
        return str(error.value)

    other = BatchOptions(k=4, batch_size=2)
    assert refused(options=other) == (
        "recs: holds the parts of another run (k was 3, is 4); name another folder, or remove this "
        "one"
    )
    text = Path(source).read_text()
    Path("other.csv").write_text(text.replace("i1;", "i2;", 1))
    assert "(its input was another)" in refused(source="other.csv")
    grown = Recommender.load(trained("SASRec", epochs=1))
    assert "(its model was another)" in refused(model=grown)
    Path("recs", MANIFEST).write_text("{}")
    assert "recs: _recommendations.json is damaged (KeyError: 'model'); remove" in refused()
    Path("full").mkdir()
    Path("full/part-00000.csv").touch()
    assert refused("full").startswith("full: is not empty (part-00000.csv) and holds no recomm")
    assert refused(source).startswith("in.csv: is no name of a folder")
    assert refused("-").startswith("-: is no name of a folder")
    Path("file").touch()
    assert refused("file").startswith("file: is a file; name a folder for the parts")


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--input=in.csv", "--output=recs", "--ray_address=127.0.0.1:9"],
            "no Ray cluster answers",
        ),
        (
            ["--input=in.csv", "--output=recs/", "--ray", "--cpus_per_worker=0"],
            "must be at least 1",
        ),
        (["--input=bad.csv", "--output=recs/"], "bad.csv, line 1: no column 'history'"),
        (["--input=in.csv", "--output=out.parquet"], "Parquet needs a folder: DIR/"),
        (["--history=i1", "--ray"], "--ray goes with --input"),
    ],
)
def test_mistakes_on_the_command_line(flags, message, model, source, capsys):
    Path("bad.csv").write_text("user_id\na\n")
    assert main(["recommend", f"--model={model}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("recs").exists()


# -- with Ray, which runs from here on ----------------------------------------------------------


def test_rays_workers_write_the_rows_of_one_process(model, source, ray_here, capsys):
    """The input is Parquet, and so are the parts."""
    table = list(csv.DictReader(open(source)))  # noqa: SIM115
    columns = {name: [row[name] for row in table] for name in ("user_id", "history")}
    pq.write_table(pa.table(columns), "in.parquet")
    flags = ["--k=3", "--batch_size=2"]
    command = ["recommend", f"--model={model}", *flags]
    assert main([*command, "--input=in.parquet", "--output=recs/", "--ray"]) == 0
    assert "recs/: 70 histories, 207 recommendations; left out: 1 ids" in capsys.readouterr().out
    assert main([*command, f"--input={source}", "--output=out.csv"]) == 0
    expected = list(csv.DictReader(open("out.csv")))  # noqa: SIM115
    paths = sorted(Path("recs").glob("part-*"))
    found = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert [row.pop("score") for row in found] == pytest.approx(
        [float(row.pop("score")) for row in expected], 1e-4
    )
    assert [{**row, "rank": str(row["rank"])} for row in found] == expected


def test_workers_that_see_another_model_are_refused(recommender, model, source, ray_here, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    other = Recommender.load(copy)
    digest = module._model_digest(recommender)
    worker = (str(copy), digest, "cpu", "auto")
    module._loaded.cache_clear()
    assert module._loaded(*worker).name == other.name
    about = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**about, "changed": 1}))
    module._loaded.cache_clear()
    with pytest.raises(CheckpointError, match="a machine sees another model there"):
        module._loaded(*worker)

"""Files of histories: formats, folders, patterns, URLs, mistakes in them."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_lite.inference.history_files import history_files, read_histories
from recbole_lite.utils.errors import DataError

ROWS = [("7", ["a", "b"]), ("8", ["c"]), ("9", ["a"])]


def rows_of(source, separator=";"):
    with history_files(source) as (files, shown):
        return [(user, ids) for _, _, user, ids in read_histories(files, separator, shown)]


def as_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "users, histories",
    [
        (["7", "8", "9"], [["a", "b"], ["c"], ["a"]]),
        ([7, 8, 9], ["a; b", "c", "a;"]),
        (
            pa.array(["7", "8", "9"]).dictionary_encode(),
            pa.array(["a;b", "c", "a"], pa.large_string()),
        ),
        (
            pa.array([7, 8, 9], pa.uint8()),
            pa.array([["a", "b"], ["c"], ["a"]], pa.large_list(pa.large_string())),
        ),
    ],
)
def test_types_of_parquet(users, histories, workdir):
    path = as_parquet("h.parquet", note=[0.5] * 3, history=histories, user_id=users)
    assert rows_of(path) == ROWS


def test_whole_numbers_are_ids(workdir):
    assert rows_of(as_parquet("h.pq", user_id=[1], history=[[10, 20]])) == [("1", ["10", "20"])]


def test_folders_patterns_and_urls_in_the_order_of_names(workdir):
    Path("in").mkdir()
    as_parquet("in/part-2.parquet", user_id=["9"], history=[["a"]])
    as_parquet("in/part-1.parquet", user_id=["8"], history=[["c"]])
    Path("in/part-0.csv").write_text("history,user_id\na;b,7\n")
    Path("in/_SUCCESS").touch()
    Path("in/.part-3.csv").write_text("not read")
    Path("in/readme.txt").write_text("not read")
    assert rows_of("in") == rows_of("in/part-*") == ROWS
    assert rows_of(f"file://{Path('in').absolute()}") == ROWS
    memory = fsspec.filesystem("memory")
    for path in Path("in").iterdir():
        memory.pipe_file(f"/histories/{path.name}", path.read_bytes())
    assert rows_of("memory://histories") == rows_of("memory://histories/part*") == ROWS
    with pytest.raises(DataError, match=r"^in/x\*: no file of histories there \(\.csv, "):
        rows_of("in/x*")
    with pytest.raises(DataError, match=r"^memory://none: no file of histories there"):
        rows_of("memory://none")
    with pytest.raises(
        DataError, match=r"^nope://a/b: cannot be opened \(ValueError: Protocol not "
    ):
        rows_of("nope://a/b")


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"user_id": ["a"]},
            "no column 'history'; a file of histories has .* this one has user_id",
        ),
        ({"history": [["a"]]}, "no column 'user_id'; .* this one has history"),
        (
            {"user_id": [0.5], "history": ["a"]},
            "column 'user_id' holds double; it must hold texts o",
        ),
        ({"user_id": [1], "history": [5]}, "column 'history' holds int64; it must hold lists of"),
        ({"user_id": [1], "history": [[0.5]]}, r"column 'history' holds list<.*double>; it must"),
        ({"user_id": [1, None], "history": ["a", "b"]}, r"line 2: a value is missing \(null\)"),
        ({"user_id": [1, 2], "history": ["a", None]}, r"line 2: a value is missing \(null\)"),
        ({"user_id": [1], "history": [["a", None]]}, r"line 1: a value is missing \(null\)"),
        ({"user_id": [1, 2], "history": [["a"], []]}, "line 2: the history of user '2' is empty"),
    ],
)
def test_parquet_with_another_schema_or_without_values(columns, message, workdir):
    with pytest.raises(DataError, match=rf"^h\.parquet(: |, ){message}"):
        rows_of(as_parquet("h.parquet", **columns))


def test_a_file_that_is_no_parquet(workdir):
    Path("h.parquet").write_text("user_id,history\n")
    with pytest.raises(DataError, match=r"^h\.parquet: cannot be read as Parquet: ArrowInvalid"):
        rows_of("h.parquet")

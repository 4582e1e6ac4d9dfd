"""Foreign files as Arrow tables."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_lite.data import source_tables
from recbole_lite.data.source_tables import check_single_values, read_source_table
from recbole_lite.utils.errors import ConfigError, DataError

ROWS = {"user": ["007", "7", ""], "title": ['12" LP', "a,b", "x\ny"], "t": ["1", " 2", "3.0"]}
CSV = 'user,title,t\n007,"12"" LP",1\n7,"a,b", 2\n,"x\ny",3.0\n'


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    "name, data",
    {
        "x.csv": CSV,
        "x.csv.gz": CSV,
        "bom.csv": "\ufeff" + CSV,
        "no_last_end.csv": CSV[:-1],
        "blank_lines.csv": "\n" + CSV + "\n\n",
        "x.tsv": 'user\ttitle\tt\n007\t"12"" LP"\t1\n7\ta,b\t 2\n\t"x\ny"\t3.0\n',
        "x.txt": 'user|title|t\n007|"12"" LP"|1\n7|a,b| 2\n|"x\ny"|3.0\n',
        "stray_quote.csv": 'user;title;t\n007;12" LP;1\n7;a,b; 2\n;"x\ny";3.0\n',
    }.items(),
)
def test_text_cells_stay_as_written(tmp_path, name, data):
    table = read_source_table(write(tmp_path, name, data))
    assert table.to_pydict() == ROWS
    assert set(table.schema.types) == {pa.string()}


def test_line_ends_of_other_systems(tmp_path):
    table = read_source_table(write(tmp_path, "x.csv", 'a,b\r\n1,"x\r\ny"\r\n2,\r\n'))
    assert table.to_pydict() == {"a": ["1", "2"], "b": ["x\r\ny", ""]}
    table = read_source_table(write(tmp_path, "x.csv", "a,b\r1,2\r3,4\r"))
    assert table.to_pydict() == {"a": ["1", "3"], "b": ["2", "4"]}


def test_a_packed_file_is_recognised_without_its_ending(tmp_path):
    path = write(tmp_path, "x.csv", gzip.compress(CSV.encode()))
    assert read_source_table(path).to_pydict() == ROWS


def test_columns_and_separator_are_chosen(tmp_path):
    path = write(tmp_path, "x.csv", '"a;1",b c;d\n1,2;3\n')
    assert read_source_table(path).to_pydict() == {"a;1": ["1"], "b c;d": ["2;3"]}
    path = write(tmp_path, "y.csv", "a,b;c\n1,2;3\n")
    assert read_source_table(path, separator=";").to_pydict() == {"a,b": ["1,2"], "c": ["3"]}
    assert read_source_table(path, separator=";", columns=["c"]).to_pydict() == {"c": ["3"]}
    # The first column is the index of a pandas frame.
    path = write(tmp_path, "z.csv", ",a,b\n0,x,y\n")
    assert read_source_table(path).column_names == ["a", "b"]
    with pytest.raises(ConfigError, match="separator is '::'"):
        read_source_table(path, separator="::")


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson.gz", "x.json"])
def test_json_lines(tmp_path, name):
    text = '{"u": 1, "d": "2020-01-01", "r": 3.5}\n\n{"u": 9007199254740993, "d": "7", "r": null}\n'
    table = read_source_table(write(tmp_path, name, text))
    assert table.to_pydict() == {
        "u": [1, 2**53 + 1],
        "d": ["2020-01-01", "7"],
        "r": [3.5, None],
    }
    one = read_source_table(write(tmp_path, name, '{"d": "2020-01-01 00:00:00"}'))
    assert one.to_pydict() == {"d": ["2020-01-01 00:00:00"]}


def test_parquet(tmp_path):
    table = pa.table({"u": ["007", None], "t": pa.array([1, 2], pa.int32()), "l": [[1], []]})
    pq.write_table(table, tmp_path / "x.parquet")
    write(tmp_path, "y.parquet.gz", (tmp_path / "x.parquet").read_bytes())
    for path in (tmp_path / "x.parquet", tmp_path / "y.parquet.gz"):
        assert read_source_table(path).equals(table)
        assert read_source_table(path, columns=["t", "u"]).equals(table.select(["u", "t"]))
        with pytest.raises(DataError, match=r"column 'l' holds list<.*> where single"):
            read_source_table(path, columns=["l"])
    with pytest.raises(DataError, match="column 'l'"):
        check_single_values(table, tmp_path / "x.parquet")
    pq.write_table(
        table.append_column("__index_level_0__", pa.array([5, 6])), tmp_path / "p.parquet"
    )
    assert read_source_table(tmp_path / "p.parquet").column_names == ["u", "t", "l"]


WRONG = {
    "empty": ("x.csv", "", "the file is empty", None),
    "blank": ("x.csv", "\n\n", "the file is empty", None),
    "header only": ("x.csv", "a,b\n", "no rows", None),
    "few cells": ("x.csv", 'a,b\n"1\n1",2\n3\n', "1 column where the header has 2: '3'", 4),
    "many cells": ("x.csv", "a,b\n1,2\n1,2,3\n", "3 columns where the header has 2: '1,2,3'", 3),
    "open quote": ("x.csv", 'a,b\n1,"x\n2,y\n', "the row is no valid CSV (unexpected end", 2),
    "open quote, one row": ("x.csv", 'a\nx\n"y', "close each quote", 3),
    "Latin-1": ("x.csv", b"a,b\n1,2\n1,caf\xe9\n", "byte 0xe9 is not valid UTF-8; convert", 3),
    "Latin-1 header": ("x.csv", b"a,caf\xe9\n1,2\n", "byte 0xe9 is not valid UTF-8", 1),
    "UTF-16": ("x.csv", "a,b\n1,2\n".encode("utf-16"), "the file is UTF-16; convert", 1),
    "NUL": ("x.csv", "a,b\n1,2\n1,\0\n", "a NUL byte stands in the line", 3),
    "workbook": ("x.csv", b"PK\x03\x04abc", "save it as CSV", 1),
    "two names": ("x.csv", "a,b,a\n1,2,3\n", "two columns have the name 'a'; rename", 1),
    "no header": ("x.csv", "u1,i2,3.5\nu2,i3,4\n", "is no header: '3.5' is a number", 1),
    "no names": ("x.csv", ",,\n1,2,3\n", "is no header: it names no column", 1),
    "no gzip": ("x.csv", b"\x1f\x8babc", "no complete gzip file", None),
    "JSON empty": ("x.jsonl", "", "the file is empty", None),
    "JSON array": ("x.json", '[{"a": 1},\n{"a": 2}]', "one JSON array; write one object", 1),
    "JSON cut": ("x.jsonl", '{"a": 1}\n{"a": ', "the line is no JSON object", 2),
    "JSON kinds": (
        "x.jsonl",
        '{"a": 1}\n{"a": null}\n{"a": "b"}\n',
        "'a' is a text here and a n",
        3,
    ),
    "JSON name twice": ("x.jsonl", '{"a": 1, "a": 2}\n', "it names a column twice", 1),
    "JSON number": ("x.jsonl", "1\n2\n", "no JSON object ('1')", 1),
    "JSON Latin-1": ("x.jsonl", b'{"a": 1}\n{"b": "\xe9"}\n', "byte 0xe9 is not valid", 2),
    "JSON large": ("x.jsonl", '{"a": 12345678901234567890}\n', "numbers beyond 2^53", None),
    "no Parquet": ("x.parquet", b"PAR1abcPAR1", "no complete Parquet file", None),
    "Parquet name": ("x.csv", b"PAR1abcPAR1", "name that ends in .parquet", 1),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_file_is_refused_with_its_line(tmp_path, case):
    name, data, fragment, line = WRONG[case]
    path = write(tmp_path, name, data)
    with pytest.raises(DataError, match=re.escape(fragment)) as caught:
        read_source_table(path)
    assert (caught.value.path, caught.value.line) == (path, line)
    assert "\n" not in str(caught.value)


def test_wrong_gzip(tmp_path):
    whole = gzip.compress(CSV.encode())
    for data in (whole[:-12], b"plain,text\n1,2\n", whole[:-8] + bytes(8)):
        for name in ("x.csv.gz", "x.jsonl.gz", "x.parquet.gz"):
            path = tmp_path / name
            path.write_bytes(data)
            with pytest.raises(DataError, match="no complete gzip file"):
                read_source_table(path)


def test_missing_file_and_column(tmp_path):
    for name in ("none.csv", "none.jsonl", "none.parquet", "none.csv.gz"):
        with pytest.raises(DataError, match="there is no such file"):
            read_source_table(tmp_path / name)
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="this is a directory"):
            read_source_table(tmp_path / name)
    with pytest.raises(DataError, match="no column 'titel'; did you mean title"):
        read_source_table(write(tmp_path, "x.csv", CSV), columns=["user", "titel"])


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.jsonl"])
def test_an_endless_line_is_not_read_to_its_end(tmp_path, monkeypatch, name):
    monkeypatch.setattr(source_tables, "MAX_LINE", 1000)
    path = write(tmp_path, name, '{"a": 1}\n' + 2000 * "x" + "\nlast")
    with pytest.raises(DataError, match="line 2: the line is longer than"):
        read_source_table(path)


def test_a_quote_that_is_never_closed_stops_early(tmp_path, monkeypatch):
    monkeypatch.setattr(source_tables, "MAX_LINE", 1000)
    path = write(tmp_path, "x.csv", 'a,b\n1,2\n1,"x\n' + 1000 * "1,2\n")
    with pytest.raises(DataError, match="line 3: the row is no valid CSV"):
        read_source_table(path)

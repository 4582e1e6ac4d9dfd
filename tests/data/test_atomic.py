"""The strict reader of atomic files and its inverse."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_lite.data import atomic_reader
from recbole_lite.data.atomic_reader import AtomicTable, read_atomic, read_header
from recbole_lite.data.atomic_writer import write_atomic
from recbole_lite.utils.errors import ConfigError, DataError

relaxed = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

INTER = b"user_id:token\titem_id:token\ttimestamp:float\n"
VECTORS = b"item_id:token\temb:float_seq\n"


@pytest.fixture(params=["one block", "a block per line"])
def any_block(request, monkeypatch):
    """Line numbers and values must not depend on where blocks end."""
    if request.param != "one block":
        monkeypatch.setattr(atomic_reader, "BLOCK_BYTES", 1)


def write(folder: Path, data: str | bytes) -> Path:
    path = folder / "x.inter"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def cells(table: AtomicTable, field: str) -> list:
    """Values of a column with None for missing ones."""
    column = table.frame[field].astype(object)
    return column.where(column.notna(), None).tolist()


# --- what is refused -------------------------------------------------------------------

MALFORMED = {
    "empty file": (b"", "the file is empty", None),
    "header only": (INTER, "has a header and no rows", 1),
    "header only, unended": (INTER[:-1], "has a header and no rows", 1),
    "BOM": (b"\xef\xbb\xbf" + INTER + b"1\t2\t3\n", "byte-order mark (BOM); remove it: sed", 1),
    "UTF-16 with BOM": ("a:token\n1\n".encode("utf-16"), "the file is UTF-16", 1),
    "UTF-16 little-endian": ("a:token\n1\n".encode("utf-16-le"), "iconv -f UTF-16LE", 1),
    "UTF-16 big-endian": ("a:token\n1\n".encode("utf-16-be"), "iconv -f UTF-16BE", 1),
    "UTF-32": ("a:token\n1\n".encode("utf-32"), "the file is UTF-32", 1),
    "gzip": (b"\x1f\x8b\x08\x00\x01\n\x02", "compressed with gzip; unpack it", 1),
    "CRLF in the header": (INTER[:-1] + b"\r\n1\t2\t3\r\n", "CR LF (Windows); convert", 1),
    "CRLF in a row": (INTER + b"1\t2\t3\n1\t2\t3\r\n", "CR LF (Windows); convert", 3),
    "CR at the very end": (INTER + b"1\t2\t3\n1\t2\t3\r", "CR LF (Windows); convert", 3),
    "lone CR": (INTER + b"1\ta\rb\t3\n", "a carriage return (CR) stands inside", 2),
    "CR for line ends": (b"a:token\r1\r2\r", "tr '\\r' '\\n'", 1),
    "NUL": (INTER + b"1\t2\t3\n1\t\x002\t3\n", "a NUL byte stands at byte 52", 3),
    "Latin-1": (
        b"item_id:token\ttitle:token_seq\n1\tok\n2\tCit\xe9 perdue\n",
        "byte 40 (0xe9) is not valid utf-8; convert",
        3,
    ),
    "cut in a character": (b"a:token\nx\n\xf0\x9f\x98", "byte 10 (0xf0) is not valid utf-8", 3),
    "surrogate": (b"a:token\n\xed\xa0\x80\n", "(0xed) is not valid utf-8", 2),
    "no header": (b"196\t242\t881250949\n", "is no header: '196' has no ':type'", 1),
    "empty header": (b"\n1\t2\n", "the header is empty", 1),
    "header of tabs": (b"\t\t\n1\t2\t3\n", "the header is empty", 1),
    "endless header": (b"x" * (1 << 20) + b":token\n1\n", "is no header: longer than", 1),
    "field without a name": (b":token\tb:token\n1\t2\n", "':token', has no name", 1),
    "field without a type": (b"a:token\trating\n1\t2\n", "'rating', has no type", 1),
    "unknown type": (
        b"a:token\tb:int\n1\t2\n",
        "unknown type 'int'; types are token, token_seq, float, float_seq",
        1,
    ),
    "two colons": (b"a:b:token\n1\n", "unknown type 'b:token'", 1),
    "space after the type": (b"a:token \tb:float\n1\t2\n", "unknown type 'token '", 1),
    "space before the name": (b"a:token\t b:float\n1\t2\n", "spaces around its name", 1),
    "quoted header": (b'"a:token"\t"b:float"\n1\t2\n', "unknown type 'token\"'", 1),
    "field twice": (b"a:token\tb:float\ta:float\n1\t2\t3\n", "repeats the name 'a'", 1),
    "tab ends the header": (b"a:token\tb:float\t\n1\t2\t\n", "the header ends with a sep", 1),
    "tab starts the header": (b"\ta:token\tb:float\n\t1\t2\n", "the header starts with a sep", 1),
    "two tabs in the header": (b"a:token\t\tb:float\n1\t\t2\n", "an empty field beside a sep", 1),
    "commas": (b"user_id:token,item_id:token\n1,2\n", "the file looks comma-separated", 1),
    "commas, no types": (b"user_id,item_id\n1,2\n", "the file looks comma-separated", 1),
    "semicolons": (b"user_id:token;item_id:token\n1;2\n", "looks semicolon-separated", 1),
    "spaces": (b"user_id:token item_id:token\n1 2\n", "the file looks space-separated", 1),
    "commas in rows only": (INTER + b"1,2,3\n", "the file looks comma-separated", 2),
    "too few columns": (INTER + b"1\t2\t3\n1\t2\n", "2 columns where the header has 3: '1\\t2'", 3),
    "too many columns": (INTER + b"1\t2\t3\n1\t2\t3\t4\n", "4 columns where the header has 3", 3),
    "trailing tab": (INTER + b"1\t2\t3\t\n", "4 columns where the header has 3", 2),
    "few, then many": (INTER + b"1\t2\n1\t2\t3\t4\n", "2 columns where the header has 3", 2),
    "many, then few": (
        INTER + b"1\t2\t3\n1\t2\t3\t4\n1\t2\n",
        "4 columns where the header has 3",
        3,
    ),
    "empty line": (INTER + b"1\t2\t3\n\n1\t2\t3\n", "the line is empty; remove it", 3),
    "empty line at the end": (INTER + b"1\t2\t3\n\n", "the line is empty; remove it", 3),
    "empty line, one column": (b"a:token\n1\n\n2\n", "the line is empty; remove it", 3),
    "line of spaces": (INTER + b"1\t2\t3\n   \n", "has no value, only '   '; remove it", 3),
    "line of tabs": (INTER + b"\t\t\n", "has no value, only '\\t\\t'; remove it", 2),
    "word": (INTER + b"1\t2\t3\n1\t2\tyesterday\n", "'yesterday', not a finite number; write", 3),
    "word inside a number": (INTER + b"1\t2\t1-2\n", "timestamp:float holds '1-2', not a fin", 2),
    "only a dot": (INTER + b"1\t2\t.\n", "holds '.', not a finite number", 2),
    "nan": (INTER + b"1\t2\tnan\n", "holds 'nan', not a finite number", 2),
    "NaN among numbers": (INTER + b"1\t2\t3\n1\t2\tNaN\n", "'NaN', not a finite number", 3),
    "inf": (INTER + b"1\t2\t3\n1\t2\t-inf\n", "holds '-inf', not a finite number", 3),
    "Infinity": (INTER + b"1\t2\tInfinity\n", "'Infinity', not a finite number", 2),
    "True": (INTER + b"1\t2\tTrue\n", "'True', not a finite number", 2),
    "hexadecimal": (INTER + b"1\t2\t0x10\n", "'0x10', not a finite number", 2),
    "underscore": (INTER + b"1\t2\t1_000\n", "'1_000', not a finite number", 2),
    "thousands": (INTER + b"1\t2\t1,000\n", "'1,000', not a finite number", 2),
    "space before a number": (INTER + b"1\t2\t3\n1\t2\t 1\n", "' 1', not a finite number", 3),
    "space after a number": (INTER + b"1\t2\t1 \n", "'1 ', not a finite number", 2),
    "Arabic digits": (INTER + "1\t2\t\u0661\n".encode(), "'\u0661', not a finite number", 2),
    "too large": (INTER + b"1\t2\t3\n1\t2\t1e999\n", "'1e999', a number too large", 3),
    "too large, negative": (INTER + b"1\t2\t3\n1\t2\t-1e999\n", "'-1e999', a number too large", 3),
    "quoted number": (INTER + b'1\t2\t"3"\n', "'\"3\"', not a finite number", 2),
    "word in a sequence": (VECTORS + b"1\t1 2\n2\t1 x 3\n", "emb:float_seq holds 'x', not a", 3),
    "nan in a sequence": (VECTORS + b"1\t1 nan\n", "emb:float_seq holds 'nan', not a", 2),
    "large in a sequence": (VECTORS + b"1\t1 1e999\n", "holds '1e999', a number too large", 2),
    "two spaces in a sequence": (VECTORS + b"1\t1  2\n", "an empty element", 2),
    "space ends a sequence": (VECTORS + b"1\t1 2\n2\t1 2 \n", "an empty element", 3),
}


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file_is_refused_with_its_line(tmp_path, case):
    data, fragment, line = MALFORMED[case]
    path = write(tmp_path, data)
    with pytest.raises(DataError, match=re.escape(fragment)) as caught:
        read_atomic(path)
    assert (caught.value.path, caught.value.line) == (path, line)
    assert len(str(caught.value)) < 400


ROWS = INTER + b"u1\ti1\t1\n\ti2\t2\nu3\ti1\t3\n"
CHOICES = {
    "required empty": (
        {"required": ("user_id",)},
        "user_id:token is empty; every row needs it",
        3,
    ),
    "required, not loaded": (
        {"columns": ["item_id"], "required": ("user_id",)},
        "user_id:token is empty",
        3,
    ),
    "required absent": (
        {"required": ("user",)},
        "no field 'user'; fields are user_id, item_id, timestamp",
        1,
    ),
    "unique repeats": ({"unique": "item_id"}, "item_id:token 'i1' stands on line 2 already", 4),
    "unique, not loaded": ({"columns": ["user_id"], "unique": "item_id"}, "on line 2 already", 4),
    "unique absent": ({"unique": "id"}, "there is no field 'id'", 1),
    "column absent": (
        {"columns": {"rating"}},
        "no field 'rating'; fields are user_id, item_id, timestamp",
        1,
    ),
}


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize("case", CHOICES)
def test_what_the_caller_demands_is_checked(tmp_path, case):
    options, fragment, line = CHOICES[case]
    with pytest.raises(DataError, match=re.escape(fragment)) as caught:
        read_atomic(write(tmp_path, ROWS), **options)
    assert caught.value.line == line


def test_a_vector_cannot_be_unique(tmp_path):
    with pytest.raises(DataError, match="emb:float_seq cannot identify rows"):
        read_atomic(write(tmp_path, VECTORS + b"1\t1 2\n"), unique="emb")


def test_unique_numbers_and_texts(tmp_path):
    path = write(tmp_path, "a:float\tb:token_seq\n1\tx\n2\t\n1.0\t\n4\tx\n")
    with pytest.raises(DataError, match=r"line 4: a:float '1.0' stands on line 2") as caught:
        read_atomic(path, unique="a")
    assert caught.value.line == 4
    with pytest.raises(DataError, match=r"line 5: b:token_seq 'x' stands on line 2"):
        read_atomic(path, unique="b")


def test_file_missing_or_directory(tmp_path):
    with pytest.raises(DataError, match="there is no such file; check the path"):
        read_atomic(tmp_path / "none.inter")
    for read in (read_atomic, read_header):
        with pytest.raises(DataError, match="this is a directory"):
            read(tmp_path)


def test_long_values_are_cut_in_messages(tmp_path):
    with pytest.raises(DataError) as caught:
        read_atomic(write(tmp_path, INTER + b"1\t2\t" + b"long" * 10_000 + b"\n"))
    assert "longl...', not a finite number" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "options, fragment",
    [
        ({"separator": "\t\t"}, "field_separator is"),
        ({"separator": "e"}, "field_separator is"),
        ({"separator": "\n"}, "field_separator is"),
        ({"seq_separator": ""}, "seq_separator is"),
        ({"seq_separator": "."}, "seq_separator is"),
        ({"separator": ",", "seq_separator": ", "}, "holds the field_separator"),
        ({"encoding": "utf-16"}, "encoding is 'utf-16'"),
        ({"encoding": "utf-8-sig"}, "encoding is 'utf-8-sig'"),
        ({"encoding": "klingon"}, "encoding is 'klingon'"),
    ],
)
def test_dialects_that_cannot_be_checked_are_refused(tmp_path, options, fragment):
    with pytest.raises(ConfigError, match=re.escape(fragment)):
        read_atomic(write(tmp_path, ROWS), **options)


# --- what is read ----------------------------------------------------------------------


@pytest.mark.usefixtures("any_block")
def test_values_of_every_type(tmp_path):
    path = write(
        tmp_path,
        "item_id:token\ttitle:token_seq\tprice:float\tyear:float\temb:float_seq\n"
        "007\tLive and Let Die\t3.5\t1973\t1 -2.5e-1\n"
        "7\t\t\t1995\t\n"
        "\tNA\t.5\t-1\t3\n"
        "007\t a  b \t1e3\t9223372036854775807\t+1.\n",
    )
    table = read_atomic(path)
    assert table.path == path
    assert table.types == read_header(path)
    assert list(table.types.items()) == [
        ("item_id", "token"),
        ("title", "token_seq"),
        ("price", "float"),
        ("year", "float"),
        ("emb", "float_seq"),
    ]
    frame = table.frame
    assert list(frame.columns) == list(table.types)
    assert frame.index.equals(pd.RangeIndex(4))
    assert isinstance(frame.index, pd.RangeIndex)
    assert isinstance(frame["item_id"].dtype, pd.CategoricalDtype)
    assert cells(table, "item_id") == ["007", "7", None, "007"]
    assert frame["item_id"].cat.categories.tolist() == ["007", "7"]
    assert frame["title"].tolist() == ["Live and Let Die", "", "NA", " a  b "]
    assert frame["price"].dtype == np.float64
    assert cells(table, "price") == [3.5, None, 0.5, 1000.0]
    assert frame["year"].dtype == np.int64
    assert frame["year"].tolist() == [1973, 1995, -1, 2**63 - 1]
    assert [vector.tolist() for vector in frame["emb"]] == [[1.0, -0.25], [], [3.0], [1.0]]
    assert all(vector.dtype == np.float64 for vector in frame["emb"])


@pytest.mark.usefixtures("any_block")
def test_tokens_stay_strings(tmp_path):
    """Since 3.1, pandas' own category turns tokens that look like integers into integers."""
    table = read_atomic(write(tmp_path, "a:token\tb:token\n001\t1\n1\t2\n+1\t1\n1\t1\n"))
    assert cells(table, "a") == ["001", "1", "+1", "1"]
    assert cells(table, "b") == ["1", "2", "1", "1"]
    assert all(type(token) is str for token in table.frame["b"].cat.categories)


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize(
    "tokens",
    [
        ["NA", "null", "nan", "None", "N/A", "", "inf"],
        ["#1", "# a comment?", "'", '"', '""', '"a', 'b"', "\\", "\\n", "a\\"],
        ["\ufeff", "\ufeffx", '\ufeff"x"'],
        ["a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\u2028b", "a\u2029b", "\x1a"],
        ["True", "False", "1e5", "0x10", "-", " x", "x ", "1,5", "1 2"],
        ["😀", "e\u0301", "é", "中文", "\U0010ffff", "\u200b"],
    ],
)
def test_no_token_is_special(tmp_path, tokens):
    text = "a:token\tid:token\tb:token_seq\n"
    text += "".join(f"{token}\t{row}\t{token}\n" for row, token in enumerate(tokens))
    table = read_atomic(write(tmp_path, text))
    assert cells(table, "a") == [token or None for token in tokens]
    assert table.frame["b"].tolist() == tokens


def test_a_stray_quote_merges_no_rows(tmp_path):
    """DESIGN 3.7: RecBole reads .item files with quoting on."""
    path = write(
        tmp_path,
        "item_id:token\ttitle:token_seq\n"
        '1\t"Crocodile" Dundee\n2\t"Unclosed\n3\tSeven\n4\t12" LP\n',
    )
    table = read_atomic(path, required=("item_id",), unique="item_id")
    assert cells(table, "item_id") == ["1", "2", "3", "4"]
    assert table.frame["title"].tolist() == ['"Crocodile" Dundee', '"Unclosed', "Seven", '12" LP']


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize(
    "numbers, kind, values",
    [
        (["1693526400123456789", "1693526400123456788"], "i", None),
        (["-9223372036854775808", "007", "+5", "-0"], "i", [-(2**63), 7, 5, 0]),
        (["1", "9223372036854775808"], "f", [1.0, 2.0**63]),
        (["1", "99999999999999999999999"], "f", [1.0, 1e23]),
        (["9007199254740993", "0.5"], "f", [9007199254740992.0, 0.5]),
        (["1", "", "3"], "f", [1.0, math.nan, 3.0]),
        (["", ""], "f", [math.nan, math.nan]),
        (["", "99999999999999999999"], "f", [math.nan, 1e20]),
        (["1.0", "2"], "f", [1.0, 2.0]),
        (
            ["1e-400", "5e-324", "1.7976931348623157e308"],
            "f",
            [0.0, 5e-324, 1.7976931348623157e308],
        ),
        (["1", "1e5"], "f", [1.0, 1e5]),
    ],
)
def test_numbers(tmp_path, numbers, kind, values):
    text = "a:token\tx:float\n" + "".join(f"t\t{number}\n" for number in numbers)
    column = read_atomic(write(tmp_path, text)).frame["x"]
    assert column.dtype == {"i": np.int64, "f": np.float64}[kind]
    expected = [int(number) for number in numbers] if values is None else values
    np.testing.assert_array_equal(column.to_numpy(), np.array(expected, dtype=column.dtype))


def test_columns_are_chosen_in_file_order(tmp_path):
    path = write(tmp_path, INTER + b"u\ti\tlater\n")
    table = read_atomic(path, columns=["item_id", "user_id"])
    assert list(table.types) == list(table.frame.columns) == ["user_id", "item_id"]
    table = read_atomic(path, columns=[])
    assert table.types == {}
    assert table.frame.shape == (1, 0)
    with pytest.raises(DataError, match="line 3: 2 columns"):
        read_atomic(write(tmp_path, INTER + b"u\ti\t1\nu\ti\n"), columns=["user_id"])


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_last_line_may_lack_its_end(tmp_path, end):
    assert cells(read_atomic(write(tmp_path, f"a:token\nx\ny{end}")), "a") == ["x", "y"]


@pytest.mark.usefixtures("any_block")
def test_other_dialects(tmp_path):
    text = "a:token|b:token_seq|c:float_seq\ncaf\xe9|x\x85y|1, 2\n|\xa0|\nz||3\n"
    path = write(tmp_path, text.encode("latin-1"))
    table = read_atomic(path, separator="|", seq_separator=", ", encoding="latin-1")
    assert cells(table, "a") == ["café", None, "z"]
    assert table.frame["b"].tolist() == ["x\x85y", "\xa0", ""]
    assert [vector.tolist() for vector in table.frame["c"]] == [[1.0, 2.0], [], [3.0]]
    with pytest.raises(DataError, match="not valid utf-8"):
        read_atomic(path, separator="|", seq_separator=", ")


@pytest.mark.usefixtures("any_block")
def test_a_cell_longer_than_a_block(tmp_path):
    long = 'a "b" ' * 200_000
    table = read_atomic(write(tmp_path, f"a:token\tb:token_seq\n1\t{long}\n2\tc\n"))
    assert table.frame["b"].tolist() == [long, "c"]


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_reader, "BLOCK_BYTES", 100)
    monkeypatch.setattr(atomic_reader, "LINE_BYTES", 1000)
    path = write(tmp_path, b"a:token\n" + 99 * b"x\n" + 2000 * b"y" + b"\n")
    with pytest.raises(DataError, match="line 101: the line is longer than"):
        read_atomic(path)


# --- what is written -------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0"), max_size=20)
odd = st.sampled_from(
    [
        "NA",
        "nan",
        "1e5",
        "001",
        "1",
        "#x",
        "-",
        " ",
        "  x ",
        '"',
        '"a',
        "\u2028",
        "\x85",
        "\x0c",
        "\ufeff",
        "😀",
        "''",
        "\\",
        "None",
        "True",
        "x" * 5000,
        'é"' * 700,
    ]
)
cell = st.one_of(text, odd)
finite = st.floats(allow_nan=False, allow_infinity=False)


@relaxed
@given(
    rows=st.lists(
        st.tuples(cell, cell, cell, st.lists(finite, max_size=4)), min_size=1, max_size=9
    ),
    block=st.sampled_from([1, 40, 1 << 24]),
)
def test_tables_survive_writing_and_reading(tmp_path, monkeypatch, rows, block):
    first, second, texts, vectors = map(list, zip(*rows, strict=True))
    path = tmp_path / "x.item"
    types = {"a b": "token", "id": "token", "c": "token", "t": "token_seq", "v": "float_seq"}
    frame = pd.DataFrame(
        {
            "a b": pd.Series(first, dtype=object),
            "id": range(len(rows)),
            "c": pd.Categorical(second, categories=list(dict.fromkeys(second))),
            "t": pd.Series(texts, dtype=str),
            "v": pd.Series([np.array(vector) for vector in vectors], dtype=object),
        }
    )
    write_atomic(path, types, frame)
    monkeypatch.setattr(atomic_reader, "BLOCK_BYTES", block)
    table = read_atomic(path, required=["id"], unique="id")
    assert table.types == types
    assert cells(table, "a b") == [token or None for token in first]
    assert cells(table, "id") == [str(row) for row in range(len(rows))]
    assert cells(table, "c") == [token or None for token in second]
    assert table.frame["t"].tolist() == texts
    assert [list(map(repr, vector.tolist())) for vector in table.frame["v"]] == [
        list(map(repr, vector)) for vector in vectors
    ]
    assert files(tmp_path) == [path]


@relaxed
@given(numbers=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_survive(tmp_path, numbers):
    write_atomic(tmp_path / "x", {"n": "float"}, pd.DataFrame({"n": numbers}))
    column = read_atomic(tmp_path / "x").frame["n"]
    assert column.dtype == np.int64
    assert column.tolist() == numbers


@relaxed
@given(numbers=st.lists(st.none() | finite, min_size=1))
def test_floats_survive(tmp_path, numbers):
    frame = pd.DataFrame({"id": "x", "n": np.array(numbers, dtype=np.float64)})
    write_atomic(tmp_path / "x", {"n": "float", "id": "token"}, frame)
    column = read_atomic(tmp_path / "x").frame["n"]
    assert column.dtype == np.float64
    assert column.to_numpy().tobytes() == frame["n"].to_numpy().tobytes()  # -0.0 too


@relaxed
@given(number=st.from_regex(r"[+-]?([0-9]{1,25}\.?[0-9]{0,25}|\.[0-9]{1,25})", fullmatch=True))
@pytest.mark.parametrize("exponent", ["", "e-320", "E+7", "e22", "e-5"])
def test_decimals_are_rounded_correctly(tmp_path, number, exponent):
    path = write(tmp_path, f"x:float\n{number}{exponent}\n0.5\n")
    assert read_atomic(path).frame["x"].tolist() == [float(number + exponent), 0.5]


NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@relaxed
@given(cell=st.text("0123.eE+-_ xnaif", min_size=1, max_size=6), neighbour=st.sampled_from("7x"))
@pytest.mark.parametrize("types", ["x:float\ty:token", "y:token\tx:float"])
def test_exactly_decimal_numbers_are_numbers(tmp_path, cell, neighbour, types):
    row = (cell, neighbour) if types.startswith("x") else (neighbour, cell)
    path = write(tmp_path, f"{types}\n" + "\t".join(row) + "\n")
    if NUMBER.fullmatch(cell) and math.isfinite(float(cell)):
        assert read_atomic(path).frame["x"].tolist() == [float(cell)]
    else:
        with pytest.raises(DataError):
            read_atomic(path)


UNWRITABLE = {
    "tab": ({"a": "token"}, ["x", "a\tb"], "a holds '\\t' in 'a\\tb'", 3),
    "line feed": ({"a": "token_seq"}, ["x", "a\nb"], "a holds '\\n' in 'a\\nb'", 3),
    "carriage return": ({"a": "token"}, ["a\rb"], "a holds '\\r'", 2),
    "NUL": ({"a": "token"}, ["a\0b"], "a holds '\\x00'", 2),
    "surrogate": ({"a": "token"}, ["\ud800"], "a holds '\\ud800'", 2),
    "blank": ({"a": "token"}, ["x", " "], "the row has no value", 3),
    "missing alone": ({"a": "token"}, ["x", None], "the row has no value", 3),
    "float token": ({"a": "token"}, [1.0, 2.0], "a:token holds 1.0; it takes str or int", 2),
    "bool token": ({"a": "token"}, ["x", True], "a:token holds True; it takes", 3),
    "list of words": ({"a": "token_seq"}, [["x", "y"]], "it takes one str, already joined", 2),
    "inf": ({"a": "float"}, [1.0, math.inf], "a:float holds inf; it takes finite numbers", 3),
    "digits": ({"a": "float"}, ["1"], "a:float holds '1'; it takes finite numbers", 2),
    "huge int": ({"a": "float"}, [10**400], "it takes finite numbers", 2),
    "nan in a vector": ({"a": "float_seq"}, [np.array([1.0, np.nan])], "arrays of finite", 2),
    "matrix": ({"a": "float_seq"}, [np.ones((2, 2))], "one-dimensional arrays of finite", 2),
    "no rows": ({"a": "token"}, [], "there are no rows to write", None),
    "unknown type": ({"a": "int"}, [1], "unknown type 'int'", 1),
    "colon in a name": ({"a:b": "token"}, ["x"], "unknown type 'b:token'", 1),
    "tab in a name": ({"a\tb": "token"}, ["x"], "a name of a field holds '\\t'", 1),
    "BOM in a name": ({"\ufeffa": "token"}, ["x"], "byte-order mark", 1),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_would_not_read_back_is_not_written(tmp_path, case):
    types, values, fragment, line = UNWRITABLE[case]
    path = tmp_path / "x.inter"
    path.write_text("old")
    frame = pd.DataFrame({next(iter(types)): pd.Series(values, dtype=object)})
    with pytest.raises(DataError, match=re.escape(fragment)) as caught:
        write_atomic(path, types, frame)
    assert (caught.value.path, caught.value.line) == (path, line)
    assert path.read_text() == "old"
    assert files(tmp_path) == [path]


def test_lines_are_counted_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_lite.data.atomic_writer.CHUNK_ROWS", 2)
    frame = pd.DataFrame({"a": ["x", "y", "z", "a\tb"]})
    with pytest.raises(DataError, match="line 5: a holds"):
        write_atomic(tmp_path / "x", {"a": "token"}, frame)
    write_atomic(tmp_path / "x", {"a": "token"}, frame.iloc[:3])
    assert (tmp_path / "x").read_bytes() == b"a:token\nx\ny\nz\n"


def test_frame_and_types_must_agree(tmp_path):
    frame = pd.DataFrame({"a": ["x"], "b": ["y"]})
    with pytest.raises(DataError, match="a type for every column"):
        write_atomic(tmp_path / "x", {"a": "token"}, frame)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_atomic(tmp_path / "folder", {"a": "token", "b": "token"}, frame)


def test_missing_values_become_empty_cells(tmp_path):
    frame = pd.DataFrame(
        {
            "n": pd.Series([1, None], dtype="Int64"),
            "a": pd.Series(["x", pd.NA], dtype="category"),
            "t": ["", None],
            "v": [[1, 2], None],
            "id": [1, 2],
        }
    )
    types = {"n": "float", "a": "token", "t": "token_seq", "v": "float_seq", "id": "token"}
    write_atomic(tmp_path / "x", types, frame)
    rows = (tmp_path / "x").read_text().splitlines()[1:]
    assert rows == ["1\tx\t\t1 2\t1", "\t\t\t\t2"]


# --- real files ------------------------------------------------------------------------


def ml_100k(ending: str) -> Path:
    recbole = importlib.util.find_spec("recbole")
    return Path(recbole.origin).parent / "dataset_example" / "ml-100k" / f"ml-100k.{ending}"


@pytest.mark.integration
def test_ml_100k_interactions():
    table = read_atomic(ml_100k("inter"), required=("user_id", "item_id"))
    assert len(table.frame) == 100_000
    assert table.frame.dtypes.astype(str).tolist() == ["category", "category", "int64", "int64"]
    assert table.frame.iloc[0].tolist() == ["196", "242", 3, 881250949]
    assert table.frame.iloc[1].tolist() == ["186", "302", 3, 891717742]
    assert table.frame["user_id"].nunique() == 943
    assert table.frame["item_id"].nunique() == 1682


@pytest.mark.integration
def test_ml_100k_items(tmp_path):
    path = ml_100k("item")
    table = read_atomic(path, required=("item_id",), unique="item_id")
    assert len(table.frame) == 1682
    assert table.frame.iloc[0].tolist() == ["1", "Toy Story", "1995", "Animation Children's Comedy"]
    assert table.frame.iloc[1].tolist() == ["2", "GoldenEye", "1995", "Action Adventure Thriller"]
    write_atomic(tmp_path / "copy.item", table.types, table.frame)
    assert (tmp_path / "copy.item").read_bytes().rstrip(b"\n") == path.read_bytes().rstrip(b"\n")

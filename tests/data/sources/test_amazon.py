import gzip

import pandas as pd
import pytest

from recbole_lite.data.sources.amazon import Amazon, clean_text
from recbole_lite.data.sources.prepare_dataset import prepare
from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.data.sources.strict_model import validate
from recbole_lite.utils.errors import ConfigError, DataError

RATINGS_2018 = (
    "0005019281,A1,5.0,1393459200\n"
    "0005019281,A2,1.0,1393459200\n"
    "B00X,A1,4.0,1400000000\n"
    "B00X,A2,3.0,1400000000\n"
    "B00X,A1,2.0,1300000000\n"  # A1 and B00X again, earlier: this one stays
    "B00Y,A1,5.0,1400000001\n"
    "B00Z,A3,5.0,1400000002\n"
)
METADATA_2018 = [
    {"asin": "B00Y", "title": "Not in the core"},
    {"asin": "B00X", "title": "var aPageStart = (new Date()).getTime();"},
    {
        "asin": "B00X",
        "title": "Ben &amp;\tJerry&#39;s\n<span class='x'>Race</span>",
        "brand": "LEGO\u00ae",
        "category": ["Toys &amp; Games", "</span>", "Puzzles"],
        "description": ["A <b>race</b>.", "", "<script>alert('x')</script>For two."],
    },
    {"asin": "B00X", "title": "A second record"},
    {"asin": "0005019281", "title": "Zeros", "description": "One &quot;string&quot;."},
]
RATINGS_2023 = (
    "user_id,parent_asin,rating,timestamp\n"
    "AE1,B1,5.0,1612044451196\n"
    "AE1,B2,4.0,1612044452000\n"
    "AE2,B1,3.0,1612044451197\n"
    "AE2,B2,2.0,1612044451198\n"
)
METADATA_2023 = [
    {
        "main_category": "Video Games",
        "title": "Dash 8-300",
        "store": "Aerosoft",
        "categories": ["Video Games", "PC", "Games"],
        "description": ["Flies.", "Far."],
        "parent_asin": "B1",
    },
    {"title": None, "store": "Nobody", "parent_asin": "B2"},
]


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "amazon"
    folder.mkdir()
    return folder


def options(**changes):
    return {"ratings": "Toys.csv", "metadata": "meta_Toys.json.gz", **changes}


def meta_of(files, converter):
    sources = [{"file": file, "url": f"http://127.0.0.1:9/{file}"} for file in files]
    return {
        "sources": sources,
        "converter": {"name": "amazon", "options": converter},
        "filters": {"duplicates": "first", "k_core": {"users": 2, "items": 2}},
        "expected": {},
        "text_fields": ["title"],
    }


def test_2018(sources, json_gz, write_meta, data_path):
    (sources / "Toys.csv").write_text(RATINGS_2018)
    (sources / "meta_Toys.json.gz").write_bytes(json_gz(METADATA_2018))
    write_meta(**meta_of(["Toys.csv", "meta_Toys.json.gz"], options()))
    made = prepare("tiny", data_path, sources)
    assert (made.folder / "tiny.inter").read_text() == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "A1\t0005019281\t5.0\t1393459200\n"
        "A2\t0005019281\t1.0\t1393459200\n"
        "A2\tB00X\t3.0\t1400000000\n"
        "A1\tB00X\t2.0\t1300000000\n"
    )
    assert (made.folder / "tiny.item").read_text(encoding="utf-8") == (
        "item_id:token\ttitle:token_seq\tbrand:token_seq\tcategories:token_seq"
        "\tdescription:token_seq\n"
        "B00X\tBen & Jerry's Race\tLEGO®\tToys & Games, Puzzles\tA race . For two.\n"
        '0005019281\tZeros\t\t\tOne "string".\n'
    )


def test_2023(sources, json_gz, write_meta, data_path):
    (sources / "Video_Games.csv.gz").write_bytes(gzip.compress(RATINGS_2023.encode()))
    (sources / "meta_Video_Games.jsonl.gz").write_bytes(json_gz(METADATA_2023))
    converter = {
        "ratings": "Video_Games.csv.gz",
        "header": ["user_id", "parent_asin", "rating", "timestamp"],
        "columns": ["user_id", "item_id", "rating", "timestamp"],
        "metadata": "meta_Video_Games.jsonl.gz",
        "item_key": "parent_asin",
        "fields": {
            "title": "title",
            "store": "store",
            "categories": "categories",
            "description": "description",
        },
    }
    files = ["Video_Games.csv.gz", "meta_Video_Games.jsonl.gz"]
    write_meta(**meta_of(files, converter))
    folder = prepare("tiny", data_path, sources / "Video_Games.csv.gz").folder
    assert (folder / "tiny.inter").read_text() == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "AE1\tB1\t5.0\t1612044451196\n"
        "AE1\tB2\t4.0\t1612044452000\n"
        "AE2\tB1\t3.0\t1612044451197\n"
        "AE2\tB2\t2.0\t1612044451198\n"
    )
    assert (folder / "tiny.item").read_text() == (
        "item_id:token\ttitle:token_seq\tstore:token_seq\tcategories:token_seq"
        "\tdescription:token_seq\n"
        "B1\tDash 8-300\tAerosoft\tVideo Games, PC, Games\tFlies. Far.\n"
    )


@pytest.mark.parametrize(
    "value, expected",
    [
        ("plain", "plain"),
        ("  a\t b\r\nc\u2028d ", "a b c d"),
        ("&lt;i&gt;A&lt;/i&gt; &amp;amp; B", "A & B"),
        ("1 < 2 & 3 > 2, <3", "1 < 2 & 3 > 2, <3"),
        ("a<!-- no -->b<style>x{}</style>c", "a b c"),
        ("a<script>unclosed", "a"),
        ("half \ud83d pair, bell \x07", "half pair, bell"),
        (None, ""),
        (7, ""),
        ([], ""),
        (["a", None, " ", "b"], "a b"),
    ],
)
def test_clean_text(value, expected):
    assert clean_text(value) == expected


def test_metadata_of_another_category(sources, json_gz):
    (sources / "meta_Toys.json.gz").write_bytes(json_gz(METADATA_2018))
    converter = validate(Amazon, options())
    with pytest.raises(DataError, match=r"meta_Toys.*none of the 2 items.*'asin'.*same category"):
        converter.items(SourceFiles([sources]), pd.Index(["A1", "A2"]))


@pytest.mark.parametrize(
    "content, message",
    [
        (gzip.compress(b'{"asin": "B1", "title": "x"}\n' * 999)[:-9], "damaged or incomplete"),
        (b"{'asin': 'B1', 'title': 'as in 2014'}\n", "line 1: not JSON"),
        (b'\n{"asin": "B1", "title": "x"}\n["B1"]\n', "line 3: a JSON object expected"),
    ],
)
def test_damaged_metadata(sources, content, message):
    (sources / "meta_Toys.json.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        validate(Amazon, options()).items(SourceFiles([sources]), pd.Index(["B1"]))


def test_wrong_header(sources):
    (sources / "Toys.csv").write_text(RATINGS_2018)
    with pytest.raises(DataError, match=r"Toys\.csv, line 1: header 'user_id,item_id' expected"):
        validate(Amazon, options(header=("user_id", "item_id"))).interactions(
            SourceFiles([sources])
        )


def test_wrong_options():
    with pytest.raises(ConfigError, match="columns"):
        validate(Amazon, options(columns=("item_id", "user_id")))
    with pytest.raises(ConfigError, match="title_field: 'title' is not among"):
        validate(Amazon, options(fields={"name": "title"}))

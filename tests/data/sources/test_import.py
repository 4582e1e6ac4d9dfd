"""`recbole-lite data import`: files of other programs as data sets."""

import gzip
import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_lite import LiteConfig
from recbole_lite.cli.main import main
from recbole_lite.data.atomic_reader import read_atomic
from recbole_lite.data.sources.import_tables import ImportOptions, import_tables, write_rows
from recbole_lite.utils.errors import DataError

RATINGS = """userId,movieId,rating,timestamp
1,10,4.0,978300760
1,20,3.5,978300761
1,30,5,978300762
2,10,1,978300763
2,30,2,978300764
2,20,2,978300765
"""
MOVIES = """movieId,title,genres,year
10,"Heat, The (1995)",Action|Crime,1995
20,Toy Story,Comedy,1995
30,GoldenEye,Action|Thriller,
40,Unseen,Drama,2000
"""


@pytest.fixture
def files():
    Path("ratings.csv").write_text(RATINGS)
    Path("movies.csv").write_text(MOVIES)


def run(*words):
    return main(["data", "import", "--name=shop", "--data_path=data", *map(str, words)])


def written(ending, name="shop"):
    return Path("data", name, f"{name}.{ending}").read_text()


def lines(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def refused(capsys, *words):
    """The one line that is printed of an error."""
    assert run(*words) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1, printed
    return printed[0]


def test_csv_to_a_data_set(files, capsys):
    assert run("--interactions=ratings.csv", "--items=movies.csv") == 0
    assert written("inter") == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t10\t4\t978300760\n1\t20\t3.5\t978300761\n1\t30\t5\t978300762\n"
        "2\t10\t1\t978300763\n2\t30\t2\t978300764\n2\t20\t2\t978300765\n"
    )
    assert written("item") == (
        "item_id:token\ttitle:token_seq\tgenres:token_seq\tyear:token\n"
        "10\tHeat, The (1995)\tAction Crime\t1995\n20\tToy Story\tComedy\t1995\n"
        "30\tGoldenEye\tAction Thriller\t\n40\tUnseen\tDrama\t2000\n"
    )
    printed = lines(capsys.readouterr().out)
    for line in (
        "userId user user_id:token 1, 2",
        "timestamp time timestamp:float 978300760, 978300761",
        "title text title:token_seq Heat, The (1995), Toy Story",
        "year column year:token 1995, 2000",
        ".inter: times: unix seconds",
        "items 3 1 more rows of .item have no interaction",
        "result: sound",
        "recbole-lite run --dataset=shop --data_path=data --model=ItemLM --item_init=text "
        "--item_llm=minilm '--item_text_fields=[title, genres]'",
        "recbole-lite run --dataset=shop --data_path=data --model=LiteLLM4Rec "
        "--rec_llm_init=scratch --item_llm=minilm '--item_text_fields=[title, genres]'",
    ):
        assert line in printed
    receipt = json.loads(Path("data/shop/prepared.json").read_text())
    assert set(receipt["sources"]) == {"ratings.csv", "movies.csv"}


def test_all_formats_give_one_data_set(files):
    run("--interactions=ratings.csv", "--items=movies.csv")
    expected = written("inter"), written("item")
    ratings = pd.read_csv("ratings.csv")
    ratings.to_csv("ratings.tsv", sep="\t", index=False)
    ratings.to_parquet("ratings.parquet")
    Path("ratings.csv.gz").write_bytes(gzip.compress(RATINGS.encode()))
    movies = pd.read_csv("movies.csv", dtype=str).where(lambda frame: frame.notna(), None)
    movies["genres"] = [cell.split("|") for cell in movies["genres"]]
    pq.write_table(pa.Table.from_pandas(movies), "movies.parquet")
    rows = pq.read_table("movies.parquet").to_pylist()
    Path("movies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for inter, item in (
        ("ratings.tsv", "movies.parquet"),
        ("ratings.parquet", "movies.jsonl"),
        ("ratings.csv.gz", "movies.csv"),
    ):
        assert run(f"--interactions={inter}", f"--items={item}", "--overwrite") == 0
        assert (written("inter"), written("item")) == expected, (inter, item)


def test_existing_data_are_kept_unless_told(files, capsys):
    run("--interactions=ratings.csv", "--items=movies.csv")
    Path("data/shop/mine.txt").write_text("mine")
    capsys.readouterr()
    assert "shop.inter already exists; nothing was changed" in refused(
        capsys, "--interactions=ratings.csv"
    )
    before = written("inter")
    assert run("--interactions=movies.csv", "--user=title", "--time=none", "--dry_run") == 0
    assert written("inter") == before
    assert run("--interactions=ratings.csv", "--overwrite") == 0
    kept = sorted(path.name for path in Path("data/shop").iterdir())
    assert kept == ["mine.txt", "prepared.json", "shop.inter"]


def test_a_dry_run_writes_nothing(files, capsys):
    assert run("--interactions=ratings.csv", "--dry_run") == 0
    assert "userId user user_id:token 1, 2" in lines(capsys.readouterr().out)
    assert not Path("data").exists()


@pytest.mark.parametrize(
    "header, flags, expected",
    [
        ("visitorid,product_id,event_time", [], "visitorid product_id event_time"),
        ("reviewerID,asin,unixReviewTime", [], "reviewerID asin unixReviewTime"),
        ("user,item,ts", [], "user item ts"),
        ("a,b,c", ["--user=b", "--item=a", "--time=c"], "b a c"),
        ("user_id,item_id,when", ["--time=when"], "user_id item_id when"),
        ("user_id,session_id,item_id,date", ["--user=session_id"], "session_id item_id date"),
    ],
)
def test_columns_are_found(header, flags, expected, capsys):
    row = ",".join("1" for _ in header.split(","))
    Path("r.csv").write_text(f"{header}\n{row}\n{row}\n")
    run("--interactions=r.csv", "--dry_run", *flags)
    roles = {}
    for line in lines(capsys.readouterr().out):
        column, role, *_ = [*line.split(), "", ""]
        roles[role] = column
    assert [roles[role] for role in ("user", "item", "time")] == expected.split()


@pytest.mark.parametrize(
    "content, flags, message",
    [
        ("user_id,session_id,item_id,time\n1,2,3,4\n", [],
         "2 columns could be the user: user_id, session_id; say which with --user=user_id"),
        ("user_id,item_id,date,timestamp\n1,2,2020-01-01,4\n", [],
         "2 columns could be the time: date, timestamp; say which with --time=date"),
        ("who,item_id,time\n1,2,3\n", [],
         "no column looks like the user; columns are who, item_id, time: say which with "
         "--user=COLUMN"),
        ("user_id,item_id,place\n1,2,x\n", [],
         "no column looks like the time; columns are user_id, item_id, place: say which with "
         "--time=COLUMN, or --time=none if there are no times"),
        ("user_id,item_id,time\n1,2,3\n", ["--user=usr_id"],
         "there is no column 'usr_id' (--user); did you mean user_id?"),
        ("user_id,item_id,time\n1,2,3\n1,,4\n", [], "r.csv, line 3: item_id: the id is empty"),
        ("user_id,item_id,time\n1,2,1/2/2020\n", [], "r.csv, line 2: time: '1/2/2020' can be"),
        ('user_id,item_id,note,time\n1,2,"a\nb",3\n1,2,,\n', [],
         "r.csv, line 4: time: the time is empty"),
        ("user_id,item_id,time\n[PAD],2,3\n", [], "line 2: user_id: '[PAD]' cannot be an id"),
        ("user_id,item_id,time,rating\n1,2,3,4\n1,2,3,good\n", ["--rating=rating"],
         "line 3: rating: 'good' is no number; write it like 4.5"),
        ("user_id,item_id,time\n1,2,3\n", ["--min_rating=2"], "--min_rating needs ratings"),
        ("user_id,item_id,time\n1,2,3\n", ["--session_gap=half"],
         "--session_gap must be a time such as 30m"),
        ("user_id,item_id,time\n1,2,3\n", ["--k_core=5"], "--k_core=5: no interaction is left"),
        ("user_id,item_id,time\n1,2,3\n", ["--text=title"], "--text needs --items"),
        ("user_id,item_id,time\n1,2,3\n", ["--user_id=u"], "--user_id needs --users"),
        ("user_id,item_id,time\n1,2,3\n", ["--keep=price"], "there is no column 'price' (--keep)"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(content, flags, message, capsys):
    Path("r.csv").write_text(content)
    assert message in refused(capsys, "--interactions=r.csv", *flags)
    assert not Path("data/shop").exists()


@pytest.mark.parametrize(
    "content, flags, message",
    [
        ("movieId,title\n10,A\n20,B\n10,C\n", [],
         "m.csv, line 4: movieId '10' stands in line 2 already; remove one of the two, or take "
         "the first of each with --deduplicate_items=first"),
        ("movieId,title\n77,A\n", [],
         "none of the 3 items of the interactions (the first: '10') stands in column 'movieId'"),
        ("movieId,title\n10,\n", ["--text=title"], "column 'title' has no text (empty)"),
        ("movieId,title\n10,A\n", ["--text=name"], "there is no column 'name' (--text)"),
        ("sku,asin,title\n10,A,B\n", [], "2 columns could be the item: sku, asin; say which with "
         "--item_id=sku"),
    ],
)  # fmt: skip
def test_items_that_do_not_fit(content, flags, message, files, capsys):
    Path("m.csv").write_text(content)
    words = ("--interactions=ratings.csv", "--items=m.csv", *flags)
    assert message in refused(capsys, *words)


def test_texts_of_all_kinds(files, capsys):
    table = {
        "item_id": [10, 20, 30, 10],
        "title": ["a\tb\r\nc", "x", None, "again"],
        "categories": [[["Toys & Games", "Puzzles"], ["Kids"]], [["Books"]], None, None],
        "vector": [[0.5, 1.0], [2.0, 3.0], None, None],
        "price": [1.5, None, 3.0, None],
        "rating": [4.25, 4.5, 3.0, 1.0],
        "image": ["https://a/b.jpg", "https://c/d.jpg", "", ""],
        "nothing": ["", None, " ", ""],
        "odd": [{"a": 1}, None, None, None],
        "wide name!": ["p", "q", "r", "s"],
    }
    pq.write_table(pa.table(table), "items.parquet")
    words = ("--interactions=ratings.csv", "--items=items.parquet", "--deduplicate_items=first")
    assert run(*words) == 0
    assert written("item") == (
        "item_id:token\ttitle:token_seq\tcategories:token_seq\tvector:float_seq\tprice:float\t"
        "item_rating:float\timage:token\twide_name:token_seq\n"
        "10\ta b c\tToys & Games, Puzzles, Kids\t0.5 1\t1.5\t4.25\thttps://a/b.jpg\tp\n"
        "20\tx\tBooks\t2 3\t\t4.5\thttps://c/d.jpg\tq\n"
        "30\t\t\t\t3\t3\t\tr\n"
    )
    printed = lines(capsys.readouterr().out)
    assert ".item: 1 rows repeat an id and are left out" in printed
    assert ".item: title: tabs or line ends in 1 cells have become spaces" in printed
    assert "nothing left out: empty" in printed
    assert any(line.startswith("odd left out: struct<a: int64>") for line in printed)


def test_text_columns_that_are_named(files, capsys):
    words = ("--interactions=ratings.csv", "--items=movies.csv", "--text=title,year")
    assert run(*words) == 0
    assert "'--item_text_fields=[title, year]'" in capsys.readouterr().out


def test_items_without_text_and_without_a_row_are_counted(files, capsys):
    Path("m.csv").write_text("movieId,title\n10,\n20,B\n")
    assert run("--interactions=ratings.csv", "--items=m.csv") == 0
    printed = lines(capsys.readouterr().out)
    assert ".item: 1 items have no text" in printed
    assert "warning: 2 interactions with 1 items that have no row in shop.item" in printed


def test_other_columns_of_interactions(capsys):
    Path("r.csv").write_text("user_id,item_id,time,event,price\n1,2,3,view,1.5\n1,3,4,buy,2.5\n")
    assert run("--interactions=r.csv", "--keep=event,price") == 0
    assert written("inter").splitlines()[:2] == [
        "user_id:token\titem_id:token\ttimestamp:float\tevent:token\tprice:float",
        "1\t2\t3\tview\t1.5",
    ]


def test_users(capsys):
    Path("r.csv").write_text("user_id,item_id,time\n1,2,3\n2,2,3\n")
    Path("u.csv").write_text("id,age,job\n1,25,other writer\n2,,\n")
    assert run("--interactions=r.csv", "--users=u.csv") == 0
    assert written("user") == ("user_id:token\tage:token\tjob:token\n1\t25\tother writer\n2\t\t\n")


def test_without_times(capsys):
    Path("r.csv").write_text("user_id,item_id\n1,2\n1,3\n")
    assert run("--interactions=r.csv", "--time=none") == 0
    assert written("inter") == "user_id:token\titem_id:token\n1\t2\n1\t3\n"
    assert "--model=BPR '--eval_args={order: RO}'" in capsys.readouterr().out


def test_sessions_begin_after_a_pause():
    rows = [("a", 1, 0), ("b", 1, 5), ("a", 2, 1800), ("a", 3, 3601), ("a", 4, 3600), ("b", 2, 4)]
    pd.DataFrame(rows, columns=["user", "item", "ts"]).to_csv("r.csv", index=False)
    assert run("--interactions=r.csv", "--session_gap=30m") == 0
    users = [line.split("\t")[0] for line in written("inter").splitlines()[1:]]
    # a: 0, 1800 (30 min, no pause of more), 3600, 3601; nothing is longer than half an hour
    assert users == ["a_1", "b_1", "a_1", "a_1", "a_1", "b_1"]
    assert run("--interactions=r.csv", "--session_gap=1799s", "--overwrite") == 0
    users = [line.split("\t")[0] for line in written("inter").splitlines()[1:]]
    assert users == ["a_1", "b_1", "a_2", "a_3", "a_3", "b_1"]


def test_filters(capsys):
    rows = [(1, 1, 5, 3), (1, 1, 4, 1), (1, 2, 5, 2), (2, 1, 5, 1), (2, 2, 4, 2), (3, 2, 1, 1)]
    pd.DataFrame(rows, columns=["user", "item", "rating", "ts"]).to_csv("r.csv", index=False)
    words = ["--min_rating=4", "--k_core=2", "--deduplicate=first"]
    assert run("--interactions=r.csv", *words) == 0
    assert written("inter").splitlines()[1:] == [
        "1\t1\t4\t1", "1\t2\t5\t2", "2\t1\t5\t1", "2\t2\t4\t2",
    ]  # fmt: skip
    printed = lines(capsys.readouterr().out)
    assert (
        "filters: 4 of 6 interactions are left (--deduplicate=first, --min_rating=4.0, --k_core=2)"
        in printed
    )


def test_times_keep_microseconds():
    Path("r.csv").write_text(
        "user_id,item_id,time\n1,2,2023-11-14 22:13:20.123456\n1,3,2023-11-14 22:13:20.123457\n"
    )
    assert run("--interactions=r.csv") == 0
    frame = read_atomic("data/shop/shop.inter").frame
    assert frame["timestamp"].tolist() == [1700000000.123456, 1700000000.123457]


def test_names_of_known_data_sets_are_refused(files):
    with pytest.raises(DataError, match="ml-1m is the name of a known data set"):
        import_tables("ml-1m", "data", "ratings.csv", options=ImportOptions())


def test_the_suggested_commands_are_ones_of_the_command_line(files, capsys):
    run("--interactions=ratings.csv", "--items=movies.csv")
    printed = capsys.readouterr().out.splitlines()
    for words in (shlex.split(one) for one in printed if " run " in one):
        config = LiteConfig(overrides=words[2:])
        assert config["item_text_fields"] == ["title", "genres"]
        assert config["model"] in ("ItemLM", "LiteLLM4Rec")


def test_rows_are_written_as_they_are_read(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "a": pd.Categorical(rng.choice(["x", 'q"', "é"], 1000)),
            "b": rng.normal(size=1000) * 10.0 ** rng.integers(-9, 12, 1000),
            "c": pd.Series([f"text {i}" for i in range(1000)], dtype=str),
            "d": [np.array(row) for row in rng.normal(size=(1000, 3))],
        }
    )
    types = {"a": "token", "b": "float", "c": "token_seq", "d": "float_seq"}
    write_rows(tmp_path / "t.inter", types, frame)
    found = read_atomic(tmp_path / "t.inter").frame
    assert found["a"].astype(str).tolist() == frame["a"].astype(str).tolist()
    assert found["b"].tolist() == frame["b"].tolist()
    assert found["c"].tolist() == frame["c"].tolist()
    np.testing.assert_array_equal(np.stack(found["d"]), np.stack(frame["d"]))

import json
import os

import pytest

from recbole_lite.data.sources.check_dataset import FileSettings, check
from recbole_lite.data.sources.prepare_dataset import prepare
from recbole_lite.utils.errors import DataError

INTER = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
    f"{user}\t{item}\t{time}\n"
    for user, item, time in [("a", "x", 1), ("a", "y", 2), ("a", "z", 3), ("b", "x", 1)]
)
ITEM = "item_id:token\ttitle:token_seq\tgenre:token_seq\nx\tAn x\tg\ny\t\th\nw\tA w\t\n"


@pytest.fixture
def mine(data_path):
    folder = data_path / "mine"
    folder.mkdir(parents=True)
    (folder / "mine.inter").write_text(INTER)
    (folder / "mine.item").write_text(ITEM)
    return folder


def own(title_field="title", **changes):
    return {
        "sources": None,
        "by_hand": "ask",
        "converter": {"name": "atomic", "options": {"stem": "mine"}},
        "filters": None,
        "expected": {"users": 2, "items": 3, "interactions": 4},
        "text_fields": [title_field, "genre"],
        **changes,
    }


@pytest.mark.usefixtures("mine")
def test_a_set_of_ones_own(data_path):
    report = check("mine", data_path)
    stats = report.stats
    assert (stats.users, stats.items, stats.interactions) == (2, 3, 4)
    assert stats.density == pytest.approx(4 / 6)
    assert stats.sparsity == pytest.approx(2 / 6)
    assert (stats.mean_history, stats.median_history) == (2.0, 2.0)
    assert (stats.min_history, stats.max_history) == (1, 3)
    assert report.coverage == {"title": 1, "genre": 2}  # of x, y, z; w has no interaction
    assert report.idle_items == 1
    assert report.warnings == [
        "1 users have fewer than 3 interactions and cannot be split into training, validation "
        "and test",
        "1 interactions with 1 items that have no row in mine.item",
    ]
    assert report.notes == ["no dataset_meta file: only the files themselves were checked"]
    assert report.ok


def test_times_as_text_are_a_problem(mine, data_path):
    """Fault F5: the set was called sound."""
    (mine / "mine.inter").write_text(INTER.replace("timestamp:float", "timestamp:token"))
    report = check("mine", data_path)
    assert not report.ok
    assert report.problems == [
        f"{mine / 'mine.inter'}, line 1: column 'timestamp' has type token, but TIME_FIELD needs "
        "float (as text, 10 comes before 9); write timestamp:float in the header"
    ]


@pytest.mark.usefixtures("mine")
def test_text(data_path):
    text = check("mine", data_path).render()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == f"mine in {data_path / 'mine'}"
    for line in [
        "density 0.666667 interactions / (users x items)",
        "sparsity 33.3333% 1 - density",
        "items 3 1 more rows of .item have no interaction",
        "history 2.00 interactions per user, mean; median 2, from 1 to 3",
        "title 1 33.33%",
        "genre 2 66.67%",
        "result: sound",
    ]:
        assert line in lines


@pytest.mark.usefixtures("mine")
def test_as_expected(write_meta, data_path):
    write_meta("mine", **own())
    report = check("mine", data_path)
    assert (report.problems, report.variant) == ([], None)
    assert report.render().endswith("result: sound and as expected")


@pytest.mark.usefixtures("mine")
def test_differences(write_meta, data_path):
    expected = {"users": 2, "items": 9, "interactions": 3, "text_coverage": {"title": 0.5}}
    write_meta("mine", **own(expected=expected))
    assert check("mine", data_path).problems == [
        "title: only 33.33% of the items have a text in it, expected 50.00%",
        "3 items, expected 9 (-6)",
        "4 interactions, expected 3 (+1)",
    ]


@pytest.mark.usefixtures("mine")
def test_known_copies_are_named(write_meta, data_path):
    expected = {"users": 2, "items": 3, "interactions": 5}
    copy = {"title": "a copy", "note": "One is missing.", "expected": {**expected}}
    copy["expected"]["interactions"] = 4
    write_meta("mine", **own(expected=expected, variants=[copy]))
    report = check("mine", data_path)
    assert report.ok
    assert report.variant.title == "a copy"
    assert "known copy: a copy. One is missing.\n" in report.render()
    assert report.render().endswith("result: sound, a known copy")
    copy["expected"]["sha256"] = {"inter": "0" * 64}
    write_meta("mine", **own(expected=expected, variants=[copy]))
    [problem] = check("mine", data_path).problems
    assert problem.startswith("mine.inter has the expected counts but another content: sha256")


@pytest.mark.usefixtures("mine")
def test_unknown_counts_are_no_problem(write_meta, data_path):
    write_meta("mine", **own(expected={}))
    report = check("mine", data_path)
    assert report.ok
    assert report.notes == ["expected counts are unknown: they have not been measured yet"]


def test_missing_text(write_meta, data_path, mine):
    write_meta("mine", **own("name"))
    assert check("mine", data_path).problems == ["mine.item has no text field name"]
    (mine / "mine.item").unlink()
    write_meta("mine", **own(expected={"sha256": {"item": "0" * 64}}))
    assert check("mine", data_path).problems == [
        "no readable mine.item; its text fields are missing",
        "no readable mine.item; it is part of the data set",
    ]


def test_malformed_files_are_problems_with_a_line(data_path, mine):
    (mine / "mine.item").write_text(ITEM + "x\tagain\tg\n")
    (mine / "mine.inter").write_text(INTER + "b\ty\n")
    report = check("mine", data_path)
    assert [str(mine / "mine.inter") + ", line 6" in one for one in report.problems] == [
        True,
        False,
    ]
    assert str(mine / "mine.item") + ", line 5" in report.problems[1]
    assert report.stats is None
    assert report.render().endswith("result: 2 problem(s)")


def test_repeated_pairs_and_no_times(data_path, mine):
    (mine / "mine.inter").write_text("user_id:token\titem_id:token\n" + "a\tx\na\ty\na\tx\n")
    report = check("mine", data_path)
    assert "1 interactions repeat an earlier user and item" in report.notes
    assert "no column timestamp: the order of events is unknown" in report.warnings


def test_damage_after_preparing(write_meta, ml_1m_zip, data_path, tmp_path):
    write_meta(body=ml_1m_zip)
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    folder = prepare("tiny", data_path, tmp_path / "ml-1m.zip").folder
    assert check("tiny", data_path).ok
    path = folder / "tiny.inter"
    path.write_text(path.read_text().replace("1\t1\t3\t978302109", "1\t1\t4\t978302109"))
    (folder / "tiny.user").unlink()
    assert check("tiny", data_path).problems == [
        "tiny.inter has changed since it was prepared: its checksum differs",
        "tiny.user was prepared but is missing",
    ]
    (folder / "prepared.json").write_text(json.dumps([]))
    assert "not a receipt" in check("tiny", data_path).problems[0]


def test_nothing_there(data_path, mine):
    with pytest.raises(DataError, match=r"no mina\.inter here; on disk, nearest: mine\. .*known:"):
        check("mina", data_path)
    with pytest.raises(DataError, match="is not a data set name"):
        check(f"..{os.sep}mine", data_path)


# -- bad files --------------------------------------------------------------------------------


def test_an_item_with_two_rows(mine, data_path):
    (mine / "mine.item").write_text(ITEM + "x\tAgain\tg\n")
    (problem,) = check("mine", data_path).problems
    assert problem.startswith(f"{mine / 'mine.item'}, line 5: item_id:token 'x' stands on line 2")


def test_interactions_without_a_time(mine, data_path):
    (mine / "mine.inter").write_text(INTER.replace("\ty\t2", "\ty\t").replace("\tx\t1", "\tx\t"))
    assert check("mine", data_path).problems == [
        "3 interactions have no timestamp: their place in the sequence is unknown; fill it in or "
        "remove the rows"
    ]


@pytest.mark.parametrize("ending, line", [("inter", 3), ("item", 3)])
def test_an_empty_id(ending, line, mine, data_path):
    path = mine / f"mine.{ending}"
    path.write_text(path.read_text().replace("a\ty", "a\t").replace("\ny\t", "\n\t"))
    (problem,) = check("mine", data_path).problems
    assert problem.startswith(f"{path}, line {line}: item_id:token is empty; every row needs it")


def test_empty_columns(mine, data_path):
    rows = "".join(f"{item}\tAn {item}\t\t\t\n" for item in "xyz")
    head = "item_id:token\ttitle:token_seq\tbrand:token\tsize:float\temb:float_seq\n"
    (mine / "mine.item").write_text(head + rows)
    report = check("mine", data_path)
    assert report.ok
    assert "mine.item: every cell is empty in brand, size, emb" in report.warnings
    report = check("mine", data_path, FileSettings(text_fields=("title", "brand")))
    assert report.problems == ["item_text_fields: no item has text in brand; name other fields"]


# -- the settings of a run --------------------------------------------------------------------


def test_field_names_and_separators(mine, data_path):
    for ending in ("inter", "item"):
        path = mine / f"mine.{ending}"
        text = path.read_text().replace("\t", ";").replace("item_id", "sku")
        text = text.replace("user_id", "uid").replace("timestamp", "when").replace("An x", "Mêl")
        path.write_text(text, encoding="latin-1")
    names = {"user": "uid", "item": "sku", "time": "when", "separator": ";"}
    report = check("mine", data_path, FileSettings(**names, encoding="latin-1"))
    assert (report.stats.users, report.stats.items, report.stats.interactions) == (2, 3, 4)
    assert report.coverage == {"title": 1, "genre": 2}
    assert report.ok
    report = check("mine", data_path, FileSettings(**{**names, "time": "at"}, encoding="latin-1"))
    assert "no column at: the order of events is unknown" in report.warnings


def test_parts_and_additional_files(mine, data_path):
    head, *rows = INTER.splitlines(keepends=True)
    (mine / "mine.train.inter").write_text(head + "".join(rows[:2]))
    (mine / "mine.test.inter").write_text(head + "".join(rows[2:]))
    (mine / "mine.inter").unlink()
    (mine / "mine.emb").write_text("iid:token\tvec:float_seq\nx\t1 oops\n")
    settings = FileSettings(parts=("train", "test"), suffixes=("emb", "gone"))
    report = check("mine", data_path, settings)
    assert (report.stats.users, report.stats.items, report.stats.interactions) == (2, 3, 4)
    files = {line.name: line.rows for line in report.files}
    assert files == {"mine.train.inter": 2, "mine.test.inter": 2, "mine.item": 3}
    emb, gone = report.problems
    assert emb.startswith(f"{mine / 'mine.emb'}, line 2: vec:float_seq holds 'oops'")
    assert gone == "no mine.gone; additional_feat_suffix names it"
    with pytest.raises(DataError, match=r"no mine\.valid\.inter here"):
        check("mine", data_path, FileSettings(parts=("train", "valid")))


def test_parts_of_a_set_that_is_split_already(data_path):
    folder = data_path / "parts"
    folder.mkdir(parents=True)
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    (folder / "parts.train.inter").write_text(head + "a\tx y\tz\nb\tx\ty\n")
    (folder / "parts.test.inter").write_text(head + "c\tx w\tv\n")
    (folder / "parts.item").write_text(ITEM)
    report = check("parts", data_path)
    assert report.ok
    assert [line.name for line in report.files] == [
        "parts.train.inter",
        "parts.test.inter",
        "parts.item",
    ]
    assert (report.stats.users, report.stats.items, report.stats.interactions) == (3, 3, 3)
    assert "2 parts that are split already (benchmark_filename)" in report.notes
    assert "2 items do not occur in parts.train.inter" in report.warnings  # v, w
    (folder / "parts.test.inter").write_text("user_id:token\titem_id:token\nc\tx\n")
    problem = "parts.test.inter has other columns than parts.train.inter"
    assert check("parts", data_path).problems[0].startswith(problem)

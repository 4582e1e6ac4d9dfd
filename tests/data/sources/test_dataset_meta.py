import re

import pytest
import yaml

from recbole_lite.data.sources.amazon import Amazon
from recbole_lite.data.sources.dataset_meta import check_name, find_meta, known_names, load_meta
from recbole_lite.data.sources.prepare_dataset import prepare
from recbole_lite.utils.errors import ConfigError, DataError
from recbole_lite.utils.paths import DATASET_META, PROPERTIES

NAMES = [
    "amazon-games",
    "amazon-games-2018",
    "amazon-games-2023",
    "amazon-movies-2018",
    "amazon-movies-2023",
    "amazon-toys-2018",
    "amazon-toys-2023",
    "ml-100k",
    "ml-1m",
    "ml-20m",
]


def test_all_shipped_names():
    assert known_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files(name):
    meta = load_meta(find_meta(name))
    assert meta.path == DATASET_META / f"{name}.yaml"
    for source in meta.sources:
        assert source.url.startswith(
            ("https://files.grouplens.org/", "https://mcauleylab.ucsd.edu/")
        )
        assert (source.sha256 or source.md5 or source.checksum_from) is None or source.checksum_from
    if isinstance(meta.converter, Amazon):
        assert [meta.converter.ratings, meta.converter.metadata] == [s.file for s in meta.sources]
        assert tuple(meta.converter.fields) == meta.text_fields
        assert meta.filters.duplicates == "first"
    k = {"ml-1m": 5, "amazon-games-2018": 5, "amazon-games-2023": 5}
    core = k.get(name, 10 if name.startswith("amazon-") and meta.sources else 0)
    assert (meta.filters.k_core.users, meta.filters.k_core.items) == (core, core)


@pytest.mark.parametrize("name", NAMES)
def test_text_fields_are_those_of_training(name):
    path = PROPERTIES / "dataset" / f"{name}.yaml"
    if path.is_file():
        fields = yaml.safe_load(path.read_text(encoding="utf-8")).get("item_text_fields")
        assert set(fields) <= set(load_meta(find_meta(name)).text_fields)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"licenses": "x"}, "licenses: unknown key; nearest: licence"),
        ({"path": "x"}, "path: unknown key"),
        ({"title": None, "titel": "x"}, "titel: unknown key; nearest: title"),
        ({5: "x"}, "5: unknown key"),
        ({"title": None}, "title: missing"),
        ({"title": 5}, "title: str expected, found 5"),
        ({"filters": {"k_cores": {}}}, "filters.k_cores: unknown key; nearest: k_core"),
        ({"filters": {"k_core": {"users": "5"}}}, "filters.k_core.users: int expected, found '5'"),
        ({"filters": {"k_core": {"users": True}}}, "filters.k_core.users: int expected"),
        ({"filters": {"k_core": 5}}, "filters.k_core: a mapping of keys to values expected"),
        ({"filters": {"duplicates": "last"}}, "filters.duplicates: one of"),
        ({"text_fields": "title"}, "text_fields: a list expected"),
        ({"expected": {"text_coverage": [1]}}, "expected.text_coverage: a mapping expected"),
        ({"converter": {"name": "movielens"}}, "converter.name: 'movielens' is not known; nearest"),
        ({"converter": None}, "converter: a mapping with the keys name and options"),
        (
            {"converter": {"name": "movielens-dat", "options": {"encodings": "x"}}},
            "converter.options.encodings: unknown key; nearest: encoding",
        ),
        ({"converter": {"name": "amazon"}}, "converter.options.ratings: missing"),
        ({"sources": []}, "without sources, by_hand must say"),
        ({"sources": [{"file": "a"}]}, "sources[0].url: missing"),
        ({"sources": [{"file": "../a", "url": "http://x"}]}, "sources[0].file: '../a' must be"),
        ({"sources": [{"file": "a", "url": "file:///etc/passwd"}]}, "must begin with http"),
        (
            {"sources": [{"file": "a", "url": "http://x", "sha256": "ABC"}]},
            "sources[0].sha256: 64 hexadecimal digits expected, found 'ABC'",
        ),
        ({"name": "other"}, "name: 'other' must be the file's name, 'tiny'"),
    ],
)
def test_mistakes_are_named(write_meta, changes, message):
    path = write_meta()
    data = yaml.safe_load(path.read_text())
    data.update(changes)
    path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}))
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_meta(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", ["a: [", "- a", ""])
def test_not_a_mapping(write_meta, content):
    path = write_meta()
    path.write_text(content)
    with pytest.raises(ConfigError, match="tiny"):
        load_meta(path)


def test_own_files_come_first(write_meta, data_path):
    own = write_meta("ml-1m")
    write_meta("mine")
    assert find_meta("ml-1m", data_path) == own
    assert find_meta("ml-1m") != own
    assert "mine" in known_names(data_path)
    assert find_meta("nothing", data_path) is None


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", "a..b", ".a", "_sources", "/a", "C:a"])
def test_names_that_are_no_names(name):
    with pytest.raises(DataError, match="is not a data set name"):
        check_name(name)


def test_a_new_set_needs_one_yaml_and_no_code(write_meta, data_path, tmp_path):
    """MovieLens 10M is not shipped; its layout is that of 1M without users."""
    folder = tmp_path / "ml-10M100K"
    folder.mkdir()
    (folder / "movies.dat").write_text("1::Toy Story (1995)::Animation\n")
    (folder / "ratings.dat").write_text("1::1::4.5::838985046\n")
    write_meta(
        "ml-10m",
        sources=[{"file": "ml-10m.zip", "url": "https://files.grouplens.org/x/ml-10m.zip"}],
        converter={"name": "movielens-dat", "options": {"encoding": "utf-8", "has_users": False}},
        filters={},
        expected={"interactions": 1},
    )
    made = prepare("ml-10m", data_path, folder)
    assert made.rows == {"ml-10m.inter": 1, "ml-10m.item": 1}
    assert made.differences == []

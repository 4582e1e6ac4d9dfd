"""Finding items by id and title."""

import difflib
import random

import pytest

from recbole_lite.inference.catalogue import Catalogue, normalize_title
from recbole_lite.utils.errors import RequestError

FILMS = {
    "1": "Toy Story",
    "3114": "Toy Story 2",
    "6": "Heat",
    "2571": "Matrix, The",
    "260": "Star Wars: Episode IV - A New Hope",
    "1196": "Star Wars: Episode V - The Empire Strikes Back",
    "53": "Amélie (Le Fabuleux destin d'Amélie Poulain)",
    "900": "Hamlet",
    "1411": "Hamlet",
    "6b": "1",
    "nameless": "",
}


@pytest.fixture
def films():
    return Catalogue(list(FILMS), list(FILMS.values()), [f"text of {t}" for t in FILMS.values()])


@pytest.mark.parametrize(
    "name, raw",
    [
        ("6", "6"),
        ("1", "1"),  # ids come before titles
        ("Heat", "6"),
        ("  heat ", "6"),
        ("Heat (1995)", "6"),
        ("The Matrix", "2571"),
        ("matrix, the", "2571"),
        ("amelie (le fabuleux destin d'amelie poulain)", "53"),
        ("star wars episode iv a new hope", "260"),
        ("nameless", "nameless"),
    ],
)
def test_find(name, raw, films):
    assert films.ids[films.find(name)] == raw


def test_a_typo_is_answered_with_the_nearest_titles(films):
    with pytest.raises(
        RequestError, match=r"'Toy Stroy'; did you mean Toy Story \(id 1\) or Toy S"
    ):
        films.find("Toy Stroy")
    with pytest.raises(RequestError, match="'Qzxwv'; no title is similar"):
        films.find("Qzxwv")
    with pytest.raises(RequestError, match="no item has the id or title ''"):
        films.find(" ")


def test_a_title_of_several_items_is_answered_with_their_ids(films):
    with pytest.raises(RequestError, match=r"2 items are called 'hamlet'; .*900 \(text.*1411 \("):
        films.find("hamlet")


@pytest.mark.parametrize(
    "text, raw",
    [
        ("toy", ["1", "3114"]),
        ("star empire", ["1196"]),
        ("wars star emp", ["1196"]),
        ("toi story", ["1", "3114"]),
        ("h", ["6", "900", "1411", "260"]),
        ("hea", ["6"]),
        ("", []),
        ("!?", []),
    ],
)
def test_search(text, raw, films):
    assert [films.ids[i] for i in films.search(text)] == raw


def test_whole_words_come_before_longer_ones():
    names = ["Starman", "Star Wars", "A Star Is Born", "Star"]
    assert Catalogue(list("abcd"), names, [""] * 4).search("star") == [4, 2, 1, 3]


def plain_search(titles, text, limit):
    """Catalogue.search written plainly, as positions in `titles`."""
    wanted, found = normalize_title(text), [[], [], []]
    own = [normalize_title(title) for title in titles]
    for title in sorted(dict.fromkeys(own), key=len):
        words = [set(title.split()), wanted.split()]
        whole = f"{title} ".startswith(f"{wanted} ")
        has = words[0] >= set(words[1][:-1]) and any(w.startswith(words[1][-1]) for w in words[0])
        if whole or has or title.startswith(wanted):
            found[0 if whole else 1 if title.startswith(wanted) else 2].append(title)
    order = [*found[0], *found[1], *found[2]]
    if sum(map(own.count, order)) < limit:
        order += difflib.get_close_matches(wanted, dict.fromkeys(own), limit)
    places = [i + 1 for title in dict.fromkeys(order) for i, o in enumerate(own) if o == title]
    return places[:limit]


def test_search_equals_a_plain_one():
    draw = random.Random(1)
    parts = ["toy", "to", "toys", "star", "stars", "wars", "été", "2", "ten", "net", "x" * 70]
    titles = [" ".join(draw.choices(parts, k=draw.randint(1, 4))) for _ in range(300)]
    catalogue = Catalogue([str(i) for i in range(300)], titles, titles)
    queries = [" ".join(draw.choices(parts, k=draw.randint(1, 3))) for _ in range(40)]
    for query in [*queries, *(q[:-1] for q in queries if len(q) > 1), "satr wras", "y" * 9, "日本"]:
        for limit in (1, 8):
            assert catalogue.search(query, limit) == plain_search(titles, query, limit), query


def test_search_gives_no_more_than_asked(films):
    assert len(films.search("star", 1)) == 1
    assert films.search("star", 0) == []


def test_ids_are_unique(films):
    with pytest.raises(RequestError, match="item id '6' occurs twice"):
        films.extend(["new", "6"], ["", ""], ["", ""])
    assert "new" not in films.index
    with pytest.raises(RequestError, match="item id 'a' occurs twice"):
        Catalogue(["a", "a"], ["", ""], ["", ""])


def test_saved_and_read_again(films, tmp_path):
    films.save(tmp_path / "items.jsonl")
    again = Catalogue.load(tmp_path / "items.jsonl")
    assert (again.ids, again.titles, again.texts) == (films.ids, films.titles, films.texts)
    assert len(again) == len(FILMS)


def test_fields_are_saved(tmp_path):
    fields = [{"genre": ["a", "b"], "year": 1990}, {}]
    Catalogue(["1", "2"], ["x", "y"], ["", ""], fields=fields).save(tmp_path / "items.jsonl")
    again = Catalogue.load(tmp_path / "items.jsonl")
    assert again.fields == [{}, *fields]
    again.extend(["3"], [""], [""])
    assert again.fields == [{}, *fields, {}]


def test_normalize_titles():
    assert normalize_title("Cat's Cradle & Co., The (1999)") == "the cats cradle and co 1999"
    assert normalize_title("Misérables, Les") == "les miserables"
    assert normalize_title("League of Their Own, A") == "a league of their own"

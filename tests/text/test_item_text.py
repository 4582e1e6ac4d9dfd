from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_lite.text.item_text import render_item_texts
from recbole_lite.utils.errors import ConfigError

COLUMNS = {
    "movie_title": ["", "Toy Story", "", "", "Tom &amp; Jerry"],
    "release_year": ["", "1995", "1996", "", " 1992\t"],
    "genre": ["", "Animation  Comedy", "", "", "a&nbsp;b"],
}


def test_default_joins_the_fields_that_are_not_empty():
    assert render_item_texts(COLUMNS) == [
        "",
        "movie_title: Toy Story, release_year: 1995, genre: Animation Comedy",
        "release_year: 1996",
        "",
        "movie_title: Tom & Jerry, release_year: 1992, genre: a b",
    ]


def test_template_is_filled_by_field():
    texts = render_item_texts(COLUMNS, "{movie_title} ({release_year}).\n Genres: {genre} {{x}}")
    assert texts[1] == "Toy Story (1995). Genres: Animation Comedy {x}"
    assert texts[2] == "(1996). Genres: {x}"
    assert texts[3] == ""


def test_an_item_whose_used_fields_are_empty_has_no_text():
    assert render_item_texts(COLUMNS, "A film: {movie_title}")[2] == ""


def test_the_padding_item_has_no_text_whatever_its_columns_say():
    assert render_item_texts({"title": ["[PAD]", "a"]})[0] == ""


def test_braces_inside_a_value_stay_text():
    assert render_item_texts({"t": ["", "{genre} %s {0}"]}, "{t}")[1] == "{genre} %s {0}"


@pytest.mark.parametrize(
    "template, found",
    [
        ("{titel}", "{titel} is not a text field"),
        ("{}", "{} is not a text field"),
        ("{0}", "{0} is not"),
        ("{movie_title.__class__}", "attributes and indices are not followed"),
        ("{movie_title[0]}", "attributes and indices are not followed"),
        ("{movie_title!r}", "conversion"),
        ("{movie_title:>9}", "format"),
        ("{movie_title:{genre}}", "format"),
        ("{movie_title", "malformed braces"),
        ("movie_title}", "malformed braces"),
        ("no field {{movie_title}}", "names no field"),
    ],
)
def test_a_wrong_template_names_the_key_and_the_fields(template, found):
    with pytest.raises(ConfigError) as caught:
        render_item_texts(COLUMNS, template)
    message = str(caught.value)
    assert message.startswith("item_text_template: ")
    assert found in message
    assert "movie_title, release_year, genre" in message
    assert "\n" not in message


@given(st.text(max_size=20))
def test_any_template_gives_texts_or_a_config_error(template):
    try:
        texts = render_item_texts(COLUMNS, template)
    except ConfigError:
        return
    assert len(texts) == 5
    assert texts[0] == ""

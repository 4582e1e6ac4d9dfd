"""One text per item, rendered from the fields of the ``.item`` file."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from string import Formatter

from recbole_lite.utils.errors import ConfigError

_KEY = "item_text_template"


def render_item_texts(columns: Mapping[str, Sequence[str]], template: str = "") -> list[str]:
    """Write the context text of every item (the paper's T_i, Section 4.2, before tokenization).

    Parameters
    ----------
    columns : Mapping[str, Sequence[str]]
        Field name -> one raw string per internal item id; index 0 is the padding item.
    template : str
        Text with field names in braces, e.g. ``"{movie_title} ({release_year})"``; ``{{``
        and ``}}`` stand for the braces themselves. Empty: ``field: value`` for every field
        that is not empty, joined by ``", "``.

    Returns
    -------
    list of str, length n_items
        ``""`` for the padding item and for an item all of whose used fields are empty.

    Raises
    ------
    ConfigError
        The template is malformed or names a field that is not there.
    """
    pieces = _parse(template, columns) if template else [("", field) for field in columns]
    used = [field for field in dict.fromkeys(field for _, field in pieces) if field is not None]
    cleaned = {field: [_clean(value) for value in columns[field]] for field in used}
    texts = []
    for values in zip(*cleaned.values(), strict=True):
        item = dict(zip(cleaned, values, strict=True))
        if not any(values):
            texts.append("")
        elif template:
            texts.append(_fill(pieces, item))
        else:
            texts.append(", ".join(f"{field}: {value}" for field, value in item.items() if value))
    if texts:
        texts[0] = ""  # the padding item
    return texts


def _clean(value: str) -> str:
    """Unescape HTML entities, collapse white space (after: ``&nbsp;`` is white space too)."""
    return " ".join(html.unescape(value).split())


def _fill(pieces: list[tuple[str, str | None]], item: Mapping[str, str]) -> str:
    text = "".join(
        literal + (item[field] if field is not None else "") for literal, field in pieces
    )
    return " ".join(text.split())


def _parse(template: str, columns: Mapping[str, Sequence[str]]) -> list[tuple[str, str | None]]:
    """Split a template into (literal text, field name or None), refusing all else.

    ``str.format`` would follow ``{a.b}`` and ``{a[0]}`` into Python objects; here a name in
    braces is a column or an error.
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"{_KEY}: {template!r} has malformed braces ({error}); write {{field}} for a field "
            f"and {{{{ or }}}} for a brace; {_available(columns)}"
        ) from error
    pieces: list[tuple[str, str | None]] = []
    for literal, field, spec, conversion in parsed:
        if field is not None and (spec or conversion):
            raise ConfigError(
                f"{_KEY}: {{{field}}} carries a format or a conversion (':' or '!'), which are not "
                f"supported; write the field name alone; {_available(columns)}"
            )
        if field is not None and field not in columns:
            raise ConfigError(
                f"{_KEY}: {{{field}}} is not a text field of the items (attributes and indices "
                f"are not followed); {_available(columns)}"
            )
        pieces.append((literal, field))
    if all(field is None for _, field in pieces):
        raise ConfigError(f"{_KEY}: {template!r} names no field; {_available(columns)}")
    return pieces


def _available(columns: Mapping[str, Sequence[str]]) -> str:
    return "available fields: " + (", ".join(columns) or "none")

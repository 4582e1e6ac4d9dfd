"""Fields of items, for filters of recommendations."""

from __future__ import annotations

from typing import Any

from recbole_lite.data.item_titles import title_field

MOST_WORDS = 1000  # a field with more distinct words is prose, not a list of categories


def item_fields(dataset, title: str | None, separator: str) -> list[dict[str, Any]]:
    """Fields of each item by internal id, without titles, prose and vectors.

    Parameters
    ----------
    dataset : Dataset
        Its ``.item`` file may be missing.
    title : str or None
        ``title_field``.
    separator : str
        Between the words of a ``token_seq`` field.

    Returns
    -------
    list of dict
        token: text; float: number; token_seq: list of texts. Empty cells are left out.
    """
    _, kinds = dataset.item_header()
    left_out = {dataset.iid_field, title_field(dataset, title)}
    kinds = {n: kind for n, kind in kinds.items() if n not in left_out and kind != "float_seq"}
    rows: list[dict[str, Any]] = [{} for _ in dataset.field2id_token[dataset.iid_field]]
    if not kinds:
        return rows
    for name, cells in dataset.item_text_columns(list(kinds)).items():
        values: list[Any] = cells
        if kinds[name] == "float":
            values = [_number(cell) if cell else "" for cell in cells]
        elif kinds[name] == "token_seq":
            values = [cell.split(separator) if cell else "" for cell in cells]
            if len({word for words in values for word in words}) > MOST_WORDS:
                continue
        for row, value in zip(rows, values, strict=True):
            if value != "":
                row[name] = value
    return rows


def _number(cell: str) -> float | int:
    number = float(cell)
    return int(number) if number.is_integer() else number

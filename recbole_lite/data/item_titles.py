"""Titles of items, for reports and lists of recommendations."""

from __future__ import annotations

from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.suggestions import suggest

TEXT_TYPES = ("token", "token_seq")  # of fields in atomic files


def item_titles(dataset, field: str | None) -> list[str]:
    """Title of each item by internal id; the raw item id where there is none.

    Parameters
    ----------
    dataset : Dataset
        Its ``.item`` file may be missing, or without text, unless `field` is given.
    field : str or None
        ``title_field``; None: the first field of text.

    Raises
    ------
    ConfigError
        There is no such field of text.
    DataError
        The file is malformed, with its line.
    """
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    wanted, field = field, title_field(dataset, field)
    if field is None:
        return tokens
    (texts,) = dataset.item_text_columns([field]).values()
    if wanted is not None and not any(texts):
        raise ConfigError(
            f"title_field: no item of {dataset.dataset_name} has a {wanted}: the column is empty; "
            "name another field, or leave title_field out to name items by their ids"
        )
    return [text or token for text, token in zip(texts, tokens, strict=True)]


def title_field(dataset, wanted: str | None) -> str | None:
    """Field of ``.item`` that names the items; None: nothing does."""
    path, kinds = dataset.item_header()
    texts = [
        name for name, kind in kinds.items() if kind in TEXT_TYPES and name != dataset.iid_field
    ]
    if wanted is None:
        return next(iter(texts), None)
    if kinds.get(wanted, "float_seq") == "float_seq":
        raise ConfigError(
            f"title_field: no field {wanted!r} that could name an item in {path}"
            f"{suggest(wanted, texts)}; fields of text: {', '.join(texts) or 'none'}"
            + ("" if texts else "; leave title_field out to name items by their ids")
        )
    return wanted

"""The first line of an atomic file: ``name:type`` for every field."""

from __future__ import annotations

from pathlib import Path

from recbole_lite.data.atomic_checks import Block, check_text, quote, separator_hint
from recbole_lite.utils.errors import DataError

FIELD_TYPES = ("token", "token_seq", "float", "float_seq")
HEADER_EXAMPLE = r"user_id:token\titem_id:token\ttimestamp:float"

_SIGNATURES = (
    (
        b"\xef\xbb\xbf",
        "the file starts with a byte-order mark (BOM); "
        r"remove it: sed -i '1s/^\xEF\xBB\xBF//' FILE",
    ),
    (b"\xff\xfe\0\0", "the file is UTF-32; convert it: iconv -f UTF-32 -t UTF-8 OLD > NEW"),
    (b"\xff\xfe", "the file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"),
    (b"\xfe\xff", "the file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"),
    (b"\x1f\x8b", "the file is compressed with gzip; unpack it: gunzip FILE"),
    (b"PK\x03\x04", "the file is a zip archive; unpack it: unzip FILE"),
)


def check_header(line: bytes, path: Path, separator: str, encoding: str) -> dict[str, str]:
    """Fields and types that the first line (its line feed removed) names."""
    for signature, message in _SIGNATURES:
        if line.startswith(signature):
            raise DataError(message, path, 1)
    if len(line) > 1 and (not any(line[1::2]) or not any(line[::2])):
        name = "UTF-16BE" if line[:1] == b"\0" else "UTF-16LE"
        raise DataError(
            f"every second byte is NUL: the file looks like {name}; "
            f"convert it: iconv -f {name} -t UTF-8 OLD > NEW",
            path,
            1,
        )
    check_text(Block(line, 1, 0), path, encoding)
    text = line.decode(encoding)
    if not text.strip(" \t" + separator):
        raise DataError(f"the header is empty; it must read like {HEADER_EXAMPLE}", path, 1)
    cells = text.split(separator)
    types: dict[str, str] = {}
    for number, cell in enumerate(cells, 1):
        problem = _header_problem(cell, number, cells, types)
        if problem:
            hint = separator_hint(text, separator) if len(cells) == 1 else ""
            raise DataError(problem + hint, path, 1)
        name, _, kind = cell.partition(":")
        types[name] = kind
    return types


def _header_problem(cell: str, number: int, cells: list[str], types: dict[str, str]) -> str | None:
    """Say what is wrong with one field of the header, None if nothing is."""
    if not any(":" in other for other in cells):
        return (
            f"the first line is no header: {quote(cells[0])} has no ':type'; "
            f"put a line like {HEADER_EXAMPLE} above the rows"
        )
    if not cell:
        place = {1: "starts with", len(cells): "ends with"}.get(number, "has an empty field beside")
        return f"the header {place} a separator (field {number} of {len(cells)}); remove it"
    name, colon, kind = cell.partition(":")
    where = f"field {number} of the header, {quote(cell)},"
    if not colon:
        return f"{where} has no type; write name:type, such as {name.strip()}:token"
    if not name.strip():
        return f"{where} has no name; write name:type"
    if name != name.strip():
        return f"{where} has spaces around its name; remove them"
    if kind not in FIELD_TYPES:
        return f"{where} has the unknown type {quote(kind)}; types are {', '.join(FIELD_TYPES)}"
    if name in types:
        return f"{where} repeats the name {quote(name)}; rename or remove one of the two"
    return None

"""Checks of an atomic file around Arrow's parser.

Arrow accepts some things that are wrong, such as a carriage return as the end of a line or a
blank line, and does not name the line of those that it refuses. These checks look at the raw
bytes, a block of whole lines at a time, and name it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_lite.utils.errors import ConfigError, DataError, shorten

_SEPARATOR_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "vertical bar", " ": "space"}
_NUMBER_CHARACTERS = re.compile(r"[0-9eE.+-]*")
_ASCII = "".join(map(chr, range(128)))


@dataclass(frozen=True)
class Layout:
    """How a file is written: its place, every field with its type, its alphabet."""

    path: Path
    types: dict[str, str]
    separator: str
    seq_separator: str
    encoding: str

    def label(self, field: str) -> str:
        """Field as the header spells it."""
        return f"{field}:{self.types[field]}"


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, each ending in a line feed."""

    data: bytes
    line: int  # number of the first of them, counted from 1
    offset: int  # bytes of the file before them

    def line_at(self, position: int) -> int:
        """Return the number of the line that holds byte `position` of `data`."""
        return self.line + self.data.count(b"\n", 0, position)


def quote(value: str | bytes, encoding: str = "utf-8") -> str:
    """Value as an error message quotes it: ``repr``, cut to about 60 characters."""
    text = value if isinstance(value, str) else value[:400].decode(encoding, "backslashreplace")
    return repr(shorten(text, 60))


def check_dialect(separator: str, encoding: str, seq_separator: str | None = None) -> None:
    """Refuse separators and encodings under which bytes could not be counted."""
    if not re.fullmatch(r"[\x01-\x7f]", separator) or re.search(r"[\w.:+\r\n\"-]", separator):
        raise ConfigError(
            f"field_separator is {separator!r}; it must be one ASCII character that is no "
            'letter, digit, line end or one of . : + - _ "'
        )
    if seq_separator is not None and (
        not seq_separator or re.search(r"[0-9eE.+\r\n\0-]", seq_separator)
    ):
        raise ConfigError(
            f"seq_separator is {seq_separator!r}; it must hold at least one character and no "
            "digit, line end or one of . + - e E"
        )
    if seq_separator is not None and separator in seq_separator:
        raise ConfigError(f"seq_separator {seq_separator!r} holds the field_separator")
    try:
        plain = _ASCII.encode(encoding) == _ASCII.encode("ascii")
    except (LookupError, UnicodeError):
        plain = False
    if not plain:
        raise ConfigError(
            f"encoding is {encoding!r}; it must be one that Python knows and that writes ASCII "
            "characters as ASCII bytes, such as utf-8 or latin-1"
        )


def separator_hint(text: str, separator: str) -> str:
    """Guess which separator a line uses that has none of the expected ones."""
    for other, name in _SEPARATOR_NAMES.items():
        if other != separator and other in text:
            expected = _SEPARATOR_NAMES.get(separator, repr(separator))
            return (
                f" (the line has no {expected} but {text.count(other)} times {other!r}: "
                f"the file looks {name}-separated; separate fields with a {expected})"
            )
    return ""


def check_text(block: Block, path: Path, encoding: str) -> None:
    """Refuse carriage returns, NUL bytes and bytes that the encoding does not know."""
    at = block.data.find(b"\r")
    if at >= 0 and block.data[at + 1 : at + 2] in (b"\n", b""):
        message = "the line ends with CR LF (Windows); convert the file: sed -i 's/\\r$//' FILE"
        raise DataError(message, path, block.line_at(at))
    if at >= 0:
        raise DataError(
            "a carriage return (CR) stands inside the line; replace it by a space, or, if it is "
            r"meant to end lines, convert the file: tr '\r' '\n' < OLD > NEW",
            path,
            block.line_at(at),
        )
    at = block.data.find(b"\0")
    if at >= 0:
        raise DataError(
            f"a NUL byte stands at byte {block.offset + at}: the file is damaged or is no text; "
            "write it again",
            path,
            block.line_at(at),
        )
    if block.data.isascii():
        return
    try:
        block.data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {block.offset + error.start} (0x{block.data[error.start]:02x}) is not valid "
            f"{encoding}; convert the file, such as: iconv -f LATIN1 -t UTF-8 OLD > NEW",
            path,
            block.line_at(error.start),
        ) from None


def check_blank_lines(block: Block, layout: Layout) -> None:
    """Refuse lines without a value, though their columns may be right in number."""
    blank = b"[ \t%b]*\n" % re.escape(layout.separator.encode())
    found = re.match(blank, block.data)
    data = np.frombuffer(block.data, np.uint8)
    starts = data[1:][data[:-1] == ord("\n")]
    if not found and ((starts <= ord(" ")) | (starts == ord(layout.separator))).any():
        found = re.search(b"\n" + blank, block.data)
    if found:
        line = found.group().removeprefix(b"\n")[:-1]
        what = f"the line has no value, only {quote(line)}" if line else "the line is empty"
        raise DataError(f"{what}; remove it", layout.path, block.line_at(found.end() - 1))


def column_error(block: Block, layout: Layout, error: Exception) -> DataError:
    """Error for the first line that has too few or too many columns."""
    wanted, separator = len(layout.types), layout.separator.encode()
    lines = block.data.split(b"\n")[:-1]
    row = next((i for i, row in enumerate(lines) if row.count(separator) + 1 != wanted), None)
    if row is None:
        return DataError(f"the file cannot be read: {error}", layout.path, block.line)
    line, found = lines[row], lines[row].count(separator) + 1
    name = _SEPARATOR_NAMES.get(layout.separator, repr(layout.separator))
    if found < wanted:
        remedy = f"separate columns with one {name} each and leave a missing value empty"
    else:
        remedy = f"no value can hold a {name}: remove those that are too many"
    hint = ""
    if found == 1:
        hint = separator_hint(line[:400].decode(layout.encoding, "replace"), layout.separator)
    columns = "1 column" if found == 1 else f"{found} columns"
    message = f"{columns} where the header has {wanted}: {quote(line, layout.encoding)}; "
    return DataError(message + remedy + hint, layout.path, block.line + row)


def finite_number(text: str) -> float | None:
    """Value of a plain decimal number; None for everything else, inf if it is too large."""
    if not _NUMBER_CHARACTERS.fullmatch(text):
        return None
    try:
        return float(text)
    except ValueError:
        return None


def number_error(text: str, layout: Layout, field: str, line: int) -> DataError:
    """Error for `text`, a whole cell or one element of a sequence."""
    value = finite_number(text)
    if value is not None and math.isinf(value):
        problem = "a number too large for a 64-bit float"
    elif not text:
        problem = "an empty element: a separator too many"
    else:
        problem = "not a finite number"
    return DataError(
        f"{layout.label(field)} holds {quote(text)}, {problem}; write plain digits, such as "
        "881250949 or 3.5, or leave the cell empty",
        layout.path,
        line,
    )

"""``dataset_meta/<name>.yaml``: where a data set comes from and what it must contain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, PrivateAttr
from tabulate import tabulate

from recbole_lite.data.sources.amazon import Amazon
from recbole_lite.data.sources.converter import AtomicCopy, Converter
from recbole_lite.data.sources.movielens import MovieLens100K, MovieLensCsv, MovieLensDat
from recbole_lite.data.sources.strict_model import StrictModel, Tuple, nearest, validate
from recbole_lite.utils.dataset_names import check_name
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import DATASET_META

OWN_FOLDER = "dataset_meta"  # inside the data path: a user's own files, which come first
CONVERTERS: dict[str, type[Converter]] = {
    "amazon": Amazon,
    "atomic": AtomicCopy,
    "movielens-100k": MovieLens100K,
    "movielens-csv": MovieLensCsv,
    "movielens-dat": MovieLensDat,
}


def _matching(pattern: str, message: str) -> Any:
    """Type of a string that matches `pattern`; `message` says what is wrong with others."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(message.format(value))
        return value

    return Annotated[str, AfterValidator(check)]


_PlainName = _matching(r"[^./\\][^/\\]*", "{!r} must be a plain file name")
_Url = _matching(r"https?://.*", "{!r} must begin with http:// or https://")
_Sha256 = _matching("[0-9a-f]{64}", "64 hexadecimal digits expected, found {!r}")
_Md5 = _matching("[0-9a-f]{32}", "32 hexadecimal digits expected, found {!r}")


class Source(StrictModel):
    """One file to download; sizes and checksums are absent where none is known."""

    file: _PlainName  # on disk
    url: _Url
    size: int | None = None  # in bytes
    sha256: _Sha256 | None = None
    md5: _Md5 | None = None
    checksum_from: str | None = None  # who published or recorded them


class KCore(StrictModel):
    """Interactions that a user and an item must have in the core (0: any number)."""

    users: int = 0
    items: int = 0


class Filters(StrictModel):
    """What is dropped after conversion."""

    k_core: KCore = KCore()
    min_rating: float | None = None  # rows with lower ratings are dropped
    # first: of several rows of one user and item the first in time stays.
    duplicates: Literal["keep", "first"] = "keep"


class Expected(StrictModel):
    """Counts of the ``.inter`` file after the filters; ``null`` where they are not known.

    ``text_coverage``: text field -> smallest share of items that must have a text in it;
    ``sha256``: ending of an atomic file (``inter``, ``item``, ``user``) -> checksum.
    """

    users: int | None = None
    items: int | None = None
    interactions: int | None = None
    text_coverage: dict[str, float] = {}  # noqa: RUF012 - pydantic copies defaults
    sha256: dict[str, str] = {}  # noqa: RUF012 - pydantic copies defaults

    def counts(self) -> dict[str, int]:
        """Return the counts that are known, by name."""
        counts = {"users", "items", "interactions"}
        return self.model_dump(include=counts, exclude_none=True)


class Variant(StrictModel):
    """A known copy that differs from what the converter makes."""

    title: str
    note: str  # how it differs
    expected: Expected  # it is recognised by all counts given


class DatasetMeta(StrictModel):
    """One file of ``dataset_meta``."""

    name: str  # of the data set, its folder and its files
    title: str
    homepage: str
    licence: str
    citation: str
    converter: Converter
    sources: Tuple[Source] = ()  # none for a set that cannot be downloaded
    by_hand: str = ""  # how to get a set that has no sources
    filters: Filters = Filters()
    expected: Expected = Expected()
    text_fields: Tuple[str] = ()  # columns of .item that hold the items' text
    variants: Tuple[Variant] = ()
    _path: Path = PrivateAttr()

    @property
    def path(self) -> Path:
        """The YAML file."""
        return self._path


def known_names(data_path: str | Path | None = None) -> list[str]:
    """Sorted names of the data sets that have a ``dataset_meta`` file, here or in `data_path`."""
    folders = _folders(data_path)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def find_meta(name: str, data_path: str | Path | None = None) -> Path | None:
    """Path of a data set's ``dataset_meta`` file, a user's own before ours; None: there is none.

    `data_path` is the folder of the data sets.
    """
    paths = [folder / f"{check_name(name)}.yaml" for folder in _folders(data_path)]
    return next((path for path in paths if path.is_file()), None)


def _folders(data_path: str | Path | None) -> list[Path]:
    own = [] if data_path is None else [Path(data_path) / OWN_FOLDER]
    return [*own, DATASET_META]


def load_meta(path: Path) -> DatasetMeta:
    """Read and check one ``dataset_meta`` file, whose name is that of the data set.

    Raises
    ------
    ConfigError
        Not YAML, an unknown or missing key, or a value of the wrong type.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a mapping of keys to values expected")
    try:
        data = {**data, "converter": _converter(data.get("converter"))}
        meta = validate(DatasetMeta, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if meta.name != path.stem:
        raise ConfigError(f"{path}: name: {meta.name!r} must be the file's name, {path.stem!r}")
    if not meta.sources and not meta.by_hand:
        raise ConfigError(f"{path}: without sources, by_hand must say how to get the files")
    meta._path = path
    return meta


class _ConverterChoice(StrictModel):
    name: str
    options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies defaults


def _converter(data: Any) -> Converter:
    if not isinstance(data, dict):
        raise ConfigError("converter: a mapping with the keys name and options expected")
    choice = validate(_ConverterChoice, data, "converter.")
    if choice.name not in CONVERTERS:
        raise ConfigError(
            f"converter.name: {choice.name!r} is not known; {nearest(choice.name, CONVERTERS)}"
        )
    return validate(CONVERTERS[choice.name], choice.options, "converter.options.")


def list_datasets(data_path: str | Path) -> str:
    """Table of the known data sets: how large they are, and which are on disk in `data_path`."""
    data_path = Path(data_path)
    metas = [load_meta(find_meta(name, data_path)) for name in known_names(data_path)]
    headers = ["name", "title", "users", "items", "interactions", f"in {data_path}"]
    rows = [_row(meta, data_path) for meta in metas]
    table = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)
    return f"{table}\n?: not measured yet. Counts are those after the filters."


def _row(meta: DatasetMeta, data_path: Path) -> list[str]:
    counts = meta.expected.counts()
    numbers = [
        f"{counts[key]:,}" if key in counts else "?" for key in ("users", "items", "interactions")
    ]
    present = (data_path / meta.name / f"{meta.name}.inter").is_file()
    state = "yes" if present else "no" if meta.sources else "no; download it manually"
    return [meta.name, meta.title, *numbers, state]

"""``dataset_meta/<name>.yaml``: where a data set comes from and what it must contain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, PrivateAttr

from recbole_lite.data.sources.amazon import Amazon
from recbole_lite.data.sources.atomic_copy import AtomicCopy
from recbole_lite.data.sources.converter import Converter
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
    """One file to download.

    Parameters
    ----------
    file : str
        Its name on disk.
    url : str
        Where it is published.
    size : int, optional
        In bytes.
    sha256, md5 : str, optional
        Checksums, in hexadecimal; absent where none is known.
    checksum_from : str, optional
        Who published or recorded them.
    """

    file: _PlainName
    url: _Url
    size: int | None = None
    sha256: _Sha256 | None = None
    md5: _Md5 | None = None
    checksum_from: str | None = None


class KCore(StrictModel):
    """Interactions that a user and an item must have in the core (0: any number)."""

    users: int = 0
    items: int = 0


class Filters(StrictModel):
    """What is dropped after conversion.

    Parameters
    ----------
    k_core : KCore
        Smallest numbers of interactions.
    min_rating : float, optional
        Rows with lower ratings are dropped.
    duplicates : str
        ``first``: of several rows of one user and item the first in time stays;
        ``keep``: all stay.
    """

    k_core: KCore = KCore()
    min_rating: float | None = None
    duplicates: Literal["keep", "first"] = "keep"


class Expected(StrictModel):
    """Counts after the filters; ``null`` where they are not known.

    Parameters
    ----------
    users, items, interactions : int, optional
        Of the ``.inter`` file.
    text_coverage : dict
        Text field to the smallest share of items that must have a text in it.
    sha256 : dict
        Ending of an atomic file (``inter``, ``item``, ``user``) to its checksum.
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
    """A known copy that differs from what the converter makes.

    Parameters
    ----------
    title : str
        What it is called.
    note : str
        How it differs.
    expected : Expected
        How it is recognised: by all counts given.
    """

    title: str
    note: str
    expected: Expected


class DatasetMeta(StrictModel):
    """One file of ``dataset_meta``.

    Parameters
    ----------
    name : str
        Of the data set, its folder and its files.
    title, homepage, licence, citation : str
        For people.
    sources : tuple of Source
        Files to download; none for a set that cannot be downloaded.
    by_hand : str
        How to get a set that has no sources.
    converter : Converter
        Reads the source files.
    filters : Filters
        What is dropped.
    expected : Expected
        What must come out.
    text_fields : tuple of str
        Columns of ``.item`` that hold the items' text.
    variants : tuple of Variant
        Other copies that are in use.

    Attributes
    ----------
    path : Path
        The YAML file.
    """

    name: str
    title: str
    homepage: str
    licence: str
    citation: str
    converter: Converter
    sources: Tuple[Source] = ()
    by_hand: str = ""
    filters: Filters = Filters()
    expected: Expected = Expected()
    text_fields: Tuple[str] = ()
    variants: Tuple[Variant] = ()
    _path: Path = PrivateAttr()

    @property
    def path(self) -> Path:  # noqa: D102 - in the class's docstring
        return self._path


def known_names(data_path: str | Path | None = None) -> list[str]:
    """Names of the data sets that have a ``dataset_meta`` file.

    Parameters
    ----------
    data_path : str or Path, optional
        Also look into ``dataset_meta`` there.

    Returns
    -------
    list of str
        Sorted.
    """
    folders = _folders(data_path)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def find_meta(name: str, data_path: str | Path | None = None) -> Path | None:
    """Path of a data set's ``dataset_meta`` file, a user's own before ours.

    Parameters
    ----------
    name : str
        Of the data set.
    data_path : str or Path, optional
        Folder of the data sets.

    Returns
    -------
    Path or None
        None when there is no such file.
    """
    paths = [folder / f"{check_name(name)}.yaml" for folder in _folders(data_path)]
    return next((path for path in paths if path.is_file()), None)


def _folders(data_path: str | Path | None) -> list[Path]:
    own = [] if data_path is None else [Path(data_path) / OWN_FOLDER]
    return [*own, DATASET_META]


def load_meta(path: Path) -> DatasetMeta:
    """Read and check one ``dataset_meta`` file.

    Parameters
    ----------
    path : Path
        The file; its name without the ending is the data set's name.

    Returns
    -------
    DatasetMeta
        Complete and of the right types.

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

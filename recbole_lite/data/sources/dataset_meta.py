"""``dataset_meta/<name>.yaml``: where a data set comes from and what it must contain."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from recbole_lite.data.sources.converter import Converter
from recbole_lite.data.sources.converters import CONVERTERS
from recbole_lite.data.sources.strict import build, check_keys, nearest
from recbole_lite.utils.dataset_names import check_name
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import DATASET_META

OWN_FOLDER = "dataset_meta"  # inside the data path: a user's own files, which come first
DUPLICATES = ("keep", "first")


@dataclass(frozen=True)
class Source:
    """One file to fetch.

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

    file: str
    url: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    checksum_from: str | None = None

    def __post_init__(self):
        if Path(self.file).name != self.file or self.file.startswith("."):
            raise ConfigError(f"file: {self.file!r} must be a plain file name")
        if not re.match(r"https?://", self.url):
            raise ConfigError(f"url: {self.url!r} must begin with http:// or https://")
        for key, length in (("sha256", 64), ("md5", 32)):
            value = getattr(self, key)
            if value is not None and not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
                raise ConfigError(f"{key}: {length} hexadecimal digits expected, found {value!r}")


@dataclass(frozen=True)
class KCore:
    """Interactions that a user and an item must have in the core (0: any number)."""

    users: int = 0
    items: int = 0


@dataclass(frozen=True)
class Filters:
    """What is dropped after conversion.

    Parameters
    ----------
    k_core : KCore
        Smallest numbers of interactions.
    min_rating : float, optional
        Rows with lower ratings go.
    duplicates : str
        ``first``: of several rows of one user and item the first in time stays;
        ``keep``: all stay.
    """

    k_core: KCore = KCore()
    min_rating: float | None = None
    duplicates: str = "keep"

    def __post_init__(self):
        if self.duplicates not in DUPLICATES:
            raise ConfigError(f"duplicates: one of {DUPLICATES} expected, not {self.duplicates!r}")


@dataclass(frozen=True)
class Expected:
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
    text_coverage: dict[str, float] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Return the counts that are known, by name."""
        values = {key: getattr(self, key) for key in ("users", "items", "interactions")}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Variant:
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


@dataclass(frozen=True)
class DatasetMeta:
    """One file of ``dataset_meta``.

    Parameters
    ----------
    name : str
        Of the data set, its folder and its files.
    title, homepage, licence, citation : str
        For people.
    sources : tuple of Source
        Files to fetch; none for a set that is brought by hand.
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
    path : Path
        The YAML file.
    """

    name: str
    title: str
    homepage: str
    licence: str
    citation: str
    converter: Converter
    path: Path
    sources: tuple[Source, ...] = ()
    by_hand: str = ""
    filters: Filters = Filters()
    expected: Expected = Expected()
    text_fields: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()


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
        check_keys(data, [f.name for f in fields(DatasetMeta) if f.name != "path"], "")
        data = {**data, "converter": _converter(data.get("converter")), "path": path}
        meta = build(DatasetMeta, data, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if meta.name != path.stem:
        raise ConfigError(f"{path}: name: {meta.name!r} must be the file's name, {path.stem!r}")
    if not meta.sources and not meta.by_hand:
        raise ConfigError(f"{path}: without sources, by_hand must say how to get the files")
    return meta


def _converter(data: Any) -> Converter:
    if not isinstance(data, dict):
        raise ConfigError("converter: a mapping with the keys name and options expected")
    check_keys(data, ("name", "options"), "converter.")
    name = data.get("name")
    if name not in CONVERTERS:
        raise ConfigError(
            f"converter.name: {name!r} is not known; {nearest(str(name), CONVERTERS)}"
        )
    return build(CONVERTERS[name], data.get("options") or {}, "converter.options.")

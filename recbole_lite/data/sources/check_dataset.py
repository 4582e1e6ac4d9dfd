"""Checking a data set on disk against what is known of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_lite.data.atomic_reader import AtomicTable, read_atomic
from recbole_lite.data.column_settings import check_types, names_in
from recbole_lite.data.parquet_interactions import SUFFIX as PARQUET
from recbole_lite.data.parquet_interactions import parquet_file
from recbole_lite.data.sources.check_report import CheckReport, FileLine
from recbole_lite.data.sources.dataset_meta import Expected, find_meta, known_names, load_meta
from recbole_lite.data.sources.dataset_stats import Stats, codes, differences, measure
from recbole_lite.data.sources.prepare_dataset import RECEIPT
from recbole_lite.data.sources.strict_model import nearest
from recbole_lite.utils.dataset_names import check_name, find_parts
from recbole_lite.utils.errors import DataError
from recbole_lite.utils.files import file_sha256

SHORTEST_SPLIT = 3  # leave-one-out: one item each for training, validation and test


@dataclass(frozen=True)
class FileSettings:
    """What the settings of a run say of the files of a data set; the defaults are RecBole's."""

    # Names of columns.
    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    rating: str = "rating"
    separator: str = "\t"
    seq_separator: str = " "
    encoding: str = "utf-8"
    parts: tuple[str, ...] = ()  # benchmark_filename; none: one file, or the parts that are there
    histories: str = "item_id_list"  # column of a part whose rows are histories with targets
    suffixes: tuple[str, ...] = ()  # additional_feat_suffix
    text_fields: tuple[str, ...] = ()  # item_text_fields; none: those of dataset_meta, or all

    @classmethod
    def from_config(cls, config) -> FileSettings:
        """Read the keys."""
        return cls(
            user=config["USER_ID_FIELD"],
            item=config["ITEM_ID_FIELD"],
            time=config["TIME_FIELD"],
            rating=config["RATING_FIELD"],
            separator=config["field_separator"],
            seq_separator=config["seq_separator"],
            encoding=config["encoding"] or "utf-8",
            parts=names_in(config["benchmark_filename"]),
            histories=config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"],
            suffixes=names_in(config["additional_feat_suffix"]),
            text_fields=names_in(config["item_text_fields"]),
        )

    @property
    def columns(self) -> dict[str, str]:
        """Key that names a column -> the column, for those whose type matters."""
        return {
            "USER_ID_FIELD": self.user,
            "ITEM_ID_FIELD": self.item,
            "TIME_FIELD": self.time,
            "RATING_FIELD": self.rating,
        }

    @property
    def interactions(self) -> list[str]:
        """Endings of the files of interactions."""
        return [f"{part}.inter" for part in self.parts] or ["inter"]


def _with_parts(settings: FileSettings, folder: Path, name: str) -> FileSettings:
    """The parts in the folder, where neither the settings nor a whole file say otherwise."""
    if settings.parts or (folder / f"{name}.inter").is_file():
        return settings
    return replace(settings, parts=tuple(find_parts(folder, name)))


def check(name: str, data_path: str | Path, settings: FileSettings = FileSettings()) -> CheckReport:
    """Read a data set strictly, count it, and compare it with its ``dataset_meta``.

    Parameters
    ----------
    name : str
        Of the data set; it need not be a known one.
    data_path : str or Path
        Folder of the data sets.
    settings : FileSettings, optional
        Of a run.

    Raises
    ------
    DataError
        There is no such data set.
    """
    data_path = Path(data_path)
    folder = data_path / check_name(name)
    settings = _with_parts(settings, folder, name)
    missing = [e for e in settings.interactions if not (folder / f"{name}.{e}").is_file()]
    if missing and parquet_file(folder, name):
        raise DataError(
            f"{name}{PARQUET} is checked by a run, as it reads it; data check reads atomic files",
            folder,
        )
    if missing:
        raise DataError(
            f"no {name}.{missing[0]} here; on disk, {nearest(name, _present(data_path))}. A known "
            "set can be fetched with: recbole-lite data prepare NAME; "
            f"{nearest(name, known_names(data_path))}",
            folder,
        )
    path = find_meta(name, data_path)
    report = CheckReport(name, folder, load_meta(path) if path else None)
    ids = (settings.user, settings.item)
    tables = [_read(report, e, settings, required=ids) for e in settings.interactions]
    item = _read(report, "item", settings, required=ids[1:], unique=settings.item)
    _read(report, "user", settings, required=ids[:1], unique=settings.user)
    for suffix in settings.suffixes:
        if _read(report, suffix, settings) is None and not (folder / f"{name}.{suffix}").is_file():
            report.problems.append(f"no {name}.{suffix}; additional_feat_suffix names it")
    readable = [table for table in tables if table is not None]
    if len(readable) == len(tables):
        frames = [table.frame for table in readable]
        frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
        _check_interactions(report, frame, settings)
        items = frame[settings.item]
        if settings.parts:
            items = _check_parts(report, readable, settings)
        _check_items(report, items, item, settings)
    _check_receipt(report)
    _check_expected(report)
    return report


def _present(data_path: Path) -> list[str]:
    """Names of the data sets in a folder."""
    return [p.parent.name for p in data_path.glob("*/*.inter") if p.stem == p.parent.name]


def _read(
    report: CheckReport, ending: str, settings: FileSettings, **conditions
) -> AtomicTable | None:
    """Read one file; what is wrong with it goes into the report."""
    path = report.folder / f"{report.name}.{ending}"
    if not path.is_file():
        return None
    try:
        table = read_atomic(
            path,
            separator=settings.separator,
            seq_separator=settings.seq_separator,
            encoding=settings.encoding,
            **conditions,
        )
        check_types(path, table.types, settings.columns)
    except DataError as error:
        report.problems.append(str(error))
        return None
    report.files.append(FileLine(path.name, len(table.frame), table.types, file_sha256(path)))
    empty = [column for column in table.types if not _filled(table.frame[column]).any()]
    if empty:
        report.warnings.append(f"{path.name}: every cell is empty in {', '.join(empty)}")
    return table


def _filled(column: pd.Series) -> pd.Series:
    """Whether each cell of a column of any type holds something."""
    if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype.kind in "if":
        return column.notna()
    return column.str.len() > 0  # text, or arrays of numbers


def _check_interactions(report: CheckReport, frame: pd.DataFrame, settings: FileSettings) -> None:
    report.stats = measure(frame, settings.user, settings.item)
    users, items = codes(frame[settings.user]), codes(frame[settings.item])
    short = int((np.bincount(users) < SHORTEST_SPLIT).sum())
    if short and not settings.parts:
        report.warnings.append(
            f"{short:,} users have fewer than {SHORTEST_SPLIT} interactions and cannot be split "
            "into training, validation and test"
        )
    repeated = len(frame) - np.unique(users * (items.max() + 1) + items).size
    if repeated:
        report.notes.append(f"{repeated:,} interactions repeat an earlier user and item")
    if settings.time not in frame and settings.histories not in frame:
        report.warnings.append(f"no column {settings.time}: the order of events is unknown")
    elif settings.time in frame and (without := int((~_filled(frame[settings.time])).sum())):
        report.problems.append(
            f"{without:,} interactions have no {settings.time}: their place in the sequence is "
            "unknown; fill it in or remove the rows"
        )


def _check_parts(
    report: CheckReport, tables: list[AtomicTable], settings: FileSettings
) -> pd.Series:
    """Check a data set that is split already; returns its items, those of histories included."""
    first, *others = tables
    for table in others:
        if table.types != first.types:
            report.problems.append(
                f"{table.path.name} has other columns than {first.path.name}; the parts of a data "
                "set must have the same"
            )
    report.notes.append(f"{len(tables)} parts that are split already (benchmark_filename)")
    known, later = (
        pd.concat([_all_items(table, settings) for table in some] or [pd.Series(dtype=object)])
        for some in ([first], others)
    )
    new = later[~later.isin(known)].nunique()
    if new:
        report.warnings.append(f"{new:,} items do not occur in {first.path.name}")
    return pd.concat([known, later])


def _all_items(table: AtomicTable, settings: FileSettings) -> pd.Series:
    """Items of the rows of a part and of their histories."""
    items = table.frame[settings.item].astype(object)
    if table.types.get(settings.histories) != "token_seq":
        return items
    histories = table.frame[settings.histories].str.split(settings.seq_separator).explode()
    return pd.concat([items, histories[histories.notna() & (histories != "")]])


def _check_items(
    report: CheckReport, item_column: pd.Series, table: AtomicTable | None, settings: FileSettings
) -> None:
    """Text coverage, and interactions whose item is not described."""
    fields = settings.text_fields or (report.meta.text_fields if report.meta else ())
    if table is None:
        if fields:
            report.problems.append(f"no readable {report.name}.item; its text fields are missing")
        return
    missing = [one for one in fields if one not in table.types]
    if missing:
        report.problems.append(f"{report.name}.item has no text field {', '.join(missing)}")
    described = table.frame[settings.item].astype(object)
    column = item_column.astype("category")
    occurring = column.cat.categories
    in_use = described.isin(occurring)
    report.idle_items = int((~in_use).sum())
    undescribed = ~occurring.isin(described)
    if undescribed.any():
        report.warnings.append(
            f"{int(undescribed[column.cat.codes].sum()):,} interactions with "
            f"{int(undescribed.sum()):,} items that have no row in {report.name}.item"
        )
    if not fields:
        fields = tuple(name for name, kind in table.types.items() if kind == "token_seq")
    for one in fields:
        if one in table.types:
            report.coverage[one] = int(_filled(table.frame.loc[in_use, one]).sum())
        if one in settings.text_fields and report.coverage.get(one) == 0:
            report.problems.append(
                f"item_text_fields: no item has text in {one}; name other fields"
            )


def _check_receipt(report: CheckReport) -> None:
    """Compare the files with those that `prepare` wrote."""
    path = report.folder / RECEIPT
    if not path.is_file():
        return
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        report.problems.append(f"{path}: not a receipt of `data prepare` ({error!r})")
        return
    for name, expected in written.items():
        there = report.folder / name
        if not there.is_file():
            report.problems.append(f"{name} was prepared but is missing")
        elif file_sha256(there) != expected:
            report.problems.append(
                f"{name} has changed since it was prepared: its checksum differs"
            )


def _check_expected(report: CheckReport) -> None:
    if report.meta is None:
        report.notes.append("no dataset_meta file: only the files themselves were checked")
        return
    if report.stats is None:
        return
    _check_coverage(report, report.meta.expected, report.stats)
    wrong = differences(report.meta.expected.counts(), report.stats)
    if wrong:
        report.variant = next(
            (v for v in report.meta.variants if not differences(v.expected.counts(), report.stats)),
            None,
        )
    known = report.variant.expected if report.variant else report.meta.expected
    if report.variant is None:
        report.problems.extend(wrong)
        if not known.counts():
            report.notes.append("expected counts are unknown: they have not been measured yet")
    sums = {line.name.rpartition(".")[2]: line.sha256 for line in report.files}
    for ending, expected in known.sha256.items():
        if not wrong or report.variant:
            _compare_sum(report, ending, expected, sums.get(ending))


def _compare_sum(report: CheckReport, ending: str, expected: str, found: str | None) -> None:
    if found is None:
        report.problems.append(f"no readable {report.name}.{ending}; it is part of the data set")
    elif found != expected:
        report.problems.append(
            f"{report.name}.{ending} has the expected counts but another content: "
            f"sha256 {found}, expected {expected}"
        )


def _check_coverage(report: CheckReport, expected: Expected, stats: Stats) -> None:
    for one, least in expected.text_coverage.items():
        share = report.coverage.get(one, 0) / stats.items
        if one in report.coverage and share < least:
            report.problems.append(
                f"{one}: only {share:.2%} of the items have a text in it, expected {least:.2%}"
            )

"""Checking a data set on disk against what is known of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_lite.data.atomic_reader import AtomicTable, read_atomic
from recbole_lite.data.sources.check_report import CheckReport, FileLine
from recbole_lite.data.sources.dataset_meta import Expected, find_meta, known_names, load_meta
from recbole_lite.data.sources.dataset_stats import Stats, codes, differences, measure
from recbole_lite.data.sources.prepare_dataset import RECEIPT
from recbole_lite.data.sources.strict_model import nearest
from recbole_lite.utils.dataset_names import check_name, find_parts
from recbole_lite.utils.errors import DataError
from recbole_lite.utils.files import file_sha256

SHORTEST_SPLIT = 3  # leave-one-out: one item each for training, validation and test


def check(name: str, data_path: str | Path) -> CheckReport:
    """Read a data set strictly, count it, and compare it with its ``dataset_meta``.

    Parameters
    ----------
    name : str
        Of the data set; it need not be a known one.
    data_path : str or Path
        Folder of the data sets.

    Returns
    -------
    CheckReport
        What was found; `CheckReport.ok` says whether all is well.

    Raises
    ------
    DataError
        There is no such data set.
    """
    data_path = Path(data_path)
    folder = data_path / check_name(name)
    whole = (folder / f"{name}.inter").is_file()
    parts = [] if whole else find_parts(folder, name)
    if not whole and not parts:
        raise DataError(
            f"no {name}.inter here; on disk, {nearest(name, _present(data_path))}. A known set "
            "can be fetched with: recbole-lite data prepare NAME; "
            f"{nearest(name, known_names(data_path))}",
            folder,
        )
    path = find_meta(name, data_path)
    report = CheckReport(name, folder, load_meta(path) if path else None)
    endings = [f"{part}.inter" for part in parts] or ["inter"]
    inters = [_read(report, ending, required=("user_id", "item_id")) for ending in endings]
    item = _read(report, "item", unique="item_id")
    _read(report, "user", unique="user_id")
    tables = [table for table in inters if table is not None]
    if parts and tables:
        _check_parts(report, tables, item)
    elif tables:
        _check_interactions(report, tables[0].frame)
        _check_items(report, tables[0].frame["item_id"], item)
    _check_receipt(report)
    _check_expected(report)
    return report


def _present(data_path: Path) -> list[str]:
    """Names of the data sets in a folder."""
    return [p.parent.name for p in data_path.glob("*/*.inter") if p.stem == p.parent.name]


def _read(report: CheckReport, ending: str, **conditions) -> AtomicTable | None:
    """Read one file; what is wrong with it goes into the report."""
    path = report.folder / f"{report.name}.{ending}"
    if not path.is_file():
        return None
    try:
        table = read_atomic(path, **conditions)
    except DataError as error:
        report.problems.append(str(error))
        return None
    report.files.append(FileLine(path.name, len(table.frame), table.types, file_sha256(path)))
    return table


def _check_interactions(report: CheckReport, frame: pd.DataFrame) -> None:
    report.stats = measure(frame)
    users, items = codes(frame["user_id"]), codes(frame["item_id"])
    short = int((np.bincount(users) < SHORTEST_SPLIT).sum())
    if short:
        report.warnings.append(
            f"{short:,} users have fewer than {SHORTEST_SPLIT} interactions and cannot be split "
            "into training, validation and test"
        )
    repeated = len(frame) - np.unique(users * (items.max() + 1) + items).size
    if repeated:
        report.notes.append(f"{repeated:,} interactions repeat an earlier user and item")
    if "timestamp" not in frame:
        report.warnings.append("no column timestamp: the order of events is unknown")


def _check_parts(report: CheckReport, tables: list[AtomicTable], item: AtomicTable | None) -> None:
    """Check a data set that is split already; the items of histories count as its items."""
    first, *others = tables
    for table in others:
        if table.types != first.types:
            report.problems.append(
                f"{table.path.name} has other columns than {first.path.name}; the parts of a data "
                "set must have the same"
            )
    frame = pd.concat([table.frame[["user_id", "item_id"]].astype(object) for table in tables])
    report.stats = measure(frame)
    report.notes.append(f"{len(tables)} parts that are split already (benchmark_filename)")
    known, later = (
        pd.concat([_all_items(table) for table in some] or [pd.Series(dtype=object)])
        for some in ([first], others)
    )
    new = later[~later.isin(known)].nunique()
    if new:
        report.warnings.append(f"{new:,} items do not occur in {first.path.name}")
    _check_items(report, pd.concat([known, later]), item)


def _all_items(table: AtomicTable) -> pd.Series:
    """Items of the rows of a part and of their histories."""
    items = table.frame["item_id"].astype(object)
    if table.types.get("item_id_list") != "token_seq":
        return items
    histories = table.frame["item_id_list"].str.split(" ").explode()
    return pd.concat([items, histories[histories.notna() & (histories != "")]])


def _check_items(report: CheckReport, item_column: pd.Series, table: AtomicTable | None) -> None:
    """Text coverage, and interactions whose item is not described."""
    fields = report.meta.text_fields if report.meta else ()
    if table is None:
        if fields:
            report.problems.append(f"no readable {report.name}.item; its text fields are missing")
        return
    missing = [one for one in fields if one not in table.types]
    if missing:
        report.problems.append(f"{report.name}.item has no text field {', '.join(missing)}")
    described = table.frame["item_id"].astype(object)
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
            text = table.frame.loc[in_use, one].astype(object)
            report.coverage[one] = int((text.notna() & (text != "")).sum())


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

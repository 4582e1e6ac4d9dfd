"""The known data sets as a table."""

from __future__ import annotations

from pathlib import Path

from tabulate import tabulate

from recbole_lite.data.sources.dataset_meta import DatasetMeta, find_meta, known_names, load_meta


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

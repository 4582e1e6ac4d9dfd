"""Findings of a data set's check, and their printed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from recbole_lite.data.sources.dataset_meta import DatasetMeta, Variant
from recbole_lite.data.sources.dataset_stats import Stats


@dataclass(frozen=True)
class FileLine:
    """One atomic file of a data set."""

    name: str
    rows: int
    columns: dict[str, str]
    sha256: str


@dataclass
class CheckReport:
    """What was found in a data set."""

    name: str
    folder: Path
    meta: DatasetMeta | None = None  # what is known of it
    files: list[FileLine] = field(default_factory=list)  # those that could be read
    stats: Stats | None = None  # of its interactions
    # Text field -> number of items with interactions that have a text in it.
    coverage: dict[str, int] = field(default_factory=dict)
    idle_items: int = 0  # rows of .item whose item has no interaction
    variant: Variant | None = None  # the known copy that this is
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # make the check fail

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings do not count."""
        return not self.problems

    def render(self) -> str:
        """Lay the report out for a terminal; lines without a final line end."""
        title = f" ({self.meta.title})" if self.meta else ""
        blocks = [f"{self.name}{title} in {self.folder}", _files(self)]
        if self.stats is not None:
            blocks += [_statistics(self.stats, self.idle_items), _coverage(self, self.stats)]
        blocks.append(_verdict(self))
        return "\n\n".join(block for block in blocks if block)


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)


def _files(report: CheckReport) -> str:
    rows = [
        [line.name, f"{line.rows:,}", line.sha256[:16], " ".join(line.columns)]
        for line in report.files
    ]
    return _table(rows, ["file", "rows", "sha256", "columns"]) if rows else ""


def _statistics(stats: Stats, idle_items: int) -> str:
    idle = f"{idle_items:,} more rows of .item have no interaction" if idle_items else ""
    rows = [
        ["users", f"{stats.users:,}", ""],
        ["items", f"{stats.items:,}", idle],
        ["interactions", f"{stats.interactions:,}", ""],
        ["density", f"{stats.density:.6f}", "interactions / (users x items)"],
        ["sparsity", f"{stats.sparsity:.4%}", "1 - density"],
        [
            "history",
            f"{stats.mean_history:.2f}",
            f"interactions per user, mean; median {stats.median_history:g}, "
            f"from {stats.min_history:,} to {stats.max_history:,}",
        ],
    ]
    return _table(rows, [])


def _coverage(report: CheckReport, stats: Stats) -> str:
    rows = [
        [name, f"{count:,}", f"{count / stats.items:.2%}"]
        for name, count in report.coverage.items()
    ]
    return _table(rows, ["text field", "items with text", "share"]) if rows else ""


def _verdict(report: CheckReport) -> str:
    lines = []
    if report.variant is not None:
        note = " ".join(report.variant.note.split())
        lines.append(f"known copy: {report.variant.title}. {note}")
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += [f"problem: {problem}" for problem in report.problems]
    lines.append(_result(report))
    return "\n".join(lines)


def _result(report: CheckReport) -> str:
    if not report.ok:
        return f"result: {len(report.problems)} problem(s)"
    if report.variant is not None:
        return "result: sound, a known copy"
    compared = report.meta is not None and report.meta.expected.counts()
    return "result: sound" + (" and as expected" if compared else "")

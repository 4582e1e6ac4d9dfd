"""A check's report as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from recbole_lite.data.sources.check_dataset import CheckReport
    from recbole_lite.data.sources.dataset_stats import Stats


def render(report: CheckReport) -> str:
    """Lay a report out for a terminal.

    Parameters
    ----------
    report : CheckReport
        From `check`.

    Returns
    -------
    str
        Lines without a final line end.
    """
    title = f" ({report.meta.title})" if report.meta else ""
    blocks = [f"{report.name}{title} in {report.folder}", _files(report)]
    if report.stats is not None:
        blocks += [_statistics(report.stats, report.idle_items), _coverage(report, report.stats)]
    blocks.append(_verdict(report))
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
    paper = (
        f"The paper's Table 3 prints, under the heading Sparsity(%), the density: "
        f"{stats.density:.4f} here."
    )
    return f"{_table(rows, [])}\n{paper}"


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

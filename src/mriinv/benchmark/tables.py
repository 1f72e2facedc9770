"""Tables of evaluations: every number as CSV, and what a reader needs as Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mriinv.benchmark.cells import Record
from mriinv.files import atomic_path

COLUMNS = (
    "method", "trained_for", "test_set", "scan", "slice", "mask", "psnr", "ssim", "ssim_legacy", "nmse", "seconds",
    "iterations", "converged", "memory_mib", "parameters", "training", "training_minutes", "hardware", "error",
    "notes", "file",
)  # fmt: skip
NOTE = (
    "PSNR in dB: mean ± standard deviation over slices, in brackets the worst; largest magnitude of the reference "
    "slice as data range. SSIM: 7×7 window and this range (fastMRI); legacy: twice the range, as older papers report "
    "it, not comparable. Both over the support of the coil maps. Seconds are those of the reconstruction alone, "
    "calibration left out; memory is what it takes beyond what was in use. Best mean of each column in bold, among "
    "methods that were run on all slices of the set without a failure."
)
ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "→": r"$\to$",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """The text of a table cell, whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, the rows."""

    title: str
    columns: list[str]
    rows: list[list[Entry]]


def table1(records: Sequence[Record]) -> list[Table]:
    """Return a table for each test set: methods in rows, masks in columns."""
    return [_compared(name, group) for name, group in _grouped(records, "test_set").items()]


def table2(records: Sequence[Record]) -> list[Table]:
    """Return a table for each test set: masks of the test in rows, of the training in columns (paper, table II)."""
    tables = []
    for name, group in _grouped(records, "test_set").items():
        by_training = _grouped(group, "trained_for")
        rows = []
        for mask, tested in _grouped(group, "mask").items():
            methods = _grouped(tested, "method")
            scores = {
                method: [_only(found, "trained_for", one) for one in by_training] for method, found in methods.items()
            }
            best = [_best([scores[method][column] for method in methods], "psnr") for column in range(len(by_training))]
            for method, found in scores.items():
                entries = [Entry(_psnr(some), value is not None and _mean(some, "psnr") == value)
                           for some, value in zip(found, best, strict=True)]  # fmt: skip
                rows.append([Entry(mask), Entry(method), *entries])
        title = f"{name}, n = {_count(group)}: PSNR (dB), better of the methods in bold"
        tables.append(Table(title, ["tested on", "method", *(f"trained for {one}" for one in by_training)], rows))
    return tables


def _compared(name: str, records: list[Record]) -> Table:
    methods, masks = _grouped(records, "method"), list(_grouped(records, "mask"))
    most = _count(records)
    columns = ["method"]
    rows = [[Entry(method)] for method in methods]
    for mask in masks:
        columns += [f"{mask} PSNR", "SSIM (legacy)"]
        found = [_only(some, "mask", mask) for some in methods.values()]
        whole = [some for some in found if len(some) == most]
        best = {metric: _best(whole, metric) for metric in ("psnr", "ssim")}
        for row, some in zip(rows, found, strict=True):
            full = some in whole and not _failed(some)
            fewer = f", n = {len(some)}" if some and len(some) < most else ""
            row.append(Entry(_psnr(some) + fewer, full and _mean(some, "psnr") == best["psnr"]))
            row.append(Entry(_ssim(some), full and _mean(some, "ssim") == best["ssim"]))
    columns += ["seconds", "memory (MiB)", "parameters", "training (min)"]
    for row, some in zip(rows, methods.values(), strict=True):
        row += [Entry(_number(some, "seconds", ".2f")), Entry(_number(some, "memory_mib", ".0f"))]
        row += [Entry(_number(some, "parameters", ",.0f")), Entry(_number(some, "training_minutes", ".1f"))]
    return Table(f"{name}, n = {most}", columns, rows)


def _psnr(records: list[Record]) -> str:
    values = _values(records, "psnr")
    failed = _failed(records)
    if not values:
        return f"failed: {failed[0]['error']}" if failed else ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    worst = f" ({min(values):.2f})" if len(values) > 1 else ""
    lost = f", {len(failed)} of {len(records)} failed" if failed else ""
    return f"{statistics.mean(values):.2f}{spread}{worst}{lost}"


def _ssim(records: list[Record]) -> str:
    mean, legacy = _mean(records, "ssim"), _mean(records, "ssim_legacy")
    return "" if mean is None or legacy is None else f"{mean:.3f} ({legacy:.3f})"


def _number(records: list[Record], field: str, form: str) -> str:
    mean = _mean(records, field)
    return "" if mean is None else format(mean, form)


def _values(records: list[Record], field: str) -> list[float]:
    return [record[field] for record in records if not record["error"] and record.get(field) is not None]


def _mean(records: list[Record], field: str) -> float | None:
    values = _values(records, field)
    return statistics.mean(values) if values else None


def _best(groups: list[list[Record]], field: str) -> float | None:
    means = [_mean(some, field) for some in groups if not _failed(some)]
    return max((mean for mean in means if mean is not None), default=None)


def _failed(records: list[Record]) -> list[Record]:
    return [record for record in records if record["error"]]


def _count(records: list[Record]) -> int:
    return len({(record["scan"], record["slice"]) for record in records})


def _only(records: list[Record], field: str, value: Any) -> list[Record]:
    return [record for record in records if record[field] == value]


def _grouped(records: Sequence[Record], field: str) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record[field], []).append(record)
    return groups


def write_tables(out: Path, tables: list[Table], records: Sequence[Record], summary: str) -> list[Path]:
    """Write ``out`` with the endings csv, md and tex; return the paths."""
    texts = {".csv": csv_text(records), ".md": markdown(tables, summary), ".tex": latex(tables, summary)}
    paths = []
    for suffix, text in texts.items():
        path = out.with_suffix(suffix)
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def csv_text(records: Sequence[Record]) -> str:
    """Return a row for each evaluation."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        file = record.get("file")
        row = {**record, "notes": "; ".join(record.get("notes", ())), "file": file.name if file else ""}
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
    return stream.getvalue()


def markdown(tables: list[Table], summary: str) -> str:
    """Return tables as Markdown."""
    lines = [summary, ""]
    for table in tables:
        lines += [f"### {table.title}", "", _row(table.columns), _row(["---"] * len(table.columns))]
        lines += [_row([f"**{entry.text}**" if entry.best else entry.text for entry in row]) for row in table.rows]
        lines.append("")
    return "\n".join([*lines, NOTE, ""])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def latex(tables: list[Table], summary: str) -> str:
    """Return tables as LaTeX that needs no package."""
    lines = [f"% {' '.join(summary.split())}"]
    for table in tables:
        head = " & ".join(map(escaped, table.columns))
        rows = [
            " & ".join(rf"\textbf{{{escaped(one.text)}}}" if one.best else escaped(one.text) for one in row)
            for row in table.rows
        ]
        body = [rf"{row} \\" for row in rows]
        lines += [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escaped(table.title)}. {escaped(NOTE)}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(table.columns) - 1)}}}",
            r"\hline",
            rf"{head} \\",
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            r"\end{table*}",
        ]
    return "\n".join([*lines, ""])


def escaped(text: str) -> str:
    """Return `text` for LaTeX."""
    return "".join(ESCAPED.get(character, character) for character in text)

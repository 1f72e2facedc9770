"""Tables of evaluations: every number as CSV, and what a reader needs as Markdown and LaTeX."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mriinv.benchmark.cells import Record
from mriinv.files import write_csv, write_text

COLUMNS = (
    "method", "trained_for", "test_set", "scan", "slice", "mask", "psnr", "ssim", "ssim_legacy", "nmse", "seconds",
    "iterations", "converged", "memory_mib", "parameters", "training", "training_minutes", "hardware", "error",
    "notes", "file",
)  # fmt: skip
SCORES = (
    "PSNR in dB: mean ± standard deviation over slices, in brackets the worst; largest magnitude of the reference "
    "slice as data range, over the support of the coil maps. Best mean in bold, among methods that were run on all "
    "slices of the set without a failure."
)
MORE = (
    "SSIM: 7×7 window and the same range (fastMRI); legacy: twice the range, as older papers report it, not "
    "comparable. Seconds are those of the reconstruction alone, calibration left out; memory is what it takes beyond "
    "what was in use."
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
    """A heading, the names of the columns, the rows, and what a reader has to know of the numbers."""

    title: str
    columns: list[str]
    rows: list[list[Entry]]
    note: str


def table1(records: Sequence[Record]) -> list[Table]:
    """Return a table for each test set: methods in rows, masks in columns."""
    tables = []
    for name, group in _grouped(records, "test_set").items():
        methods, most = _grouped(group, "method"), _count(group)
        columns = ["method"]
        rows = [[Entry(method)] for method in methods]
        for mask in _grouped(group, "mask"):
            columns += [f"{mask} PSNR", "SSIM (legacy)"]
            for row, entries in zip(rows, _scores(methods.values(), {"mask": mask}, most), strict=True):
                row += entries
        columns += ["seconds", "memory (MiB)", "parameters", "training (min)"]
        for row, some in zip(rows, methods.values(), strict=True):
            row += [Entry(_number(some, "seconds", ".2f")), Entry(_number(some, "memory_mib", ".0f"))]
            row += [Entry(_number(some, "parameters", ",.0f")), Entry(_number(some, "training_minutes", ".1f"))]
        tables.append(Table(f"{name}, n = {most}", columns, rows, _note(group, SCORES, MORE)))
    return tables


def table2(records: Sequence[Record]) -> list[Table]:
    """Return a table for each test set: masks of the test in rows, of the training in columns (paper, table II)."""
    tables = []
    for name, group in _grouped(records, "test_set").items():
        methods, trainings, most = _grouped(group, "method"), _grouped(group, "trained_for"), _count(group)
        rows = []
        for mask in _grouped(group, "mask"):
            found = [_scores(methods.values(), {"mask": mask, "trained_for": one}, most) for one in trainings]
            for method, entries in zip(methods, zip(*found, strict=True), strict=True):
                rows.append([Entry(mask), Entry(method), *(psnr for psnr, _ in entries)])
        columns = ["tested on", "method", *(f"trained for {one}" for one in trainings)]
        title = f"{name}, n = {most}: PSNR (dB), better of the methods in bold"
        tables.append(Table(title, columns, rows, _note(group, SCORES)))
    return tables


def _scores(methods: Iterable[list[Record]], task: dict[str, str], most: int) -> list[tuple[Entry, Entry]]:
    """Return PSNR and SSIM of each method at a task, the best of those that have all `most` slices in bold."""
    found = [[record for record in some if task.items() <= record.items()] for some in methods]
    whole = [len(some) == most and not _failed(some) for some in found]
    best = {}
    for metric in ("psnr", "ssim"):
        means = [_mean(some, metric) for some, full in zip(found, whole, strict=True) if full]
        best[metric] = max((mean for mean in means if mean is not None), default=None)
    scores = []
    for some, full in zip(found, whole, strict=True):
        fewer = f", n = {len(some)}" if some and len(some) < most else ""
        psnr = Entry(_psnr(some) + fewer, full and _mean(some, "psnr") == best["psnr"])
        scores.append((psnr, Entry(_ssim(some), full and _mean(some, "ssim") == best["ssim"])))
    return scores


def _note(records: list[Record], *parts: str) -> str:
    """Return what has to be known of a table, the hardware too where it is not the same for all of it."""
    hardware = sorted({record["hardware"] for record in records if record.get("hardware")})
    mixed = f"Computed on different hardware, seconds and memory do not compare: {'; '.join(hardware)}."
    return " ".join([*parts, mixed] if len(hardware) > 1 else parts)


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


def _failed(records: list[Record]) -> list[Record]:
    return [record for record in records if record["error"]]


def _count(records: list[Record]) -> int:
    return len({(record["scan"], record["slice"]) for record in records})


def _grouped(records: Sequence[Record], field: str) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record[field], []).append(record)
    return groups


def write_tables(out: Path, tables: list[Table], records: Sequence[Record], summary: str) -> list[Path]:
    """Write ``out`` with the endings csv, md and tex; return the paths."""
    paths = [out.with_suffix(suffix) for suffix in (".csv", ".md", ".tex")]
    write_csv(paths[0], [COLUMNS, *([_plain(record.get(name)) for name in COLUMNS] for record in records)])
    write_text(paths[1], markdown(tables, summary))
    write_text(paths[2], latex(tables, summary))
    return paths


def _plain(value: Any) -> Any:
    """Return a value of a record as CSV holds it: notes in one, a file by its name."""
    return "; ".join(value) if isinstance(value, list | tuple) else value.name if isinstance(value, Path) else value


def markdown(tables: list[Table], summary: str) -> str:
    """Return tables as Markdown."""
    lines = [summary, ""]
    for table in tables:
        lines += [f"### {table.title}", "", _row(table.columns), _row(["---"] * len(table.columns))]
        lines += [_row([f"**{entry.text}**" if entry.best else entry.text for entry in row]) for row in table.rows]
        lines += ["", table.note, ""]
    return "\n".join(lines)


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
            rf"\caption{{{escaped(table.title)}. {escaped(table.note)}}}",
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

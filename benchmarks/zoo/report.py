"""The zoo's results as a table on the screen and as a page of the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Record = dict[str, Any]

HEADER = """# Zoo

Every model is pruned by half on each prunable axis (`ratio=0.5`), with random weights, random batch-norm
statistics and no hand edits. *ok* means: the pruned model runs, all output shapes are kept, at least 5% of
the parameters are gone, and where the plan says *exact* the outputs equal those of the original with the
removed units zeroed, to 1e-4 of their scale. *Deep* means that at most 40% of the parameters are left.

Made by `python -m benchmarks.zoo`.

"""


def summary(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row a suite: models, passed, deep, exact, median remaining fraction and median seconds."""
    suites: dict[str, list[Record]] = {}
    for record in records:
        suites.setdefault(record["suite"], []).append(record)
    rows = []
    for suite, group in suites.items():
        passed = [r for r in group if r["status"] == "ok"]
        times = [_total(r) for r in passed]
        rows.append(
            {
                "suite": suite,
                "models": len(group),
                "ok": len(passed),
                "deep": sum(bool(r.get("deep")) for r in passed),
                "exact": sum(bool(r.get("exact")) for r in passed),
                "remaining": statistics.median([r["remaining"] for r in passed]) if passed else None,
                "seconds": statistics.median(times) if times else None,
            }
        )
    return rows


def _total(record: Record) -> float:
    return sum(record["seconds"].get(stage, 0.0) for stage in ("trace", "plan", "apply"))


def line(record: Record) -> str:
    """One line a model, for the screen while the run goes on."""
    parts = [f"{record['status']:>15}", record["key"]]
    if "remaining" in record:
        parts.append(f"left {record['remaining']:.1%}")
        parts.append("exact" if record["exact"] else "approximate")
    if "difference" in record:
        parts.append(f"diff {record['difference']:.1e}")
    if "signal" in record and record["status"] in ("blind", "dry"):
        parts.append(f"signal {record['signal']:.1e}")
    if record.get("seconds"):
        parts.append(" ".join(f"{k} {v:.2f}" for k, v in record["seconds"].items() if v >= 0.005))
    if "error" in record:
        parts.append(record["error"].splitlines()[0][:160])
    return "  ".join(parts)


def show(records: Iterable[Record]) -> None:
    """The summary as a table on the screen."""
    table = Table(title="zoo, ratio 0.5")
    for name in ("suite", "models", "ok", "deep", "exact", "left", "seconds"):
        table.add_column(name, justify="left" if name == "suite" else "right")
    for row in summary(records):
        left = "" if row["remaining"] is None else f"{row['remaining']:.1%}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        cells = [row["suite"], row["models"], row["ok"], row["deep"], row["exact"], left, seconds]
        table.add_row(*map(str, cells))
    Console().print(table)


def write_page(path: Path, records: Iterable[Record]) -> None:
    """The Markdown page."""
    records = [r for r in records if r["status"] != "dry"]
    lines = ["| suite | models | ok | deep | exact | parameters left (median) | seconds (median) |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for row in summary(records):
        left = "" if row["remaining"] is None else f"{row['remaining']:.1%}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        cells = [row["suite"], row["models"], row["ok"], row["deep"], row["exact"], left, seconds]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for suite in dict.fromkeys(r["suite"] for r in records):
        lines += ["", f"## {suite}", ""]
        lines.append(
            "| model | result | parameters | left | exact | difference | trace s | plan s | apply s |"
        )
        lines.append("|---|---|---:|---:|---|---:|---:|---:|---:|")
        lines += [_row(r) for r in records if r["suite"] == suite]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "\n".join(lines) + "\n")


def _row(record: Record) -> str:
    seconds = record.get("seconds", {})
    cells = [
        record["name"],
        record["status"],
        f"{record['params'] / 1e6:.2f} M" if "params" in record else "",
        f"{record['remaining']:.1%}" if "remaining" in record else "",
        ("yes" if record["exact"] else "no") if "exact" in record else "",
        f"{record['difference']:.0e}" if record.get("exact") and "difference" in record else "",
        *(f"{seconds[stage]:.2f}" if stage in seconds else "" for stage in ("trace", "plan", "apply")),
    ]
    return "| " + " | ".join(cells) + " |"

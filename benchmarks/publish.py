"""Results as JSON, as a table on the screen, and as a page of the documentation."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "benchmarks"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def publish(
    name: str,
    title: str,
    notes: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    data: Any,
    targets: Sequence[tuple[str, bool]] = (),
) -> None:
    """Write `results/<name>.json` and `docs/benchmarks/<name>.md`, and print the table.

    `targets` are statements with whether they hold; they follow the table.
    """
    where = machine()
    verdicts = [{"target": text, "met": met} for text, met in targets]
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": where, "targets": verdicts, "data": data}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")

    marks = [f"- {'met' if met else '**missed**'}: {text}" for text, met in targets]
    page = [f"# {title}", "", notes.strip(), ""]
    page += ["| " + " | ".join(columns) + " |", "|" + "---|" + "---:|" * (len(columns) - 1)]
    page += ["| " + " | ".join(row) + " |" for row in rows]
    page += ["", *marks] if marks else []
    page += ["", f"Measured on {where['cores']} cores, Python {where['python']}, PyTorch {where['torch']}."]
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text("\n".join(page) + "\n")

    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for text, met in targets:
        console.print(("met     " if met else "MISSED  ") + text, highlight=False)

"""What a run of `prunus.fit` did, step by step, as data and as a table."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..graph.cost import Costs


@dataclass(frozen=True)
class Step:
    """One step; step 0 is the network before pruning.

    Attributes:
        step: its number.
        fraction: the part of the way to the target that the schedule had come, in [0, 1].
        macs, params, activation_bytes: costs of the network after it (see `Graph.cost`).
        metric: what `evaluate` returned after fine-tuning; None without `evaluate`.
        seconds: time of pruning, training and evaluation.
        kept: whether the network that remains has been through it; a step below the floor was taken back.
    """

    step: int
    fraction: float
    macs: int
    params: int
    activation_bytes: int
    metric: float | None
    seconds: float
    kept: bool = True

    @classmethod
    def of(cls, step: int, fraction: float, costs: Costs, metric: float | None, seconds: float) -> Step:
        return cls(step, fraction, costs.macs, costs.params, costs.activation_bytes, metric, seconds)


@dataclass
class Fitted:
    """The result of `prunus.fit`. Print it for a table.

    Attributes:
        history: one entry for each step, the network before pruning first.
        stopped: why the run ended before its last step, in one line; None if it did not.
        checkpoint: the folder that `prunus.load` rebuilds the network from; None without `folder`.
    """

    history: list[Step] = field(default_factory=list)
    stopped: str | None = None
    checkpoint: Path | None = None

    @property
    def last(self) -> Step:
        """The step whose network remains."""
        return [step for step in self.history if step.kept][-1]

    def as_data(self) -> dict[str, Any]:
        """The result as plain data (JSON)."""
        return {
            "history": [asdict(step) for step in self.history],
            "stopped": self.stopped,
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `as_data` to a JSON file."""
        Path(path).write_text(json.dumps(self.as_data(), indent=1) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        first = self.history[0]
        rows = [("step", "target", "MACs", "", "parameters", "", "metric", "seconds")]
        for step in self.history:
            rows.append(
                (
                    str(step.step) if step.kept else f"({step.step})",
                    f"{step.fraction:.0%}",
                    f"{step.macs:,}",
                    f"{step.macs / max(first.macs, 1):.1%}",
                    f"{step.params:,}",
                    f"{step.params / max(first.params, 1):.1%}",
                    "" if step.metric is None else f"{step.metric:.4g}",
                    f"{step.seconds:.1f}",
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join([*lines, *([f"stopped: {self.stopped}"] if self.stopped else [])])

"""The result of `prunus.sensitivity`: curves as data, as a table, as a plot, and as ratios for a plan."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, PruningError

_SHOWN = 12
"""Curves that a plot names; the others are drawn in grey."""


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        ratio: what was asked for.
        removed: the fraction of the axis's units that it removed.
        metric: what `evaluate` returned.
        cut: the axes that lost units, the curve's own and those that its size is tied to.
    """

    ratio: float
    removed: float
    metric: float
    cut: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """The metric of one axis, of `size` units, against its ratio; the uncut model first."""

    axis: str
    size: int
    points: list[Point]

    @property
    def tied(self) -> list[str]:
        """The other axes that were cut with it."""
        return sorted({name for point in self.points for name in point.cut} - {self.axis})

    def worst(self, baseline: float) -> float:
        """How far the metric goes away from the baseline, in absolute value."""
        return max(abs(point.metric - baseline) for point in self.points)


@dataclass(frozen=True)
class Sensitivity:
    """A metric against the ratio of each axis. Print it for a table.

    Attributes:
        curves: by axis name.
        baseline: the metric of the model as it is.
        skipped: axes that cannot be cut by themselves, each with the reason.
        rivals: for each axis, the other factors of the same dimension (heads and head dims).
    """

    curves: dict[str, Curve]
    baseline: float
    skipped: dict[str, str] = field(default_factory=dict)
    rivals: dict[str, list[str]] = field(default_factory=dict)

    def ratios(self, max_loss: float, higher_is_better: bool = False) -> dict[str, float]:
        """For each axis the largest measured ratio up to which the metric gets worse by at most `max_loss`.

        Usable as `ratio=` of `Graph.plan`. Axes that cannot be cut at all are left out; of the factors of one
        product only the one that can lose most is given. Losses of axes that are cut together add up,
        roughly, so the pruned model is worse than each curve says.

        Args:
            max_loss: by how much the metric may get worse, in its own units, at least 0.
            higher_is_better: the metric is an accuracy, say, and not a loss.

        Raises:
            InputError: `max_loss` is negative or no number.
        """
        given: Any = max_loss
        if isinstance(given, bool) or not isinstance(given, int | float) or not given >= 0:
            raise InputError(f"max_loss={given!r} must be a number of at least 0")
        best = []
        for curve in self.curves.values():
            last = curve.points[0]
            for point in curve.points[1:]:
                loss = point.metric - self.baseline
                if not (-loss if higher_is_better else loss) <= max_loss:
                    break
                last = point
            if last.cut:
                best.append(last)
        found: dict[str, float] = {}
        whole: set[str] = set()
        for point in sorted(best, key=lambda item: -item.ratio):
            if whole.isdisjoint(point.cut) and not any(name in found for name in point.cut):
                found.update(dict.fromkeys(point.cut, point.ratio))
                whole.update(other for name in point.cut for other in self.rivals.get(name, ()))
        return found

    def as_data(self) -> dict[str, Any]:
        """Plain data (JSON); a metric that was not finite is None."""
        axes = {name: asdict(curve) for name, curve in self.curves.items()}
        for point in (point for curve in axes.values() for point in curve["points"]):
            point["metric"] = point["metric"] if math.isfinite(point["metric"]) else None
        return {"baseline": self.baseline, "axes": axes, "skipped": dict(self.skipped)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `as_data` to a JSON file."""
        Path(path).write_text(json.dumps(self.as_data(), indent=1) + "\n", encoding="utf-8")

    def plot(self, path: str | os.PathLike[str], label: str = "metric") -> None:
        """Draw the curves into a file; its suffix says the format (.svg, .png, .pdf).

        Args:
            label: of the vertical axis: what `evaluate` measures.

        Raises:
            PruningError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise PruningError(
                "plots need matplotlib: pip install 'prunus[report]'; as_data() has the numbers"
            ) from error
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        plane = figure.add_subplot()
        ordered = sorted(self.curves.values(), key=lambda curve: -curve.worst(self.baseline))
        for number, curve in enumerate(ordered):
            named = number < _SHOWN
            plane.plot(
                [point.removed for point in curve.points],
                [point.metric for point in curve.points],
                marker="o",
                markersize=3,
                color=f"C{number}" if number < 10 else None if named else "0.8",
                linestyle="-" if number < 10 else "--",
                zorder=2 if named else 1,
                label=curve.axis if named else "the others" if number == _SHOWN else None,
            )
        plane.axhline(self.baseline, color="0.5", linewidth=0.8, linestyle=":")
        plane.set_xlabel("fraction of units removed")
        plane.set_ylabel(label)
        plane.set_xlim(0, 1)
        plane.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        figure.savefig(path)

    def __str__(self) -> str:
        ratios = sorted({point.ratio for curve in self.curves.values() for point in curve.points[1:]})
        rows = [("axis", "units", *(f"-{ratio:.0%}" for ratio in ratios))]
        for curve in sorted(self.curves.values(), key=lambda item: -item.worst(self.baseline)):
            at = {point.ratio: point.metric for point in curve.points}
            shown = (f"{at[ratio]:.4g}" if ratio in at else "" for ratio in ratios)
            rows.append((curve.axis, str(curve.size), *shown))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = []
        for name, *cells in rows:
            right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([name.ljust(widths[0]), *right]))
        skipped = [f"{name} cannot be cut by itself: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([f"metric of the model as it is: {self.baseline:.4g}", *lines, *skipped])

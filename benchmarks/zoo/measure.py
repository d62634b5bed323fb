"""Prune one model of the zoo by half and say what became of it."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peak_memory import peak_memory
from benchmarks.zoo import criteria
from benchmarks.zoo.diagnosis import diagnose, fingerprint, user_frame
from benchmarks.zoo.entry import Entry

RATIO = 0.5
MIN_CUT = 0.05
DEEP = 0.40
DOUBLE_LIMIT = 150_000_000
"""Models with more parameters are compared in float32: two float64 copies would not fit a small machine."""

Record = dict[str, Any]


class _Stages:
    """Times each stage and remembers the one that an exception came from."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.record["seconds"] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.record["stage"] = name
        start = time.perf_counter()
        yield
        self.record["seconds"][name] = round(time.perf_counter() - start, 4)


def measure(entry: Entry, dry: bool = False) -> Record:
    """One JSON record: status, sizes, times, numerical difference, and what stayed whole and why.

    `dry` builds the model and runs it, without pruning.
    """
    record: Record = {"key": entry.key, "suite": entry.suite, "name": entry.name}
    try:
        _measure(entry, record, dry)
    except Exception as error:
        record["status"] = f"{record['stage']}_failed"
        record["error"] = f"{type(error).__name__}: {error}"[:600]
        record["where"] = user_frame(error)
        record["traceback"] = traceback.format_exc()[-4000:]
    return record


def _measure(entry: Entry, record: Record, dry: bool) -> None:
    stage = _Stages(record)
    with stage("build"):
        model = entry.build()
        args, kwargs = entry.inputs(model)
    record["params"] = _count(model)
    with stage("dense_forward"):
        before = criteria.shapes(criteria.run(model, args, kwargs))
    if dry:
        record["dtype"] = "float32"
        outputs = _outputs(entry, model, record, copy=False)
        record["signal"] = _signal(entry, model, record, outputs)
        record["status"] = "dry"
        return

    with stage("import"):
        import prunus

    with peak_memory() as memory:
        with stage("trace"):
            graph = prunus.trace(model, args, kwargs)
        with stage("plan"):
            plan = graph.plan(ratio=RATIO)
    record["exact"] = bool(plan.exact)
    with stage("reference"):
        expected = _reference(entry, model, plan.masks(), record)
    original = fingerprint(model) if record["params"] <= DOUBLE_LIMIT else None
    with peak_memory() as surgery, stage("apply"):
        plan.apply(model)
    record["rss_mb"] = round(max(memory.highest, surgery.highest) / 2**20)
    record["apply_rss_over_model"] = round((surgery.highest - surgery.before) / (4 * record["params"]), 3)
    record["remaining"] = round(_count(model) / record["params"], 4)
    with stage("forward"):
        after = criteria.shapes(criteria.run(model, args, kwargs))
    with stage("compare"):
        record["difference"] = criteria.difference(_outputs(entry, model, record), expected)
    record["status"] = _verdict(record, before, after)
    record["deep"] = record["remaining"] <= DEEP
    with stage("diagnose"):
        record.update(diagnose(graph, plan))
    if record["params"] <= DOUBLE_LIMIT and record["status"] == "ok":
        with stage("undo"):
            plan.undo(model)
            if fingerprint(model) != original:
                record["status"] = "undo_differs"
                return
        if not plan.exact:
            with stage("exact_part"):
                _exact_part(entry, model, graph, plan, record)


def _exact_part(entry: Entry, model: nn.Module, graph: Any, plan: Any, record: Record) -> None:
    """Prune the exact axes alone: what an approximate plan cannot show about surgery, this one does."""
    ignored: list[str] = []
    part = plan
    while not part.exact:
        more = [name for name in map(str, part.approximate_axes) if name not in ignored]
        if not more:
            record["exact_part"] = {"exact": False, "ignored": len(ignored)}
            return
        ignored += more
        part = graph.plan(ratio=RATIO, ignore=ignored)
    reference: Record = {"dtype": record["dtype"], "params": record["params"]}
    expected = _reference(entry, model, part.masks(), reference)
    part.apply(model)
    gap = criteria.difference(_outputs(entry, model, reference), expected)
    left = round(_count(model) / record["params"], 4)
    record["exact_part"] = {"exact": True, "ignored": len(ignored), "difference": gap, "remaining": left}
    if not gap <= criteria.TOLERANCE:
        record["status"] = "exact_part_wrong"


def _verdict(record: Record, before: dict[str, list[int]], after: dict[str, list[int]]) -> str:
    if after != before:
        record["shapes"] = {path: [shape, after.get(path)] for path, shape in before.items()}
        return "shapes_changed"
    if record["remaining"] > 1 - MIN_CUT:
        return "too_shallow"
    if record["exact"] and not record["difference"] <= criteria.TOLERANCE:
        return "wrong"
    if record["signal"] < criteria.MIN_SIGNAL:
        return "blind"
    return "ok"


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _reference(entry: Entry, model: nn.Module, masks: dict[str, Tensor], record: Record) -> dict[str, Tensor]:
    record["dtype"] = "float64" if record["params"] <= DOUBLE_LIMIT else "float32"
    original = criteria.zeroed(model, masks)
    try:
        expected = _outputs(entry, original, record, copy=False)
    except RuntimeError:  # grouped matrix products, for one, have no float64 kernel
        record["dtype"] = "float32"
        original = criteria.zeroed(model, masks)
        expected = _outputs(entry, original, record, copy=False)
    record["signal"] = _signal(entry, original, record, expected)
    del original
    gc.collect()
    return expected


def _outputs(
    entry: Entry, model: nn.Module, record: Record, copy: bool = True, draw: int = 1
) -> dict[str, Tensor]:
    """Outputs in the record's dtype on an input that the model was not traced with."""
    dtype = getattr(torch, record["dtype"])
    args, kwargs = entry.inputs(model, draw)
    if dtype == torch.float32:
        return criteria.run(model, args, kwargs)
    if copy:
        model = criteria.zeroed(model, {})
    return criteria.run(model.to(dtype), criteria.cast(args, dtype), criteria.cast(kwargs, dtype))


def _signal(entry: Entry, model: nn.Module, record: Record, outputs: dict[str, Tensor]) -> float:
    """How much the outputs depend on the input: near zero, and a comparison of outputs would be blind."""
    return criteria.difference(_outputs(entry, model, record, copy=False, draw=2), outputs)

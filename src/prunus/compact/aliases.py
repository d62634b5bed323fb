"""Tensors that are written in place while another view of their memory is read later.

`y.relu_()` is an ordinary operation as long as nobody looks at `y` through an older view. Where somebody
does, what lies in that memory is not followed: nothing is known of it, and all of it is needed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from ..graph.graph import Graph
from ..graph.values import Op, Value

_SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unbind"})


@dataclass
class Overwritten:
    """Storages by what happens to them: written at all; written beside a view that is read later."""

    written: set[int] = field(default_factory=set)
    mixed: set[int] = field(default_factory=set)


def written_values(op: Op) -> list[Value]:
    return [
        value
        for argument in op.func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for value in [op.args.get(argument.name)]
        if isinstance(value, Value)
    ]


def overwritten(graph: Graph) -> Overwritten:
    found = Overwritten()
    last_use: dict[Value, int] = {}
    born: dict[Value, int] = {}
    by_storage: dict[int, list[Value]] = defaultdict(list)
    for index, op in enumerate(graph.ops):
        for value in (*op.inputs(), *op.outs):
            if value not in born:
                born[value] = index if value.producer is op else -1
                by_storage[value.storage].append(value)
        last_use.update(dict.fromkeys(op.inputs(), index))
    last_use.update(dict.fromkeys(graph.outputs, len(graph.ops)))
    for index, op in enumerate(graph.ops):
        if not op.func._schema.is_mutable or _reads_only(op):
            continue
        for target in written_values(op):
            found.written.add(target.storage)
            for other in by_storage[target.storage]:
                older = other not in op.outs and born[other] < index
                if older and last_use.get(other, -1) > index and not _apart(target, other):
                    found.mixed.add(target.storage)
    return found


def _reads_only(op: Op) -> bool:
    """Batch norm declares its running statistics as written, which in eval mode they are not."""
    return "batch_norm" in op.name and not op.args.get("training", False)


def _lineage(value: Value) -> dict[int, int]:
    """For each split that a view went through, which piece it took."""
    pieces: dict[int, int] = {}
    while value.producer is not None:
        op = value.producer
        sources = [source for source in op.inputs() if source.storage == value.storage]
        if not sources:
            break
        if op.name in _SPLITS:
            pieces[id(op)] = next(i for i, out in enumerate(op.outs) if out is value)
        value = sources[0]
    return pieces


def _apart(a: Value, b: Value) -> bool:
    """Whether two views are different pieces of one split."""
    first, second = _lineage(a), _lineage(b)
    return any(second.get(op, piece) != piece for op, piece in first.items())

"""Memory that several tensors of a trace share, and what in-place writes do to it.

`y.relu_()` is an ordinary operation as long as nobody looks at `y` through an older view. Where somebody
does, what lies in that memory is not followed: nothing is known of it, and all of it is needed. One case is:
memory that starts out empty and is filled slice by slice, as circular padding does. If all that is written
is one constant a channel, so is all that is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from ..graph.graph import Graph
from ..graph.values import Op, Value
from .facts import Facts, alike, found

_SPLITS = frozenset(
    {"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unbind"}
)


class Memory:
    """Which tensors share memory.

    Attributes:
        written: memory that is changed in place.
        mixed: memory that is changed in place and read later through an older view.
    """

    def __init__(self, graph: Graph) -> None:
        self._blocks: dict[Value, Hashable] = {}
        self._views: dict[Hashable, list[Value]] = defaultdict(list)
        self._born: dict[Value, int] = {}
        self._last_use: dict[Value, int] = {}
        for index, op in enumerate(graph.ops):
            self._note(index, op)
        self._last_use.update(dict.fromkeys(graph.outputs, len(graph.ops)))
        self.written: set[Hashable] = set()
        self.mixed: set[Hashable] = set()
        for index, op in enumerate(graph.ops):
            for target in written_values(op):
                self._write(index, op, target)

    def block(self, value: Value) -> Hashable:
        """The piece of memory that a tensor lies in. Addresses are used again, so they say too little."""
        known = self._blocks.get(value)
        return ("held", value.storage) if known is None else known

    def is_written(self, value: Value) -> bool:
        return self.block(value) in self.written

    def is_mixed(self, value: Value) -> bool:
        return self.block(value) in self.mixed

    def _note(self, index: int, op: Op) -> None:
        for value in op.inputs():
            if value not in self._blocks:
                self._enter(value, self.block(value), -1)
            self._last_use[value] = index
        for value in op.outs:
            source = next((v for v in op.inputs() if v.storage == value.storage), None)
            self._enter(value, value if source is None else self._blocks[source], index)

    def _enter(self, value: Value, block: Hashable, index: int) -> None:
        self._blocks[value] = block
        self._views[block].append(value)
        self._born[value] = index

    def _write(self, index: int, op: Op, target: Value) -> None:
        block = self.block(target)
        self.written.add(block)
        for other in self._views[block]:
            older = other not in op.outs and self._born[other] < index
            if older and self._last_use.get(other, -1) > index and not _apart(target, other):
                self.mixed.add(block)


def written_values(op: Op) -> list[Value]:
    schema = op.func._schema
    if not schema.is_mutable or ("batch_norm" in op.name and not op.args.get("training", False)):
        return []  # batch norm declares its running statistics as written, which in eval mode they are not
    return [
        value
        for argument in schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for value in [op.args.get(argument.name)]
        if isinstance(value, Value)
    ]


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


class Filled:
    """Memory made empty and filled slice by slice: what all written slices have in common."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._roots: dict[Hashable, Value] = {}
        self._content: dict[Hashable, Facts | None] = {}
        self._members: set[Value] = set()

    def facts(self, value: Value) -> Facts | None:
        """What is known of a slice at this moment of the reading."""
        if value not in self._members or not self.memory.is_mixed(value):
            return None
        return self._content.get(self.memory.block(value))

    def read(self, op: Op, source: Facts | None, plain: Sequence[int]) -> None:
        """Follow one operation; `source`: what a copy writes, `plain`: dimensions that are never cut."""
        out = op.outs[0]
        block = self.memory.block(out)
        if op.name in ("empty", "new_empty", "empty_like"):
            self._roots[block], self._content[block] = out, None
            self._members.add(out)
            return
        root = self._roots.get(block)
        if root is None:
            return
        inside = all(v in self._members for v in op.inputs()[:1])
        whole = [d for d in range(len(root.axes)) if d not in plain]
        fits = len(out.axes) == len(root.axes) and all(out.shape[d] == root.shape[d] for d in whole)
        if not inside or not fits or op.name not in ("slice", "copy_"):
            del self._roots[block], self._content[block]
            return
        self._members.add(out)
        if source is not None:
            old, new = self._content[block], alike(source, plain)
            if old is not None:
                new = found(old.known & new.known & (old.value == new.value), old.value)
            self._content[block] = new

"""Blocks: modules whose removal the trace proves legal, since without their branches they return their input.

A *block* computes `x + f(x)` and is replaced by its input; a *branch* is a module `f` whose output is only
added to what `f` was computed from, and is replaced by zeros.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from .aliases import Record, plain_name
from .axes import leaves
from .branches import join_of
from .calls import Calls, ModuleCall, Source, record_calls, steps_to
from .effects import Refusal, check_weights, depends
from .identity import Passage, check_clamps, main_output, prove
from .templates import Template, template_of
from .values import Value
from .vanishing import Vanishing

if TYPE_CHECKING:
    from .graph import Graph


@dataclass(eq=False)
class Block:
    """A module of a traced model that adds something to its input, or to what it was computed from.

    Attributes:
        name: of the module.
        kind: "block" for a module that computes x + f(x), "branch" for a module f.
        reason: why it cannot be removed, in one line; None if it can be.
        macs: multiply-accumulates of the traced forward that go with it.
        params: entries of the parameters that it alone holds.
    """

    name: str
    kind: str
    reason: str | None
    macs: int
    params: int
    ops: range = field(repr=False)
    costs: range = field(repr=False)
    tensors: frozenset[str] = field(repr=False)
    template: Template = field(default=("none",), repr=False)
    main: Source = field(default=(), repr=False)
    output: tuple[str, ...] = field(default=(), repr=False)
    features: tuple[int, ...] = field(default=(), repr=False)
    extra: tuple[str, int, int] | None = field(default=None, repr=False)
    vanishes: bool = field(default=False, repr=False)

    @property
    def removable(self) -> bool:
        return self.reason is None

    def holds(self, other: str) -> bool:
        """Whether a module is this one or inside it."""
        return other == self.name or other.startswith(f"{self.name}.")

    def __str__(self) -> str:
        return self.name


class BlockTable:
    """The modules of a graph that are blocks, or might have been, with the verdict on each.

    Attributes:
        removable: the blocks and branches that can be removed, stacks of blocks left out.
        listed: these and those that look like blocks, in the order they run in, outer before inner.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.calls: Calls = record_calls(graph)
        self.record = Record(self.calls.ops)
        self.passages: dict[str, Passage] = {}
        self.refused: dict[str, str] = {"": "it is the model itself"}
        self.removable: dict[str, Block] = {}
        self._names: dict[int, list[str]] = defaultdict(list)
        for name, module in graph.module_names.items():
            self._names[id(module)].append(name)
        single = [calls[0] for name, calls in self.calls.by_module.items() if len(calls) == 1 and name]
        for call in sorted(single, key=lambda item: (item.stop, -item.start)):
            self._judge(call)
        for name in [name for name in self.passages if self._is_stack(name)]:
            self.refused[name] = "it is nothing but blocks in a row: name those"
            del self.removable[name]
        self._add_branches(single)
        for call in single:  # once more, now that branches may be missing too
            if call.module in self.removable and call.module in self.passages:
                self._judge_again(call)
        self._times = {name: len(calls) for name, calls in self.calls.by_module.items()}
        self.listed = self._listed()
        del self.calls, self.record, self.passages  # large, and known to nobody else

    def reason(self, name: str) -> str:
        """Why a module cannot be removed."""
        if name in self.refused:
            return self.refused[name]
        times = self._times.get(name, 0)
        return f"it is called {times} times in one forward pass" if times else "the forward does not call it"

    # -- verdicts -----------------------------------------------------------------------------------------

    def _judge(self, call: ModuleCall) -> None:
        try:
            passage = prove(call, self.record, self.calls)
            how = "copy" if passage.copies else "input"
            template = template_of(call.output, call, passage.y, (how, *passage.source))
            block = self._block(call, "block", None)
            if not block.params:
                raise Refusal("it holds no parameters of its own")
            check_weights(call, self.record, self.calls, block.tensors)
        except Refusal as refusal:
            self.refused[call.module] = str(refusal)
            return
        self.removable[call.module] = block
        block.template, block.main = template, passage.source
        block.output = steps_to(passage.y, call.output) or ()
        block.features = self._features(block, passage.x)
        if passage.copies:
            block.extra = ("clone", *self._place(passage.y))
        own = Vanishing(self.record, call.start, block.tensors)
        block.vanishes = all(
            own.zero(branch, self.record.number[id(addition)])
            for branch, addition in zip(passage.branches, passage.additions, strict=True)
        )
        self.record.equal(passage.y, passage.x)
        self.passages[call.module] = passage

    def _judge_again(self, call: ModuleCall) -> None:
        try:
            check_clamps(call, self.record, self.passages[call.module])
        except Refusal as refusal:
            self.refused[call.module] = str(refusal)
            del self.removable[call.module], self.passages[call.module]

    def _add_branches(self, single: list[ModuleCall]) -> None:
        """Outermost modules whose output is only added to what they were computed from."""
        taken: set[int] = set()
        for call in sorted(single, key=lambda item: (item.start, -item.stop)):
            y = main_output(call)
            if y is None or id(y) in taken or call.module in self.removable:
                continue
            if call.costs[0] == call.costs[1] or self._alone_in_a_block(call):
                continue
            try:
                source = join_of(call, self.record, self.calls, y)
                template = template_of(call.output, call, y, ("zeros", *source))
                block = self._block(call, "branch", None)
                check_weights(call, self.record, self.calls, block.tensors)
            except Refusal:
                continue
            if not block.params:
                continue
            taken.add(id(y))
            self.removable[call.module] = block
            block.template, block.main = template, source
            block.output = steps_to(y, call.output) or ()
            value = next(value for own, value in call.inputs if own == source)
            block.features = self._features(block, value)
            block.extra = ("zeros_like", *self._place(y))
            block.vanishes = Vanishing(self.record, call.start, block.tensors).zero(y, call.stop)
            self.record.equal(y, None)

    def _alone_in_a_block(self, call: ModuleCall) -> bool:
        """Whether a block around a module has it as its only branch: then it is the block that goes."""
        for name, passage in self.passages.items():
            block = self.removable.get(name)
            if block is not None and len(passage.additions) == 1 and _within(call, block):
                return True
        return False

    def _place(self, value: Value) -> tuple[int, int]:
        """The operation that makes a value, and which of its results it is."""
        assert value.producer is not None
        outs = value.producer.outs
        return self.record.made_at(value), next(i for i, out in enumerate(outs) if out is value)

    def _block(self, call: ModuleCall, kind: str, reason: str | None) -> Block:
        graph = self.graph
        prefixes = tuple(f"{name}." for name in self._names[id(graph.module_names[call.module])])
        own = [
            item
            for item in graph.all_held
            if all(f"{slot.module}.".startswith(prefixes) for slot in item.slots)
        ]
        costs = range(*call.costs)
        records = graph.all_costs[costs.start : costs.stop]
        return Block(
            call.module,
            kind,
            reason,
            macs=sum(item.factor * math.prod(loop.size for loop in item.loops) for item in records),
            params=sum(item.tensor.numel() for item in own if item.kind == "parameter"),
            ops=range(call.start, call.stop),
            costs=costs,
            tensors=frozenset(item.name for item in own),
        )

    def _features(self, block: Block, x: Value) -> tuple[int, ...]:
        """The dimension of a block's input that most of its tensors share: a vector of features."""
        found: Counter[int] = Counter()
        for name in block.tensors:
            own = {leaf for node in self.calls.parameters[name].axes for leaf in leaves(node)}
            found.update(d for d, node in enumerate(x.axes) if node.size > 1 and own & set(leaves(node)))
        return (max(found, key=lambda dim: (found[dim], dim)),) if found else (len(x.axes) - 1,)

    # -- which to show ------------------------------------------------------------------------------------

    def _listed(self) -> list[Block]:
        types = {
            type(self.graph.module_names[name])
            for name, block in self.removable.items()
            if block.kind == "block"
        }
        shown = list(self.removable.values())
        for name, calls in self.calls.by_module.items():
            module = self.graph.module_names[name]
            if not name or name in self.removable or name in self.passages:
                continue
            if type(module) in types or self._is_repeated(name, module) or self._joins(calls):
                shown.append(self._block(calls[0], "block", self.reason(name)))
        shown = [block for block in shown if block.params]
        return sorted(shown, key=lambda block: (block.ops.start, -block.ops.stop, block.name.count(".")))

    def _is_stack(self, name: str) -> bool:
        """Whether a module does nothing but to run removable blocks of one kind, or a single one, in turn."""
        outer, passage = self.removable[name], self.passages[name]
        on_path = {id(value) for value in passage.path}
        forms: Counter[Any] = Counter()
        for item, other in self.passages.items():
            block = self.removable.get(item)
            if block is None or item == name or not outer.holds(item) or id(other.y) not in on_path:
                continue
            in_turn = type(self.graph.module_names[name]).forward is nn.Sequential.forward
            if in_turn or (other.y is passage.y and other.x is passage.x):
                return True
            forms[_form(self.graph.module_names[item])] += 1
        return any(count > 1 for count in forms.values())

    def _is_repeated(self, name: str, module: nn.Module) -> bool:
        """Whether a module with layers inside that keeps the shape is one of several in a list."""
        parent = self.graph.module_names[name.rpartition(".")[0]]
        lists = nn.Sequential | nn.ModuleList | nn.ModuleDict
        if not isinstance(parent, lists) or isinstance(module, lists) or not list(module.children()):
            return False
        call = self.calls.by_module[name][0]
        y = main_output(call)
        same = y is not None and any(value.shape == y.shape for _, value in call.inputs)
        return same and sum(type(item) is type(module) for item in parent.children()) > 1

    def _joins(self, calls: list[ModuleCall]) -> bool:
        """Whether a module itself adds two things that both come from its input, and its children do not."""
        call = calls[0]
        y = main_output(call)
        if not call.inputs or y is None:
            return False
        x = call.inputs[0][1]
        sums = [
            op
            for op in self.record.ops[call.start : call.stop]
            if plain_name(op) in ("add", "sub")
            and len(op.inputs()) == 2
            and op.outs[0].shape in (x.shape, y.shape)
        ]
        if not sums:
            return False
        inner = [
            range(other.start, other.stop)
            for name, others in self.calls.by_module.items()
            if name.startswith(f"{call.module}.")
            for other in others
        ]
        return any(
            not any(self.record.number[id(op)] in part for part in inner)
            and all(depends(item, x, call, self.record) for item in op.inputs())
            for op in sums
        )


def _within(call: ModuleCall, block: Block) -> bool:
    return block.ops.start <= call.start and call.stop <= block.ops.stop


def _form(module: nn.Module) -> Any:
    """What modules that differ in their values alone have in common."""
    return type(module), tuple((name, tuple(p.shape)) for name, p in module.named_parameters())


__all__ = ["Block", "BlockTable"]

"""Element-wise operations: known where all operands are, and zero where a factor is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, fitted, found, joint_shape, unknown
from . import Needs, Rule, nothing, rule

if TYPE_CHECKING:
    from ..study import Study


def functional(func: Any) -> Any:
    """The variant of an in-place operation that returns a new tensor."""
    name, _, overload = func.name().removeprefix("aten::").partition(".")
    in_place = name.endswith("_") and not name.startswith("_")
    packet = getattr(torch.ops.aten, name.rstrip("_"), None) if in_place else None
    if packet is None:
        return func
    overload = overload or "default"
    return getattr(packet, overload) if overload in packet.overloads() else func


def evaluate(op: Op, tensors: dict[Value, Tensor], grad: bool = False) -> Any:
    """The operation on other tensors than those it was traced with."""

    def put(item: Any) -> Any:
        if isinstance(item, Value):
            return tensors[item]
        if isinstance(item, list | tuple):
            return [put(part) for part in item]
        return item

    func = functional(op.func)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in func._schema.arguments:
        if argument.name in op.args:
            item = put(op.args[argument.name])
            if argument.alias_info is not None and argument.alias_info.is_write:
                item = item.clone()
            if argument.kwarg_only:
                named[argument.name] = item
            else:
                positional.append(item)
    with torch.set_grad_enabled(grad):
        return func(*positional, **named)


def _random(op: Op) -> bool:
    return torch.Tag.nondeterministic_seeded in op.func.tags


def _both(op: Op, got: dict[Value, Facts]) -> Tensor:
    known: Tensor | None = None
    for facts in got.values():
        known = facts.known if known is None else known & facts.known
    return known if known is not None else torch.ones((), dtype=torch.bool)


@rule(
    "add",
    "hardswish",
    "_prelu_kernel",
    "log_sigmoid_forward",
    "special_logit",
    "floor_divide",
    "__and__",
    "__or__",
    "__xor__",
    "polar",
    "complex",
)
class Pointwise(Rule):
    """Any operation tagged point-wise."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        got = {value: study.facts(value) for value in op.inputs()}
        known = _both(op, got)
        if _random(op) or not got or not bool(known.any()):
            return nothing(op, study)
        try:
            result = evaluate(op, {value: facts.value for value, facts in got.items()})
        except (RuntimeError, NotImplementedError):
            return nothing(op, study)
        results = [result] if isinstance(result, Tensor) else list(result)
        return [found(known, out) for out in results]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        need = joined(needs)
        return [(value, fitted(need, value)) for value in op.inputs()]


def joined(needs: list[Tensor | None]) -> Tensor:
    """Needed through any of several outputs of one shape."""
    given = [need for need in needs if need is not None]
    total = given[0]
    for need in given[1:]:
        total = total | need
    return total


@rule("mul", "div", "true_divide", "multiply", "divide")
class Multiply(Pointwise):
    """Zero where a factor, or the numerator, is zero."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        (facts,) = super().facts(op, study)
        zero = facts.zero
        for value in self._annihilators(op):
            zero = zero | study.facts(value).zero
        if not bool(zero.any()):
            return [facts]
        shape = joint_shape(zero.shape, facts.value.shape, facts.known.shape)
        return [found((facts.known | zero).expand(shape), torch.where(facts.known & ~zero, facts.value, 0))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        need = joined(needs)
        factors = self._annihilators(op)
        out = []
        for value in op.inputs():
            own = need
            for other in factors:
                if other is not value:
                    own = own & ~study.facts(other).zero
            out.append((value, fitted(own, value)))
        return out

    @staticmethod
    def _annihilators(op: Op) -> list[Value]:
        names = ("self", "other") if op.name.startswith("mul") else ("self",)
        return [op.args[name] for name in names if isinstance(op.args.get(name), Value)]


@rule("where", "masked_fill")
class Choose(Pointwise):
    """Known where both choices are the same constant, whatever chooses."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        (facts,) = super().facts(op, study)
        first, second = ("self", "value") if op.name.startswith("masked_fill") else ("self", "other")
        a, b = (_operand(op.args.get(name), study) for name in (first, second))
        if a is None or b is None:
            return [facts]
        same = a.known & b.known & (a.value == b.value)
        if not bool(same.any()):
            return [facts]
        rank = len(op.outs[0].axes)
        same, value = ranked(same, rank), ranked(a.value, rank)
        return [found(facts.known | same, torch.where(same, value, facts.value))]


def ranked(tensor: Tensor, rank: int) -> Tensor:
    return tensor.reshape((1,) * (rank - tensor.dim()) + tuple(tensor.shape))


def _operand(item: Any, study: Study) -> Facts | None:
    if isinstance(item, Value):
        return study.facts(item)
    if isinstance(item, bool | int | float):
        value = torch.tensor(item, device=study.device)
        return Facts(torch.ones((), dtype=torch.bool, device=study.device), value)
    return None


@rule("copy", "copy_")
class Copy(Rule):
    """The destination becomes the source."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        source = study.facts(op.args["src"])
        rank = len(op.outs[0].axes)
        return [Facts(ranked(source.known, rank), ranked(source.value, rank))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        return [(op.args["src"], fitted(joined(needs), op.args["src"]))]


@rule(
    "clone",
    "_to_copy",
    "alias",
    "detach",
    "contiguous",
    "lift_fresh",
    "lift_fresh_copy",
    "lift",
    "to",
    "alias_copy",
    "detach_copy",
    "dropout",
    "resolve_conj",
    "resolve_neg",
    "native_dropout",
    "_reshape_alias_copy",
)
class Same(Rule):
    """The same values, perhaps in another dtype."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        if op.args.get("train"):
            return nothing(op, study)
        facts = study.facts(op.inputs()[0])
        value = facts.value
        if op.outs[0].dtype != op.inputs()[0].dtype:
            value = found(facts.known, value.to(op.outs[0].dtype)).value
        same = Facts(facts.known, value, facts.sums_to_one)
        return [same, *(unknown(out, study.device) for out in op.outs[1:])]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        return [(op.inputs()[0], joined(needs[:1]))] if needs[0] is not None else []


@rule("glu")
class Glu(Rule):
    """`a * sigmoid(b)` for the halves a, b of one dimension."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        a, b = self._halves(op, study)
        return [found(a.known & b.known | a.zero, a.value * b.value.sigmoid())]

    def _halves(self, op: Op, study: Study) -> tuple[Facts, Facts]:
        value: Value = op.args["self"]
        facts, dim = study.facts(value), int(op.args.get("dim", -1))
        half = value.shape[dim] // 2

        def part(start: int) -> Facts:
            return facts.mapped(lambda t: t if t.shape[dim] == 1 else t.narrow(dim, start, half))

        return part(0), part(half)

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        value: Value = op.args["self"]
        dim = int(op.args.get("dim", -1))
        a, _ = self._halves(op, study)
        need = joined(needs)
        gate = need & ~a.zero
        shape = list(joint_shape(need.shape, gate.shape))
        shape[dim] = value.shape[dim] // 2
        return [(value, torch.cat([need.expand(shape), gate.expand(shape)], dim))]

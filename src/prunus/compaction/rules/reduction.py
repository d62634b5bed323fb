"""Sums, means, maxima and the like: a sum loses units that are zero, every other statistic none at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, alike, found, unknown, whole
from . import Needs, Rule, nothing, rule
from .pointwise import joined

if TYPE_CHECKING:
    from ..study import Study


def reduced_dims(op: Op, rank: int) -> list[int]:
    dims = op.args.get("dim")
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return list(range(rank))
    return sorted({int(d) % rank for d in ([dims] if isinstance(dims, int) else dims)}) if rank else []


def _kept(op: Op, source: Value) -> bool:
    return bool(op.args.get("keepdim")) or len(op.outs[0].axes) == len(source.axes)


class Reduction(Rule):
    """Over some dimensions; the others pass through."""

    keeps_constants = False

    def facts(self, op: Op, study: Study) -> list[Facts]:
        source: Value = op.inputs()[0]
        dims = reduced_dims(op, len(source.axes))
        facts = alike(study.facts(source), dims)
        if not facts.any or not self.keeps_constants:
            return nothing(op, study)
        parts = [facts.known, self.constant(op, facts.value, [source.shape[d] for d in dims])]
        if not _kept(op, source):
            parts = [_without(t, dims) for t in parts]
        first = found(parts[0], parts[1].to(op.outs[0].dtype))
        return [first, *(unknown(out, study.device) for out in op.outs[1:])]

    def constant(self, op: Op, value: Tensor, sizes: list[int]) -> Tensor:
        return value

    def zeros_go(self, op: Op) -> bool:
        """Whether a zero more or less changes nothing."""
        return False

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source: Value = op.inputs()[0]
        dims = reduced_dims(op, len(source.axes))
        need = joined(needs)
        if not _kept(op, source):
            for d in dims:
                need = need.unsqueeze(d)
        for d in dims:
            bad: Tensor | None = None
            if self.zeros_go(op):
                mask = need & ~study.facts(source).zero
                bad = mask.transpose(0, d).flatten(1).any(1) if mask.dim() > 1 else mask
            study.hold(source.axes[d], bad, op, f"{op.name} is taken over it")
        return [(source, need)]


def _without(tensor: Tensor, dims: list[int]) -> Tensor:
    return tensor.reshape([size for d, size in enumerate(tensor.shape) if d not in dims])


@rule("mean", "amax", "amin", "max", "min", "nanmean")
class Keeping(Reduction):
    """A statistic that is the constant itself where all entries are."""

    keeps_constants = True


@rule("sum", "nansum")
class Sum(Reduction):
    keeps_constants = True

    def constant(self, op: Op, value: Tensor, sizes: list[int]) -> Tensor:
        return value * int(torch.tensor(sizes).prod()) if sizes else value

    def zeros_go(self, op: Op) -> bool:
        return True


@rule("linalg_vector_norm", "norm")
class Norm(Reduction):
    def zeros_go(self, op: Op) -> bool:
        order = op.args.get("ord", op.args.get("p", 2))
        return isinstance(order, int | float) and order > 0


@rule("var", "std", "var_mean", "std_mean", "prod", "logsumexp", "all", "aminmax", "any", "count_nonzero")
class Statistic(Reduction):
    pass


@rule("argmax", "argmin", "mode", "median", "nanmedian", "kthvalue")
class Position(Reduction):
    pass


class Along(Rule):
    """Every entry of the output depends on all entries along one dimension."""

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source: Value = op.inputs()[0]
        if not source.axes:
            return [(source, study.full(source))]
        dim = int(op.args.get("dim", -1)) % len(source.axes)
        study.hold(source.axes[dim], None, op, f"{op.name} is taken over it")
        return [(source, joined([whole(need, [dim]) for need in needs if need is not None]))]


@rule("sort", "argsort", "msort", "topk", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
class Ordered(Along):
    pass


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
class Softmax(Along):
    def facts(self, op: Op, study: Study) -> list[Facts]:
        (out,) = nothing(op, study)
        masked = op.name == "_safe_softmax" and not _unmasked(op.args["self"])
        if "log" in op.name or not op.outs[0].axes or masked:
            return [out]
        return [Facts(out.known, out.value, int(op.args["dim"]) % len(op.outs[0].axes))]


_FINITE = frozenset("view _unsafe_view reshape mul div clone transpose permute expand unsqueeze".split())


def _unmasked(value: Value) -> bool:
    """Whether scores come straight from a product: a row that a mask hides wholly gives zeros, not a mean."""
    op = value.producer
    while op is not None and op.name in _FINITE:
        op = op.inputs()[0].producer
    return op is not None and op.name in ("bmm", "mm", "baddbmm")

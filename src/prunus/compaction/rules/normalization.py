"""Normalisation: a zero weight makes a constant, and shared statistics hold their units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, alike, found, joint_shape, split, unknown, whole
from . import Needs, Rule, rule

if TYPE_CHECKING:
    from ..study import Study


def _part(op: Op, key: str, study: Study, rank: int, dims: list[int]) -> Facts | None:
    """A per-channel tensor lined up with dimensions `dims` of the input."""
    value = op.args.get(key)
    if not isinstance(value, Value):
        return None
    facts = study.facts(value)

    def lined_up(tensor: Tensor) -> Tensor:
        sizes = [1] * rank
        for d, size in zip(dims, tensor.shape, strict=True):
            sizes[d] = size
        return tensor.reshape(sizes)

    return facts.mapped(lined_up)


def _affine(centred: Tensor | None, known: Tensor, weight: Facts | None, bias: Facts | None) -> Facts:
    """`centred * weight + bias`, known where the first factor is, or where the weight is zero."""
    value = torch.zeros((), device=known.device) if centred is None else centred
    if weight is not None:
        value = value * weight.value
        known = known & weight.known | weight.zero
    value = torch.where(known, value, 0)
    if bias is not None:
        value, known = value + bias.value, known & bias.known
    shape = joint_shape(known.shape, value.shape)
    return found(known.expand(shape), value.expand(shape))


class Normalisation(Rule):
    """`needs` is the same for all: inputs behind a zero weight do not matter."""

    def channels(self, op: Op) -> list[int]:
        raise NotImplementedError

    def shared(self, op: Op) -> list[int]:
        """Dimensions over which the statistics are taken."""
        raise NotImplementedError

    def hold(self, op: Op, need: Tensor, study: Study) -> None:
        x: Value = op.args["input"]
        for d in self.shared(op):
            study.hold(x.axes[d], None, op, f"{norm_name(op)} shares a statistic over it")

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        x: Value = op.args["input"]
        need = needs[0]
        if need is None:  # only the statistics are used
            need = study.full(x)
        out = []
        for key in ("weight", "bias", "running_mean", "running_var"):
            if isinstance(op.args.get(key), Value):
                out.append((op.args[key], study.full(op.args[key])))
        weight = _part(op, "weight", study, len(x.axes), self.channels(op))
        if weight is not None:
            need = need & ~weight.zero
        if bool(need.any()):
            self.hold(op, need, study)
            out.append((x, whole(need, self.shared(op))))
        return out


def norm_name(op: Op) -> str:
    names = {"rms": "RMS norm", "layer": "layer norm", "group": "group norm"}
    return next((text for key, text in names.items() if key in op.name), "batch norm")


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_batch_norm_no_update",
    "_native_batch_norm_legit_functional",
)
class BatchNorm(Normalisation):
    """Fixed statistics make it affine; statistics of the input make a constant zero before the bias."""

    @staticmethod
    def fixed(op: Op) -> bool:
        return not op.args.get("training", False) and op.args.get("running_mean") is not None

    def channels(self, op: Op) -> list[int]:
        return [1]

    def shared(self, op: Op) -> list[int]:
        return [] if self.fixed(op) else [d for d in range(len(op.args["input"].axes)) if d != 1]

    def facts(self, op: Op, study: Study) -> list[Facts]:
        x: Value = op.args["input"]
        rank = len(x.axes)
        facts = study.facts(x)
        weight, bias, mean, var = (
            _part(op, key, study, rank, [1]) for key in ("weight", "bias", "running_mean", "running_var")
        )
        if self.fixed(op) and mean is not None and var is not None:
            known = facts.known & mean.known & var.known
            centred = (facts.value - mean.value) * torch.rsqrt(var.value + op.args["eps"])
        else:
            known, centred = alike(facts, self.shared(op)).known, None
        return [_affine(centred, known, weight, bias), *(unknown(out, study.device) for out in op.outs[1:])]


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm", "_fused_layer_norm")
class LayerNorm(Normalisation):
    def channels(self, op: Op) -> list[int]:
        rank = len(op.args["input"].axes)
        return list(range(rank - len(op.args["normalized_shape"]), rank))

    def shared(self, op: Op) -> list[int]:
        return self.channels(op)

    def facts(self, op: Op, study: Study) -> list[Facts]:
        rank = len(op.args["input"].axes)
        weight, bias = (_part(op, key, study, rank, self.channels(op)) for key in ("weight", "bias"))
        none = torch.zeros((1,) * rank, dtype=torch.bool, device=study.device)
        return [_affine(None, none, weight, bias), *(unknown(out, study.device) for out in op.outs[1:])]


@rule("native_group_norm", "group_norm")
class GroupNorm(Normalisation):
    """`C = g x n`: whole groups may go, units inside a group share a statistic."""

    def channels(self, op: Op) -> list[int]:
        return [1]

    def shared(self, op: Op) -> list[int]:
        return [d for d in range(len(op.args["input"].axes)) if d > 1]

    def facts(self, op: Op, study: Study) -> list[Facts]:
        x: Value = op.args["input"]
        rank, groups = len(x.axes), self._groups(op)
        weight, bias = (_part(op, key, study, rank, [1]) for key in ("weight", "bias"))
        facts = alike(study.facts(x), [d for d in range(rank) if d > 1])
        size = x.shape[1] // groups
        grouped = facts.mapped(lambda t: t.expand(-1, x.shape[1], *t.shape[2:]).reshape(-1, groups, size))
        constant = alike(grouped, [2]).known  # a group that is one constant is zero before the bias
        known = constant.expand(-1, groups, size).reshape(-1, x.shape[1], *(1,) * (rank - 2))
        return [_affine(None, known, weight, bias), *(unknown(out, study.device) for out in op.outs[1:])]

    @staticmethod
    def _groups(op: Op) -> int:
        return int(op.args["group"] if "group" in op.args else op.args["num_groups"])

    def hold(self, op: Op, need: Tensor, study: Study) -> None:
        super().hold(op, need, study)
        x: Value = op.args["input"]
        groups = self._groups(op)
        inner = study.inner(x.axes[1], groups)
        if inner is not None:
            study.hold(inner, None, op, "group norm shares a statistic over it")
        elif groups < x.shape[1]:
            study.hold(x.axes[1], None, op, "group norm shares a statistic over it")

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        x: Value = op.args["input"]
        groups = self._groups(op)
        out = []
        for value, need in super().needs(op, needs, study):
            if value is x:
                size = x.shape[1] // groups
                need = split(need.expand(-1, x.shape[1], *need.shape[2:]), 1, (groups, size))
                need = need.any(2, keepdim=True).expand(-1, -1, size, *need.shape[3:]).flatten(1, 2)
            out.append((value, need))
        return out


@rule("_weight_norm_interface", "_weight_norm")
class WeightNorm(Rule):
    """`w = g v / ||v||`: only zeros in v leave the norm as it is."""

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        v, g = op.args["v"], op.args["g"]
        nonzero = (~study.facts(v).zero).expand(v.shape)
        for d, node in enumerate(v.axes):
            if g.shape[d] == 1:
                bad = nonzero.transpose(0, d).flatten(1).any(1)
                study.hold(node, bad, op, "weight norm is taken over it")
        return [(v, study.full(v)), (g, study.full(g))]

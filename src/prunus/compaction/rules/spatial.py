"""Pooling, resizing and mirrored padding: a channel that is one constant stays it, away from zero padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, alike, found, split, unknown, whole, working
from . import Needs, Rule, rule
from .pointwise import joined

if TYPE_CHECKING:
    from ..study import Study


def _names(text: str) -> list[str]:
    return [name.format(dims) for name in text.split() for dims in (1, 2, 3)]


class Spatial(Rule):
    """Leading dimensions pass, the others are positions; outputs are averages or picks over windows."""

    def positions(self, op: Op) -> list[int]:
        """The spatial dimensions of the input."""
        raise NotImplementedError

    def border(self, op: Op) -> bool:
        """Whether zeros from outside the image enter."""
        return False

    def source(self, op: Op) -> Value:
        return op.inputs()[0]

    def facts(self, op: Op, study: Study) -> list[Facts]:
        source, out = self.source(op), op.outs[0]
        facts = alike(study.facts(source), self.positions(op))
        if len(out.axes) != len(source.axes):
            return [unknown(value, study.device) for value in op.outs]
        known = facts.zero if self.border(op) else facts.known
        return [found(known, facts.value), *(unknown(value, study.device) for value in op.outs[1:])]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source = self.source(op)
        positions = self.positions(op)
        for d in positions:
            study.hold(source.axes[d], None, op, f"{op.name} slides over it")
        own = whole(joined(needs), positions)
        others = [(value, study.full(value)) for value in op.inputs() if value is not source]
        return [(source, own), *others]


@rule(
    *_names("max_pool{}d max_pool{}d_with_indices adaptive_max_pool{}d fractional_max_pool{}d"),
    *_names("avg_pool{}d adaptive_avg_pool{}d _adaptive_avg_pool{}d"),
    *_names("upsample_nearest{}d upsample_linear{}d upsample_bilinear{}d upsample_bicubic{}d"),
    *_names("upsample_trilinear{}d _upsample_nearest_exact{}d"),
    *_names("_upsample_bilinear{}d_aa _upsample_bicubic{}d_aa"),
    *_names("reflection_pad{}d replication_pad{}d"),
)
class Window(Spatial):
    def positions(self, op: Op) -> list[int]:
        count = next(int(c) for c in op.name if c in "123")
        rank = len(op.inputs()[0].axes)
        return list(range(rank - count, rank))

    def border(self, op: Op) -> bool:
        if not op.name.startswith("avg_pool"):
            return False
        padded = any(int(p) for p in op.args.get("padding") or ())
        counted = bool(op.args.get("count_include_pad", True))
        return (padded and counted) or op.args.get("divisor_override") is not None


@rule("grid_sampler_2d", "grid_sampler", "grid_sampler_3d", "cudnn_grid_sampler")
class GridSampler(Spatial):
    def source(self, op: Op) -> Value:
        value: Value = op.args["input"]
        return value

    def positions(self, op: Op) -> list[int]:
        return list(range(2, len(op.args["input"].axes)))

    def border(self, op: Op) -> bool:
        return True


@rule("im2col")
class Unfold(Rule):
    """Patches: `C` becomes `C x kernel`; padding brings in zeros."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        source: Value = op.args["self"]
        rank, out = len(source.axes), op.outs[0]
        facts = alike(study.facts(source), [rank - 2, rank - 1])
        known = facts.zero if any(int(p) for p in op.args["padding"]) else facts.known
        kernel = out.shape[-2] // source.shape[-3]

        def patches(tensor: Tensor) -> Tensor:
            full = tensor.expand(*tensor.shape[:-3], source.shape[-3], 1, 1).squeeze(-1)
            return full.expand(*full.shape[:-1], kernel).flatten(-2).unsqueeze(-1)

        return [found(patches(known), patches(facts.value))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source: Value = op.args["self"]
        need = whole(joined(needs), [len(op.outs[0].axes) - 1])
        if need.shape[-2] > 1:
            need = split(need, -2, (source.shape[-3], -1)).any(-2)
        return [(source, need.unsqueeze(-1))]


@rule("col2im")
class Fold(Rule):
    """`C x kernel` becomes `C`: overlapping patches are added, so only zero stays what it is."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        out = op.outs[0]
        live = whole(~study.facts(op.args["self"]).zero, [len(op.args["self"].axes) - 1])
        if live.shape[-2] > 1:
            live = split(live, -2, (out.shape[-3], -1)).any(-2)
        zero = ~live.unsqueeze(-1)
        return [found(zero, zeros(zero, out))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source, out = op.args["self"], op.outs[0]
        need = whole(joined(needs), [len(out.axes) - 2, len(out.axes) - 1]).squeeze(-1)
        if need.shape[-2] > 1:
            need = need.repeat_interleave(source.shape[-2] // out.shape[-3], -2)
        return [(source, need)]


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
class Fourier(Rule):
    """A transform over some dimensions: zero stays zero along the others."""

    @staticmethod
    def _dims(op: Op) -> list[int]:
        rank = len(op.outs[0].axes)
        return [int(d) % rank for d in op.args["dim"]]

    def facts(self, op: Op, study: Study) -> list[Facts]:
        zero = ~whole(~study.facts(op.args["self"]).zero, self._dims(op))
        return [found(zero, zeros(zero, op.outs[0]))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        return [(op.args["self"], whole(joined(needs), self._dims(op)))]


def zeros(like: Tensor, out: Value) -> Tensor:
    return torch.zeros(like.shape, dtype=working(out.dtype), device=like.device)

"""Look-ups by data: rows are picked, so that a column is known where all rows agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, alike, found, unknown, whole
from . import Needs, Rule, everything, rule
from .pointwise import joined

if TYPE_CHECKING:
    from ..study import Study


@rule("embedding")
class Embedding(Rule):
    def facts(self, op: Op, study: Study) -> list[Facts]:
        row = alike(study.facts(op.args["weight"]), [0])
        lead = (1,) * len(op.args["indices"].axes)
        return [row.mapped(lambda t: t.reshape(*lead, *t.shape[1:]))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        weight, indices = op.args["weight"], op.args["indices"]
        lead = list(range(len(indices.axes)))
        need = whole(joined(needs), lead)
        return [(weight, need.reshape(1, *need.shape[len(lead) :])), (indices, study.full(indices))]


@rule("_embedding_bag", "_embedding_bag_forward_only", "embedding_bag")
class EmbeddingBag(Rule):
    """Sums, means or maxima of rows: a column of zeros stays one, even where a bag is empty."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        row = alike(study.facts(op.args["weight"]), [0])
        first = found(row.zero, torch.zeros_like(row.value))
        return [first, *(unknown(out, study.device) for out in op.outs[1:])]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        weight: Value = op.args["weight"]
        need = study.full(weight) if needs[0] is None else whole(needs[0], [0])
        others = [(value, study.full(value)) for value in op.inputs() if value is not weight]
        return [(weight, need), *others]


@rule("index_select")
class IndexSelect(Rule):
    def facts(self, op: Op, study: Study) -> list[Facts]:
        source: Value = op.args["self"]
        return [alike(study.facts(source), [int(op.args["dim"]) % len(source.axes)])]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source: Value = op.args["self"]
        need = whole(joined(needs), [int(op.args["dim"]) % len(source.axes)])
        return [(source, need), (op.args["index"], study.full(op.args["index"]))]


@rule("index", "_unsafe_index")
class Index(Rule):
    """`x[:, i, j]`: indexed dimensions give way to those of the index, the others pass."""

    @staticmethod
    def _layout(op: Op) -> tuple[list[int], int, int]:
        """Dimensions that pass, and where and how many new ones stand among them."""
        places: list[int] = []
        indexed: list[int] = []
        dim = 0
        for place, item in enumerate(op.args["indices"]):
            count = 1 if item is None or item.dtype not in (torch.bool, torch.uint8) else len(item.axes)
            if item is not None:
                places.append(place)
                indexed.extend(range(dim, dim + count))
            dim += count
        passing = [d for d in range(len(op.args["self"].axes)) if d not in indexed]
        adjacent = places == list(range(places[0], places[-1] + 1))
        at = sum(1 for d in passing if d < indexed[0]) if adjacent else 0
        return passing, at, len(op.outs[0].axes) - len(passing)

    def facts(self, op: Op, study: Study) -> list[Facts]:
        passing, at, new = self._layout(op)
        source: Value = op.args["self"]
        facts = alike(study.facts(source), [d for d in range(len(source.axes)) if d not in passing])

        def laid_out(tensor: Tensor) -> Tensor:
            sizes = [tensor.shape[d] for d in passing]
            return tensor.reshape(sizes[:at] + [1] * new + sizes[at:])

        return [facts.mapped(laid_out)]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        passing, at, new = self._layout(op)
        source: Value = op.args["self"]
        need = whole(joined(needs), range(at, at + new))
        sizes = [size for d, size in enumerate(need.shape) if not at <= d < at + new]
        by_dim = dict(zip(passing, sizes, strict=True))
        own = need.reshape([by_dim.get(d, 1) for d in range(len(source.axes))])
        others = [(value, study.full(value)) for value in op.args["indices"] if value is not None]
        return [(source, own), *others]


@rule("index_add", "index_copy")
class IndexWrite(Rule):
    """Rows are written into a tensor: what is zero in both, or the same and not added, is known."""

    def facts(self, op: Op, study: Study) -> list[Facts]:
        target: Value = op.args["self"]
        dim = int(op.args["dim"]) % max(len(target.axes), 1)
        if not target.axes:
            return [unknown(op.outs[0], study.device)]
        old, new = (alike(study.facts(op.args[name]), [dim]) for name in ("self", "source"))
        same = old.zero & new.zero
        if op.name.startswith("index_copy"):
            same = old.known & new.known & (old.value == new.value)
        return [found(same, old.value)]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        target: Value = op.args["self"]
        need = joined(needs)
        own = whole(need, [int(op.args["dim"]) % len(target.axes)]) if target.axes else need
        return [(target, need), (op.args["source"], own), (op.args["index"], study.full(op.args["index"]))]


@rule(
    "index_put",
    "_index_put_impl_",
    "_unsafe_index_put",
    "gather",
    "take_along_dim",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "index_fill",
    "index_reduce",
    "one_hot",
    "im2col_backward",
    "bucketize",
    "unfold",
    "isin",
)
class Opaque(Rule):
    """Nothing is known of the result, and all that enters matters; axes that the result has may be cut.

    Dimensions that are looked into are frozen by the trace; an axis that does not come out again is held.
    """

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        staying = {leaf for out in op.outs for node in out.axes for leaf in study.leaves(node)}
        for value in op.inputs():
            for node in value.axes:
                if not staying.issuperset(study.leaves(node)):
                    study.hold(node, None, op, f"{op.name} looks into it")
        return everything(op, study)

"""Look-ups by data: rows are picked, so a column is known where all rows agree; other results are not followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ...graph.values import Op, Value
from ..facts import Facts, alike, whole
from . import Needs, Rule, everything, rule
from .pointwise import joined

if TYPE_CHECKING:
    from ..study import Study


@rule("embedding")
class Embedding(Rule):
    def facts(self, op: Op, study: Study) -> list[Facts]:
        row = alike(study.facts(op.args["weight"]), [0])
        lead = (1,) * len(op.args["indices"].axes)
        return [Facts(*(t.reshape(*lead, *t.shape[1:]) for t in (row.known, row.value)))]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        weight, indices = op.args["weight"], op.args["indices"]
        lead = list(range(len(indices.axes)))
        need = whole(joined(needs), lead)
        return [(weight, need.reshape(1, *need.shape[len(lead) :])), (indices, study.full(indices))]


@rule("index_select")
class IndexSelect(Rule):
    def facts(self, op: Op, study: Study) -> list[Facts]:
        source: Value = op.args["self"]
        return [alike(study.facts(source), [int(op.args["dim"]) % len(source.axes)])]

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        source: Value = op.args["self"]
        need = whole(joined(needs), [int(op.args["dim"]) % len(source.axes)])
        return [(source, need), (op.args["index"], study.full(op.args["index"]))]


@rule(
    "index", "_unsafe_index", "index_put", "_index_put_impl_", "_unsafe_index_put", "gather", "take_along_dim",
    "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill", "index_reduce", "one_hot",
    "im2col_backward", "bucketize", "unfold", "isin",
)  # fmt: skip
class Opaque(Rule):
    """Nothing is known of the result, and all that enters matters; axes that the result still has may be cut.

    Dimensions that are looked into are frozen by the trace; an axis that enters and does not come out is held.
    """

    def needs(self, op: Op, needs: list[Tensor | None], study: Study) -> Needs:
        staying = {leaf for out in op.outs for node in out.axes for leaf in study.leaves(node)}
        for value in op.inputs():
            for node in value.axes:
                if not staying.issuperset(study.leaves(node)):
                    study.hold(node, None, op, f"{op.name} looks into it")
        return everything(op, study)

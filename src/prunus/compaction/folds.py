"""Where the constant of a removed unit can go, so that what reads the unit still gets it.

A product `x W` that loses units with constant values loses the sum of `x_k W_kn` over them, one number for
each column n. It is added to the bias of the layer; where there is none, to a bias that follows, or taken
from the running mean of a batch norm that follows; where there is none either, the layer gets a bias.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from torch import nn

from ..graph.graph import Graph
from ..graph.values import Op, Value

BIAS, MEAN, NEW = "bias", "running mean", "new bias"
_VIEWS = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "clone", "contiguous", "expand"})
_BATCH_NORMS = frozenset(
    {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_no_training"}
)


@dataclass(eq=False)
class Target:
    """A place that takes a number for each column.

    Attributes:
        kind: a bias, a running mean (from which the number is taken), or a bias to be made.
        name: the tensor, or the module that gets a bias.
        ops: the products that feed it; all have to agree on what is added.
    """

    kind: str
    name: str
    ops: list[Op] = field(default_factory=list)


class Targets:
    """The target of every product of a graph, or why there is none."""

    def __init__(self, graph: Graph, products: list[Op]) -> None:
        self.graph = graph
        self.readers: dict[Value, list[Op]] = defaultdict(list)
        for op in graph.ops:
            for value in dict.fromkeys(op.inputs()):
                self.readers[value].append(op)
        self.outputs = set(graph.outputs)
        self.held = {item.name: item for item in graph.held}
        self.products = products
        self._by_place: dict[tuple[str, str], Target] = {}
        self._adding: dict[tuple[str, str], list[Op]] = defaultdict(list)
        self._found: dict[Op, Target | str] = {}
        for op in products:
            self._found[op] = self._find(op)
        for op, target in self._found.items():
            if isinstance(target, Target) and not self._complete(target):
                self._found[op] = f"{target.name!r} is used elsewhere too"

    def of(self, op: Op) -> Target | str:
        return self._found[op]

    def refuse(self, name: str) -> None:
        """Do not give a bias to this module."""
        for op, target in self._found.items():
            if isinstance(target, Target) and target.kind == NEW and target.name == name:
                self._found[op] = "the scale of its weights changes with the cut"

    def _complete(self, target: Target) -> bool:
        """Whether nothing but the products of a target reads the tensor that would change."""
        if target.kind == NEW:
            return {op for op in self.products if op.site.module == target.name} == set(target.ops)
        adding = self._adding[target.kind, target.name]
        return set(self.readers[self.graph.values[target.name]]) == set(adding)

    def _find(self, op: Op) -> Target | str:
        if op.args.get("alpha", 1) != 1 or op.args.get("beta", 1) != 1:
            return "its result is scaled"
        bias = op.args.get("self") if op.name.rstrip("_") == "addmm" else op.args.get("bias")
        if isinstance(bias, Value):
            columns = op.outs[0].shape[-1] if op.name.startswith("addmm") else op.outs[0].shape[1]
            if not self._is_plain(bias, columns):
                return "its bias is computed"
            return self._target(BIAS, str(bias.name), op, op)
        if op.name.startswith("baddbmm"):
            return "what is added to it is computed"
        return self._following(op) or self._made(op) or "it has no bias, and nothing that could take one"

    def _is_plain(self, value: Value, columns: int) -> bool:
        item = self.held.get(value.name or "")
        return item is not None and item.kind != "attribute" and value.shape == (columns,)

    def _target(self, kind: str, name: str, op: Op, adds: Op) -> Target:
        target = self._by_place.setdefault((kind, name), Target(kind, name))
        target.ops.append(op)
        self._adding[kind, name].append(adds)
        return target

    def _following(self, op: Op) -> Target | None:
        """A bias added next, or a batch norm next, with nothing else reading what lies between."""
        value = op.outs[0]
        channels = 1 if "conv" in op.name else len(value.axes) - 1
        columns = value.shape[channels]
        while value not in self.outputs and len(self.readers[value]) == 1:
            (reader,) = self.readers[value]
            name = reader.name.rstrip("_")
            if name in _BATCH_NORMS and reader.args["input"] is value and len(value.axes) > 1:
                mean = reader.args.get("running_mean")
                fixed = not reader.args.get("training", False)
                along = channels == 1 and value.shape[1] == columns
                if fixed and along and isinstance(mean, Value) and self._is_plain(mean, columns):
                    return self._target(MEAN, str(mean.name), op, reader)
                return None
            if name == "add" and channels == len(value.axes) - 1 and reader.args.get("alpha", 1) == 1:
                other = next((v for v in reader.inputs() if v is not value), None)
                if other is not None and self._is_plain(other, columns):
                    return self._target(BIAS, str(other.name), op, reader)
                return None
            last = channels == len(value.axes) - 1 and reader.outs[0].shape[-1:] == (columns,)
            if not last or name not in _VIEWS:
                return None
            value = reader.outs[0]
            channels = len(value.axes) - 1
        return None

    def _made(self, op: Op) -> Target | None:
        """A linear or convolution layer of torch's own that was made without a bias."""
        module = self.graph.module_names.get(op.site.module)
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or module.bias is not None:
            return None
        own = type(module).forward.__module__.startswith("torch.nn.modules")
        weight = op.args.get("weight", op.args.get("mat2"))
        named = isinstance(weight, Value) and any(weight.origin)
        if not own or not named or "weight" not in module._parameters or "bias" not in module._parameters:
            return None
        assert isinstance(weight, Value)
        origin = next(item for item in weight.origin if item is not None)[0]
        if self.graph.aliases.get(f"{op.site.module}.weight") != origin:
            return None
        return self._target(NEW, op.site.module, op, op)

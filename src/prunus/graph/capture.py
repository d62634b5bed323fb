"""Run a model once on tensors without data and record what every operation does to axes.

No computation happens and no weight is copied: parameters, buffers and inputs are replaced by tensors on
the meta device or, where code names devices or makes constants, by fake tensors
(`torch._subclasses.FakeTensorMode`). A dispatch mode sees every ATen call, and a function mode
sees the Python-level calls with the integers that shape them. Models that read values (`.item()`,
shapes that depend on data) run on real tensors under the same rules.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from . import sizes
from .attributes import tracked_attributes, unchanged_attributes
from .axes import find
from .functions import handle
from .rules import load_rules
from .rules.pointwise import pointwise
from .shortcuts import SHORTCUTS
from .sizes import SizeFloat, SizeInt
from .state import Held, mode, swapped
from .tracer import Call, Tracer
from .values import Op, Value

MACROS = frozenset({"local_response_norm"})
"""Python-level composites that have a rule of their own instead of the rules of their parts."""

_DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)
_SILENT = frozenset(
    {"is_same_size", "sym_size", "sym_numel", "sym_stride", "sym_storage_offset", "device", "dim"}
)


WAYS = ("meta", "fake", "real")
"""Tensors that a model can run on, the next one tried where it cannot: without storage or device; without
storage on their own device, which also follows code that makes constants; and copies with their values."""


class ReadsValues(Exception):
    """The model's forward reads tensor values: fake tensors cannot follow it."""


# -- arguments of ATen calls ------------------------------------------------------------------------

_SCHEMAS: dict[Any, tuple[str, list[tuple[str, Any, bool]], bool]] = {}


def _schema(func: Any) -> tuple[str, list[tuple[str, Any, bool]], bool]:
    known = _SCHEMAS.get(func)
    if known is None:
        schema = func._schema
        arguments = [
            (a.name, a.default_value if a.has_default_value() else None, a.kwarg_only)
            for a in schema.arguments
        ]
        name = schema.name.split("::")[-1]
        mutable = bool(schema.is_mutable)
        known = _SCHEMAS[func] = (name, arguments, mutable)
    return known


def _tensors(item: Any) -> list[Tensor]:
    if isinstance(item, Tensor):
        return [item]
    if isinstance(item, list | tuple):
        return [tensor for part in item for tensor in _tensors(part)]
    return []


_VIEWS_IN_PLACE = frozenset(
    {
        "t",
        "transpose",
        "permute",
        "detach",
        "alias",
        "clone",
        "_to_copy",
        "unsqueeze",
        "squeeze",
        "expand",
        "view",
        "_unsafe_view",
        "slice",
        "mul",
        "neg",
        "lift_fresh",
        "select",
    }
)


class AxisMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies the axis rule of every ATen call."""

    def __init__(self, tracer: Tracer, shortcuts: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shortcuts = shortcuts
        self.tracer = tracer
        self.rules = load_rules()
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._call(func, args, kwargs)
        if not self.paused:
            self.record(func, args, kwargs, result)
        return result

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        shortcut = self.shortcuts.get(_schema(func)[0])
        if shortcut is not None:
            return shortcut(*args, **kwargs)
        try:
            return func(*args, **kwargs)
        except _DATA_DEPENDENT as error:
            name = func._schema.name.split("::")[-1]
            guess = _GUESSES.get(name)
            if guess is None:
                raise ReadsValues(name) from error
            return guess(*args, **kwargs)

    def record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name, schema, mutable = _schema(func)
        outs = _tensors(result)
        if name in _SILENT or not outs:
            return
        tracer = self.tracer
        tracer.new_site()
        named: dict[str, Any] = {}
        mutated: list[Tensor] = []
        for index, (key, default, _) in enumerate(schema):
            raw = args[index] if index < len(args) else kwargs.get(key, default)
            named[key] = self._with_values(raw)
        if mutable:
            mutated = [
                args[i]
                for i, a in enumerate(func._schema.arguments)
                if i < len(args)
                and a.alias_info is not None
                and a.alias_info.is_write
                and isinstance(args[i], Tensor)
            ]
        call = Call(name, func, named, outs)
        layouts = self._layouts(call)
        for tensor in mutated:
            tracer.mutated(tracer.value(tensor))
        values = []
        for tensor, (nodes, zero) in zip(outs, layouts, strict=True):
            old = getattr(tensor, "_prunus_value", None)
            value = tracer.attach(tensor, nodes, zero)
            if old is not None and mutated:
                value.name, value.origin = None, old.origin
            values.append(value)
        op = Op(name, func, named, tuple(values), tracer.site())
        for value in values:
            value.producer = op
        for value in op.inputs():
            value.consumers.append(op)
        if name in _VIEWS_IN_PLACE:
            _carry_origin(call, values[0])
        tracer.ops.append(op)

    def _with_values(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return self.tracer.value(item)
        if isinstance(item, list | tuple) and any(isinstance(part, Tensor) for part in item):
            return [self._with_values(part) for part in item]
        return item

    def _layouts(self, call: Call) -> list[Any]:
        """The axes of each output, from the rule of the operation."""
        rule = self.rules.get(call.name)
        if rule is None and call.name.endswith("_"):
            rule = self.rules.get(call.name.rstrip("_"))
        if rule is None:
            rule = pointwise if torch.Tag.pointwise in call.func.tags else unknown
        layouts = rule(self.tracer, call)
        if isinstance(layouts, tuple):
            layouts = [layouts]
        if len(layouts) < len(call.outs):
            layouts = [*layouts, *(_fresh(self.tracer, out, call.name) for out in call.outs[len(layouts) :])]
        return list(layouts)


def _carry_origin(call: Call, out: Value) -> None:
    """Remember which parameter dimension each dimension of a plain view of a parameter shows."""
    source = call.values[0]
    if not source.origin or not any(source.origin):
        return
    if call.name in ("t", "transpose", "permute"):
        rank = len(source.axes)
        order = list(range(rank))
        if call.name == "permute":
            order = [int(d) % rank for d in call["dims"]]
        elif rank > 1:
            a, b = call.get("dim0", 0), call.get("dim1", rank - 1)
            order[a], order[b] = order[b], order[a]
        out.origin = tuple(source.origin[d] for d in order)
    elif len(source.axes) == len(out.axes):
        out.origin = source.origin
    else:
        by_axis = {find(node): origin for node, origin in zip(source.axes, source.origin, strict=True)}
        out.origin = tuple(by_axis.get(find(node)) if node.size > 1 else None for node in out.axes)


def _fresh(tracer: Tracer, out: Tensor, name: str) -> Any:
    nodes = [tracer.spatial(size, f"a by-product of {name}") for size in out.shape]
    return nodes, [False] * len(nodes)


def unknown(tracer: Tracer, call: Call) -> Any:
    """An operation without a rule: nothing that enters or leaves it may change."""
    text = f"unknown operation {call.func}"
    for value in call.values:
        for node in value.axes:
            tracer.freeze(node, text)
    return [([tracer.spatial(size, text) for size in out.shape], [True] * out.dim()) for out in call.outs]


def _guess_nonzero(x: Tensor) -> Tensor:
    """Every element taken: each branch that data would choose is seen by the trace."""
    return x.new_empty((max(x.numel(), 1), x.dim()), dtype=torch.int64)


def _guess_masked_select(x: Tensor, mask: Tensor) -> Tensor:
    return x.new_empty(
        (
            max(
                torch.broadcast_shapes(x.shape, mask.shape).numel(),  # type: ignore[no-untyped-call]
                1,
            ),
        )
    )


def _guess_index(x: Tensor, indices: list[Tensor | None]) -> Tensor:
    shape: list[int] = []
    dim = 0
    for item in indices:
        if item is None:
            shape.append(x.shape[dim])
            dim += 1
        elif item.dtype in (torch.bool, torch.uint8):
            shape.append(max(item.numel(), 1))
            dim += item.dim()
        else:
            raise ReadsValues("index")
    return x.new_empty((*shape, *x.shape[dim:]))


_GUESSES: dict[str, Callable[..., Tensor]] = {
    "nonzero": _guess_nonzero,
    "masked_select": _guess_masked_select,
    "index": _guess_index,
}


# -- Python-level calls -------------------------------------------------------------------------------

_SHAPE_GETTER = Tensor.shape.__get__  # type: ignore[attr-defined]


class ShapeMode(TorchFunctionMode):
    """Hands out shapes as tracked integers and hears of those that come back as arguments."""

    def __init__(self, tracer: Tracer, axis_mode: AxisMode) -> None:
        super().__init__()
        self.tracer = tracer
        self.axis_mode = axis_mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tracer = self.tracer
        if name == "__get__":
            return tracer.sized(tracer.value(args[0])) if func == _SHAPE_GETTER else func(*args, **kwargs)
        if name == "size":
            sized = tracer.sized(tracer.value(args[0]))
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return sized if dim is None else sized[dim]
        if name in ("numel", "nelement"):
            return math.prod(tracer.sized(tracer.value(args[0])), start=1)
        if name == "__len__":
            return int(tracer.sized(tracer.value(args[0]))[0])
        tracer.deaf = True
        try:
            if name in MACROS:
                return self._macro(func, name, args, kwargs)
            tracer.call_start = len(tracer.ops)
            result = func(*_plain(args), **_plain(kwargs))
            if not self.axis_mode.paused and isinstance(result, Tensor | list | tuple):
                tracer.new_site()
                handle(tracer, name, result, args, kwargs)
            return result
        finally:
            tracer.deaf = False

    def _macro(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        self.axis_mode.paused = True
        try:
            result = func(*_plain(args), **_plain(kwargs))
        finally:
            self.axis_mode.paused = False
        self.tracer.new_site()
        value = self.tracer.value(args[0])
        self.tracer.approximates(value.axes[1], "local response norm mixes neighbouring channels")
        self.tracer.attach(result, value.axes, self.tracer.zero_of(value))
        return result


def _plain(item: Any) -> Any:
    """Arguments with tracked numbers turned into plain ones; only lists, tuples and dicts are walked."""
    kind = type(item)
    if kind is SizeInt:
        return int.__int__(item)
    if kind is SizeFloat:
        return float.__float__(item)
    if kind is tuple:
        return tuple(_plain(part) for part in item)
    if kind is list:
        return [_plain(part) for part in item]
    if kind is dict:
        return {key: _plain(part) for key, part in item.items()}
    if kind is torch.Size:
        return torch.Size([int.__int__(part) for part in item])
    if kind is slice:
        return slice(_plain(item.start), _plain(item.stop), _plain(item.step))
    return item


@contextmanager
def _inlined_composites(axis_mode: AxisMode) -> Iterator[None]:
    """Let the body of `torch.nn.functional` composites run under the function mode.

    They hand themselves over whole to a function mode; here they are told that there is none, so that
    the calls inside them are seen one by one. `math.sqrt`, and `float` in that module, keep track of
    sizes meanwhile.
    """
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")

    def asks(*_: Any) -> bool:
        return not axis_mode.paused and sys._getframe(1).f_code.co_name in MACROS

    saved = {name: getattr(F, name) for name in names}
    plain_sqrt = math.sqrt
    try:
        for name in names:
            setattr(F, name, asks)
        math.sqrt = sizes.sqrt
        F.float = sizes.tracked_float  # type: ignore[attr-defined]
        yield
    finally:
        math.sqrt = plain_sqrt
        del F.float  # type: ignore[attr-defined]
        for name, function in saved.items():
            setattr(F, name, function)


@contextmanager
def _plain_backends() -> Iterator[None]:
    """Fused kernels off, so that recurrent layers and attention decompose into ordinary operations."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(
            torch.backends.cudnn.set_flags,
            *torch.backends.cudnn.set_flags(_enabled=False),  # type: ignore[no-untyped-call]
        )
        stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
        torch._C._set_mkldnn_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.no_grad())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: a trace makes many objects and drops hardly any."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _unchanged_random_state(devices: list[int]) -> Iterator[None]:
    with torch.random.fork_rng(devices=devices):
        yield


def _call_model(model: nn.Module, args: Any, kwargs: Any) -> Any:
    return model(*args, **kwargs)


def map_tensors(item: Any, change: Callable[[Tensor], Any]) -> Any:
    """Apply to every tensor inside nested tuples, lists, dicts, dataclasses and named tuples."""
    if isinstance(item, Tensor):
        return change(item)
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*(map_tensors(part, change) for part in item))
    if isinstance(item, list | tuple):
        return type(item)(map_tensors(part, change) for part in item)
    if type(item) is dict:
        return {key: map_tensors(part, change) for key, part in item.items()}
    if dataclasses.is_dataclass(item) and not isinstance(item, type) and not isinstance(item, Mapping):
        return dataclasses.replace(
            item,
            **{
                f.name: map_tensors(getattr(item, f.name), change) for f in dataclasses.fields(item) if f.init
            },
        )
    return item


def input_tensors(item: Any) -> list[Tensor]:
    """The tensors inside nested inputs."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(item, note)
    return found


def output_tensors(item: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """The tensors of an output by path; objects of unknown kind (caches) are not looked into."""
    if isinstance(item, Tensor):
        return [(path, item)]
    if isinstance(item, Mapping):
        pairs = [(str(key), part) for key, part in item.items()]
    elif isinstance(item, list | tuple):
        pairs = [(str(i), part) for i, part in enumerate(item)]
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        pairs = [(f.name, getattr(item, f.name, None)) for f in dataclasses.fields(item)]
    else:
        return []
    return [found for key, part in pairs for found in output_tensors(part, f"{path}.{key}" if path else key)]


def run(
    model: nn.Module,
    held: list[Held],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tracer: Tracer,
    training: bool,
    how: str,
) -> Any:
    """One pass over the model in train or eval mode; its axes, ties and equations end in `tracer`.

    `how` is one of `WAYS`.
    """
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True) if how == "fake" else None
    axis_mode = AxisMode(tracer, SHORTCUTS if how == "meta" else {})

    def stand_in(tensor: Tensor, share: bool = False) -> Tensor:
        if how == "real":
            return tensor.detach() if share else tensor.detach().clone()
        with nullcontext() if fake_mode is None else fake_mode:
            device = tensor.device if how == "fake" else "meta"
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)

    replacements = [(item, stand_in(item.tensor, share=item.kind == "parameter")) for item in held]
    for item, tensor in replacements:
        _attach_held(tracer, item, tensor)

    def input_stand_in(tensor: Tensor) -> Tensor:
        stand = stand_in(tensor)
        nodes = [tracer.spatial(size, "input") for size in tensor.shape]
        tracer.attach(stand, nodes, (True,) * len(nodes))
        return stand

    given_args, given_kwargs = map_tensors(args, input_stand_in), map_tensors(kwargs, input_stand_in)
    devices = sorted({t.tensor.device.index or 0 for t in held if t.tensor.device.type == "cuda"})
    with ExitStack() as stack:
        stack.enter_context(_no_collection())
        stack.enter_context(_unchanged_random_state(devices))
        stack.enter_context(_plain_backends())
        stack.enter_context(unchanged_attributes(model))
        stack.enter_context(mode(model, training))
        stack.enter_context(swapped(model, replacements))
        stack.enter_context(tracked_attributes(model))
        stack.enter_context(_inlined_composites(axis_mode))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(tracer.forget)
        sizes.set_recorder(tracer.recorder)
        stack.callback(sizes.set_recorder, None)
        if how == "meta":
            stack.enter_context(torch.device("meta"))
        if fake_mode is not None:
            stack.enter_context(fake_mode)
        stack.enter_context(axis_mode)
        stack.enter_context(ShapeMode(tracer, axis_mode))
        tracer.running = True
        tracer.new_site()
        try:
            return _call_model(model, given_args, given_kwargs)
        except _DATA_DEPENDENT as error:
            raise ReadsValues(str(error)) from error
        finally:
            tracer.running = False


def _attach_held(tracer: Tracer, item: Held, tensor: Tensor) -> None:
    """The same axes for the same tensor in every pass."""
    known = tracer.values.get(item.name)
    if known is None:
        from .axes import leaf

        nodes = [leaf(size) for size in tensor.shape]
        known = tracer.attach(tensor, nodes, (item.kind == "parameter",) * len(nodes))
        known.name = item.name
        known.origin = tuple((item.name, d) for d in range(len(nodes)))
        tracer.values[item.name] = known
    else:
        tensor._prunus_value = known  # type: ignore[attr-defined]

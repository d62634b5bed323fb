"""Integers as they arrive at torch functions: each one that shapes a tensor is an equation.

`x.view(b, t, self.num_heads, self.head_dim)` says that the third axis of the result is as large as
`num_heads`. What says so is the call, not the ATen operation that follows from it, so these handlers
look at Python-level calls, after they have run and their results have axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import axes as ax
from .axes import find
from .polynomials import Poly
from .sizes import SizeFloat, SizeInt
from .tracer import Tracer
from .values import Value

Handler = Callable[[Tracer, str, Any, tuple[Any, ...], dict[str, Any]], None]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    def register(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, function))
        return function

    return register


def flat(args: tuple[Any, ...]) -> list[Any]:
    """`view(2, 3)` and `view((2, 3))` alike."""
    if len(args) == 1 and isinstance(args[0], list | tuple):
        return list(args[0])
    return list(args)


def argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any = None
) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _equate_shape(tracer: Tracer, value: Value, sizes: list[Any], what: str) -> None:
    offset = len(value.axes) - len(sizes)
    for dim, size in enumerate(sizes):
        if is_int(size) and size != -1 and dim + offset >= 0:
            tracer.equate(value.axes[dim + offset], size, what)


@handles("view", "reshape", "expand", "broadcast_to", "_unsafe_view")
def view(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    sizes = flat(args[1:]) or list(kwargs.get("shape") or kwargs.get("size") or ())
    _equate_shape(tracer, tracer.value(result), sizes, "a shape")


@handles("unflatten")
def unflatten(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    dim = argument(args, kwargs, 1, "dim")
    sizes = argument(args, kwargs, 2, "sizes")
    if not is_int(dim) or sizes is None:
        return
    value = tracer.value(result)
    dim %= len(value.axes) - len(sizes) + 1
    for node, size in zip(value.axes[dim : dim + len(sizes)], sizes, strict=True):
        if size != -1:
            tracer.equate(node, size, "an unflatten")


@handles(
    "zeros",
    "ones",
    "empty",
    "full",
    "rand",
    "randn",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "randint",
)
def made(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    start = 1 if args and isinstance(args[0], Tensor) else 0
    sizes = [item for item in args[start:] if is_int(item) or isinstance(item, list | tuple)]
    first = next((item for item in sizes if isinstance(item, list | tuple)), None)
    chosen = list(first) if first is not None else sizes
    chosen = chosen or list(kwargs.get("size") or ())
    value = tracer.value(result)
    if len(chosen) == len(value.axes):
        _equate_shape(tracer, value, chosen, "the shape of a new tensor")
    fill = kwargs.get("fill_value", args[-1] if args and not isinstance(args[-1], list | tuple) else None)
    if isinstance(fill, SizeInt | SizeFloat) and sizes[-1:] != [fill]:
        value.scalar = fill


@handles("tensor", "as_tensor", "scalar_tensor")
def scalar(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    data = args[0] if args else kwargs.get("data")
    if isinstance(data, SizeInt | SizeFloat):
        tracer.value(result).scalar = data
    elif isinstance(data, list | tuple):
        for item in data:
            tracer.used_as_value(item, "a tensor made of sizes")


@handles("arange", "linspace", "eye", "randperm")
def positional(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Its axis never shrinks, so neither may the sizes it was made from."""
    numbers = [item for item in (*args, *kwargs.values()) if isinstance(item, SizeInt | SizeFloat)]
    for number in numbers:
        for poly in [number.poly] if isinstance(number, SizeInt) else number.sources:
            for variable in poly.variables():
                single = Poly.var(variable)
                value_now = find(variable).size if isinstance(variable, ax.Node) else variable.value
                tracer.equate_polys(single, Poly.const(value_now), "values built from a size (arange)")


@handles("split", "split_with_sizes", "unsafe_split")
def split(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    sizes = argument(
        args, kwargs, 1, "split_size_or_sections", kwargs.get("split_size", kwargs.get("split_sizes"))
    )
    dim = argument(args, kwargs, 2, "dim", 0)
    pieces = [tracer.value(item).axes[dim] for item in result]
    wanted = list(sizes) if isinstance(sizes, list | tuple) else [sizes] * len(pieces)
    for index, (node, size) in enumerate(zip(pieces, wanted, strict=False)):
        last = index == len(pieces) - 1 and not isinstance(sizes, list | tuple)
        if is_int(size) and not (last and find(node).size != size):
            tracer.equate(node, size, "a split")


@handles("chunk", "unsafe_chunk", "tensor_split")
def chunk(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Equal pieces must stay equal."""
    dim = argument(args, kwargs, 2, "dim", 0)
    pieces = [tracer.value(item).axes[dim] for item in result]
    for node in pieces[1:]:
        if find(node).size == find(pieces[0]).size:
            tracer.equate_polys(Poly.var(node), Poly.var(pieces[0]), "equal chunks")
        else:
            tracer.freeze(node, "chunks of unequal size")
            tracer.freeze(pieces[0], "chunks of unequal size")


def _equate_bound(tracer: Tracer, value: Value, dim: int, bound: Any, what: str) -> None:
    """A slice bound counts the units before it, or after it where it is negative."""
    node = find(value.axes[dim])
    if not is_int(bound) or bound == 0 or abs(bound) >= node.size:
        return
    if bound > 0:
        tracer.equate(ax.take(node, 0, int(bound)), bound, what)
    else:
        tracer.equate(ax.take(node, node.size + int(bound), node.size), -bound, what)


def _too_large(tracer: Tracer, value: Value, dim: int, bound: Any) -> None:
    """`x[:n]` with n the size itself: the bound must follow the size."""
    node = find(value.axes[dim])
    if isinstance(bound, SizeInt) and int.__int__(bound) == node.size:
        tracer.equate(node, bound, "a slice bound")


@handles("__getitem__", "__setitem__")
def getitem(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    value = tracer.value(args[0])
    items = args[1] if isinstance(args[1], tuple) else (args[1],)
    used = sum(
        item.dim()
        if isinstance(item, Tensor)
        and item.dtype.is_floating_point is False
        and str(item.dtype) == "torch.bool"
        else 1
        for item in items
        if item is not None and item is not Ellipsis and not isinstance(item, bool)
    )
    dim = 0
    for item in items:
        if item is Ellipsis:
            dim += len(value.axes) - used
        elif item is None or isinstance(item, bool):
            continue
        else:
            if isinstance(item, slice) and item.step in (None, 1):
                for bound in (item.start, item.stop):
                    _equate_bound(tracer, value, dim, bound, "a slice bound")
                _too_large(tracer, value, dim, item.stop)
            elif isinstance(item, slice):
                for bound in (item.start, item.stop):
                    if isinstance(bound, SizeInt):
                        tracer.used_as_value(bound, "a stepped slice")
            dim += 1


@handles("narrow", "narrow_copy")
def narrow(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    value = tracer.value(args[0])
    dim = argument(args, kwargs, 1, "dim")
    start = argument(args, kwargs, 2, "start")
    if is_int(start):
        _equate_bound(tracer, value, dim, start, "a narrow")
    tracer.equate(tracer.value(result).axes[dim], argument(args, kwargs, 3, "length"), "a narrow")


@handles("repeat", "tile")
def repeat(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    counts = flat(args[1:]) or list(kwargs.get("repeats") or kwargs.get("dims") or ())
    value, source = tracer.value(result), tracer.value(args[0])
    for index in range(1, len(counts) + 1):
        count = counts[-index]
        if is_int(count) and count > 1 and index <= len(value.axes):
            own = source.axes[-index] if index <= len(source.axes) else ax.ONE
            copies = ax.factors(value.axes[-index])[
                : len(ax.factors(value.axes[-index])) - len(ax.factors(own))
            ]
            tracer.equate(ax.product(copies), count, "a repeat")


@handles("repeat_interleave")
def repeat_interleave(
    tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    count = argument(args, kwargs, 1, "repeats")
    dim = argument(args, kwargs, 2, "dim")
    if not is_int(count) or dim is None:
        return
    value, source = tracer.value(result), tracer.value(args[0])
    own = len(ax.factors(source.axes[dim]))
    tracer.equate(ax.product(ax.factors(value.axes[dim])[own:]), count, "a repeat_interleave")


@handles("layer_norm", "rms_norm", "native_layer_norm")
def layer_norm(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    value = tracer.value(args[0] if args else kwargs["input"])
    shape = argument(args, kwargs, 1, "normalized_shape")
    shape = list(shape) if isinstance(shape, list | tuple) else [shape]
    _equate_shape(tracer, value, shape, "normalized_shape")


@handles("group_norm")
def group_norm(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    value = tracer.value(args[0] if args else kwargs["input"])
    groups = argument(args, kwargs, 1, "num_groups")
    _equate_groups(tracer, value, 1, groups, "num_groups")


def _equate_groups(tracer: Tracer, value: Value, dim: int, groups: Any, what: str) -> None:
    count, node = int.__int__(groups), find(value.axes[dim])
    if count > 1:
        group, _ = tracer.regroup([node], [count, node.size // count], what)
        tracer.equate(group, groups, what)


@handles("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(
    tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    _equate_groups(tracer, tracer.value(args[0]), 1, argument(args, kwargs, 1, "groups"), "a channel shuffle")


_CONV_GROUPS = {"conv1d": 6, "conv2d": 6, "conv3d": 6}


@handles(
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
)
def convolution(
    tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    position = 6 if name in _CONV_GROUPS else 8 if name == "convolution" else 6
    groups = argument(args, kwargs, position, "groups", 1)
    value = tracer.value(args[0] if args else kwargs["input"])
    weight = tracer.value(args[1] if len(args) > 1 else kwargs["weight"])
    if is_int(groups) and groups > 1:
        dim = len(value.axes) - len(weight.axes) + 1
        _equate_groups(tracer, value, dim, groups, "groups")


@handles("pad", "constant_pad_nd")
def pad(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    pads = argument(args, kwargs, 1, "pad")
    value = tracer.value(result)
    source = tracer.value(args[0] if args else kwargs["input"])
    if len(value.axes) != len(source.axes) or not isinstance(pads, list | tuple):
        return
    for index in range(len(pads) // 2):
        dim = len(value.axes) - 1 - index
        before, after = pads[2 * index], pads[2 * index + 1]
        size = value.axes[dim].size
        if before > 0 and before < size:
            tracer.equate(ax.take(value.axes[dim], 0, int(before)), before, "padding")
        if after > 0 and after < size:
            tracer.equate(ax.take(value.axes[dim], size - int(after), size), after, "padding")


@handles("roll")
def roll(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    shifts = argument(args, kwargs, 1, "shifts")
    dims = argument(args, kwargs, 2, "dims")
    if dims is None:
        return
    value = tracer.value(args[0])
    shifts = shifts if isinstance(shifts, list | tuple) else [shifts]
    dims = dims if isinstance(dims, list | tuple) else [dims]
    for shift, dim in zip(shifts, dims, strict=False):
        size = value.axes[dim].size
        if 0 < abs(shift) < size:
            _equate_bound(tracer, value, dim, -shift, "a roll")


@handles(
    "pixel_shuffle", "pixel_unshuffle", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "movedim"
)
def nothing(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Their integers are dimensions or spatial factors."""


@handles(
    "softmax",
    "log_softmax",
    "sum",
    "mean",
    "cumsum",
    "unbind",
    "select",
    "stack",
    "cat",
    "clamp",
    "clamp_min",
    "clamp_max",
    "interpolate",
    "topk",
    "one_hot",
)
def also_nothing(
    tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Their integers name dimensions, positions or axes that never shrink."""


_POWER = {
    "mul": 1,
    "__mul__": 1,
    "__rmul__": 1,
    "multiply": 1,
    "mul_": 1,
    "div": -1,
    "__truediv__": -1,
    "true_divide": -1,
    "div_": -1,
}


@handles(*_POWER)
def multiply(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A tensor times a number made from sizes: a scale that pruning may have to make up for."""
    operands = [*args[:2], *(kwargs[key] for key in ("other",) if key in kwargs)]
    power = _POWER[name]
    if len(operands) != 2 or not isinstance(result, Tensor):
        return
    first, second = operands
    for number, power_here in ((second, power), (first, 1)):
        plain = number
        if isinstance(number, Tensor):
            plain = tracer.value(number).scalar
        if isinstance(plain, SizeInt | SizeFloat):
            tracer.scaled((tracer.value(result),), plain, power_here)
            return


@handles("scaled_dot_product_attention")
def attention(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Without a scale of its own, the scores are divided by the square root of the head size."""
    scale = kwargs.get("scale", args[6] if len(args) > 6 else None)
    query = tracer.value(args[0] if args else kwargs["query"])
    key = tracer.value(args[1] if len(args) > 1 else kwargs["key"])
    if scale is None:
        scale = SizeInt.of(query.axes[-1].size, find(query.axes[-1])) ** -0.5
    tracer.scaled((query, key), scale, 1, whole_call=True)


_AS_IT_IS = frozenset(
    """
    to type type_as float half double bfloat16 clone detach contiguous view reshape expand unsqueeze
    squeeze
    """.split()
)
_OF_ONE = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "square": 2.0}


def _carry_scalars(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...]) -> None:
    """A tensor that holds one tracked number: followed through plain arithmetic, else an escape."""
    numbers = [tracer.value(item).scalar if isinstance(item, Tensor) else None for item in args[:2]]
    held = [number for number in numbers if number is not None]
    if not held or not isinstance(result, Tensor):
        return
    if name in _AS_IT_IS:
        tracer.value(result).scalar = held[0]
    elif name in _OF_ONE:
        tracer.value(result).scalar = held[0] ** _OF_ONE[name]
    elif name in ("pow", "__pow__") and isinstance(args[1], int | float):
        tracer.value(result).scalar = held[0] ** args[1]
    elif name in _POWER and all(
        number is not None or not isinstance(a, Tensor) for number, a in zip(numbers, args, strict=False)
    ):
        first, second = (
            number if number is not None else a for number, a in zip(numbers, args, strict=False)
        )
        tracer.value(result).scalar = first * second if _POWER[name] > 0 else first / second
    elif name not in _POWER:
        tracer.used_as_value(held[0], name)


def handle(tracer: Tracer, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What a Python-level call says about sizes."""
    _carry_scalars(tracer, name, result, args)
    handler = HANDLERS.get(name)
    if handler is not None:
        handler(tracer, name, result, args, kwargs)
    else:
        for item in (*args, *kwargs.values()):
            tracer.used_as_value(item, name)

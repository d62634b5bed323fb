"""Element-wise operations: broadcasting ties the dimensions that line up."""

from __future__ import annotations

from typing import Any

from ..axes import ONE, Node
from ..tracer import Call, Tracer
from ..values import Value
from . import rule

KEEP_ZERO = frozenset(
    """
    abs relu relu_ relu6 gelu silu silu_ elu elu_ selu leaky_relu leaky_relu_ celu tanh sin
    sinh tan asin atan asinh atanh erf hardtanh hardtanh_ hardswish hardswish_ mish softsign
    sgn sign neg sqrt square expm1 log1p ceil floor round trunc frac nan_to_num prelu
    _prelu_kernel rrelu_with_noise threshold positive logical_and dropout deg2rad rad2deg
    softshrink hardshrink tanhshrink real imag conj conj_physical _conj angle bernoulli
    view_copy bitwise_and
    """.split()
)
"""Functions with f(0) = 0: a removed unit that is zero stays zero."""

ANY_ZERO = frozenset({"mul", "logical_and", "bitwise_and", "__and__"})
"""Zero where any operand is."""

FIRST_ZERO = frozenset(
    {"div", "true_divide", "floor_divide", "remainder", "fmod", "pow", "copysign", "ldexp"}
)
"""Zero where the first operand is."""


def broadcast(tracer: Tracer, values: list[Value], rank: int, what: str) -> list[Node]:
    """The axes of element-wise operands lined up from the right; sizes of one give way."""
    out: list[Node] = [ONE] * rank
    for value in values:
        offset = rank - len(value.axes)
        for dim, node in enumerate(value.axes):
            if node.size == 1:
                continue
            here = out[offset + dim]
            out[offset + dim] = node if here.size == 1 else tracer.unify(here, node, what)
    return out


def broadcast_zero(tracer: Tracer, value: Value, rank: int, sizes: tuple[int, ...]) -> list[bool]:
    """Where an operand is zero, for the dimensions of the result; it knows nothing of broadcast ones."""
    offset = rank - len(value.axes)
    flags = tracer.zero_of(value)
    return [
        dim >= offset and flags[dim - offset] and value.axes[dim - offset].size == sizes[dim]
        for dim in range(rank)
    ]


def _keeps_zero(name: str, tensors: int, numbers: list[Any], args: dict[str, Any]) -> str:
    """Which operands must be zero for the result to be: "all", "any", "first" or "never"."""
    name = name.rstrip("_") or name
    if name in ("where", "masked_fill"):
        return "branches"
    if name in ANY_ZERO:
        return "any"
    if name in ("add", "sub", "rsub", "maximum", "minimum", "add_relu", "lerp", "addcmul"):
        return "all" if all(number == 0 for number in numbers) or name in ("lerp", "addcmul") else "never"
    if name == "pow":
        exponent, base = args.get("exponent"), args.get("self")
        positive = isinstance(exponent, int | float) and exponent > 0
        return "first" if positive and isinstance(base, Value) else "never"
    if name in FIRST_ZERO:
        return "first" if isinstance(args.get("self"), Value) else "never"
    if name == "threshold":
        return "first" if args["threshold"] < 0 or args["value"] == 0 else "never"
    if name in ("clamp", "clamp_min", "clamp_max", "hardtanh"):
        low, high = args.get("min", args.get("min_val")), args.get("max", args.get("max_val"))
        low_ok = low is None or (isinstance(low, int | float) and low <= 0)
        high_ok = high is None or (isinstance(high, int | float) and high >= 0)
        return "first" if low_ok and high_ok else "never"
    if name in ("gt", "lt", "ne") and tensors == 1:
        return "all" if all(number == 0 for number in numbers) else "never"
    if name in KEEP_ZERO or name + "_" in KEEP_ZERO:
        return "all" if tensors == 1 else "first"
    return "never"


def pointwise(tracer: Tracer, call: Call) -> Any:
    """Any operation tagged point-wise, and those in the tables above."""
    values = call.values
    sizes = call.shape()
    rank = len(sizes)
    out = broadcast(tracer, values, rank, call.name)
    for dim, size in enumerate(sizes):
        if out[dim].size != size:
            out[dim] = tracer.spatial(size, "broadcast by a constant")
    numbers = [call.args[key] for key in ("other", "value") if isinstance(call.args.get(key), int | float)]
    kind = _keeps_zero(call.name, len(values), numbers, call.args)
    zeros = [broadcast_zero(tracer, value, rank, sizes) for value in values]
    if kind == "branches":
        zero = _branches(call, values, zeros, rank)
    elif kind == "any":
        zero = [any(flags[d] for flags in zeros) for d in range(rank)]
    elif kind == "all":
        zero = [all(flags[d] for flags in zeros) for d in range(rank)]
    elif kind == "first" and zeros:
        zero = zeros[0]
    else:
        zero = [False] * rank
    return [(out, zero)] * len(call.outs)


def _branches(call: Call, values: list[Value], zeros: list[list[bool]], rank: int) -> list[bool]:
    """`where` and `masked_fill`: both branches must be zero, the condition does not matter."""
    if call.name.startswith("where"):
        picked = [flags for value, flags in zip(values, zeros, strict=True) if value is not call["condition"]]
        constants = [call.get("self"), call.get("other")]
    else:
        picked = [flags for value, flags in zip(values, zeros, strict=True) if value is not call["mask"]]
        constants = [call.get("value")]
    if any(isinstance(c, int | float) and c != 0 for c in constants):
        return [False] * rank
    return [all(flags[d] for flags in picked) for d in range(rank)]


def same(tracer: Tracer, call: Call) -> Any:
    """Output like the first tensor."""
    value = call.values[0]
    return value.axes, tracer.zero_of(value)


rule(
    "clone",
    "_to_copy",
    "alias",
    "detach",
    "detach_",
    "contiguous",
    "lift_fresh",
    "lift_fresh_copy",
    "lift",
    "to",
    "alias_copy",
    "detach_copy",
    "_conj",
    "_neg_view",
    "resolve_conj",
    "resolve_neg",
    "view_dtype",
    "dropout",
    "native_dropout_backward",
    "requires_grad_",
    "zero",
    "zero_",
    "_reshape_alias_copy",
    "fake_quantize_per_tensor_affine",
    "rrelu_with_noise",
    "rrelu_with_noise_",
    "bernoulli",
    "bernoulli_",
    "_fused_dropout",
    "rename",
    "values",
    "nan_to_num_",
)(same)


@rule("native_dropout")
def native_dropout(tracer: Tracer, call: Call) -> Any:
    value: Value = call["input"]
    return [(value.axes, tracer.zero_of(value)), (value.axes, [False] * len(value.axes))]


@rule("prelu", "_prelu_kernel")
def prelu(tracer: Tracer, call: Call) -> Any:
    """`_prelu_kernel` gets a weight already shaped for broadcasting; `prelu` one weight a channel."""
    value: Value = call["self"]
    weight: Value = call["weight"]
    if len(weight.axes) == 1 and len(value.axes) != 1:
        if weight.axes[0].size > 1:
            tracer.unify(value.axes[1], weight.axes[0], "prelu")
    else:
        broadcast(tracer, [value, weight], len(value.axes), "prelu")
    return value.axes, tracer.zero_of(value)


@rule("copy", "copy_")
def copy_(tracer: Tracer, call: Call) -> Any:
    """Written in place: the destination's dimensions are tied to the source's."""
    target: Value = call["self"]
    source: Value = call["src"]
    axes = broadcast(tracer, [target, source], len(target.axes), "copy")
    flags = broadcast_zero(tracer, source, len(axes), tuple(node.size for node in axes))
    return axes, flags


@rule("fill", "fill_")
def fill_(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    is_zero = isinstance(call.get("value"), int | float) and call["value"] == 0
    return value.axes, [is_zero] * len(value.axes)


@rule("zeros_like", "new_zeros_like")
def zeros_like(tracer: Tracer, call: Call) -> Any:
    value = call.values[0]
    return value.axes, [True] * len(value.axes)


@rule("ones_like", "empty_like", "full_like")
def any_like(tracer: Tracer, call: Call) -> Any:
    value = call.values[0]
    return value.axes, [False] * len(value.axes)


@rule(
    "rand_like",
    "randn_like",
    "randint_like",
    "normal_",
    "uniform_",
    "exponential_",
    "random_",
    "normal",
    "cauchy_",
    "log_normal_",
    "geometric_",
    "trunc_normal_",
)
def random_like(tracer: Tracer, call: Call) -> Any:
    """Fewer numbers are drawn once an axis has been cut, so others come out."""
    value = call.values[0]
    for node in value.axes:
        tracer.approximates(node, "random numbers are drawn over it")
    return value.axes, [False] * len(value.axes)


@rule("view_as_complex", "view_as_complex_copy")
def view_as_complex(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    tracer.freeze(value.axes[-1], "the real and imaginary parts of complex numbers")
    return value.axes[:-1], tracer.zero_of(value)[:-1]


@rule("view_as_real", "view_as_real_copy")
def view_as_real(tracer: Tracer, call: Call) -> Any:
    value: Value = call["self"]
    pair = tracer.spatial(2, "the real and imaginary parts of complex numbers")
    return [*value.axes, pair], [*tracer.zero_of(value), True]


rule(
    "polar",
    "complex",
    "hardswish",
    "hardswish_",
    "log_sigmoid_forward",
    "special_logit",
    "where",
    "rsub",
    "masked_fill",
    "masked_fill_",
    "__and__",
    "__or__",
    "__xor__",
    "dist",
)(pointwise)


@rule("bucketize", "isin")
def like_first(tracer: Tracer, call: Call) -> Any:
    value = call.values[0]
    return value.axes, [False] * len(value.axes)

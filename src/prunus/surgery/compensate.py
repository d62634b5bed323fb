"""Scale factors that follow a pruned size, made up for in the weights.

`softmax(q k / sqrt(head_dim))` divides by a smaller number once `head_dim` has been cut. Walking back from
the scaled tensor through operations that are linear in it leads to parameters whose scaling by a constant
scales it alike: `q = W x + b` is scaled by scaling the rows of W and b that make q. The walk succeeds only
if nothing else reads what it scales.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..graph.axes import reshape_groups
from ..graph.rules.pieces import slice_range
from ..graph.values import Op, Scale, Value

Region = list[Tensor | None]
"""For each dimension the positions that are meant (bool), None for all."""

_IDENTITY = frozenset(["clone", "_to_copy", "alias", "detach", "contiguous", "lift_fresh", "dropout", "neg"])


class NoWay(Exception):
    """No parameters scale this tensor alone."""


@dataclass
class Walk:
    targets: dict[str, Region] = field(default_factory=dict)
    ops: set[int] = field(default_factory=set)
    seen: list[tuple[Value, Region]] = field(default_factory=list)


def find_targets(scale: Scale) -> dict[str, Region] | None:
    """Parameters, and regions of them, whose scaling makes up for a scale; None where there are none."""
    for value in scale.values:
        walk = Walk()
        try:
            _walk(value, [None] * len(value.axes), walk)
            _check_readers(value, walk, scale.inside)
        except NoWay:
            continue
        return walk.targets
    return None


def _check_readers(start: Value, walk: Walk, inside: frozenset[int] | None) -> None:
    """Whatever was walked through is read by the walk alone, or by pieces beside its region.

    The tensor walked from may be read by all, or by the operations `inside` one call.
    """
    for value, region in walk.seen:
        if value is start and inside is None:
            continue
        allowed = walk.ops if value is not start or inside is None else walk.ops | inside
        for reader in value.consumers:
            if id(reader) not in allowed and not _reads_beside(reader, value, region):
                raise NoWay


def _piece_range(op: Op, source: Value, out: Value) -> tuple[int, int, int]:
    """Which positions of which dimension an output of a piece operation shows: dim, start, stop."""
    rank = len(source.axes)
    dim = int(op.args.get("dim", 0)) % rank
    size = source.axes[dim].size
    if op.name == "slice":
        start, stop, step = slice_range(op.args, size)
        if step != 1:
            raise NoWay
        return dim, start, stop
    if op.name == "select":
        index = int(op.args["index"]) % size
        return dim, index, index + 1
    position = next(i for i, item in enumerate(op.outs) if item is out)
    if op.name == "unbind":
        return dim, position, position + 1
    start = sum(item.axes[dim].size for item in op.outs[:position])
    return dim, start, start + out.axes[dim].size


_PIECES = frozenset({"slice", "select", "unbind", "split", "split_with_sizes"})


def _reads_beside(reader: Op, value: Value, region: Region) -> bool:
    if reader.name not in _PIECES:
        return False
    for out in reader.outs:
        if not out.consumers:
            continue
        try:
            dim, start, stop = _piece_range(reader, value, out)
        except NoWay:
            return False
        mask = region[dim]
        if mask is None or bool(mask[start:stop].any()):
            return False
    return True


def _through_view(op: Op, source: Value, out: Value, region: Region) -> Region:
    back: Region = [None] * len(source.axes)
    for group, targets in reshape_groups([n.size for n in source.axes], [n.size for n in out.axes]):
        masks = [region[t] for t in targets]
        if all(mask is None for mask in masks):
            continue
        whole = torch.ones(1, dtype=torch.bool)
        for target, mask in zip(targets, masks, strict=True):
            own = mask if mask is not None else torch.ones(out.axes[target].size, dtype=torch.bool)
            whole = (whole[:, None] & own).reshape(-1)
        grid = whole.reshape([source.axes[d].size for d in group])
        for position, d in enumerate(group):
            others = [k for k in range(len(group)) if k != position]
            own = grid.any(dim=others) if others else grid
            back[d] = None if bool(own.all()) else own
        check = torch.ones(1, dtype=torch.bool)
        for d in group:
            own_d = back[d]
            part = own_d if own_d is not None else torch.ones(source.axes[d].size, dtype=torch.bool)
            check = (check[:, None] & part).reshape(-1)
        if not bool((check == whole).all()):
            raise NoWay
    return back


def _walk(value: Value, region: Region, walk: Walk) -> None:
    walk.seen.append((value, region))
    if value.name is not None:
        if value.origin == () or not value.dtype.is_floating_point:
            raise NoWay
        old = walk.targets.get(value.name)
        walk.targets[value.name] = region if old is None else _union(old, region)
        return
    op = value.producer
    if op is None:
        raise NoWay
    walk.ops.add(id(op))
    name = op.name.rstrip("_") or op.name
    if name in _IDENTITY:
        _walk(op.inputs()[0], region, walk)
    elif name in ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze"):
        source = op.inputs()[0]
        _walk(source, _through_view(op, source, value, region), walk)
    elif name == "view_as_complex":
        _walk(op.inputs()[0], [*region, None], walk)
    elif name == "view_as_real" and region[-1] is None:
        _walk(op.inputs()[0], region[:-1], walk)
    elif name in ("t", "transpose", "permute"):
        _walk(op.inputs()[0], _permuted(op, region), walk)
    elif name == "expand":
        source = op.inputs()[0]
        kept = region[len(region) - len(source.axes) :]
        _walk(source, [m if n.size > 1 else None for m, n in zip(kept, source.axes, strict=True)], walk)
    elif name in _PIECES:
        _walk_piece(op, value, region, walk)
    elif name in ("add", "sub"):
        for part in op.inputs():
            _walk(part, _aligned(part, region), walk)
    elif name in ("mul", "div"):
        _walk_product(op, name, region, walk)
    elif name in ("mm", "bmm", "addmm", "convolution"):
        _walk_contraction(op, name, region, walk)
    elif name == "native_layer_norm" or name == "_fused_rms_norm":
        _walk_norm(op, value, region, walk)
    elif name == "cat":
        _walk_cat(op, region, walk)
    else:
        raise NoWay


def _union(a: Region, b: Region) -> Region:
    """Both regions; each reader reads nothing outside its own, so scaling the other does not reach it."""
    out: Region = [x if x is None else None if y is None else x | y for x, y in zip(a, b, strict=True)]
    grown = [d for d, (x, y) in enumerate(zip(a, b, strict=True)) if not _same(x, y)]
    if len(grown) > 1:
        raise NoWay
    return out


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool((a == b).all())


def _permuted(op: Op, region: Region) -> Region:
    rank = len(region)
    order = list(range(rank))
    if op.name.startswith("permute"):
        order = [int(d) % rank for d in op.args["dims"]]
    elif rank > 1:
        a, b = int(op.args.get("dim0", 0)), int(op.args.get("dim1", rank - 1))
        order[a], order[b] = order[b], order[a]
    back: Region = [None] * rank
    for out_dim, in_dim in enumerate(order):
        back[in_dim] = region[out_dim]
    return back


def _aligned(part: Value, region: Region) -> Region:
    """A region of the result as one of an operand that is broadcast to it."""
    own = region[len(region) - len(part.axes) :] if part.axes else []
    return [m if node.size > 1 else None for m, node in zip(own, part.axes, strict=True)]


def _walk_piece(op: Op, value: Value, region: Region, walk: Walk) -> None:
    source = op.inputs()[0]
    dim, start, stop = _piece_range(op, source, value)
    back = list(region)
    if op.name in ("select", "unbind"):
        back.insert(dim, None)
    mask = torch.zeros(source.axes[dim].size, dtype=torch.bool)
    own = back[dim]
    mask[start:stop] = True if own is None else own
    back[dim] = mask
    _walk(source, back, walk)


def _attempt(options: list[list[tuple[Value, Region]]], walk: Walk) -> None:
    """The first option whose parts can all be scaled."""
    for option in options:
        trial = Walk(dict(walk.targets), set(walk.ops), list(walk.seen))
        try:
            for value, region in option:
                _walk(value, region, trial)
        except NoWay:
            continue
        walk.targets, walk.ops, walk.seen = trial.targets, trial.ops, trial.seen
        return
    raise NoWay


def _walk_product(op: Op, name: str, region: Region, walk: Walk) -> None:
    parts = op.inputs()[:1] if name == "div" else op.inputs()
    parts = sorted(parts, key=lambda part: not any(part.origin))
    _attempt([[(part, _aligned(part, region))] for part in parts if part.axes], walk)


def _walk_contraction(op: Op, name: str, region: Region, walk: Walk) -> None:
    if name == "convolution":
        weight, bias = op.args["weight"], op.args["bias"]
        if any(mask is not None for d, mask in enumerate(region) if d != 1) or op.args["transposed"]:
            raise NoWay
        own: Region = [region[1], *[None] * (len(weight.axes) - 1)]
        _attempt([[(weight, own), *([(bias, [region[1]])] if bias is not None else [])]], walk)
        return
    if name == "addmm":
        bias, a, b = op.args["self"], op.args["mat1"], op.args["mat2"]
    else:
        bias, a, b = None, op.args["self"], op.args["mat2"]
    lead: Region = list(region[:-2])
    rows, columns = region[-2], region[-1]
    options: list[list[tuple[Value, Region]]] = []
    extra = [] if bias is None else [(bias, _aligned(bias, region))]
    if rows is None and not any(mask is not None for mask in lead):
        options.append([(b, [*[None] * len(lead), None, columns]), *extra])
    if columns is None and not any(mask is not None for mask in lead) and bias is None:
        options.append([(a, [*[None] * len(lead), rows, None])])
    _attempt(options, walk)


def _walk_norm(op: Op, value: Value, region: Region, walk: Walk) -> None:
    weight, bias = op.args.get("weight"), op.args.get("bias")
    if weight is None:
        raise NoWay
    parts = [(weight, _aligned(weight, region))]
    if bias is not None:
        parts.append((bias, _aligned(bias, region)))
    if any(mask is not None for mask in region[: len(region) - len(weight.axes)]):
        raise NoWay
    _attempt([parts], walk)


def _walk_cat(op: Op, region: Region, walk: Walk) -> None:
    dim = int(op.args.get("dim", 0)) % len(region)
    if region[dim] is not None:
        raise NoWay
    for part in op.inputs():
        _walk(part, region, walk)

"""Names for axes: the module that makes their units, and which factor or piece of its output they are."""

from __future__ import annotations

from collections.abc import Mapping

from .axes import Node
from .terms import Terms
from .values import Value


def axis_names(
    members: Mapping[Node, list[tuple[str, int]]],
    contracted: set[tuple[str, int]],
    values: Mapping[str, Value],
    terms: Terms,
) -> dict[Node, str]:
    """A unique name for each axis, e.g. `layer1.0.conv1.out` or `attn.qkv.out[1]`."""
    names: dict[Node, str] = {}
    taken: set[str] = set()
    for node, where in members.items():
        made = [item for item in where if item not in contracted] or where
        matrices = [item for item in made if len(values[item[0]].axes) > 1]
        name, dim = (matrices or made)[0]
        owner, _, key = name.rpartition(".")
        side = "in" if (name, dim) in contracted else "out"
        if key not in ("weight", "bias", "original0", "original1", "original"):
            side = key if len(values[name].axes) == 1 else f"{key}.{dim}"
        elif side == "out" and dim >= 2:
            side = f"kernel{dim - 2}"
        parts = terms.leaves(values[name].axes[dim])
        text = f"{owner}.{side}" if owner else side
        if len(parts) > 1:
            text += f"[{parts.index(node)}]"
        base, count = text, 2
        while text in taken:
            text = f"{base}#{count}"
            count += 1
        taken.add(text)
        names[node] = text
    return names

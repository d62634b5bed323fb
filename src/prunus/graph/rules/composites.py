"""Python-level composites whose parts mean something else inside them than elsewhere.

Averaging over a window is pooling, and what it slides over is spatial; inside `local_response_norm` the
window slides over the channels, which may be cut all the same.
"""

from __future__ import annotations

from typing import Any

from .. import axes as ax
from ..tracer import Call, Rule, Tracer


def _across_channels(tracer: Tracer, call: Call) -> Any:
    """A window of `size` channels, stride 1, over channels padded by `size - 1` zeros: as many come out."""
    value = call.values[0]
    size = int(call["kernel_size"][0])
    dim = len(value.axes) - len(call["kernel_size"])
    nodes, zero = list(value.axes), list(tracer.zero_of(value))
    nodes[dim] = ax.take(nodes[dim], size // 2, size // 2 + call.shape()[dim])
    if size > 1:
        zero[dim] = nodes[dim].size == 1
        tracer.approximates(nodes[dim], "local response norm mixes neighbouring channels")
    return nodes, zero


COMPOSITES: dict[str, dict[str, Rule]] = {
    "local_response_norm": {"avg_pool2d": _across_channels, "avg_pool3d": _across_channels},
}
"""For each composite, the rules that hold inside it in place of the ordinary ones."""

"""Networks of `keras.applications` made smaller, and how far their outputs are from those of the masked ones.

Run with `python -m benchmarks.keras_compact`; KERAS_BACKEND chooses the backend, torch by default. `--models`
names some of the networks, `--dry` prints without writing.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from benchmarks.publish import publish
from prunus.keras import L1FilterPruner, compact, trace

SIZES = {"InceptionV3": 96, "Xception": 96}
JUDGED = ("ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0", "ConvNeXtTiny")
NETWORKS = (
    *JUDGED,
    *"ResNet50V2 MobileNet MobileNetV3Small EfficientNetV2B0 VGG16 InceptionV3 Xception".split(),
)
TOLERANCE = 1e-4
KINDS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense")


@dataclass
class Measured:
    """One network; differences are the largest of any output, relative to the largest output."""

    network: str
    parameters: int
    pruned: float
    pruned_difference: float
    changed: float
    tied: float
    tied_difference: float
    masked: float
    masked_difference: float
    seconds: float


def build(name: str, seed: int = 0) -> Any:
    """A network with random weights, biases and statistics, and logits for outputs."""
    keras.utils.set_random_seed(seed)
    size = SIZES.get(name, 64)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if len(variable.shape) == 1:
            kind = variable.name.rsplit("_")[-1]
            around_zero = kind in ("bias", "beta", "mean")
            draw = (
                rng.normal(0, 0.2, variable.shape) if around_zero else rng.uniform(0.5, 1.5, variable.shape)
            )
            variable.assign(draw)
    return model


def zero_filters(model: Any, fraction: float) -> None:
    """What a filter pruner does: in each layer by itself the filters of the lowest L1 norm."""
    kinds = tuple(getattr(keras.layers, kind) for kind in KINDS)
    for layer in model._flatten_layers():
        if not isinstance(layer, kinds) or layer is model.layers[-1]:
            continue
        variable = getattr(layer, "pointwise_kernel", None)
        variable = layer.kernel if variable is None else variable
        kernel = np.array(keras.ops.convert_to_numpy(variable))
        flat = kernel.reshape(-1, kernel.shape[-1])
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            flat = kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1])
        gone = np.argsort(np.abs(flat).sum(0))[: int(flat.shape[1] * fraction)]
        flat[:, gone] = 0
        variable.assign(flat.reshape(kernel.shape))
        if layer.use_bias:
            bias = np.array(keras.ops.convert_to_numpy(layer.bias))
            bias[gone] = 0
            layer.bias.assign(bias)


def mask_filters(model: Any, fraction: float) -> None:
    """Masks of a pruner that is aware of dependencies, on all layers but the one that makes the logits."""
    *_, last = (layer for layer in model._flatten_layers() if hasattr(layer, "kernel"))
    config_list = [{"sparsity": fraction, "op_types": [*KINDS]}, {"exclude": True, "op_names": [last.name]}]
    L1FilterPruner(model, config_list, dependency_aware=True).compress()


def difference(a: Any, b: Any, x: Any) -> float:
    one, two = (keras.ops.convert_to_numpy(model(x, training=False)) for model in (a, b))
    return float(np.abs(one - two).max() / np.abs(one).max())


def measure(name: str) -> Measured:
    model = build(name)
    x = np.random.default_rng(1).uniform(0, 255, (2, *model.input_shape[1:])).astype("float32")
    if name not in ("EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny", "MobileNetV3Small"):
        x = x / 127.5 - 1  # these scale their inputs themselves, the others do not
    count = model.count_params()
    start = time.perf_counter()
    plan = trace(model).plan(0.5)
    small = plan.model()
    seconds = time.perf_counter() - start
    zeroed = plan.zeroed()
    pruned = small.count_params() / count
    pruned_difference, changed = difference(zeroed, small, x), difference(model, small, x)
    del zeroed, small, plan
    other = build(name)
    mask_filters(other, 0.5)
    small = compact(other)
    tied, tied_difference = small.count_params() / count, difference(other, small, x)
    del other, small
    zero_filters(model, 0.5)
    small = trace(model).compaction().model()
    return Measured(
        name,
        count,
        pruned,
        pruned_difference,
        changed,
        tied,
        tied_difference,
        small.count_params() / count,
        difference(model, small, x),
        seconds,
    )


def row(item: Measured) -> list[str]:
    return [
        item.network,
        f"{item.parameters / 1e6:.1f} M",
        f"{item.pruned:.1%}",
        f"{item.pruned_difference:.0e}",
        f"{item.changed:.2f}",
        f"{item.tied:.1%}",
        f"{item.tied_difference:.0e}",
        f"{item.masked:.1%}",
        f"{item.masked_difference:.0e}",
        f"{item.seconds:.1f} s",
    ]


COLUMNS = [
    "network",
    "parameters",
    "coupled half: left",
    "difference",
    "from the original",
    "tied masks: left",
    "difference",
    "own half: left",
    "difference",
    "time",
]
NOTES = """
Networks of `keras.applications` with random weights, biases and batch statistics, made smaller in three
ways.

*Coupled half*: `prunus.keras.trace(model).plan(0.5)` removes half of the units of every axis, the same
ones in all layers that share them. The parameters left are a fraction of the original's. The difference
is between the smaller model and the original with those units at zero; *from the original* is how far
the smaller model is from the original before that, to show that the outputs are not just all alike.

*Tied masks*: the masks of `prunus.keras.L1FilterPruner(..., dependency_aware=True)` at sparsity 0.5, on
every convolution and dense layer but the one that makes the logits, and what `prunus.keras.compact` leaves.
The difference is between the smaller model and the masked one.

*Own half*: in every convolution and hidden dense layer by itself the half of the filters with the lowest
L1 norm is zero, as a filter pruner's masks leave it, and `prunus.keras.compact` removes what it can.
Where layers are added up, filters that were chosen without each other rarely agree, and where the constant
that a batch norm makes of a dead filter meets a depthwise convolution's padding or a gate, the unit
stays.

Differences are the largest of any output, relative to the largest output. The time is for tracing,
planning and building. `python -m benchmarks.keras_compact` measures it again.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=NETWORKS)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    items = []
    for name in options.models:
        items.append(measure(name))
        print(*row(items[-1]), flush=True)
        keras.utils.clear_session()
    judged = [item for item in items if item.network in JUDGED]
    targets = [
        (
            f"outputs within {TOLERANCE:g} of the zeroed ones', whichever way the units were chosen",
            all(
                max(item.pruned_difference, item.tied_difference, item.masked_difference) <= TOLERANCE
                for item in items
            ),
        ),
        (
            "at most half of the parameters left, coupled or by tied masks, of "
            + ", ".join(item.network for item in judged),
            all(max(item.pruned, item.tied) <= 0.5 for item in judged),
        ),
    ]
    if options.dry:
        print(targets)
        return
    notes = f"{NOTES.strip()}\n\nKeras {keras.__version__} on {keras.backend.backend()}."
    publish(
        "keras_compact",
        "Smaller Keras models",
        notes,
        COLUMNS,
        [row(item) for item in items],
        [asdict(item) for item in items],
        targets,
    )


if __name__ == "__main__":
    main()

"""Masks in Keras: `python -m benchmarks.keras_masks`, for each backend that this Python has.

What masks cost: training steps (`train_on_batch`) of the same model, dense and with half of all weights
masked, each in a process of its own, in turns; overheads are medians of the ratios within a round, in
processor time, of processes that are started several times. What they do to accuracy: on scikit-learn's
digits, AGP to 80% of all weights beside a dense network that is trained as long, three seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import isolated
from benchmarks.lockstep import launch
from benchmarks.publish import publish

BACKENDS = ("tensorflow", "jax", "torch")
MAX_OVERHEAD = 0.10
MAX_LOSS = 0.01
SEEDS = (0, 1, 2)
LAUNCHES = 3
ROUNDS = {"residual network": 15, "dense layers, SGD": 40, "dense layers, Adam": 40, "LSTM": 30}
EPOCHS = 20
NOTES = """
A step is `train_on_batch`: a residual network of ten convolutions on images of 32×32 in batches of 32 (Adam),
three dense layers of 1024 in batches of 128 (SGD with momentum, and Adam), and an LSTM of 128 over 32 steps
in batches of 32 (Adam). Half of the entries of every weight are masked. The overhead is over the dense step,
in processor time, with one thread and a process for each side: the median of {launches} launches, and the
lowest and highest of them.

Part of what Adam takes longer on PyTorch is not the masks: gradients of removed entries are zero, so their
second moments are, and `torch.sqrt` of zeros takes about ten times as long as of other numbers on the
processor that this was measured on.

Accuracies are on 450 digits that training has not seen, as means of three seeds.
"""


def build(kind: str) -> tuple[Any, Any, Any]:
    """A compiled model and a batch."""
    import keras
    import numpy as np
    from keras import layers

    keras.utils.set_random_seed(0)
    if kind == "residual network":
        inputs = keras.Input((32, 32, 3))
        x = layers.Conv2D(32, 3, padding="same", use_bias=False)(inputs)
        for width, stride in ((32, 1), (64, 2), (64, 1)):
            short = layers.Conv2D(width, 1, strides=stride, use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.add([short, layers.Conv2D(width, 3, padding="same", use_bias=False)(x)])
        outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
        shape: tuple[int, ...] = (32, 32, 32, 3)
    elif kind.startswith("dense layers"):
        inputs = keras.Input((1024,))
        x = layers.Dense(1024, activation="relu")(inputs)
        x = layers.Dense(1024, activation="relu")(x)
        outputs = layers.Dense(10)(layers.Dense(1024, activation="relu")(x))
        shape = (128, 1024)
    else:
        inputs = keras.Input((32, 64))
        outputs = layers.Dense(10)(layers.LSTM(128)(inputs))
        shape = (32, 32, 64)
    model = keras.Model(inputs, outputs)
    # Slow enough that gradients do not vanish on the one batch: what is denormal takes longer to compute.
    optimizer = keras.optimizers.SGD(1e-6, 0.9) if "SGD" in kind else keras.optimizers.Adam(1e-6)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    return model, x, np.arange(shape[0]) % 10


def stepper(side: str, kind: str) -> Callable[[], Any]:
    """A training step of the dense or the masked model."""
    import torch

    torch.set_num_threads(1)
    model, x, y = build(kind)
    if side == "masked":
        from prunus.keras import LevelPruner

        LevelPruner(model, [{"sparsity": 0.5, "op_types": ["default"]}]).compress()
    return lambda: model.train_on_batch(x, y)


def overhead(kind: str, launches: int, rounds: int) -> dict[str, Any]:
    """Of masked steps over dense ones, as a fraction: of each launch the median of its rounds."""
    shares = []
    for _ in range(launches):
        steps = launch("benchmarks.keras_masks", "stepper", ("dense", "masked"), (kind,), rounds)
        pairs = zip(steps["masked"], steps["dense"], strict=True)
        shares.append(statistics.median(masked.seconds / dense.seconds - 1 for masked, dense in pairs))
    return {"launches": sorted(shares)}


def digits() -> tuple[Any, ...]:
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = (images[order] / 16).reshape(-1, 8, 8, 1).astype(np.float32), labels[order]
    return x[:1347], y[:1347], x[1347:], y[1347:]


def accuracy(seed: int, epochs: int) -> dict[str, Any]:
    """Of a dense network and of one that AGP prunes to 80%, from the same weights."""
    import keras
    from keras import layers

    from prunus.keras import AGPPruner, PruningCallback, sparsity

    x, y, test_x, test_y = digits()
    found: dict[str, Any] = {}
    for side in ("dense", "pruned"):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(32, 3, padding="same", use_bias=False),
                layers.BatchNormalization(momentum=0.9),
                layers.ReLU(),
                layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
                layers.BatchNormalization(momentum=0.9),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )
        model.compile(
            keras.optimizers.Adam(2e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        callbacks = []
        if side == "pruned":
            entry = {"final_sparsity": 0.8, "start_epoch": 1, "end_epoch": epochs // 2, "op_types": "default"}
            callbacks = [PruningCallback(AGPPruner(model, [entry]))]
        model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=callbacks)
        found[side] = float(model.evaluate(test_x, test_y, verbose=0)[1])
        found["sparsity"] = sparsity(model)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps and one seed, nothing is written")
    quick = parser.parse_args().quick
    rows, data, targets = [], {}, []
    for backend in BACKENDS:
        environment = {
            "KERAS_BACKEND": backend,
            "OMP_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

        def ask(function: str, *arguments: Any, environment: Any = environment) -> dict[str, Any]:
            return isolated.call(
                "benchmarks.keras_masks", function, *arguments, timeout=1200, environment=environment
            )

        overheads = {}
        for kind, rounds in ROUNDS.items():
            found = ask("overhead", kind, 1 if quick else LAUNCHES, 5 if quick else rounds)
            if "error" in found:
                print(f"{backend}, {kind}: {found['error']}")
                continue
            shares = found["launches"]
            overheads[kind] = (statistics.median(shares), shares[0], shares[-1])
        runs = [ask("accuracy", seed, 3 if quick else EPOCHS) for seed in (SEEDS[:1] if quick else SEEDS)]
        if not overheads or any("error" in run for run in runs):
            continue
        dense, pruned = (statistics.mean(run[side] for run in runs) for side in ("dense", "pruned"))
        row = [backend]
        for middle, low, high in overheads.values():
            row.append(f"{middle:+.1%} ({low:+.1%} to {high:+.1%})")
        rows.append([*row, f"{dense:.2%}", f"{pruned:.2%}"])
        data[backend] = {"overheads": overheads, "runs": runs}
        for kind, (middle, *_) in overheads.items():
            text = f"{backend}: masks cost a step of the {kind} at most {MAX_OVERHEAD:.0%}"
            targets.append((text, middle <= MAX_OVERHEAD))
        text = f"{backend}: AGP to 80% keeps accuracy within one point of dense, mean of three seeds"
        targets.append((text, pruned >= dense - MAX_LOSS))
    columns = ["backend", *(f"overhead, {kind}" for kind in ROUNDS), "dense accuracy", "accuracy at 80%"]
    if quick:
        for line in rows:
            print(" | ".join(line))
        return
    publish("keras_masks", "Masks in Keras", NOTES.format(launches=LAUNCHES), columns, rows, data, targets)


if __name__ == "__main__":
    main()

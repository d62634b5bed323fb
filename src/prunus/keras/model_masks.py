"""Masks of a whole model: setting them, holding them, taking them off."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentTypeError
from .masked import add_mask, become_plain, holder_of, remove_masks
from .slots import clear_slots
from .walking import find_layers


def check_model(model: Any) -> None:
    """Raise an `ArgumentTypeError` of anything but a Keras 3 model."""
    if isinstance(model, keras.Model):
        return
    kind = f"{type(model).__module__}.{type(model).__name__}"
    hint = ""
    if kind.startswith(("tf_keras", "tensorflow.python.keras", "tensorflow.keras")):
        hint = "; it is one of Keras 2: build it with Keras 3 (`import keras`)"
    elif kind.startswith("torch") or hasattr(model, "named_parameters"):
        hint = "; prunus.pruners has the same pruners for PyTorch modules"
    raise ArgumentTypeError(f"model must be a keras.Model of Keras 3, got {kind}{hint}")


def strip(model: Any) -> Any:
    """Take all masks off a model, which is an ordinary one again; what they removed stays zero.

    Args:
        model: a model under a pruner, or loaded from a file that was saved under one. Others are left as
            they are.

    Returns:
        The same model.

    Raises:
        ArgumentTypeError: it is no Keras model.
    """
    check_model(model)
    every = [model, *(each.layer for each in find_layers(model))]
    for layer in every:
        if holder_of(layer) is not None:
            remove_masks(layer)
        else:
            become_plain(layer)
    forget_functions(model)
    return model


def set_masks(model: Any, masks: dict[tuple[Any, str], NDArray[Any]], optimizer: Any = None) -> None:
    """Set masks, and to zero what they remove, in the weights and in what optimizers keep of them.

    Args:
        masks: for a layer and the attribute of its variable, the mask, 0 where entries go. These variables
            are masked already.
        optimizer: that of the training, if it is not the one that the model is compiled with.
    """
    for (layer, key), values in masks.items():
        add_mask(layer, key).assign(values.astype(bool))
    hold(model)
    removed = {id(vars(layer)[key]): values for (layer, key), values in masks.items()}
    seen: set[int] = set()
    for each in (optimizer, getattr(model, "optimizer", None)):
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            clear_slots(each, removed)


def hold(model: Any) -> None:
    """Set to zero what the masks of a model remove."""
    for layer in (model, *(each.layer for each in find_layers(model))):
        holder = holder_of(layer)
        if holder is not None:
            holder.hold()


def masks_of(model: Any) -> dict[str, NDArray[np.bool_]]:
    """The masks of a model, False where entries are removed, by `layer/variable`, in Keras's layout."""
    check_model(model)
    found = {}
    for name, layer in [("", model), *((each.name, each.layer) for each in find_layers(model))]:
        holder = holder_of(layer)
        for key, mask in {} if holder is None else dict(holder.masks).items():
            label = f"{name}/{key.strip('_')}".lstrip("/")
            found[label] = keras.ops.convert_to_numpy(mask.value)
    return found


def sparsity(model: Any) -> float:
    """The fraction that masks remove of the variables that have one; 0 of a model without masks."""
    masks = masks_of(model).values()
    total = sum(mask.size for mask in masks)
    return float(sum(int((~mask).sum()) for mask in masks) / total) if total else 0.0


def forget_functions(model: Any) -> None:
    """Have compiled steps made anew, because what was compiled before does not know what has changed."""
    for each in (model, *(one.layer for one in find_layers(model))):
        for name in ("train_function", "test_function", "predict_function"):
            if isinstance(each, keras.Model) and getattr(each, name, None) is not None:
                setattr(each, name, None)

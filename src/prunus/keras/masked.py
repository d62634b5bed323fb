"""How masks act: what a layer reads of a masked variable, while it computes, is the variable times its mask.

The class of a masked layer becomes a subclass of itself with the same name, in which the masked variables are
descriptors. Outside of a call they give the variable, as ever; inside they give the product, through which
gradients flow. So masks hold, and gradients of what they remove are zero, in whatever trains the model:
`fit`, a `train_step` of one's own, `tf.function`, `jax.jit` with or without Keras's optimizers. Nothing is
patched or wrapped, the layers stay the same objects, and masks may change without tracing again.

Layers above a masked one get such a subclass too: a layer may read what another one holds (an embedding's
table as output weights), and what calls a layer in a loop multiplies before it.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, cast

import keras

from ..masks.product import masked as torch_product
from .holder import ATTRIBUTE, MaskHolder

LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)
"""Layers that call those inside of them once for every step."""


class _Reading(threading.local):
    """What is being computed in this thread: how many calls deep, and the products that they have made."""

    def __init__(self) -> None:
        self.depth = 0
        self.products: dict[int, Any] = {}


_reading = _Reading()


class MaskedVariable:
    """The attribute of a layer that has a masked variable."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __get__(self, layer: Any, owner: Any = None) -> Any:
        if layer is None:
            return self
        try:
            value = vars(layer)[self.key]
        except KeyError:
            raise AttributeError(f"{type(layer).__name__!r} object has no attribute {self.key!r}") from None
        if not _reading.depth:
            return value
        known = _reading.products.get(id(value))
        if known is not None:
            return known
        holder = holder_of(layer)
        mask = None if holder is None else holder.masks.get(self.key)
        return value if mask is None else product(value, mask)

    def __set__(self, layer: Any, value: Any) -> None:
        vars(layer)[self.key] = value

    def __delete__(self, layer: Any) -> None:
        vars(layer).pop(self.key, None)


def product(variable: Any, mask: Any) -> Any:
    """A variable times its mask, in the dtype in which the layer computes."""
    weight = variable.value
    if keras.backend.backend() == "torch":
        return torch_product(weight, mask.value.data)
    return keras.ops.multiply(weight, keras.ops.cast(mask.value, weight.dtype))


def plain_class(cls: type) -> type:
    """The class of which `cls` is the masked one; `cls` itself if it is not."""
    return cast(type, vars(cls).get("_prunus_plain", cls))


def is_masked(layer: Any) -> bool:
    """Whether masks act in a layer, or in one inside of it."""
    return plain_class(type(layer)) is not type(layer)


def become(layer: Any, keys: tuple[str, ...] = (), model: type | None = None) -> None:
    """Give a layer the subclass in which the variables under `keys` (and those that were before) are masked.

    Args:
        layer: a masked layer, or one above.
        keys: attributes.
        model: what a model's class derives from besides, so that it is saved with its masks.
    """
    present = type(layer)
    old = vars(present).get("_prunus_keys", ())
    extra = model or vars(present).get("_prunus_model")
    made = _masked_class(plain_class(present), tuple(sorted({*old, *keys})), extra)
    object.__setattr__(layer, "__class__", made)


def become_plain(layer: Any) -> None:
    """Give a layer its own class back."""
    object.__setattr__(layer, "__class__", plain_class(type(layer)))


def add_mask(layer: Any, key: str) -> Any:
    """The mask of the variable that a layer has under an attribute, which is masked from now on."""
    holder = holder_of(layer) or _attach_holder(layer)
    mask = holder.mask(key)
    become(layer, (key,))
    return mask


def remove_masks(layer: Any) -> None:
    """Take the masks off a layer; what they removed stays zero."""
    holder = holder_of(layer)
    if holder is not None:
        holder.hold()
        layer._tracker.unlock()
        layer._tracker.untrack(holder)
        delattr(layer, ATTRIBUTE)
        layer._tracker.lock()
    become_plain(layer)


def holder_of(layer: Any) -> MaskHolder | None:
    """What holds the masks of a layer; None if it has none of its own."""
    found = getattr(layer, ATTRIBUTE, None)
    return found if isinstance(found, MaskHolder) else None


def _attach_holder(layer: Any) -> MaskHolder:
    holder = MaskHolder(name=ATTRIBUTE)
    holder.connect(layer)
    layer._tracker.unlock()
    setattr(layer, ATTRIBUTE, holder)
    layer._tracker.lock()
    return holder


@functools.cache
def _masked_class(plain: type, keys: tuple[str, ...], model: type | None) -> type:
    @functools.wraps(plain.call)  # type: ignore[attr-defined]
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = _open(self)
        try:
            return plain.call(self, *args, **kwargs)  # type: ignore[attr-defined]
        finally:
            _close(made)

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)  # a clone, or a copy made from the configuration, has no masks

    members: dict[str, Any] = {
        # Where the class is to be found that a saved model names.
        "__module__": plain.__module__ if model is None else "prunus.keras",
        "__qualname__": plain.__qualname__,
        "__doc__": plain.__doc__,
        "_prunus_plain": plain,
        "_prunus_keys": keys,
        "_prunus_model": model,
        "call": call,
        "__new__": new,
        **{key: MaskedVariable(key) for key in keys},
    }
    bases = (plain,) if model is None else (model, plain)
    made = type(plain.__name__, bases, members)
    # A layer taken out of its model and put into another is saved as one of its own class.
    _share_registration(model or plain, made)
    return made


def _share_registration(known: type, made: type) -> None:
    """Have objects of one class saved under the name by which another is registered, if it is."""
    package, _, name = keras.saving.get_registered_name(known).rpartition(">")
    if package:
        register = keras.saving.register_keras_serializable(package=package, name=name)
        register(made)
        register(known)


def _open(layer: Any) -> list[int]:
    """Make the products that the call of a layer reads, those that no call around it has made."""
    _reading.depth += 1
    made: list[int] = []
    try:
        for owner in _below(layer) if isinstance(layer, LOOPS) else (layer,):
            holder = holder_of(owner)
            if holder is None or owner.compute_dtype != layer.compute_dtype:
                continue
            for key, mask in holder.masks.items():
                variable = vars(owner)[key]
                if id(variable) not in _reading.products:
                    _reading.products[id(variable)] = product(variable, mask)
                    made.append(id(variable))
    except BaseException:
        _close(made)
        raise
    return made


def _close(made: list[int]) -> None:
    _reading.depth -= 1
    for key in made:
        del _reading.products[key]


def _below(layer: Any) -> list[Any]:
    return [each for each in layer._flatten_layers() if not isinstance(each, MaskHolder)]

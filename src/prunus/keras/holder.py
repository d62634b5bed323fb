"""Where masks live: a layer inside of the masked one, so that they are state of the model like any other."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

PACKAGE = "prunus"
ATTRIBUTE = "prunus_masks"
"""The attribute of a masked layer that holds its masks."""


@keras.saving.register_keras_serializable(package=PACKAGE)
class MaskHolder(keras.layers.Layer):  # type: ignore[misc]
    """The masks of one layer's variables, as variables that are not trained.

    So they are arguments of compiled steps and not constants in them, and `model.get_weights()`, checkpoints
    and weight files have them. A file without them leaves them as they are.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(trainable=False, **options)
        self._masks: dict[str, Any] = {}
        self._owner: Any = None
        self.built = True

    def connect(self, layer: Any) -> None:
        """Say whose masks these are."""
        self._owner = weakref.ref(layer)

    def mask(self, key: str) -> Any:
        """The mask of the variable that the layer has under `key`, made of ones if there was none."""
        if key not in self._masks:
            variable = vars(self._owner())[key]
            self._tracker.unlock()
            made = self.add_weight(
                shape=variable.shape,
                initializer="ones",
                dtype="bool",
                trainable=False,
                name=f"{key.strip('_')}_mask",
            )
            self._tracker.lock()
            self._masks[key] = made
        return self._masks[key]

    @property
    def masks(self) -> Mapping[str, Any]:
        """The masks by the attribute under which the layer has the variable."""
        return dict(self._masks)

    def hold(self) -> None:
        """Set to zero what the masks remove, in the variables themselves."""
        for key, mask in self._masks.items():
            variable = vars(self._owner())[key]
            zero(variable, keras.ops.convert_to_numpy(mask.value))

    def call(self, inputs: Any) -> Any:
        """Masks are read by the layer that has them; by itself this does nothing."""
        return inputs

    def save_own_variables(self, store: Any) -> None:
        """Write the masks."""
        for key, mask in self._masks.items():
            store[key] = keras.ops.convert_to_numpy(mask.value)

    def load_own_variables(self, store: Any) -> None:
        """Take the masks of a file that has some; one without leaves them as they are."""
        for key, mask in self._masks.items():
            if key in store:
                mask.assign(np.asarray(store[key]).astype(bool))
        self.hold()


def zero(variable: Any, mask: NDArray[Any]) -> None:
    """Set the entries of a variable to zero where a mask is, and leave the others bit for bit."""
    values = np.array(keras.ops.convert_to_numpy(variable.value))
    gone = mask == 0
    if values[gone].any():
        values[gone] = 0
        variable.assign(values)

"""`prunus.save`: a model into a folder, as safetensors and JSON."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .. import plan as plans
from ..errors import ArgumentTypeError, CheckpointError
from ..surgery.blocks import Skip
from . import manifest as manifests
from .files import Writer, as_folder, read_bounded, writable_folder
from .manifest import Manifest, Weights
from .parsing import is_foreign, parse
from .scalars import Scalars
from .structure import structure_of, unwrapped
from .values import record_of, write


def save(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Save a model, pruned or not, so that `prunus.load` can rebuild it from its original architecture.

    Writes two files: the tensors (parameters, buffers also where they are not persistent, and tensors that
    modules hold as attributes) as `model-<hash>.safetensors`, and `manifest.json` with the format version,
    layouts, tied tensors, training flags, integers and the history of plans. The class itself is not saved.

    A checkpoint that is in the folder already is replaced as a whole: if saving fails or is interrupted, the
    old one stays. Other files in the folder are left alone.

    Args:
        model: any module, also in a `torch.compile` wrapper; it is not changed.
        folder: made if it does not exist.

    Raises:
        CheckpointError: the model holds a tensor without plain values (meta, sparse, quantised, sharded), or
            the folder cannot be written to, or holds a `manifest.json` of something else.
        ArgumentTypeError: `model` is no module, or TorchScript.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ArgumentTypeError(
            "the model is TorchScript: save it with torch.jit.save, or save the Python module"
        )
    path = as_folder(folder)
    draft, tensors = _describe(model)
    writable_folder(path)
    previous = _previous_weights(path)
    try:
        with Writer(path) as writer:
            weights = Weights(*writer.weights(lambda temporary: write(temporary, tensors)))
            text = _text(Manifest(**{**vars(draft), "weights": weights}))
            writer.commit(manifests.NAME, text, previous)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write the checkpoint to {path} ({error}): what was there before is untouched; make room "
            "or choose another folder"
        ) from error


def _describe(model: nn.Module) -> tuple[Manifest, dict[str, Tensor]]:
    structure = structure_of(model)
    scalars = Scalars(structure.modules)
    top = type(unwrapped(model))
    tensors = {group[0].name: group[0].tensor for group in structure.tensors if group[0].tensor is not None}
    described = Manifest(
        model=f"{top.__module__}.{top.__qualname__}",
        weights=Weights("", 0, ""),
        modules={name: type(module).__name__ for name, module in structure.modules.items()},
        training=frozenset(name for name, module in structure.modules.items() if module.training),
        tensors={g[0].name: record_of(g[0].name, g[0].kind, tensors[g[0].name]) for g in structure.tensors},
        aliases={place.name: group[0].name for group in structure.tensors for place in group[1:]},
        items={place.name: place.item for group in structure.tensors for place in group if place.item},
        integers=scalars.integers(),
        floats=scalars.floats(),
        history=history_of(model),
        blocks={name: item.template for name, item in structure.modules.items() if isinstance(item, Skip)},
    )
    return described, tensors


def history_of(model: nn.Module) -> list[dict[str, Any]]:
    """The plans of a model, whether they were applied to it or to the module in its wrapper."""
    outer, inner = plans.history(model), plans.history(unwrapped(model))
    if outer[: len(inner)] == inner:
        return outer
    return inner if inner[: len(outer)] == outer else inner + outer


def _text(manifest: Manifest) -> str:
    """The manifest, within the size that `load` accepts."""
    from .. import __version__

    versions = {"prunus": __version__, "torch": torch.__version__}
    text = manifests.as_text(manifest, versions)
    history = [dict(plan) for plan in manifest.history]
    dropped = 0
    while len(text) > manifests.MAX_BYTES and dropped < len(history):
        history[dropped]["axes"] = {}
        dropped += 1
        text = manifests.as_text(Manifest(**{**vars(manifest), "history": history}), versions)
    if len(text) > manifests.MAX_BYTES:
        raise CheckpointError(
            f"the manifest would have {len(text):,} bytes and may have {manifests.MAX_BYTES:,}: the model "
            "has too many modules"
        )
    if dropped:
        warnings.warn(
            f"the history is too long for a manifest: it drops which units the oldest {dropped} plans kept",
            stacklevel=3,
        )
    return text


def _previous_weights(folder: Path) -> str | None:
    """The weights file of the checkpoint that will be replaced, if there is one.

    Raises:
        CheckpointError: the folder's `manifest.json` belongs to something else.
    """
    path = folder / manifests.NAME
    if not os.path.lexists(path):
        return None
    content = read_bounded(path, manifests.MAX_BYTES) if path.is_file() else b"{}"
    if is_foreign(content):
        raise CheckpointError(
            f"{path} is no Prunus manifest, and saving would replace it: choose another folder"
        )
    try:
        return parse(content).weights.file
    except CheckpointError:  # a damaged one names nothing that could be removed
        return None

"""What a pruner writes and reads: weights with their zeros, masks, and the model as ONNX."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.files import write_together
from ..errors import ArgumentTypeError, InputError, PruningError
from .collector import Collector
from .masker import Masks
from .wrapper import MASKED, ModuleWrapper, apply_masks

SAFETENSORS = ".safetensors"


def export(
    model: nn.Module,
    wrappers: list[ModuleWrapper],
    model_path: Any,
    mask_path: Any,
    onnx_path: Any,
    input_shape: Sequence[int] | None,
    device: torch.device | str | None,
) -> tuple[dict[str, Masks], dict[str, Tensor]]:
    """See `Pruner.export_model`."""
    paths = _checked_paths({"model_path": model_path, "mask_path": mask_path, "onnx_path": onnx_path})
    shape = _checked_shape(input_shape) if "onnx_path" in paths else None
    where = _checked_device(device) if shape is not None else None
    state = plain_state(model, wrappers)
    masks: dict[str, Masks] = {
        wrapper.name: {
            key: None if mask is None else mask.detach().clone() for key, mask in wrapper.masks.items()
        }
        for wrapper in wrappers
    }
    writers = {paths["model_path"]: _writer(state, paths["model_path"].suffix)}
    if "mask_path" in paths:
        writers[paths["mask_path"]] = _writer(masks, paths["mask_path"].suffix)
    if shape is not None:
        writers[paths["onnx_path"]] = lambda path: _write_onnx(model, wrappers, shape, where, path)
    write_together(writers)
    return masks, state


def plain_state(model: nn.Module, wrappers: list[ModuleWrapper]) -> dict[str, Tensor]:
    """A copy of the state dict that the model has without pruner, with zeros where it is masked."""
    _mask_all(model)
    own = _own_keys(model, wrappers)
    state = model.state_dict()
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else value
        for key, value in state.items()
        if key not in own
    }


def load_plain(model: nn.Module, wrappers: list[ModuleWrapper], state: Any) -> None:
    """See `Pruner.load_model_state_dict`."""
    if not isinstance(state, Mapping):
        raise ArgumentTypeError(f"model_state must be a state dict, got {type(state).__name__}")
    here = model.state_dict()
    own = _own_keys(model, wrappers)
    given = {key: value for key, value in state.items() if key not in own}
    missing = [key for key in here if key not in given and key not in own]
    unexpected = [key for key in given if key not in here]
    unlike = [
        f"{key} {tuple(value.shape)}, here {tuple(here[key].shape)}"
        for key, value in given.items()
        if isinstance(value, Tensor) and isinstance(here.get(key), Tensor) and value.shape != here[key].shape
    ]
    if missing or unexpected or unlike:
        found = [
            f"{what}: {', '.join(names[:4])}{' and more' if len(names) > 4 else ''}"
            for what, names in (
                ("missing", missing),
                ("not in the model", unexpected),
                ("of another shape", unlike),
            )
            if names
        ]
        raise InputError(f"this state dict is not of the model without pruner; {'; '.join(found)}")
    model.load_state_dict({**here, **given})
    _mask_all(model)


def _own_keys(model: nn.Module, wrappers: list[ModuleWrapper]) -> set[str]:
    """The keys of the state dict that are a pruner's, under every name of a shared layer."""
    own = {id(module): [*MASKED.values()] for module in model.modules() if _is_masked(module)}
    own |= {id(wrapper.module): [*MASKED.values(), *wrapper.registered_buffers] for wrapper in wrappers}
    return {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules(remove_duplicate=False)
        for key in own.get(id(module), ())
    }


def _mask_all(model: nn.Module) -> None:
    """Apply the masks of every layer, those of other pruners too."""
    for module in model.modules():
        if _is_masked(module):
            apply_masks(module)


def _is_masked(module: nn.Module) -> bool:
    return any(hook is apply_masks for hook in module._forward_pre_hooks.values())


def _checked_paths(given: dict[str, Any]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for what, value in given.items():
        if value is None and what != "model_path":
            continue
        if not isinstance(value, str | os.PathLike) or not str(value):
            raise ArgumentTypeError(f"{what} must be the path of a file, got {value!r}")
        path = Path(value)
        if not path.parent.is_dir():
            raise InputError(f"{what}={str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
        if path.is_dir():
            raise InputError(f"{what}={str(path)!r} is a folder: give the path of a file in it")
        for other, taken in paths.items():
            if path.resolve() == taken.resolve():
                raise InputError(f"{what} and {other} are the same file, {str(path)!r}")
        paths[what] = path
    return paths


def _checked_shape(input_shape: Any) -> tuple[int, ...]:
    if input_shape is None:
        raise InputError(
            "onnx_path needs input_shape, the shape of the model's input with the batch, such as "
            "input_shape=(1, 3, 32, 32)"
        )
    if not isinstance(input_shape, list | tuple | torch.Size):
        raise ArgumentTypeError(f"input_shape must be a tuple of ints, got {input_shape!r}")
    if not input_shape or not all(type(size) is int and size > 0 for size in input_shape):
        raise InputError(f"input_shape must hold whole numbers above zero, got {input_shape!r}")
    return tuple(input_shape)


def _checked_device(device: Any) -> torch.device | None:
    """The device as one of torch, if something can be put there."""
    if device is None:
        return None
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        first, *_ = str(error).split("\n")
        raise InputError(f"device={device!r} cannot be used here: {first}") from error


def _writer(content: Mapping[str, Any], suffix: str) -> Callable[[Path], None]:
    """What writes this in the format that the ending of a file's name says."""
    if suffix != SAFETENSORS:
        return lambda path: torch.save(content, path)
    from safetensors.torch import save_file

    flat: dict[str, Tensor] = {}
    for key, value in content.items():
        inner = (
            {f"{key}.{kind}": mask for kind, mask in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
        flat.update({name: item.contiguous() for name, item in inner.items() if isinstance(item, Tensor)})
    return lambda path: save_file(flat, path)


def without_pruner(model: nn.Module, wrappers: list[ModuleWrapper]) -> nn.Module:
    """A copy of the model, masked, without masks and hooks."""
    _mask_all(model)
    copied = copy.deepcopy(model)
    for key in _own_keys(model, wrappers):
        name, _, buffer = key.rpartition(".")
        copied.get_submodule(name)._buffers.pop(buffer, None)
    for layer in copied.modules():
        for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
            for number, hook in list(hooks.items()):
                if hook is apply_masks or isinstance(hook, Collector):
                    del hooks[number]
    return copied


def _write_onnx(
    model: nn.Module,
    wrappers: list[ModuleWrapper],
    shape: tuple[int, ...],
    device: torch.device | None,
    path: Path,
) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PruningError(
            f"writing ONNX needs the package {error.name!r}: pip install onnx onnxscript"
        ) from error
    plain = without_pruner(model, wrappers).eval()
    first = next(iter(plain.parameters()), None)
    where = device or (torch.device("cpu") if first is None else first.device)
    plain = plain.to(where)
    dtype = first.dtype if first is not None and first.is_floating_point() else torch.float32
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        example = torch.randn(shape, device=where, dtype=dtype)
        try:
            program = torch.onnx.export(plain, (example,), dynamo=True, verbose=False)
            assert program is not None
            program.save(str(path), external_data=False)
        except Exception as error:
            raise PruningError(
                f"the model cannot be turned into ONNX with an input of shape {shape}: {error}"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages on the way to ONNX, about themselves
        yield

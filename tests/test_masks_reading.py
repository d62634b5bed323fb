"""Masks as they are read: bool in memory, 0 and 1 in arithmetic; classes that equal their base."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import prune as original

import prunus
import prunus.masks as masks


def pruned(package: ModuleType, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    module = nn.Linear(6, 4, dtype=dtype)
    package.l1_unstructured(module, "weight", 0.4)
    return module


READS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "1 - mask": lambda m, w: 1 - m,
    "-mask": lambda m, w: -m,
    "mask + mask": lambda m, w: m + m,
    "mask - mask": lambda m, w: m - m,
    "mean": lambda m, w: m.mean(),
    "torch.mean along": lambda m, w: torch.mean(m, dim=1),
    "sum": lambda m, w: m.sum(),
    "sum along": lambda m, w: torch.sum(m, dim=0, keepdim=True),
    "std": lambda m, w: m.std(),
    "norm": lambda m, w: torch.norm(m),
    "abs": lambda m, w: m.abs(),
    "product with the weight": lambda m, w: m * w,
    "weight times mask": lambda m, w: w * m,
    "the dead": lambda m, w: (w * (1 - m)).pow(2).sum(),
    "matmul": lambda m, w: w @ m.t(),
    "comparison": lambda m, w: (m == 0).sum(),
    "comparison with a tensor": lambda m, w: m == torch.ones(4, 6),
    "torch.equal": lambda m, w: torch.equal(m, (w != 0).to(w.dtype)),
    "torch.equal, other way": lambda m, w: torch.equal((w != 0).to(w.dtype), m),
    "allclose": lambda m, w: torch.allclose(m, torch.ones_like(w)),
    "nonzero": lambda m, w: m.nonzero(),
    "count_nonzero": lambda m, w: torch.count_nonzero(m),
    "item": lambda m, w: m[0, 0].item(),
    "float()": lambda m, w: float(m[1, 2]),
    "tolist": lambda m, w: m.tolist(),
    "numpy": lambda m, w: torch.from_numpy(m.cpu().detach().numpy() * 2),
    "numpy of data": lambda m, w: float(1 - m.data.numpy().mean()),
    "indices": lambda m, w: m[0] + m[:, 1].sum(),
    "flatten": lambda m, w: m.flatten().mean() + m.view(-1).sum(),
    "detach": lambda m, w: 1 - m.detach().clone(),
    "cat": lambda m, w: torch.cat([m, m]).mean(),
    "cat with others": lambda m, w: torch.cat([m, w]),
    "stack": lambda m, w: torch.stack([m.view(-1), m.reshape(-1)]).sum(0),
    "ones_like": lambda m, w: torch.ones_like(m) - m,
    "where": lambda m, w: torch.where(m == 0, w, m),
    "sum of channels": lambda m, w: m.sum(dim=1).mean(),
    "min and max": lambda m, w: m.min() + m.max(),
    "unique": lambda m, w: m.unique(),
    "topk": lambda m, w: m.flatten().topk(3).values,
    "to": lambda m, w: 1 - m.to("cpu"),
    "a copy": lambda m, w: 1 - copy.copy(m),
    "a deep copy": lambda m, w: 1 - copy.deepcopy(m),
    "in numpy": lambda m, w: np.asarray(m).tolist(),
    "a new tensor": lambda m, w: torch.tensor(m.tolist()) + m,
    "sum of Python": lambda m, w: sum(sum(m)),
    "agreement": lambda m, w: (m * m).sum() / ((m + m) > 0).sum(),
    "arithmetic": lambda m, w: 2 * m**2 - m / 2 + m // 1 - m % 2,
    "maximum": lambda m, w: torch.maximum(m, torch.zeros_like(m)),
    "padded": lambda m, w: nn.functional.pad(m, (1, 1)),
    "a gradient's mask": lambda m, w: w.clone().mul_(m).add_(m, alpha=2),
    "an index": lambda m, w: w[m.bool()],
    "float": lambda m, w: m.float().mean(),
    "int": lambda m, w: m.int().sum(),
    "bool": lambda m, w: ~m.bool(),
    "round of the fraction": lambda m, w: round(100.0 * float(torch.sum(m == 0)) / m.nelement(), 2),
    "division": lambda m, w: m.sum() / m.numel(),
    "repr": lambda m, w: repr(m),
    "str": lambda m, w: f"{m.sum():.1f} {m}",
    "shape": lambda m, w: (m.shape, m.size(0), m.dim(), m.nelement(), m.device, m.requires_grad),
    "einsum": lambda m, w: torch.einsum("oi,oi->o", m, w),
    "iteration": lambda m, w: [float(row.sum()) for row in m],
    "in a list": lambda m, w: sum([m, m]),
    "others to its dtype": lambda m, w: w.double().to(m),
    "others in its shape": lambda m, w: w.flatten().view_as(m) + w.flatten().bool().view_as(m),
    "others made of it": lambda m, w: torch.cat(
        [m.new_ones(2), m.new_tensor([1.5]), w.double()[0].type_as(m)]
    ),
    "into others": lambda m, w: torch.mul(m, 3, out=torch.zeros_like(w)),
    "foreach": lambda m, w: torch.cat(torch._foreach_mul([m, w], [w, m])),
    "Conv": lambda m, w: nn.functional.linear(torch.ones(2, 6, dtype=w.dtype), m),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", READS)
def test_reading_a_mask_gives_what_the_original_gives(case: str, dtype: torch.dtype) -> None:
    if case == "comparison with a tensor" and dtype is torch.float64:
        dtype = torch.float32
    results = []
    for package in (masks, original):
        module = pruned(package, dtype)
        results.append(READS[case](module.weight_mask, module.weight.detach()))
    ours, theirs = results
    if isinstance(theirs, Tensor):
        assert type(ours) is Tensor
        assert ours.dtype is theirs.dtype
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def _data(module: nn.Linear, value: Tensor) -> None:
    module.weight_mask.data = value


def _put_back(module: nn.Linear, value: Tensor) -> None:
    module.weight_mask = module.weight_mask.clone()
    module.weight_mask[0] = 0


def _times(module: nn.Linear, value: Tensor) -> None:
    module.weight_mask *= value


WRITES: dict[str, Callable[[nn.Linear, Tensor], Any]] = {
    "mul_": lambda m, v: m.weight_mask.mul_(v),
    "data.mul_": lambda m, v: m.weight_mask.data.mul_(v),
    "copy_": lambda m, v: m.weight_mask.copy_(v),
    "data =": _data,
    "data.copy_": lambda m, v: m.weight_mask.data.copy_(v),
    "index": lambda m, v: m.weight_mask.__setitem__((0, slice(1, 3)), 0),
    "data index": lambda m, v: m.weight_mask.data.__setitem__(v == 0, 0),
    "fill_": lambda m, v: m.weight_mask.fill_(1),
    "view": lambda m, v: m.weight_mask.view(-1).__setitem__(slice(0, 5), 0.0),
    "flatten": lambda m, v: m.weight_mask.flatten().__setitem__(slice(0, 5), 0.0),
    "assigned": lambda m, v: setattr(m, "weight_mask", v),
    "put back": _put_back,
    "*=": _times,
    "a buffer": lambda m, v: m._buffers["weight_mask"].copy_(v),
    "state dict": lambda m, v: m.state_dict()["weight_mask"].copy_(v),
    "foreach": lambda m, v: torch._foreach_mul_([m.weight_mask, m.bias.detach()], [v, torch.ones(4)]),
    "foreach zero": lambda m, v: torch._foreach_zero_([m.weight_mask]),
    "foreach copy": lambda m, v: torch._foreach_copy_([m.weight_mask], [v]),
    "out": lambda m, v: torch.mul(m.weight_mask, v, out=m.weight_mask),
    "out of others": lambda m, v: torch.logical_not(v, out=m.weight_mask),
    "set_": lambda m, v: m.weight_mask.set_(v.clone()),
    "set_ to a mask": lambda m, v: m.weight_mask.set_(m.weight_mask.clone().flip(0)),
    "clamp_": lambda m, v: m.weight_mask.clamp_(max=0),
    "init": lambda m, v: nn.init.ones_(m.weight_mask),
    "masked_fill_": lambda m, v: m.weight_mask.masked_fill_(v == 0, 0),
}


@pytest.mark.parametrize("case", WRITES)
def test_writing_into_a_mask_does_what_the_original_does(case: str) -> None:
    value = (torch.arange(24).reshape(4, 6) % 3 != 0).float()
    results = []
    for package in (masks, original):
        module = pruned(package)
        WRITES[case](module, value)
        out = module(torch.ones(2, 6)).detach()
        results.append((out, module.weight_mask.float(), module.weight.detach()))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_no_mask_cannot_be_written() -> None:
    for write in (
        lambda m: m.weight_mask.mul_(0.5),
        lambda m: m.weight_mask.add_(1),
        lambda m: setattr(m.weight_mask, "data", torch.full((4, 6), 0.3)),
        lambda m: torch._foreach_add_([m.weight_mask, m.weight_mask], 1),
        lambda m: torch.add(m.weight_mask, 1, out=m.weight_mask),
        lambda m: m.weight_mask.set_(torch.full((4, 6), 0.3)),
    ):
        module = pruned(masks)
        before = module._buffers["weight_mask"].clone()
        with pytest.raises(prunus.PruningError):
            write(module)
        assert torch.equal(module._buffers["weight_mask"], before)


@pytest.mark.parametrize("put", [setattr, lambda module, key, value: module._buffers.update({key: value})])
def test_what_is_no_mask_is_not_multiplied_by(put: Callable[..., None]) -> None:
    """The original multiplies by any numbers; here the parameter would silently be taken as it is."""
    module = pruned(masks)
    soft = torch.full((4, 6), 0.5)
    put(module, "weight_mask", soft)
    assert torch.equal(module.weight_mask, soft)
    for use in (
        lambda: module(torch.ones(1, 6)),
        lambda: module.weight,
        lambda: masks.remove(module, "weight"),
    ):
        with pytest.raises(ValueError, match="'weight_mask' of Linear is no mask"):
            use()
    put(module, "weight_mask", (soft > 1).float())
    assert not module.weight.any()


def test_under_modes_that_replace_tensors_a_mask_is_what_they_make_of_it() -> None:
    module = pruned(masks)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert (module.weight_mask != 0).shape == (4, 6)
    assert type(module.weight_mask) is not Tensor


def test_buffers_and_what_is_saved_are_plain_bool_tensors() -> None:
    module = pruned(masks)
    module.weight_mask = module.weight_mask.clone()  # a view put back
    assert module.weight_mask.dtype is torch.bool
    assert module.weight_mask.element_size() == 1
    for mask in (module.state_dict()["weight_mask"], dict(module.named_buffers())["weight_mask"]):
        assert mask.dtype is torch.bool
    assert type(dict(module.named_buffers())["weight_mask"]) is Tensor
    assert "MaskView" not in str(type(module._buffers["weight_mask"]))
    file = io.BytesIO()
    torch.save({"mask": module.weight_mask, "state": module.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert type(loaded["mask"]) is type(loaded["state"]["weight_mask"]) is Tensor
    assert torch.equal(loaded["mask"], module.weight_mask)
    for made in (copy.deepcopy(module.weight_mask), pickle.loads(pickle.dumps(module.weight_mask))):
        assert torch.equal(made, module.weight_mask)
        made.zero_()
    assert module.weight_mask.any()


def test_masks_of_a_state_dict_compute_with_numbers() -> None:
    results = []
    for package in (masks, original):
        module = pruned(package)
        state = module.state_dict()
        kept = copy.deepcopy({key: value for key, value in state.items() if "mask" in key})
        complement = {key: 1 - value for key, value in kept.items()}
        mean = {key: (state[key] + state[key]) / 2 for key in state}  # as federated averages are made
        module.load_state_dict(mean)
        other = package.custom_from_mask(pruned(package), "weight", complement["weight_mask"])
        results.append([complement["weight_mask"], module.weight, other.weight_mask.mean()])
        assert torch.equal(masks.plain_state_dict(state)["weight"], module.weight)
        assert masks.packed_state_dict(state)["weight_mask"].dtype is torch.uint8
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours.float(), theirs.float())


def test_writing_through_copies_reaches_the_own_module_only() -> None:
    module = pruned(masks)
    other = copy.deepcopy(module)
    other.weight_mask.zero_()
    assert not other.weight.any()
    assert module.weight.any()


class _Kind(type):
    """A metaclass of somebody's own."""


class _Own(nn.Linear, metaclass=_Kind):
    pass


@pytest.mark.parametrize("kind", [nn.Linear, _Own])
def test_the_class_of_a_masked_module_equals_its_own(kind: Any) -> None:
    module, other = kind(3, 2), kind(3, 2)
    masks.identity(module, "weight")
    masks.identity(other, "weight")
    masks.identity(other, "bias")
    assert type(module) == kind  # noqa: E721
    assert kind == type(module)  # noqa: E721
    assert type(module) in (nn.Conv2d, kind)
    assert type(module) in [nn.Conv2d, kind]
    assert type(module) == type(other)  # noqa: E721
    assert type(module) != nn.Conv2d  # noqa: E721
    assert type(module) is not kind
    assert type(type(module)).__name__ in ("_LikeItsBase", "_Kind")
    assert isinstance(type(module), type(kind))
    assert {kind: "known"}.get(type(module)) == "known"  # as tables of layers by class are asked
    assert {type(module): "known"}.get(kind) == "known"
    assert len({kind, type(module), type(other)}) == 1
    assert isinstance(module, kind)
    assert isinstance(pickle.loads(pickle.dumps(module)), kind) or kind is _Own


def test_a_wrapper_of_a_masked_class_is_another_class() -> None:
    module = nn.Linear(3, 2)
    masks.identity(module, "weight")
    wrapper = type("Wrapper", (type(module),), {})
    assert wrapper != nn.Linear
    assert wrapper != type(module)  # noqa: E721


def _wrap(modules: list[nn.Module]) -> None:
    """Wrappers are made once for each class and kept in a table by class, as `fully_shard` does."""
    table: dict[type, type] = {}
    for module in modules:
        kind = type(module)
        if kind not in table:
            table[kind] = type(f"Wrapped{kind.__name__}", (_Wrapper, kind), {"note": "made by the wrapper"})
        module.__class__ = table[kind]


class _Wrapper:
    pass


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_wrappers_kept_by_class_mask_what_was_masked(order: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    modules = [nn.Linear(4, 3) for _ in range(4)]
    masks.l1_unstructured(modules[1], "weight", 5)
    masks.l1_unstructured(modules[2], "bias", 2)
    masks.l1_unstructured(masks.l1_unstructured(modules[3], "weight", 5), "bias", 2)
    x = torch.randn(2, 4)
    expected = [(module(x), module.weight.clone(), module.bias.clone()) for module in modules]
    states = [module.state_dict() for module in modules]
    _wrap([modules[i] for i in order])
    for module, (out, weight, bias), state in zip(modules, expected, states, strict=True):
        assert isinstance(module, _Wrapper)
        assert module.note == "made by the wrapper"
        assert torch.equal(module(x), out)
        assert torch.equal(module.weight, weight)
        assert torch.equal(module.bias, bias)
        assert list(module.state_dict()) == list(state)
        module.load_state_dict(state)
    assert [isinstance(module.weight, nn.Parameter) for module in modules] == [True, False, True, False]


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantization_finds_masked_layers() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    masks.l1_unstructured(model[0], "weight", 0.5)
    plain = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    masks.load(plain, model.state_dict())
    x = torch.randn(5, 8)
    quantized: Any = torch.ao.quantization.quantize_dynamic
    made = [quantized(net, {nn.Linear}) for net in (model, plain)]
    assert "quantized" in type(made[0][0]).__module__
    assert torch.equal(made[0](x), made[1](x))


def test_methods_are_those_of_the_original_to_whoever_asks() -> None:
    names = (
        "Identity RandomUnstructured L1Unstructured RandomStructured LnStructured CustomFromMask "
        "PruningContainer BasePruningMethod"
    )
    for name in names.split():
        assert issubclass(getattr(masks, name), getattr(original, name))


def test_a_given_mask_may_be_forgotten() -> None:
    module = masks.custom_from_mask(nn.Linear(3, 1), "weight", torch.tensor([[1, 0, 1]]))
    method: Any = next(iter(module._forward_pre_hooks.values()))
    assert torch.equal(method.mask, torch.tensor([[True, False, True]]))
    method.mask = None  # scripts that prune often do so, to save memory
    assert module.weight[0, 1] == 0
    with pytest.raises(prunus.PruningError):
        method.mask = torch.tensor([2.0])

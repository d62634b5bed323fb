"""Scripts for `torch.nn.utils.prune`: methods of one's own, hooks and buffers; see `masks_scripts`."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from masks_script_parts import data, layers, lenet, pairs, script, train

# -- methods of one's own --------------------------------------------------------------------------------


@script
def every_other_entry(prune: Any) -> Any:
    class FooBar(prune.BasePruningMethod):  # type: ignore[name-defined, misc]
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            mask = default_mask.clone()
            mask.view(-1)[::2] = 0
            return mask

    model = lenet()
    FooBar.apply(model.fc1, "bias")
    FooBar.apply(model.fc1, "bias")
    prune.random_structured(model.conv2, "weight", amount=1, dim=1)
    FooBar.apply(model.conv2, "weight")
    prune.global_unstructured([(model.fc2, "weight"), (model.conv1, "weight")], pruning_method=FooBar)
    hook = model.fc1._forward_pre_hooks[next(iter(model.fc1._forward_pre_hooks))]
    return [dict(model.named_buffers())[k] == 0 for k in sorted(dict(model.named_buffers()))], len(hook)


@script
def threshold(prune: Any) -> Any:
    class Threshold(prune.BasePruningMethod):  # type: ignore[name-defined, misc]
        PRUNING_TYPE = "unstructured"

        def __init__(self, threshold: float) -> None:
            self.threshold = threshold

        def compute_mask(self, tensor: Tensor, default_mask: Tensor) -> Tensor:
            return torch.abs(tensor) > self.threshold

    model = lenet()
    everything = torch.cat([m.weight.view(-1) for _, m in layers(model)])
    prune.global_unstructured(
        pairs(model), pruning_method=Threshold, threshold=float(everything.abs().quantile(0.3))
    )
    Threshold.apply(model.fc1, "weight", 0.08)
    return model(data()[0]), [m.weight_mask.sum().item() for _, m in layers(model)]


@script
def keep_what_is_zero(prune: Any) -> Any:
    """A finished sparse model is trained on: its zeros become a mask. No `PRUNING_TYPE`, none is needed."""

    class KeepSparsity(prune.BasePruningMethod):  # type: ignore[name-defined, misc]
        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            mask = default_mask.clone()
            mask[t == 0] = 0
            return mask

    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    for m, name in pairs(model):
        prune.remove(m, name)
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            KeepSparsity.apply(m, "weight")
    return train(model), [(m.weight == 0).sum().item() for _, m in layers(model)], prune.is_pruned(model)


@script
def product_of_ones_own(prune: Any) -> Any:
    """`apply_mask` overridden, to read the mask through a function."""

    class Soft(prune.BasePruningMethod):  # type: ignore[name-defined, misc]
        PRUNING_TYPE = "unstructured"

        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            return default_mask * (t.abs() > 0.1)

        def apply_mask(self, module: nn.Module) -> Tensor:
            mask = getattr(module, self._tensor_name + "_mask")
            orig = getattr(module, self._tensor_name + "_orig")
            return orig * (mask + self.scale * (1 - mask))

        @classmethod
        def apply(cls, module: nn.Module, name: str, scale: float) -> Any:
            return super().apply(module, name, scale=scale)

    model = lenet()
    Soft.apply(model.fc1, "weight", 0.25)
    losses = train(model)
    model(data()[0])
    before = model.fc1.weight.detach().clone()
    prune.remove(model.fc1, "weight")
    return losses, before, model.fc1.weight.detach()


@script
def heads_pruned(prune: Any) -> Any:
    class Heads(prune.BasePruningMethod):  # type: ignore[name-defined, misc]
        PRUNING_TYPE = "structured"

        def __init__(self, heads: list[int], head_dim: int) -> None:
            super().__init__()
            self.heads, self.head_dim, self.dim = set(heads), head_dim, 0

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            mask = default_mask.clone()
            for head in self.heads:
                mask[head * self.head_dim : (head + 1) * self.head_dim] = 0
            return mask

    torch.manual_seed(0)
    layer = nn.Linear(8, 12)
    Heads.apply(layer, "weight", heads=[1], head_dim=3)
    Heads.apply(layer, "weight", [0], 3)
    return layer(torch.ones(2, 8)), layer.weight_mask.sum(1), layer.weight_mask[3:6].sum()


# -- the insides -----------------------------------------------------------------------------------------


@script
def hooks_and_buffers(prune: Any) -> Any:
    model = lenet()
    module = model.conv1
    prune.random_unstructured(module, name="weight", amount=0.3)
    prune.l1_unstructured(module, name="bias", amount=3)
    prune.ln_structured(module, name="weight", amount=0.5, n=2, dim=0)
    found: list[Any] = [[name for name, _ in module.named_parameters()]]
    found.append([name for name, _ in module.named_buffers()])
    for hook in module._forward_pre_hooks.values():
        if hook._tensor_name == "weight":
            found.append([type(item).__name__ for item in hook])
            found.append((hook[1].dim, hook[1].n, hook[1].amount, hook[0].PRUNING_TYPE))
    found.append(list(module.state_dict().keys()))
    found.append([tuple(b.shape) for b in module.buffers()])
    found.append(
        ["weight" in module._parameters, "weight_orig" in module._parameters, hasattr(module, "weight")]
    )
    found.append((module.weight.requires_grad, module.weight.is_leaf, module.weight_orig.is_leaf))
    found.append((isinstance(module.weight, nn.Parameter), isinstance(module.weight_orig, nn.Parameter)))
    return found


@script
def undone_by_hand(prune: Any) -> Any:
    """Hooks, mask and orig taken away without `remove`: the dense weights are back."""
    model = lenet()
    want = model(data()[0])
    for _, m in layers(model):
        prune.l1_unstructured(m, "weight", amount=0.5)
    pruned = model(data()[0])
    for _, m in layers(model):
        with torch.no_grad():
            delattr(m, "weight")
            orig = m._parameters["weight_orig"]
            del m._parameters["weight_orig"]
            del m._buffers["weight_mask"]
            m._forward_pre_hooks = OrderedDict()
            m.weight = orig
    assert torch.equal(model(data()[0]), want)
    return pruned, [name for name, _ in model.named_parameters()], prune.is_pruned(model), train(model)


@script
def sliced_by_hand(prune: Any) -> Any:
    """Empty channels cut out of buffers and parameters."""
    model = lenet()
    prune.ln_structured(model.fc1, "weight", amount=0.5, n=2, dim=0)
    layer = model.fc1
    keep = layer.weight_mask.sum(dim=1) != 0
    layer._buffers["weight_mask"] = layer._buffers["weight_mask"][keep]
    layer.weight_orig.data = layer.weight_orig.data[keep]
    layer.bias.data = layer.bias.data[keep]
    model.fc2.weight.data = model.fc2.weight.data[:, keep]
    return model(data()[0]), layer.weight_mask.shape, layer.weight.shape


@script
def remove_wherever(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model)[:2], pruning_method=prune.L1Unstructured, amount=0.5)
    prune.l1_unstructured(model.fc1, "bias", amount=0.5)
    failed = []
    for name, module in model.named_modules():
        for key in ("weight", "bias"):
            try:
                prune.remove(module, key)
            except ValueError:
                failed.append((name, key))
    return failed, dict(model.state_dict()), [len(m._forward_pre_hooks) for m in model.modules()]


@script
def containers(prune: Any) -> Any:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"stem": nn.Sequential(nn.Linear(5, 5), nn.ReLU()), "towers": nn.ModuleList([nn.Linear(5, 4)] * 2)}
    )
    model["towers"].append(copy.deepcopy(model["towers"][0]))
    prune.l1_unstructured(model["stem"][0], "weight", 4)
    prune.l1_unstructured(model["towers"][-1], "weight", 0.5)
    prune.l1_unstructured(model["towers"][0], "bias", 1)
    x = model["stem"](torch.ones(1, 5))
    return (
        [tower(x) for tower in model["towers"]],
        list(model.state_dict()),
        dict(model.named_buffers()).keys(),
    )


@script
def frozen_and_half(prune: Any) -> Any:
    model = lenet().to(torch.bfloat16)
    for p in model.conv1.parameters():
        p.requires_grad = False
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    y = model(data()[0].bfloat16())
    y.float().sum().backward()
    model = model.float()
    grads = [p.grad is None for p in model.parameters()]
    return y, grads, model(data()[0]), [m.weight.dtype for _, m in layers(model)]


@script
def quantized_afterwards(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    for m, name in pairs(model):
        prune.remove(m, name)
    quantized: Any = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    scripted = torch.jit.trace(model, data()[0])
    return quantized(data()[0]), scripted(data()[0]), model.fc1.weight.to_sparse().values().numel()


@script
def nonzero_statistics(prune: Any) -> Any:
    model = lenet()
    for _, m in layers(model):
        prune.ln_structured(m, name="weight", amount=0.3, n=float("inf"), dim=0)
        prune.random_structured(m, name="weight", amount=1, dim=1)
    total = sum(torch.numel(buffer) for _, buffer in model.named_buffers())
    zeros = sum(float(torch.sum(b == 0)) for b in model.buffers())
    alive = [m.weight_mask.flatten(1).sum(dim=1).nonzero().numel() for _, m in layers(model)]
    dead = sum((1 - b.int()).sum() for n, b in model.named_buffers() if "weight_mask" in n)
    flops = [m.weight_mask.sum() * 4 for _, m in layers(model)]
    return total, zeros, alive, dead, flops, [b.float().mean() for _, b in model.named_buffers()]


@script
def weights_times_buffers(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    weights = [p for name, p in model.named_parameters() if "weight" in name.split(".")[-1]]
    masks = [mask for name, mask in model.named_buffers() if "weight_mask" in name.split(".")[-1]]
    with torch.no_grad():
        effective = [mask * weight for mask, weight in zip(masks, weights, strict=True)]
        other = [weight * mask for mask, weight in zip(masks, weights, strict=True)]
    return (
        effective,
        other,
        [(mask == 1).nonzero().squeeze(1) for mask in masks],
        [mask.sum() for mask in masks],
    )


@script
def buffers_set(prune: Any) -> Any:
    """The mask of the outputs set as that of the bias, through buffers."""
    model = lenet()
    prune.ln_structured(model.conv1, "weight", amount=0.5, n=1, dim=0)
    prune.identity(model.conv1, "bias")
    buffers = dict(model.conv1.named_buffers())
    channels = buffers["weight_mask"].detach().clone()[:, 0, 0, 0]
    buffers["bias_mask"].set_(channels)
    first = model(data()[0])
    buffers["weight_mask"].copy_(torch.ones_like(buffers["weight_mask"]))
    return first, model(data()[0]), model.conv1.bias_mask.sum()

"""Scripts as people write them for `torch.nn.utils.prune`: blog posts, forum answers, research code.

Each takes the module of functions, that of torch or ours, and returns what it would print or save. They run
the model between a step of the optimizer and a choice of what to prune, as people do who evaluate it first:
else the original ranks the weights of before the step.
"""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Script = Callable[[ModuleType], Any]

SCRIPTS: dict[str, Script] = {}


def script(run: Script) -> Script:
    SCRIPTS[run.__name__] = run
    return run


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.fc1, self.fc2 = nn.Linear(6 * 4 * 4, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv2(self.conv1(x).relu()).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


def lenet() -> LeNet:
    torch.manual_seed(0)
    return LeNet()


def data(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 1, 12, 12, generator=generator), torch.randint(3, (6,), generator=generator)


def train(model: nn.Module, steps: int = 3, optimizer: Any = None, after_backward: Any = None) -> list[float]:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(steps):
        x, y = data(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if after_backward is not None:
            after_backward(model)
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        model(data(99)[0])
    return losses


def layers(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def pairs(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(module, "weight") for _, module in layers(model)]


# -- how much is gone -----------------------------------------------------------------------------------


@script
def sparsity_of_buffers(prune: Any) -> Any:
    """Lei Mao's function, as copied around the web."""

    def measure(module: nn.Module, weight: bool = True, bias: bool = False, use_mask: bool = False) -> Any:
        num_zeros = num_elements = 0
        if use_mask:
            for buffer_name, buffer in module.named_buffers():
                if "weight_mask" in buffer_name and weight:
                    num_zeros += torch.sum(buffer == 0).item()
                    num_elements += buffer.nelement()
                if "bias_mask" in buffer_name and bias:
                    num_zeros += torch.sum(buffer == 0).item()
                    num_elements += buffer.nelement()
        else:
            for param_name, param in module.named_parameters():
                if "weight" in param_name and weight:
                    num_zeros += torch.sum(param == 0).item()
                    num_elements += param.nelement()
        return num_zeros, num_elements, num_zeros / num_elements

    model, found = lenet(), []
    for _ in range(2):
        prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.3)
        train(model, 1)
        found += [measure(m, use_mask=mask) for _, m in layers(model) for mask in (True, False)]
    return found


@script
def table_of_masks(prune: Any) -> Any:
    model = lenet()
    for _, module in layers(model):
        prune.l1_unstructured(module, "weight", amount=0.37)
    lines = []
    for name, module in layers(model):
        mask = module.weight_mask
        lines.append(f"{name}: {100.0 * float(torch.sum(mask == 0)) / float(mask.nelement()):.2f}%")
        lines.append(
            f"{mask.sum() / mask.numel():.2f} {100 * (1 - torch.mean(mask)):.3f} {mask.float().mean()}"
        )
        lines.append(
            f"{int(mask.sum().item())} {torch.count_nonzero(mask).item()} {(1 - mask).sum().item():g}"
        )
        lines.append(f"{1.0 - float(mask.mean())} {mask.view(-1)[:5].tolist()} {mask.std().item():.4f}")
    return lines


@script
def removed_energy(prune: Any) -> Any:
    model = lenet()
    model = copy.deepcopy(model)
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.6)
    return [(m.weight_orig * (1 - m.weight_mask)).pow(2).sum().item() for _, m in layers(model)]


@script
def masks_of_two_tickets(prune: Any) -> Any:
    """Overlap: intersection over union, and the Hamming distance."""
    masks = []
    for seed in (0, 1):
        model = lenet()
        train(model, 2 + seed)
        prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
        masks.append({name: m.weight_mask.detach().clone() for name, m in layers(model)})
    a, b = masks
    return [
        (
            ((a[k] * b[k]).sum() / ((a[k] + b[k]) > 0).sum()).item(),
            (a[k] != b[k]).sum().item(),
            torch.logical_and(a[k], b[k]).sum().item(),
            (a[k] - b[k]).abs().sum().item(),
            F.cosine_similarity(a[k].flatten(), b[k].flatten(), dim=0).item(),
            torch.abs(a[k] - b[k]).mean().item(),
            torch.equal(a[k], b[k]),
        )
        for k in a
    ]


@script
def histograms(prune: Any) -> Any:
    model = lenet()
    prune.ln_structured(model.conv2, "weight", amount=0.5, n=1, dim=0)
    weights = model.conv2.weight.detach().cpu().numpy().flatten()
    mask = model.conv2.weight_mask.cpu().numpy()
    counts, edges = np.histogram(weights[weights != 0], bins=8)
    kept = mask.reshape(mask.shape[0], -1).mean(axis=1)
    grey = np.transpose(mask[:, 0], (0, 2, 1)) * 255
    return counts.tolist(), edges.tolist(), kept.tolist(), grey.tolist(), np.sum(mask == 0), (1 - mask).sum()


@script
def saved_in_numpy(prune: Any) -> Any:
    model, file = lenet(), io.BytesIO()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    np.savez(file, **{name: torch.nonzero(m.weight_mask.data).cpu().numpy() for name, m in layers(model)})
    file.seek(0)
    return {key: value.tolist() for key, value in np.load(file).items()}


# -- rewinding ------------------------------------------------------------------------------------------


@script
def lottery_ticket(prune: Any) -> Any:
    model = lenet()
    start = copy.deepcopy(model.state_dict())
    losses = []
    for _ in range(3):
        losses.append(train(model))
        prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.2)
        for name, module in layers(model):
            module.weight_orig.data = start[name + ".weight"].clone()
            module.bias.data = start[name + ".bias"].clone()
    losses.append(train(model))
    return losses, [torch.sum(m.weight == 0).item() for _, m in layers(model)]


@script
def lottery_ticket_by_parameters(prune: Any) -> Any:
    """Rewind by names: what is masked is called weight_orig meanwhile."""
    model = lenet()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for module, name in pairs(model):
        prune.random_unstructured(module, name, amount=0.4)
    train(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(start[name.replace("_orig", "")])
    return train(model), sorted(name for name, _ in model.named_parameters())


@script
def ticket_baked_in(prune: Any) -> Any:
    """Prune, copy the mask, remove, load the first weights, multiply by hand."""
    model = lenet()
    start = copy.deepcopy(model.state_dict())
    train(model)
    for name, module in layers(model):
        prune.l1_unstructured(module, name="weight", amount=0.3)
        prune.l1_unstructured(module, "bias", amount=1)
        weight_mask = copy.deepcopy(module.weight_mask.data)
        bias_mask = copy.deepcopy(module.bias_mask.data)
        prune.remove(module, name="weight")
        prune.remove(module, name="bias")
        module.load_state_dict({key: start[f"{name}.{key}"] for key in module.state_dict()})
        module.weight.data = module.weight.data * weight_mask
        module.bias.data *= bias_mask
    return dict(model.state_dict()), train(model)


@script
def reinitialised(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    torch.manual_seed(5)
    for _, module in layers(model):
        nn.init.kaiming_uniform_(module.weight_orig, a=5**0.5)
        module.weight_orig.data = module.weight_orig * module.weight_mask
    return train(model), [m.weight.detach() for _, m in layers(model)]


@script
def until_it_hurts(prune: Any) -> Any:
    """Keep the best state, put it back when a step has made things worse."""
    model = lenet()
    for _, m in layers(model):
        prune.identity(m, "weight")
    best = copy.deepcopy(model.state_dict())
    for _ in range(2):
        prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.4)
        train(model, 1)
    for name, m in layers(model):
        m.weight_orig.data.copy_(best[f"{name}.weight_orig"])
        m.weight_mask.data.copy_(best[f"{name}.weight_mask"])
    return model(data()[0]), [m.weight_mask.mean() for _, m in layers(model)]


# -- masks moved about ----------------------------------------------------------------------------------


@script
def masks_of_another_model(prune: Any) -> Any:
    teacher, student = lenet(), lenet()
    for _, m in layers(teacher):
        prune.ln_structured(m, "weight", amount=0.4, n=2, dim=0)
    for (_, ours), (_, theirs) in zip(layers(student), layers(teacher), strict=True):
        prune.custom_from_mask(ours, name="weight", mask=theirs.weight_mask)
    for (_, ours), (_, theirs) in zip(layers(student), layers(teacher), strict=True):
        ours.weight_mask = theirs.weight_mask.clone()
        ours.weight_mask[0] = 0
    return student(data()[0]), [m.weight_mask.sum() for _, m in layers(student)]


@script
def masks_of_a_state_dict(prune: Any) -> Any:
    source, target = lenet(), lenet()
    for _, m in layers(source):
        prune.random_unstructured(m, "weight", amount=0.5)
    state = source.state_dict()
    masks = {key[: -len("_mask")]: value for key, value in state.items() if key.endswith("_mask")}
    for name, m in layers(target):
        prune.custom_from_mask(m, "weight", masks[f"{name}.weight"])
    folded = {}
    for key, value in state.items():
        if "weight_mask" in key:
            folded[key.replace("_mask", "")] = state[key.replace("weight_mask", "weight_orig")] * value
        elif "_orig" not in key:
            folded[key] = value
    plain = lenet()
    plain.load_state_dict(folded)
    zeros = sum((value == 0).sum().item() for key, value in state.items() if "mask" in key)
    return target(data()[0]), plain(data()[0]), zeros, list(state)


@script
def pruned_by_hand_after_loading(prune: Any) -> Any:
    model, file = lenet(), io.BytesIO()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    train(model)
    torch.save({"epoch": 3, "model": model.state_dict()}, file)
    file.seek(0)
    again = lenet()
    for _, m in layers(again):
        prune.identity(m, "weight")
    again.load_state_dict(torch.load(file)["model"])
    again(data()[0])
    prune.global_unstructured(pairs(again), pruning_method=prune.L1Unstructured, amount=0.5)
    for m, name in pairs(again):
        prune.remove(m, name)
    return again(data()[0]), [(p == 0).sum().item() for p in again.parameters()]


@script
def zero_outside_of_the_subnet(prune: Any) -> Any:
    """Complements: the entries that one task has left, for the next."""
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    free = {name: 1 - m.weight_mask for name, m in layers(model)}
    owned = {name: m.weight_mask.bool() for name, m in layers(model)}
    for m, name in pairs(model):
        prune.remove(m, name)
    with torch.no_grad():
        for name, m in layers(model):
            m.weight += 0.01 * free[name]
            m.weight[owned[name]] *= 2
    return [m.weight.detach() for _, m in layers(model)], [(~mask).sum() for mask in owned.values()]


@script
def growing_back(prune: Any) -> Any:
    model = lenet()
    for _, m in layers(model):
        prune.l1_unstructured(m, "weight", amount=0.5)
    for _, m in layers(model):
        m.weight_mask.data = m.weight_mask.data * 0 + 1
        m.weight_mask.view(-1)[:3] = 0
        m.weight_mask.data.mul_((m.weight_orig.abs() > 0.05).to(m.weight_orig.dtype))
    return model(data()[0]), [m.weight_mask.mean().item() for _, m in layers(model)]


@script
def channels_permuted(prune: Any) -> Any:
    model = lenet()
    for _, m in layers(model):
        prune.l1_unstructured(m, "weight", amount=0.5)
    order = torch.tensor([2, 0, 3, 1])
    model.conv1.weight_orig.data = model.conv1.weight_orig[order]
    model.conv1.weight_mask.data = model.conv1.weight_mask[order]
    model.conv1.bias.data = model.conv1.bias[order]
    for t in (model.conv2.weight_orig, model.conv2.weight_mask):
        t.data = t[:, order]
    return model(data()[0]), model.conv2.weight_mask.sum(dim=(0, 2, 3))


# -- gradients and training -----------------------------------------------------------------------------


@script
def gradients_masked_by_hand(prune: Any) -> Any:
    model = lenet()
    for _, m in layers(model):
        prune.l1_unstructured(m, "weight", amount=0.5)

    def after(model: nn.Module) -> None:
        with torch.no_grad():
            for _, m in layers(model):
                if hasattr(m, "weight_mask") and m.weight_orig.grad is not None:
                    m.weight_orig.grad *= m.weight_mask
                    m.weight_orig.grad.data.mul_(m.weight_mask.to(m.weight_orig.device))

    return train(model, 4, after_backward=after), [m.weight_orig.detach() for _, m in layers(model)]


@script
def penalties_on_what_is_read(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = data()
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        l1 = sum(m.weight.abs().sum() for _, m in layers(model))
        l2 = sum(p.pow(2).sum() for p in model.parameters())
        (loss + 1e-3 * l1 + 1e-4 * l2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return [p.detach() for p in model.parameters()], l1.item()


@script
def gradients_as_scores(prune: Any) -> Any:
    model = lenet()
    x, y = data()
    F.cross_entropy(model(x), y).backward()
    scores = {(m, "weight"): (m.weight * m.weight.grad).abs() for _, m in layers(model)}
    prune.global_unstructured(pairs(model), prune.L1Unstructured, importance_scores=scores, amount=0.5)
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for _, m in layers(model):
        prune.l1_unstructured(m, "weight", amount=0.1, importance_scores=m.weight_orig.grad)
    return [m.weight_mask for _, m in layers(model)]


@script
def a_vector_of_all_parameters(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 0.5, model.parameters())
    masks = nn.utils.parameters_to_vector([m.weight_mask for _, m in layers(model)])
    return model(data()[0]), vector.norm(), masks.mean(), len(list(model.parameters()))


@script
def sparsity_schedule(prune: Any) -> Any:
    """Cubic, each step what is missing of what is left."""
    model, reached = lenet(), []
    for step in range(1, 5):
        wanted = 0.8 + (0 - 0.8) * (1 - step / 4) ** 3
        for _, m in layers(model):
            now = (m.weight == 0).float().mean().item()
            prune.l1_unstructured(m, "weight", amount=(wanted - now) / (1 - now))
        train(model, 1)
        reached.append([round((m.weight_mask == 0).float().mean().item(), 4) for _, m in layers(model)])
    hooks = [next(iter(m._forward_pre_hooks.values())) for _, m in layers(model)]
    return reached, [(type(h).__name__, len(h), [type(i).__name__ for i in h], h[-1].amount) for h in hooks]


# -- methods of one's own -------------------------------------------------------------------------------


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


# -- the insides ----------------------------------------------------------------------------------------


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


# -- around the model -----------------------------------------------------------------------------------


@script
def printed(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    summary = [(name, type(m).__name__, m.extra_repr(), m._get_name()) for name, m in model.named_modules()]
    return str(model), summary, [(n, tuple(p.shape), p.requires_grad) for n, p in model.named_parameters()]


@script
def tied_weights(prune: Any) -> Any:
    torch.manual_seed(0)
    model = nn.ModuleDict({"embed": nn.Embedding(7, 5), "out": nn.Linear(5, 7, bias=False)})
    model["out"].weight = model["embed"].weight
    prune.l1_unstructured(model["out"], "weight", amount=0.5)
    x = torch.arange(6)
    out = model["out"](model["embed"](x))
    out.sum().backward()
    same = model["out"].weight_orig is model["embed"].weight
    return out, same, [n for n, _ in model.named_parameters()], model["embed"].weight.grad


@script
def recurrent(prune: Any) -> Any:
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True, bidirectional=True)
    for name in [n for n, _ in lstm.named_parameters() if "weight" in n]:
        prune.l1_unstructured(lstm, name=name, amount=0.5)
    zeros = [(getattr(lstm, n[: -len("_mask")]) == 0).sum().item() for n, _ in lstm.named_buffers()]
    for name in [n[: -len("_mask")] for n, _ in list(lstm.named_buffers())]:
        prune.remove(lstm, name)
    out, (h, c) = lstm(torch.ones(2, 3, 4))
    return zeros, out, h, c, list(lstm.state_dict())


@script
def optimizer_from_before(prune: Any) -> Any:
    """Parameters keep their identity, so an optimizer made before pruning goes on, and after `remove` too."""
    model = lenet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    losses = train(model, 2, optimizer)
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.4)
    losses += train(model, 2, optimizer)
    for m, name in pairs(model):
        prune.remove(m, name)
    losses += train(model, 2, optimizer)
    return losses, [id(p) in {id(q) for q in optimizer.param_groups[0]["params"]} for p in model.parameters()]


@script
def by_apply_and_in_no_grad(prune: Any) -> Any:
    model = lenet().eval()

    def cut(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            prune.random_structured(module, "weight", amount=2, dim=1)

    with torch.no_grad():
        model.apply(cut)
        first = model(data()[0])
    for p in model.parameters():
        p.requires_grad_(False)
    model.fc1.bias.requires_grad_(True)
    model(data()[0]).sum().backward()
    return first, [n for n, p in model.named_parameters() if p.grad is not None]


@script
def activations_and_sparsity_by_hooks(prune: Any) -> Any:
    model, seen = lenet(), []

    def look(module: Any, inputs: Any, output: Tensor) -> None:
        density = (module.weight != 0).sum().item() / module.weight.numel()
        seen.append((density, density * module.weight.numel() * output.numel() // len(output), output.mean()))

    handles = [m.register_forward_hook(look) for _, m in layers(model)]
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.7)
    model(data()[0])
    for handle in handles:
        handle.remove()
    model(data()[0])
    return seen, [len(m._forward_pre_hooks) for _, m in layers(model)]


@script
def per_sample_gradients(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    x, y = data()
    loss = F.cross_entropy(model(x), y, reduction="none")
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for one in loss:
        grads = torch.autograd.grad(one, list(model.parameters()), retain_graph=True)
        for name, grad in zip(squares, grads, strict=True):
            squares[name] += grad**2
    return squares, {key: (value == 0).sum() for key, value in squares.items()}


@script
def averaged_models(prune: Any) -> Any:
    """Weights of several runs, averaged under the mask of the first."""
    models = []
    for seed in range(3):
        model = lenet()
        if seed == 0:
            prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
        else:
            for (_, m), (_, first) in zip(layers(model), layers(models[0]), strict=True):
                prune.custom_from_mask(m, "weight", first.weight_mask)
        train(model, seed + 1)
        models.append(model)
    states = [model.state_dict() for model in models]
    mean = {key: torch.stack([state[key].float() for state in states]).mean(0) for key in states[0]}
    target = lenet()
    for _, m in layers(target):
        prune.identity(m, "weight")
    target.load_state_dict(mean)
    return target(data()[0]), [m.weight_mask.mean() for _, m in layers(target)]


@script
def partly_loaded(prune: Any) -> Any:
    pruned, plain = lenet(), lenet()
    prune.global_unstructured(pairs(pruned), pruning_method=prune.L1Unstructured, amount=0.5)
    result = plain.load_state_dict(pruned.state_dict(), strict=False)
    other = pruned.load_state_dict(lenet().state_dict(), strict=False)
    return sorted(result.missing_keys), sorted(result.unexpected_keys), sorted(other.missing_keys)


@script
def tensors_without_modules(prune: Any) -> Any:
    torch.manual_seed(0)
    t, scores = torch.randn(4, 6), torch.rand(4, 6)
    mask = prune.L1Unstructured(0.5).compute_mask(t, torch.ones_like(t))
    return [
        prune.L1Unstructured(amount=0.3).prune(t),
        prune.LnStructured(amount=2, n=1, dim=1).prune(t, importance_scores=scores),
        prune.RandomUnstructured(5).prune(t, default_mask=torch.ones_like(t)),
        mask.mean(),
        1 - mask,
        prune.CustomFromMask(mask).prune(t),
        prune.CustomFromMask(mask).mask.mean(),
    ]


@script
def double_precision(prune: Any) -> Any:
    model = lenet()
    prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=0.5)
    model = model.double()
    out = model(data()[0].double())
    return (
        out,
        [(m.weight_mask * 2).dtype for _, m in layers(model)],
        [(1 - m.weight_mask).sum() for _, m in layers(model)],
    )


@script
def history_of_methods(prune: Any) -> Any:
    """What the hooks say of how a parameter was pruned."""
    model = lenet()
    for amount in (0.2, 0.3):
        prune.global_unstructured(pairs(model), pruning_method=prune.L1Unstructured, amount=amount)
    prune.ln_structured(model.fc1, "weight", amount=1, n=2, dim=0)
    found = []
    for name, m in layers(model):
        for hook in m._forward_pre_hooks.values():
            assert isinstance(hook, prune.BasePruningMethod)
            assert isinstance(hook, prune.PruningContainer)
            last = hook[-1]
            mask = last.mask if isinstance(last, prune.CustomFromMask) else None
            found.append(
                (
                    name,
                    hook._tensor_name,
                    len(hook),
                    last.PRUNING_TYPE,
                    mask,
                    mask is not None and mask.mean(),
                )
            )
    return found

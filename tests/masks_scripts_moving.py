"""Scripts for `torch.nn.utils.prune`: masks moved about, gradients, training; see `masks_scripts`."""

from __future__ import annotations

import io
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from masks_script_parts import data, layers, lenet, pairs, script, train

# -- masks moved about -----------------------------------------------------------------------------------


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


# -- gradients and training ------------------------------------------------------------------------------


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

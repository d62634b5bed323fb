"""Scripts as people write them for `torch.nn.utils.prune`: blog posts, forum answers, research code.

Each takes the module of functions, that of torch or ours, and returns what it would print or save. They run
the model between a step of the optimizer and a choice of what to prune, as people do who evaluate it first:
else the original ranks the weights of before the step.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from masks_script_parts import data, layers, lenet, pairs, script, train

# -- how much is gone ------------------------------------------------------------------------------------


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


# -- rewinding -------------------------------------------------------------------------------------------


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

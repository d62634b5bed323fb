"""Scripts for `torch.nn.utils.prune`: printing, optimizers, files, other modules; see `masks_scripts`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masks_script_parts import data, layers, lenet, pairs, script, train

# -- around the model ------------------------------------------------------------------------------------


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

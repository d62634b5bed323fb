"""Two ways around a cut: taking it back, and making one that masks have already prepared.

    python examples/undo_and_compact.py

Undo restores weights, buffers, integers and the optimizer's state bit for bit. Compact removes channels that
some other tool (here `torch.nn.utils.prune`) has only set to zero, so that they cost nothing any more.

Shapes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import prunus


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x_BCHW: Tensor) -> None:
    optimizer.zero_grad()
    model.train()(x_BCHW).square().mean().backward()
    optimizer.step()


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of everything that training has produced: weights, buffers, Adam's moments."""
    found = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        found |= {f"adam.{index}.{name}": tensor.clone() for name, tensor in state.items()}
    return found


def undo(x_BCHW: Tensor) -> None:
    torch.manual_seed(0)
    model = small_cnn()
    optimizer = torch.optim.Adam(model.parameters())
    train_step(model, optimizer, x_BCHW)
    before, whole = tensors(model, optimizer), count(model)

    plan = prunus.trace(model, x_BCHW).plan(ratio=0.5)
    plan.apply(model, optimizer)
    cut = count(model)
    optimizer_moments = sum(state["exp_avg"].numel() for state in optimizer.state.values())
    plan.undo(model)

    after = tensors(model, optimizer)
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    print(f"undo     {whole:,} parameters, cut to {cut:,} (Adam's moments to {optimizer_moments:,}), undone")
    print(f"         to {count(model):,}; every tensor has its old bits: {same}")
    train_step(model, optimizer, x_BCHW)  # training goes on as if nothing had happened
    if not same or optimizer_moments != cut:
        raise SystemExit("undo should restore every tensor")


@torch.no_grad()
def compact(x_BCHW: Tensor) -> None:
    torch.manual_seed(0)
    model = small_cnn()
    model(x_BCHW)  # gives the batch norm some statistics
    nn.init.normal_(model[3].bias)  # so that a zeroed filter leaves a constant behind it, not zero
    model.eval()
    for layer in (model[0], model[2]):
        torch_prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0)  # masks: nothing gets smaller yet
        torch_prune.remove(layer, "weight")
    masked, whole = copy.deepcopy(model), count(model)

    prunus.compact(model, x_BCHW)
    difference = (model(x_BCHW) - masked(x_BCHW)).abs().max().item()
    print(f"compact  {whole:,} parameters with half of the filters zero, {count(model):,} after compaction;")
    print(f"         outputs differ by at most {difference:.1e}")
    if count(model) >= whole or not difference < 1e-4:
        raise SystemExit("compaction should shrink the model and keep its outputs")


if __name__ == "__main__":
    images_BCHW = torch.randn(4, 3, 16, 16)
    undo(images_BCHW)
    compact(images_BCHW)

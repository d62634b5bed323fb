"""Masks that move, against the published rules written down on dense tensors."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
import prunus.masks as prune


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5))
    for module in (model[0], model[2]):
        prune.random_unstructured(module, "weight", 0.5)
    return model


def pairs(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(model[0], "weight"), (model[2], "weight")]


def loss(model: nn.Module, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(16, 6, generator=generator)
    y = torch.randn(16, 5, generator=generator)
    out: Tensor = (model(x) - y).square().mean()
    return out


def dense_gradients(model: nn.Module, batch: int) -> list[Tensor]:
    """By an ordinary network that has the masked weights as its parameters."""
    plain = copy.deepcopy(model)
    for module, name in pairs(plain):
        prune.remove(module, name)
    plain.zero_grad()
    loss(plain, batch).backward()
    return [module.weight.grad for module, _ in pairs(plain)]


def by_the_rule(
    weights: list[Tensor], alive: list[Tensor], scores: list[Tensor], counts: list[int], back: list[int]
) -> list[Tensor]:
    out = []
    for w, mask, score, gone, grown in zip(weights, alive, scores, counts, back, strict=True):
        keep = mask.flatten().tolist()
        size, gain = w.abs().flatten().tolist(), score.flatten().tolist()
        for i in sorted((i for i, k in enumerate(keep) if k), key=size.__getitem__)[:gone]:
            keep[i] = False
        dead = [i for i, k in enumerate(keep) if not k]
        for i in sorted(dead, key=gain.__getitem__, reverse=True)[:grown]:
            keep[i] = True
        out.append(torch.tensor(keep).reshape(w.shape))
    return out


@pytest.mark.parametrize("dead", ["drop", "keep"])
@pytest.mark.parametrize("kind", [prune.RigL, prune.SparseMomentum])
@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.Adam])
def test_moves_follow_the_published_rule(kind: Any, dead: str, optimizer_type: Any) -> None:
    model = network()
    options = {"momentum": 0.9} if optimizer_type is torch.optim.SGD else {}
    optimizer = optimizer_type(model.parameters(), lr=0.02, **options)
    moving = kind(pairs(model), optimizer, fraction=0.4, interval=3, stop=11, dead=dead)
    live = sum(int(module.weight_mask.sum()) for module, _ in pairs(model))
    momenta = [torch.zeros_like(module.weight_orig) for module, _ in pairs(model)]
    moves = 0
    for step in range(1, 14):
        gradients = dense_gradients(model, step)
        for held, gradient in zip(momenta, gradients, strict=True):
            held.mul_(0.9).add_(gradient, alpha=0.1)
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()
        alive = [module.weight_mask.clone() for module, _ in pairs(model)]
        weights = [module.weight_orig.detach().clone() for module, _ in pairs(model)]
        moved = moving.step()
        assert moved == (step in (3, 6, 9))
        masks = [module.weight_mask for module, _ in pairs(model)]
        assert sum(int(mask.sum()) for mask in masks) == live
        if not moved:
            assert all(torch.equal(a, b) for a, b in zip(masks, alive, strict=True))
            continue
        moves += 1
        share = 0.2 * (1 + math.cos(math.pi * step / 11))
        died = [round(share * int(mask.sum())) for mask in alive]
        back, scores = died, [g.abs() for g in gradients]
        if kind is prune.SparseMomentum:
            scores = [held.abs() for held in momenta]
            back = [int(mask.sum()) for mask in masks]
            means = [float(s[a].mean()) for s, a in zip(scores, alive, strict=True)]
            back = [m - int(a.sum()) + d for m, a, d in zip(back, alive, died, strict=True)]
            for got, mean in zip(back, means, strict=True):
                assert abs(got - sum(died) * mean / sum(means)) < 1
        expected = by_the_rule(weights, alive, scores, died, back)
        assert all(torch.equal(a, b) for a, b in zip(masks, expected, strict=True))
        for (module, _), before, was in zip(pairs(model), weights, alive, strict=True):
            new, old = module.weight_mask & ~was, ~module.weight_mask & was
            now = module.weight_orig.detach()
            assert torch.equal(now[~(new | old)], before[~(new | old)])
            assert torch.equal(now[new | old], before[new | old] * (dead == "keep"))
            for value in optimizer.state[module.weight_orig].values():
                if value.shape == now.shape:
                    assert not value[new | old].any()
    assert moves == 3


def test_the_dense_gradient_is_there_only_before_a_move() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    moving = prune.RigL(pairs(model), optimizer, interval=3, stop=100)
    held = []
    for step in range(1, 7):
        loss(model, step).backward()
        optimizer.step()
        held.append([watch.sum is not None for watch in moving._gradients])
        moving.step()
        assert all(watch.sum is None for watch in moving._gradients)
    assert held == [[False] * 2, [False] * 2, [True] * 2] * 2
    other = copy.deepcopy(model)
    loss(other, 0).backward()
    assert all(watch.sum is None for watch in moving._gradients)


def test_bad_input() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = copy.deepcopy(model.state_dict())
    for options in ({"fraction": 1.5}, {"interval": 0}, {"stop": 0}, {"dead": "buried"}):
        with pytest.raises(ValueError) as error:
            prune.RigL(pairs(model), optimizer, **{"stop": 5, **options})
        assert isinstance(error.value, prunus.PruningError)
    with pytest.raises(ValueError, match="no mask"):
        prune.RigL([(model[0], "bias")], optimizer, stop=5)
    with pytest.raises(TypeError):
        prune.RigL(pairs(model), model, stop=5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    moving = prune.RigL(pairs(model), optimizer, interval=1, stop=5)
    with pytest.raises(prunus.PruningError, match="gradient"):
        moving.step()

"""Masks on two ranks: DDP and FSDP2 over gloo, against one process with both batches."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import nn

import masks_on_ranks
import prunus.masks as prune
from masks_on_ranks import network, train


def on_two_ranks(what: Any, folder: Path) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(masks_on_ranks.run, args=(what, port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_data_parallel_masks_and_weights_are_bit_identical(tmp_path: Path) -> None:
    (first, masks), (second, _) = on_two_ranks(masks_on_ranks.data_parallel, tmp_path)
    assert list(first) == list(second)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert not torch.equal(masks[1], masks[2])  # moved after the second step

    alone = network()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    moving = prune.RigL([(alone[0], "weight")], optimizer, interval=2, stop=10)
    for step in range(5):
        train(alone, optimizer, step, [0, 1])
        moving.step()
        assert torch.equal(alone[0].weight_mask, masks[step + 1])
        if step == 2:
            prune.l1_unstructured(alone[2], "weight", 0.3)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(value, first[key])


def test_fully_sharded_masks_train_as_whole_ones_do(tmp_path: Path) -> None:
    results = on_two_ranks(masks_on_ranks.fully_sharded, tmp_path)
    alone = network()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        train(alone, optimizer, step, [0, 1])
    layers = [module for module in alone if isinstance(module, nn.Linear)]
    for weights, _, _, _, error in results:
        for weight, layer in zip(weights, layers, strict=True):
            torch.testing.assert_close(weight, layer.weight.detach())
        assert "wrapped after it was pruned" in error
    prune.l1_unstructured(alone[0], "weight", 0.5)
    train(alone, optimizer, 3, [0, 1])
    for _, weight, mask, sparsity, _ in results:
        assert torch.equal(mask, alone[0].weight_mask)
        torch.testing.assert_close(weight, alone[0].weight.detach())
        assert sparsity == prune.report(alone).sparsity

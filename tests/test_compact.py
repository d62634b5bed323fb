"""Compaction: units that masks or zeros have emptied go, and the outputs stay what they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as masks
from torch import Tensor, nn

import prunus
from compacting import Tagger, chain, cnn, compacted, image, masked_cnn, randomised, silence, vector
from oracle import outputs_of, parameter_count
from prunus.surgery.operation import Operation
from snapshots import Snapshot

# -- masks ----------------------------------------------------------------------------------------------


def test_channels_that_batch_norm_keeps_at_a_constant_are_folded() -> None:
    """The case in which masking and cutting notoriously disagree: relu(beta) is not zero."""
    model = masked_cnn()
    with torch.no_grad():
        model[1].bias.copy_(torch.rand(8) + 0.5)
    plan = compacted(model, image())
    assert [model[0].out_channels, model[3].in_channels, model[3].out_channels] == [4, 4, 3]
    assert [model[1].num_features, model[8].in_features] == [4, 3]
    narrow = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 3)
    )
    assert parameter_count(model) == parameter_count(narrow)
    assert sorted(plan.folded) == ["3.bias", "8.bias"]
    assert plan.left_alone == {}


def test_masks_become_permanent_and_come_back_with_undo() -> None:
    model = masked_cnn()
    before = Snapshot.of(model)
    plan = prunus.compact(model, image())
    assert not masks.is_pruned(model)
    assert list(model[0]._parameters) == ["bias", "weight"]
    assert model[0].weight is dict(model.named_parameters())["0.weight"]
    plan.undo(model)
    assert masks.is_pruned(model)
    assert before.differences(model, identity=True) == []


def test_nothing_to_remove_leaves_masks_alone() -> None:
    model = chain(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    masks.l1_unstructured(model[0], "weight", amount=0.2)
    before = Snapshot.of(model)
    plan = prunus.compact(model, vector())
    assert plan.chosen == {}
    assert plan.graph.parameter("0.weight_orig").shape == (5, 6)
    assert plan.undo(model) is model
    assert before.differences(model, identity=True) == []


def test_a_masked_bias() -> None:
    model = chain(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    for name in ("weight", "bias"):
        masks.custom_from_mask(
            model[0], name, torch.ones_like(getattr(model[0], name)).index_fill(0, torch.tensor([1]), 0)
        )
    compacted(model, vector())
    assert model[0].out_features == 4


def test_a_masked_recurrent_layer() -> None:
    model = randomised(Tagger(nn.GRU))
    rnn = model.rnn
    assert isinstance(rnn, nn.GRU)
    for name, parameter in list(rnn.named_parameters()):
        mask = torch.ones_like(parameter)
        mask.view(3, 5, -1)[:, 2] = 0
        masks.custom_from_mask(rnn, name, mask)
    compacted(model, torch.randint(0, 11, (2, 4)))
    assert rnn.hidden_size == 4


def test_a_weight_masked_in_one_of_two_places_stays_masked() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)
            self.out = nn.Linear(5, 2)
            self.b.weight = self.a.weight
            masks.custom_from_mask(self.a, "weight", torch.ones(6, 6).index_fill(0, torch.tensor([2]), 0))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(torch.tanh(self.c(self.b(torch.tanh(self.a(x))))))
            return out

    model = Tied()
    randomised(model)
    silence(model.c, [3])
    compacted(model, vector())
    assert model.c.out_features == 4
    assert masks.is_pruned(model)


def test_global_unstructured_masks_that_empty_rows() -> None:
    torch.manual_seed(3)
    model = chain(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 10), nn.GELU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[0].weight[::3] *= 1e-3
        model[2].weight[:, ::4] *= 1e-3
    masks.global_unstructured([(model[0], "weight"), (model[2], "weight")], masks.L1Unstructured, amount=0.5)
    compacted(model, vector())
    assert model[0].out_features == 12 - len({0, 3, 6, 9} | {0, 4, 8})


# -- whole networks -------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down: nn.Module = nn.Identity()
        if stride > 1:
            self.down = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.down(x)
        out: Tensor = self.relu(y)
        return out


def resnet() -> nn.Sequential:
    blocks = [Block(i, o, s) for i, o, s in ((8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1))]
    return chain(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


@pytest.mark.parametrize("shift", [-20.0, 0.0])
def test_a_masked_resnet(shift: float) -> None:
    """Masked filters that relu sets to zero go; those that it lets through stay beside the padding."""
    model = resnet()
    for module in list(model.modules()):
        if isinstance(module, Block):
            masks.ln_structured(module.conv1, "weight", amount=0.5, n=2, dim=0)
            with torch.no_grad():
                module.bn1.bias.mul_(0.0).add_(1.0)
                empty = module.conv1.weight_mask.flatten(1).sum(1) == 0  # type: ignore[operator]
                module.bn1.bias[empty] = shift + 1e-3
                module.bn1.running_mean.zero_()
                module.bn1.running_var.fill_(1.0)
    plan = compacted(model, image(size=12))
    widths = [module.conv1.out_channels for module in model.modules() if isinstance(module, Block)]
    assert widths == ([4, 4, 8, 8] if shift < 0 else [8, 8, 16, 16])
    assert len(plan.left_alone) == (0 if shift < 0 else 4)


def test_float32_and_half_precision() -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 0.01)):
        model = cnn().to(dtype)
        silence(model[0], [0, 1, 2])
        compacted(model, image().to(dtype), tolerance=tolerance)
        assert model[0].out_channels == 5
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_what_is_in_force_outside_does_not_matter() -> None:
    model = cnn()
    silence(model[0], [0, 1, 2])
    model.float()
    x = image().float()
    expected = outputs_of(model, (x,), {})
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        prunus.compact(model, x)
    torch.testing.assert_close(outputs_of(model, (x,), {}), expected, rtol=1e-5, atol=1e-6)
    assert model[0].out_channels == 5


# -- the plan -------------------------------------------------------------------------------------------


def test_without_folding_the_outputs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of this file can fail."""
    model = masked_cnn()
    with torch.no_grad():
        model[1].bias.copy_(torch.rand(8) + 0.5)
    monkeypatch.setattr(Operation, "shift", lambda self, tensor, amount: None)
    with pytest.raises(AssertionError, match="off by"):
        compacted(model, image())


def test_the_mode_and_gradients_survive() -> None:
    model = cnn()
    silence(model[0], [0, 1])
    model(image()).sum().backward()
    model.train()
    model[4].eval()
    modes = [module.training for module in model.modules()]
    prunus.compact(model, image())
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_optimizer_state_is_sliced_along() -> None:
    model = masked_cnn()
    optimizer = torch.optim.Adam(model.parameters())
    model(image()).sum().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()["state"])
    plan = prunus.compact(model, image(), optimizer=optimizer)
    shapes = {tuple(p.shape) for p in model.parameters()}
    assert {tuple(s["exp_avg"].shape) for s in optimizer.state.values()} == shapes
    optimizer.zero_grad()
    model(image()).sum().backward()
    plan.undo(model)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(before[i]["exp_avg"], after[i]["exp_avg"]) for i in before)


def test_undo_after_training_keeps_what_was_learned() -> None:
    model = chain(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3))
    masks.ln_structured(model[0], "weight", amount=4, n=2, dim=0)
    plan = prunus.compact(model, vector())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(vector()).square().sum().backward()
    optimizer.step()
    x = vector()
    expected = outputs_of(model, (x,), {})
    plan.undo(model)
    assert model[0].weight_orig.shape == (9, 6)
    torch.testing.assert_close(outputs_of(model, (x,), {}), expected)


def test_a_failed_verification_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = masked_cnn()
    before = Snapshot.of(model)

    def fail(*_: Any) -> None:
        raise prunus.PruningError("not what was promised")

    monkeypatch.setattr("prunus.plan.verify", fail)
    with pytest.raises(prunus.PruningError, match="promised"):
        prunus.compact(model, image())
    assert before.differences(model, identity=True) == []


def test_bad_input_leaves_masks_in_place() -> None:
    model = masked_cnn()
    before = Snapshot.of(model)
    for args in ((), torch.randn(2, 5, 9, 9).double()):
        with pytest.raises(prunus.PruningError):
            prunus.compact(model, args)
    with pytest.raises(prunus.PruningError, match=r"nn\.Module"):
        prunus.compact("model", image())  # type: ignore[arg-type]
    assert before.differences(model, identity=True) == []


def test_a_model_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    with pytest.raises(prunus.PruningError, match="no values"):
        prunus.compact(model, torch.randn(2, 6, device="meta"))


def test_a_compaction_belongs_to_its_weights() -> None:
    model = chain(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3))
    silence(model[0], [1])
    plan = prunus.compact(model, vector())
    plan.undo(model)
    with pytest.raises(prunus.PruningError, match="found in"):
        plan.apply(model)
    with pytest.raises(prunus.PruningError, match="nothing to undo"):
        plan.undo(model)


def test_compaction_composes_with_pruning() -> None:
    model = cnn()
    silence(model[0], [0, 1])
    first = prunus.prune(model, image(), ratio=0.25)
    second = prunus.compact(model, image())
    second.undo(model)
    first.undo(model)
    assert model[0].out_channels == 8

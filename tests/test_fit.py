"""`prunus.fit`: the loop, resuming bit for bit, the floor, the history, and what it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.errors import ArgumentTypeError, BudgetError, CheckpointError, InputError, PlanError
from prunus.training import Epochs, Fitted, agp, fit, linear, one_shot
from snapshots import Snapshot, attributes, hooks

STEPS = 3


class Net(nn.Module):
    """Batch norm, dropout and tied sizes: buffers and random numbers matter to a run that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.branch = nn.Conv2d(12, 12, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(12, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.norm(self.conv(x_BCHW)).relu()
        x_BCHW = x_BCHW + self.branch(x_BCHW)
        return self.head(self.drop(x_BCHW.mean((2, 3))))


GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randn(48, 1, 6, 6, generator=GENERATOR)
LABELS = (IMAGES.mean((1, 2, 3)) > 0).long() + (IMAGES[:, 0, 0, 0] > 0).long()


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=16, shuffle=True)


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(IMAGES).argmax(1) == LABELS).float().mean())


def build(seed: int = 0) -> tuple[Net, torch.optim.Optimizer, Any]:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, amsgrad=True)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


def noisy_training(scheduler: Any, stop_at: int | None = None) -> Any:
    """A user's own training step that draws from all three generators, and may be interrupted."""
    epochs = Epochs(loader(), F.cross_entropy, epochs=1)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        scale = 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002
        optimizer.param_groups[0]["weight_decay"] = 1e-3 * scale
        epochs(model, optimizer, step)
        if step == stop_at:
            raise KeyboardInterrupt
        scheduler.step()

    return train


def everything(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> dict[str, Any]:
    """All that a run leaves behind, bit for bit."""
    out: dict[str, Any] = {f"model {k}": v.numpy().tobytes() for k, v in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        out |= {f"optimizer {index} {k}": torch.as_tensor(v).numpy().tobytes() for k, v in state.items()}
    out["groups"] = optimizer.state_dict()["param_groups"]
    out["scheduler"] = {k: v for k, v in scheduler.state_dict().items() if not callable(v)}
    out["modes"] = [module.training for module in model.modules()]
    out["attributes"] = attributes(model)
    out["random"] = (torch.get_rng_state().numpy().tobytes(), random.random(), np.random.rand())  # noqa: NPY002
    return out


def records(result: Fitted) -> list[Any]:
    return [(s.step, s.fraction, s.macs, s.params, s.metric, s.kept) for s in result.history]


ASKED: dict[str, Any] = {"ratio": 0.7, "steps": STEPS, "schedule": agp, "scope": "global", "progress": False}


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path: Path, stop_at: int) -> None:
    model, optimizer, scheduler = build()
    whole = fit(
        model, IMAGES[:2], train=noisy_training(scheduler), evaluate=accuracy, optimizer=optimizer,
        folder=tmp_path / "whole", state={"scheduler": scheduler}, **ASKED,
    )  # fmt: skip
    expected = everything(model, optimizer, scheduler)

    model, optimizer, scheduler = build()
    with pytest.raises(KeyboardInterrupt):
        fit(
            model, IMAGES[:2], train=noisy_training(scheduler, stop_at), evaluate=accuracy,
            optimizer=optimizer, folder=tmp_path / "broken", state={"scheduler": scheduler}, **ASKED,
        )  # fmt: skip
    model, optimizer, scheduler = build(seed=99)  # other weights, other random numbers: all come back
    result = fit(
        model, IMAGES[:2], train=noisy_training(scheduler), evaluate=accuracy, optimizer=optimizer,
        folder=tmp_path / "broken", state={"scheduler": scheduler}, **ASKED,
    )  # fmt: skip
    found = everything(model, optimizer, scheduler)
    assert found.keys() == expected.keys()
    assert [key for key in expected if found[key] != expected[key]] == []
    assert records(result) == records(whole)


def test_without_a_folder_the_result_is_the_same(tmp_path: Path) -> None:
    found = []
    for folder in (None, tmp_path):
        model, optimizer, scheduler = build()
        fit(model, IMAGES[:2], train=noisy_training(scheduler), optimizer=optimizer, folder=folder, **ASKED)
        found.append(everything(model, optimizer, scheduler))
    assert found[0] == found[1]


def test_gradients_that_training_leaves_count_for_the_next_ranking(tmp_path: Path) -> None:
    """With importance taylor and no calibration, the gradients of the last batch decide: they are saved."""

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        if step == 2 and not resumed:
            raise KeyboardInterrupt
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()

    kept = []
    for interrupted in (False, True):
        resumed = not interrupted
        for seed in (0, 5) if interrupted else (0,):
            model, optimizer, _ = build(seed)
            model.eval()
            F.cross_entropy(model(IMAGES), LABELS).backward()
            options = {**ASKED, "importance": "taylor", "folder": tmp_path / str(interrupted)}
            try:
                fit(model, IMAGES[:2], train=train, optimizer=optimizer, **options)
            except KeyboardInterrupt:
                resumed = True
        kept.append({name: value.numpy().tobytes() for name, value in model.state_dict().items()})
    assert kept[0] == kept[1]


def test_a_generator_of_the_loader_goes_on_too(tmp_path: Path) -> None:
    """The order of the batches comes from a generator of its own, named in `state`."""

    def run(folder: Path, seed: int, stop_at: int | None = None) -> dict[str, Tensor]:
        model, optimizer, _ = build(seed)
        order = torch.Generator().manual_seed(seed)
        data = TensorDataset(IMAGES, LABELS)
        epochs = Epochs(DataLoader(data, batch_size=16, shuffle=True, generator=order), F.cross_entropy)

        def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
            epochs(model, optimizer, step)
            if step == stop_at:
                raise KeyboardInterrupt

        state = {"order": order}
        fit(model, IMAGES[:2], train=train, optimizer=optimizer, folder=folder, state=state, **ASKED)
        return model.state_dict()

    expected = run(tmp_path / "whole", 0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", 0, stop_at=2)
    found = run(tmp_path / "cut", 8)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_finished_run_is_loaded_and_not_run_again(tmp_path: Path) -> None:
    model, optimizer, scheduler = build()
    asked = {**ASKED, "folder": tmp_path, "evaluate": accuracy}
    whole = fit(model, IMAGES[:2], train=noisy_training(scheduler), optimizer=optimizer, **asked)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def never(*_: Any) -> None:
        raise AssertionError("it has been trained already")

    model, optimizer, scheduler = build(7)
    again = fit(model, IMAGES[:2], train=never, optimizer=optimizer, **asked)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert records(again) == records(whole)
    assert whole.checkpoint is not None
    rebuilt = prunus.load(Net, whole.checkpoint)
    assert all(torch.equal(value, before[name]) for name, value in rebuilt.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"prunus-step-{STEPS:04d}", "run.json"]


def test_costs_follow_the_schedule() -> None:
    model, optimizer, _ = build()
    result = fit(model, IMAGES[:2], ratio=0.5, steps=2, schedule=linear, optimizer=optimizer, progress=False)
    whole = prunus.trace(Net(), IMAGES[:2])
    for step, ratio in ((0, 0.0), (1, 0.25), (2, 0.5)):
        assert result.history[step].macs == whole.plan(ratio=ratio).cost.macs
    assert result.last.macs == prunus.trace(model, IMAGES[:2]).cost().macs


def test_a_budget_is_met() -> None:
    model, optimizer, _ = build()
    result = fit(
        model, IMAGES[:2], budget=prunus.Budget(macs=0.3), steps=3, optimizer=optimizer,
        train=Epochs(loader(), F.cross_entropy), progress=False,
    )  # fmt: skip
    assert result.last.macs <= 0.3 * result.history[0].macs
    assert model(IMAGES).shape == (48, 3)


@pytest.mark.parametrize("with_folder", [False, True])
def test_the_step_below_the_floor_is_taken_back(tmp_path: Path, with_folder: bool) -> None:
    """The network, the optimizer and the random state are those of a run that was to end one step earlier."""
    metrics = {0: 0.9, 1: 0.8, 2: 0.75, 3: 0.1}

    def run(steps: int, floor: float | None, folder: Path | None) -> tuple[Fitted, dict[str, Any]]:
        model, optimizer, scheduler = build()
        done = []

        def metric(model: nn.Module) -> float:
            accuracy(model)
            done.append(1)
            return metrics[len(done) - 1]

        result = fit(
            model, IMAGES[:2], train=noisy_training(scheduler), evaluate=metric, optimizer=optimizer,
            floor=floor, folder=folder, state={"scheduler": scheduler}, progress=False, ratio=0.6,
            steps=steps, schedule=lambda step, steps: step / 3 if step < steps else 1.0, scope="global",
        )  # fmt: skip
        return result, everything(model, optimizer, scheduler)

    result, found = run(3, 0.5, tmp_path if with_folder else None)
    assert result.stopped is not None
    assert "step 3 ended at 0.1, below the floor of 0.5" in result.stopped
    assert [step.kept for step in result.history] == [True, True, True, False]
    assert result.last.step == 2

    model, optimizer, scheduler = build()
    train = noisy_training(scheduler)
    pruning = prunus.training.IterativePruning(
        model, IMAGES[:2], ratio=0.6, steps=3, schedule=linear, scope="global"
    )
    accuracy(model)
    for step in (1, 2):
        pruning.advance(optimizer)
        train(model, optimizer, step)
        accuracy(model)
    expected = everything(model, optimizer, scheduler)
    assert [key for key in expected if found[key] != expected[key]] == []
    if with_folder:
        rebuilt = prunus.load(Net, result.checkpoint)
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in rebuilt.state_dict().items())
        record = json.loads((tmp_path / "run.json").read_text())
        assert record["finished"]
        assert record["stopped"] == result.stopped


def test_the_history_as_data_and_as_a_table(tmp_path: Path) -> None:
    model, optimizer, _ = build()
    result = fit(
        model, IMAGES[:2], ratio=0.5, steps=2, evaluate=accuracy, optimizer=optimizer, progress=False
    )
    data = result.as_data()
    result.save(tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text()) == data
    assert [step["step"] for step in data["history"]] == [0, 1, 2]
    lines = str(result).splitlines()
    assert len(lines) == 4
    assert f"{result.last.macs:,}" in lines[-1]


def test_nothing_stays_behind_on_the_model() -> None:
    model, optimizer, _ = build()
    names, own_hooks = list(attributes(model)), hooks(model)
    flags = Snapshot.of(model).flags
    fit(
        model, IMAGES[:2], ratio=0.5, steps=2, optimizer=optimizer, floor=-1.0, evaluate=lambda model: 0.0,
        train=Epochs(loader(), F.cross_entropy), progress=True,
    )  # fmt: skip
    assert list(attributes(model)) == names
    assert hooks(model) == own_hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert Snapshot.of(model).flags == flags


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({}, InputError, "either ratio"),
        ({"ratio": 0.5, "budget": prunus.Budget(macs=0.5)}, InputError, "either ratio"),
        ({"ratio": 0.5, "steps": 0}, InputError, "at least 1"),
        ({"ratio": 0.5, "schedule": lambda s, n: 1 - s / n}, InputError, "falls"),
        ({"ratio": 0.5, "schedule": lambda s, n: 3 * s / n}, InputError, "in \\[0, 1\\]"),
        ({"budget": prunus.Budget(macs=10)}, BudgetError, "smallest reachable"),
        ({"ratio": 0.5, "evaluate": lambda model: float("nan")}, InputError, "at step 0"),
        ({"ratio": 0.5, "evaluate": lambda model: "good"}, ArgumentTypeError, "not a number"),
        ({"ratio": 0.5, "evaluate": lambda model: None}, ArgumentTypeError, "not a number"),
        ({"ratio": 0.5, "floor": 0.9}, InputError, "needs evaluate"),
        ({"ratio": 0.5, "floor": float("nan"), "evaluate": lambda m: 1.0}, InputError, "finite"),
        ({"ratio": 0.5, "floor": 0.9, "evaluate": lambda m: 0.5}, InputError, "before pruning"),
        ({"ratio": 0.5, "train": 3}, ArgumentTypeError, "train must be a function"),
        ({"ratio": 0.5, "train": Epochs([(IMAGES, LABELS)])}, InputError, "needs optimizer"),
        ({"ratio": 0.5, "optimizer": "adam"}, ArgumentTypeError, "torch.optim.Optimizer"),
        ({"ratio": 0.5, "state": {"x": 3}}, ArgumentTypeError, "state\\['x'\\]"),
    ],
)
def test_bad_input_leaves_the_model_alone(asked: dict[str, Any], error: type, message: str) -> None:
    model, _, _ = build()
    before = Snapshot.of(model)
    with pytest.raises(error, match=message):
        fit(model, IMAGES[:2], progress=False, **asked)
    assert before.differences(model, identity=True) == []


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, _, _ = build()
    with pytest.raises(PlanError, match="not this model's"):
        fit(model, IMAGES[:2], ratio=0.5, optimizer=torch.optim.SGD(Net().parameters(), lr=0.1))


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(build()[0], IMAGES[:2], ratio=0.5, steps=2, folder=tmp_path, progress=False)
    for asked in ({"ratio": 0.6}, {"ratio": 0.5, "steps": 3}, {"ratio": 0.5, "importance": "l1"}):
        model = build()[0]
        before = Snapshot.of(model)
        with pytest.raises(CheckpointError, match="belongs to another run"):
            fit(model, IMAGES[:2], **{"steps": 2, **asked}, folder=tmp_path, progress=False)
        assert before.differences(model, identity=True) == []
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(CheckpointError, match="belongs to another run: axes differ"):
        fit(other, torch.randn(1, 4), ratio=0.5, steps=2, folder=tmp_path, progress=False)
    model, optimizer, _ = build()
    before = Snapshot.of(model)
    with pytest.raises(CheckpointError, match="with an optimizer"):
        fit(model, IMAGES[:2], ratio=0.5, steps=2, folder=tmp_path, optimizer=optimizer, progress=False)
    assert before.differences(model, identity=True) == []


def test_a_pruned_model_does_not_resume_a_run(tmp_path: Path) -> None:
    model = build()[0]
    fit(model, IMAGES[:2], ratio=0.5, steps=2, folder=tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="as it was before the run"):
        fit(model, IMAGES[:2], ratio=0.5, steps=2, folder=tmp_path, progress=False)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "other"}', '{"format": "prunus-run", "version": 9}']
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        fit(build()[0], IMAGES[:2], ratio=0.5, folder=tmp_path, progress=False)
    assert (tmp_path / "run.json").read_text() == content


def test_damaged_states_are_refused(tmp_path: Path) -> None:
    result = fit(build()[0], IMAGES[:2], ratio=0.5, steps=1, folder=tmp_path, progress=False)
    assert result.checkpoint is not None
    for name in ("state.safetensors", "state.json", "manifest.json"):
        path = result.checkpoint / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError):
            fit(build()[0], IMAGES[:2], ratio=0.5, steps=1, folder=tmp_path, progress=False)
        path.write_bytes(content)
    fit(build()[0], IMAGES[:2], ratio=0.5, steps=1, folder=tmp_path, progress=False)


def test_a_step_that_cannot_be_planned_leaves_the_one_before() -> None:
    model, optimizer, _ = build()

    def spoil(model: nn.Module, optimizer: Any, step: int) -> None:
        if step == 1:
            with torch.no_grad():
                model.conv.weight[0] = float("nan")

    with pytest.raises(InputError, match=r"conv\.weight"):
        fit(model, IMAGES[:2], ratio=0.6, steps=3, train=spoil, optimizer=optimizer, progress=False)
    whole = prunus.trace(Net(), IMAGES[:2])
    assert prunus.trace(model, IMAGES[:2]).cost() == whole.plan(ratio=0.6 * agp(1, 3)).cost


def test_one_shot_prunes_once() -> None:
    model, optimizer, _ = build()
    seen = []
    result = fit(
        model, IMAGES[:2], ratio=0.5, steps=3, schedule=one_shot, optimizer=optimizer, progress=False,
        train=lambda model, optimizer, step: seen.append(step),
    )  # fmt: skip
    assert seen == [1, 2, 3]
    assert len({step.macs for step in result.history}) == 2


# -- the simple training function --------------------------------------------------------------------------


def test_epochs_do_what_a_loop_by_hand_does() -> None:
    model, optimizer, _ = build()
    torch.manual_seed(1)
    Epochs([(IMAGES[:24], LABELS[:24]), (IMAGES[24:], LABELS[24:])], F.cross_entropy, epochs=2)(
        model.eval(), optimizer
    )
    by_hand, other, _ = build()
    torch.manual_seed(1)
    by_hand.train()
    for _ in range(2):
        for part in (slice(0, 24), slice(24, 48)):
            other.zero_grad()
            F.cross_entropy(by_hand(IMAGES[part]), LABELS[part]).backward()
            other.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_penalties_come_between_backward_and_step() -> None:
    model = nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    seen = []

    def penalty() -> None:
        seen.append(model.weight.grad.clone())
        model.weight.grad += 1.0

    x = torch.randn(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    Epochs([(x, None)], lambda out, _: out.sum(), after_backward=penalty)(model, optimizer)
    assert torch.allclose(seen[0], x.sum(0)[None])
    assert torch.allclose(model.weight, before - x.sum(0) - 1)


def test_dict_batches_and_their_loss() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"loss": F.mse_loss(self.linear(x), y)}

    model = Model()
    batches = [{"x": torch.randn(5, 3), "y": torch.zeros(5, 2)}]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = Epochs(batches)(model, optimizer)
    assert Epochs(batches, epochs=20)(model, optimizer) < first


@pytest.mark.parametrize(
    ("batches", "loss", "message"),
    [
        ([], F.cross_entropy, "no batch"),
        ([(IMAGES, LABELS)], lambda out, y: F.cross_entropy(out, y) * float("inf"), "is (inf|nan)"),
        ([(IMAGES, LABELS)], lambda out, y: out, "no scalar"),
        ([(IMAGES, LABELS)], None, "no scalar"),
        ([(IMAGES, LABELS)], lambda out, y: F.cross_entropy(out, y).detach(), "no scalar"),
        ([3], F.cross_entropy, "pair"),
    ],
)
def test_epochs_refuse(batches: Any, loss: Any, message: str) -> None:
    model, optimizer, _ = build()
    with pytest.raises(InputError, match=message):
        Epochs(batches, loss)(model, optimizer, 1)
    with pytest.raises(InputError, match="at least 1"):
        Epochs(batches, loss, epochs=0)
    with pytest.raises(InputError, match="only once"):
        Epochs(iter(batches), loss)

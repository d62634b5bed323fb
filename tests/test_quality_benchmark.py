"""A fast slice of the quality benchmark, and what its numbers rest on."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

from benchmarks import publish
from benchmarks.quality import cells, data, methods, networks, peers, report, tasks
from benchmarks.quality.methods import MASKS, PEER, PRUNUS, Method
from benchmarks.quality.store import Store, fingerprint
from benchmarks.quality.tasks import Schedule, Task

SPEEDUP = 4.0
CNN = replace(
    tasks.TASKS["resnet"],
    build=lambda: networks.ResidualNet((8, 16), blocks=1),
    dense=Schedule(12, 1e-2, batch=16),
    tune=Schedule(3, 3e-3, batch=16),
)
TRANSFORMER = replace(
    tasks.TASKS["vit"],
    build=lambda: networks.ViT(width=16, depth=1, num_heads=2),
    dense=Schedule(3, 1e-2, batch=16),
    tune=Schedule(2, 3e-3, batch=16),
)
L2 = {"importance": "l2", "scope": "local"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def run(task: Task, method: Method, store: Store) -> dict[str, object]:
    return cells.run(task, 0, method, SPEEDUP, cells.dense(task, 0, store), store)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("quality"))


@pytest.mark.parametrize("task", [CNN, TRANSFORMER], ids=lambda task: task.name)
@pytest.mark.parametrize("method", methods.methods(), ids=lambda method: method.name)
def test_every_method_meets_the_target_from_below(task: Task, method: Method, shared_store: Store) -> None:
    store = shared_store
    row = run(task, method, store)
    if method.side == MASKS:
        assert row["macs"] == cells.dense(task, 0, store).figures["macs"]
        return
    if method.side == PEER and "missed" in row:
        assert method.options["importance"] == "bn_scale"
        assert task is TRANSFORMER
        return
    assert row["target_macs"] == int(cells.dense(task, 0, store).figures["macs"] / SPEEDUP)
    assert row["target_macs"] * 0.6 < row["macs"] <= row["target_macs"]


def test_the_cache_resumes(store: Store) -> None:
    chosen = [Method(PRUNUS, "l2, local", L2), Method(PRUNUS, "random", {**L2, "importance": "random"})]
    first = [run(CNN, method, store) for method in chosen]
    again = Store(store.folder)
    assert [run(CNN, method, again) for method in chosen] == first
    assert again.misses == 0
    lost = sorted((store.folder / "tuned").glob("*.json"))
    assert len(lost) == len(chosen)
    lost[0].unlink()
    partly = Store(store.folder)
    resumed = [run(CNN, method, partly) for method in chosen]
    assert partly.misses == 1
    for before, after in zip(first, resumed, strict=True):
        timed = {"ms", "dense_ms"}
        assert {k: v for k, v in after.items() if k not in timed} == {
            k: v for k, v in before.items() if k not in timed
        }


def test_the_peers_result_is_filed_by_its_request(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_pruning")
    method = Method(PEER, "l2, local", L2)
    first = run(CNN, method, store)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(peers, "torch_pruning", refuse)
    assert run(CNN, method, Store(store.folder)) == first
    with pytest.raises(AssertionError, match="searched again"):
        run(CNN, replace(method, options={**L2, "scope": "global"}), Store(store.folder))


def test_the_peers_ratio_is_the_best_of_a_fine_grid(store: Store) -> None:
    pytest.importorskip("torch_pruning")
    trained = cells.dense(CNN, 0, store)
    target = int(trained.figures["macs"] / SPEEDUP)
    found = peers.torch_pruning(trained.model, CNN.example, target, (), 0, **L2)
    evidence = peers.Evidence(trained.model, "l2", ())
    costs = [
        tasks.macs(
            peers.cut_by_ratio(trained.model, CNN.example, evidence, "local", step / 64, 0), CNN.example
        )
        for step in range(1, 64)
    ]
    assert tasks.macs(found, CNN.example) == max(cost for cost in costs if cost <= target)


def test_the_peers_attention_is_repaired(store: Store) -> None:
    pytest.importorskip("torch_pruning")
    model = cells.dense(TRANSFORMER, 0, store).model
    pruned = peers.cut_by_ratio(model, TRANSFORMER.example, peers.Evidence(model, "l2", ()), "local", 0.5, 0)
    attention = pruned.blocks[0].attention
    assert (attention.num_heads, attention.head_dim) == (2, 4)
    assert attention.qkv.out_features == 3 * attention.proj.in_features == 3 * 2 * 4
    assert pruned.eval()(TRANSFORMER.example).shape == (1, 10)


def test_macs_are_those_of_the_formulas() -> None:
    width, heads, tokens = 16, 2, 16
    block = tokens * width * (3 * width + width + 2 * 2 * width) + 2 * heads * tokens**2 * (width // heads)
    assert tasks.macs(TRANSFORMER.build(), TRANSFORMER.example) == tokens * width * 4 + block + width * 10
    a, b = 8, 16
    convolutions = 64 * 9 * (a + 2 * a * a) + 16 * (9 * (a * b + b * b) + a * b)
    assert tasks.macs(CNN.build(), CNN.example) == convolutions + b * 10


@pytest.mark.parametrize("noise", [0, 7])
def test_the_same_seed_trains_the_same_network(noise: int) -> None:
    torch.manual_seed(1)
    model = CNN.build()
    twin = copy.deepcopy(model)
    tasks.train(model, CNN, CNN.tune, seed=5)
    torch.manual_seed(noise)
    tasks.train(twin, CNN, CNN.tune, seed=5)
    assert fingerprint(model) == fingerprint(twin)
    tasks.train(twin, CNN, CNN.tune, seed=6)
    assert fingerprint(model) != fingerprint(twin)


def test_fingerprints_see_weights_and_integers() -> None:
    model = TRANSFORMER.build()
    before = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == before
    model.blocks[0].attention.num_heads = 4
    assert fingerprint(model) != before
    model.blocks[0].attention.num_heads = 2
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert fingerprint(model) != before


def test_gradients_are_those_of_the_mean_loss() -> None:
    torch.manual_seed(0)
    model = CNN.build()
    batches = CNN.load().calibration(64)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    found = peers.gradients_of(model, batches)
    tasks.loss(model.eval()(x), y).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_masks_leave_the_share_of_units_that_a_uniform_cut_would(store: Store) -> None:
    model = cells.dense(CNN, 0, store).model
    masked = peers.structured_masks(model, CNN.example, tasks.macs(model, CNN.example) // 4, (), 0, norm=2)
    for module, before in zip(masked.modules(), model.modules(), strict=True):
        if isinstance(before, torch.nn.Conv2d):
            norms = before.weight.flatten(1).norm(dim=1)
            alive = module.weight.flatten(1).abs().sum(1) > 0
            assert alive.sum() == len(alive) // 2
            assert norms[alive].min() >= norms[~alive].max()


def test_nothing_that_is_tested_on_is_trained_on() -> None:
    digits = data.digits()
    seen = {tuple(image.flatten().tolist()) for image in digits.x_train_BCHW}
    assert len(digits.y_train_B) + len(digits.y_test) == 1797
    shared = sum(tuple(image.flatten().tolist()) in seen for image in digits.x_test)
    assert shared == 0
    source = data.source()
    train = bytes(source.train.tolist())
    starts = [bytes(window.tolist()) for window in source.x_test]
    assert sum(window in train for window in starts) / len(starts) < 0.05  # licences and the like recur
    assert torch.equal(source.x_test[:, 1:], source.y_test[:, :-1])


def rows_of(accuracies: Callable[[str], list[float]]) -> list[report.Row]:
    shared = {"network": "resnet", "speedup": 8.0, "macs": 90, "target_macs": 100, "params": 5, "loss": 1.0}
    timing = {"ms": 1.0, "dense_ms": 2.0, "accuracy_untuned": 0.1}
    return [
        {**shared, **timing, "side": side, "method": "l2, local", "seed": seed, "accuracy": value}
        for side in (PRUNUS, PEER)
        for seed, value in enumerate(accuracies(side))
    ]


def test_means_spreads_and_verdicts() -> None:
    summary = report.summarise(rows_of(lambda side: [0.8, 0.9, 1.0] if side == PRUNUS else [0.9, 0.9, 0.9]))
    assert [row["accuracy"] for row in summary] == pytest.approx([0.9, 0.9])
    assert [row["standard_error"] for row in summary] == pytest.approx([0.1 / math.sqrt(3), 0])
    assert [row["time"] for row in summary] == [0.5, 0.5]
    lower = report.summarise(rows_of(lambda side: [0.8, 0.8, 0.81] if side == PRUNUS else [0.9, 0.9, 0.91]))
    verdicts = dict(report.targets(lower))
    assert [met for text, met in verdicts.items() if "residual CNN, 8x" in text] == [False]
    assert [met for text, met in verdicts.items() if "mean over networks" in text] == [False]
    higher = report.summarise(rows_of(lambda side: [0.9, 0.91] if side == PRUNUS else [0.8, 0.81]))
    assert all(met for _, met in report.targets(higher))


def test_a_seed_that_misses_the_target_takes_the_method_out() -> None:
    rows = rows_of(lambda side: [0.9, 0.8])
    rows[-1] = {key: rows[-1][key] for key in ("network", "speedup", "side", "method", "seed")}
    rows[-1]["missed"] = "no ratio"
    summary = report.summarise(rows)
    assert report.best(summary, "resnet", 8.0, PEER) is None
    assert report.best(summary, "resnet", 8.0, PRUNUS) is not None


def test_one_method_for_all_networks_must_be_there_on_all() -> None:
    rows = rows_of(lambda side: [0.9, 0.8])
    others = [{**row, "network": "vit", "accuracy": 0.5} for row in rows]
    alone = [{**row, "method": "l1, local", "accuracy": 0.99} for row in rows]
    found = report.everywhere(report.summarise([*rows, *others, *alone]), 8.0, PRUNUS)
    assert found is not None
    assert found[0] == pytest.approx((0.85 + 0.5) / 2)
    assert found[1] == "l2, local"


def test_the_page_the_data_and_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "PAGES", tmp_path)
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGES", tmp_path)
    rows = rows_of(lambda side: [0.9, 0.91] if side == PRUNUS else [0.8, 0.81])
    dense = [{"network": "resnet", "seed": 0, "accuracy": 0.95, "macs": 800, "params": 10}]
    report.present(rows, dense, write=True)
    page = (tmp_path / "quality.md").read_text()
    assert "| residual CNN | 1/8 | 95.00 | 90.50 ± 0.50 | l2, local | 80.50 ± 0.50 | l2, local |" in page
    assert json.loads((tmp_path / "quality.json").read_text())["data"]["cells"] == rows
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "quality.svg").read_text().count("<svg") == 1
        assert "](quality.svg)" in page

"""`prunus.calibrate`: the forms that batches may have, and how much of a loader is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from calibrating import quiet, traced
from hugging_face import tiny_llama, transformers
from prunus.calibration import calibrate
from snapshots import Snapshot


class Keywords(nn.Module):
    """Takes keyword inputs and returns a dict, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, values: Tensor, scale: Tensor | None = None, labels: Any = None) -> dict[str, Tensor]:
        hidden = self.inner(values).relu()
        if scale is not None:
            hidden = hidden * scale[:, None]
        return {"logits": self.outer(hidden)}


def test_forms_of_batches() -> None:
    torch.manual_seed(0)
    model = Keywords()
    x, scale, y = torch.randn(6, 5), torch.rand(6), torch.randint(0, 3, (6,))
    graph = prunus.trace(model, (x, scale))

    def pair(output: Any, target: Tensor) -> Tensor:
        return F.cross_entropy(output["logits"], target)

    def whole(output: Any, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(output["logits"], batch["labels"])

    forms: list[tuple[Any, Any]] = [
        (((x, scale), y), pair),
        ([[x, scale], y], pair),
        (({"values": x, "scale": scale}, y), pair),
        ({"values": x, "scale": scale, "labels": y}, whole),
    ]
    for per_sample in (False, True):
        found = [quiet(graph, [item], loss, per_sample=per_sample) for item, loss in forms]
        assert {item.samples for item in found} == {6}
        for other in found[1:]:
            assert torch.equal(other.gradients["inner.weight"], found[0].gradients["inner.weight"])
            for node, reads in found[0].activations.items():
                for key, read in reads.items():
                    assert torch.equal(other.activations[node][key].mean_square, read.mean_square)
    alone = quiet(graph, [x], lambda output, batch: (output["logits"].sum(1) - batch.sum(1)).square().mean())
    assert alone.samples == 6
    assert alone.loss is not None


def test_hugging_face_batches() -> None:
    package = transformers()
    config = package.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    model = package.BertForSequenceClassification(config).eval()
    batch = package.BatchEncoding(
        {
            "input_ids": torch.randint(0, 30, (4, 7)),
            "attention_mask": torch.ones(4, 7, dtype=torch.long),
            "labels": torch.tensor([0, 1, 1, 0]),
        }
    )
    graph = prunus.trace(model, (), {"input_ids": torch.randint(0, 30, (2, 5))})
    found = quiet(graph, [batch], lambda output, _: output.loss, per_sample=True, covariance=True)
    assert found.samples == 4
    assert {axis.node for axis in graph.prunable} <= found.activations.keys()
    for importance in prunus.importance.names():
        graph.plan(ratio=0.5, importance=importance, scope="global", seed=0)


def test_grouped_query_attention_with_rotary_embedding() -> None:
    model = tiny_llama().eval()
    tokens = torch.randint(0, 31, (3, 7))
    graph = prunus.trace(model, tokens[:2, :5])
    before = Snapshot.of(model)
    found = quiet(
        graph, [tokens], lambda output, batch: output.logits.square().mean(), per_sample=True, covariance=True
    )
    assert not before.differences(model, identity=True, randomness=True)
    assert {axis.node for axis in graph.prunable} <= found.activations.keys()
    for importance in prunus.importance.names():
        graph.plan(ratio=0.5, importance=importance, scope="global", seed=0)


def test_a_loader_is_read_no_further_than_asked() -> None:
    _, graph, loader = traced("linear")
    taken = []

    def endless() -> Any:
        while True:
            taken.append(1)
            yield loader[0]

    assert quiet(graph, endless(), batches=2).batches == 2
    assert len(taken) == 2


def test_a_shuffling_loader_leaves_the_random_state_alone() -> None:
    model, graph, loader = traced("linear")
    data = TensorDataset(torch.cat([x for x, _ in loader]), torch.cat([y for _, y in loader]))
    before = Snapshot.of(model)
    found = quiet(graph, DataLoader(data, batch_size=4, shuffle=True), F.cross_entropy)
    assert found.samples == 9
    assert not before.differences(model, identity=True, randomness=True)


def test_a_progress_bar_writes_nothing_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    _, graph, loader = traced("linear")
    calibrate(graph, iter(loader), batches=2)
    assert capfd.readouterr() == ("", "")

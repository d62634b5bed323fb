"""`prunus.calibrate`: what it gathers, on what loaders, and that it leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from hugging_face import tiny_llama, transformers
from importance_models import MODELS, build
from prunus.calibration import Calibration, calibrate
from prunus.calibration.gradients import Gradients
from snapshots import Snapshot


def traced(name: str = "residual") -> tuple[nn.Module, prunus.Graph, list[Any]]:
    model, loader = build(name)
    return model, prunus.trace(model, loader[0][0]), loader


def quiet(graph: prunus.Graph, loader: Any, loss: Any = None, **options: Any) -> Calibration:
    return calibrate(graph, loader, loss, progress=False, **options)


def together(loader: list[Any]) -> list[tuple[Tensor, Tensor]]:
    return [(x[i : i + 1], y[i : i + 1]) for x, y in loader for i in range(len(x))]


# -- what it gathers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_are_the_mean_over_samples(name: str, per_sample: bool) -> None:
    model, graph, loader = traced(name)
    found = quiet(graph, loader, F.cross_entropy, per_sample=per_sample, activations=False)
    samples = together(loader)
    losses = [F.cross_entropy(model(x), y) for x, y in samples]
    torch.stack(losses).mean().backward()
    assert found.samples == len(samples)
    assert found.batches == 3
    assert found.loss == pytest.approx(float(torch.stack(losses).mean().detach()))
    assert set(found.gradients) == {name for name, _ in model.named_parameters()}
    for key, parameter in model.named_parameters():
        assert torch.allclose(found.gradients[key], parameter.grad, rtol=1e-9, atol=1e-12), key
    assert bool(found.squared_gradients) is per_sample


@pytest.mark.parametrize("name", MODELS)
def test_squares_are_of_single_samples(name: str) -> None:
    model, graph, loader = traced(name)
    found = quiet(graph, loader, F.cross_entropy, per_sample=True, activations=False)
    wanted = {key: torch.zeros_like(value) for key, value in model.named_parameters()}
    for x, y in together(loader):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for key, parameter in model.named_parameters():
            wanted[key] += parameter.grad.square() / found.samples
    for key, squares in wanted.items():
        assert torch.allclose(found.squared_gradients[key], squares, rtol=1e-9, atol=1e-14), key


@pytest.mark.parametrize("name", ["residual", "language", "linear"])
def test_vectorised_and_looped_samples_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, loader = traced(name)
    together_calls: list[int] = []
    plain = Gradients._of_samples

    def counted(self: Gradients, batch: Any, start: int, count: int) -> Any:
        together_calls.append(count)
        return plain(self, batch, start, count)

    monkeypatch.setattr(Gradients, "_of_samples", counted)
    fast = quiet(graph, loader, F.cross_entropy, per_sample=True, activations=False)
    assert len(together_calls) >= 3

    def refuse(*_: Any) -> Any:
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(Gradients, "_of_samples", refuse)
    slow = quiet(graph, loader, F.cross_entropy, per_sample=True, activations=False)
    for one, other in ((fast.squared_gradients, slow.squared_gradients), (fast.gradients, slow.gradients)):
        assert all(torch.allclose(one[key], other[key], rtol=1e-9, atol=1e-14) for key in other)
    for node, squares in slow.unit_squares.items():
        assert torch.allclose(fast.unit_squares[node], squares, rtol=1e-9)


def test_samples_are_taken_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, loader = traced()
    whole = quiet(graph, loader, F.cross_entropy, per_sample=True)
    monkeypatch.setattr("prunus.calibration.gradients.ENTRIES", 1)
    pieces = quiet(graph, loader, F.cross_entropy, per_sample=True)
    for key, squares in whole.squared_gradients.items():
        assert torch.allclose(pieces.squared_gradients[key], squares, rtol=1e-9, atol=1e-14)


def test_a_vectorised_sample_that_differs_from_itself_alone_is_not_trusted() -> None:
    """A batch of one takes another branch of this loss than vmap sees: samples go one by one."""
    _, graph, loader = traced("linear")

    def loss(output: Tensor, target: Tensor) -> Tensor:
        wrapped = torch._C._functorch.is_batchedtensor(target)
        return F.cross_entropy(output, target) * (3 if wrapped else 1)

    found = quiet(graph, loader, loss, per_sample=True, activations=False)
    plain = quiet(graph, loader, F.cross_entropy, per_sample=True, activations=False)
    for key, squares in plain.squared_gradients.items():
        assert torch.allclose(found.squared_gradients[key], squares, rtol=1e-9)


def test_parameters_that_the_user_froze_have_gradients_too() -> None:
    model, graph, loader = traced("linear")
    wanted = quiet(graph, loader, F.cross_entropy).gradients["0.weight"]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = Snapshot.of(model)
    with torch.no_grad():
        found = quiet(graph, loader, F.cross_entropy).gradients["0.weight"]
    assert torch.equal(found, wanted)
    assert not before.differences(model, identity=True)


def test_parameters_that_the_loss_does_not_reach_have_none() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 2)

        def forward(self, x_BF: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.body(x_BF).relu()
            return self.first(hidden), self.second(hidden)

    graph = prunus.trace(TwoHeads(), torch.randn(2, 5))
    loader = [(torch.randn(4, 5), torch.randint(0, 3, (4,)))]
    for per_sample in (False, True):
        found = quiet(graph, loader, lambda out, y: F.cross_entropy(out[0], y), per_sample=per_sample)
        assert set(found.gradients) == {"body.weight", "body.bias", "first.weight", "first.bias"}


def test_weights_computed_from_weights_are_no_activations() -> None:
    """Under weight norm the weight that multiplies the input is itself computed: only the input is read."""
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 3)
    ).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    graph = prunus.trace(model, x)
    found = quiet(graph, [x])
    (axis,) = graph.prunable
    assert list(found.activations[axis.node]) == ["2.weight"]
    hidden = model[1](model[0](x)).detach()
    assert found.activations[axis.node]["2.weight"].mean_abs.tolist() == pytest.approx(
        hidden.abs().mean(0).tolist()
    )


def test_what_was_written_into_a_buffer_is_an_activation() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x_BF: Tensor) -> Tensor:
            hidden = torch.zeros(x_BF.shape[0] + 1, self.inner.out_features, dtype=x_BF.dtype)
            hidden[: x_BF.shape[0]] = self.inner(x_BF)
            return self.outer(hidden)

    model = Padded().double()
    x = torch.randn(3, 5, dtype=torch.float64)
    graph = prunus.trace(model, x)
    found = quiet(graph, [x]).activations[graph.axes_of("outer.weight")[-1].node]["outer.weight"]
    assert found.mean_abs.tolist() == pytest.approx((model.inner(x).abs().sum(0) / 4).tolist())
    assert found.zeros.tolist() == pytest.approx([1 / 4] * 6)


def test_recurrent_layers_read_their_own_state() -> None:
    model, graph, loader = traced("recurrent")
    found = quiet(graph, loader).activations
    axis = next(axis for axis in graph.prunable if ("lstm.weight_hh_l0", 1) in axis.members)
    states = []
    with torch.no_grad():
        for x, _ in loader:
            out, _ = model.lstm(model.tokens(x))
            states.append(out[:, :-1].reshape(-1, 8))
    # The first state is a constant, which depends on no input.
    wanted = torch.cat(states).abs().mean(0)
    assert found[axis.node]["lstm.weight_hh_l0"].mean_abs.tolist() == pytest.approx(wanted.tolist())


# -- loaders ------------------------------------------------------------------------------------------


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
    found = quiet(graph, [batch], lambda output, _: output.loss, per_sample=True)
    assert found.samples == 4
    assert {axis.node for axis in graph.prunable} <= found.activations.keys()
    for importance in prunus.importance.names():
        graph.plan(ratio=0.5, importance=importance, scope="global", seed=0)


def test_grouped_query_attention_with_rotary_embedding() -> None:
    model = tiny_llama().eval()
    tokens = torch.randint(0, 31, (3, 7))
    graph = prunus.trace(model, tokens[:2, :5])
    before = Snapshot.of(model)
    found = quiet(graph, [tokens], lambda output, batch: output.logits.square().mean(), per_sample=True)
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


# -- leaving no trace ---------------------------------------------------------------------------------


class Counting(nn.Module):
    """Changes its buffers and attributes, and draws numbers, at every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, x_BF: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x_BF))
        self.last = x_BF
        noise = torch.randn(()) * 0
        return self.outer(self.drop(self.inner(x_BF).relu())) + noise


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", [*MODELS, "counting"])
def test_the_model_is_as_it_was(name: str, per_sample: bool) -> None:
    if name == "counting":
        model: nn.Module = Counting().double()
        loader: list[Any] = build("linear")[1]
    else:
        model, loader = build(name)
    model.train()
    for index, parameter in enumerate(model.parameters()):
        if index % 2:
            parameter.grad = torch.randn_like(parameter)
    calls: list[int] = []
    parameter = next(model.parameters())
    parameter.register_hook(lambda grad: calls.append(1))
    if hasattr(parameter, "register_post_accumulate_grad_hook"):
        parameter.register_post_accumulate_grad_hook(lambda _: calls.append(2))
    graph = prunus.trace(model, loader[0][0])
    before = Snapshot.of(model)
    quiet(graph, loader, F.cross_entropy, per_sample=per_sample)
    assert not before.differences(model, identity=True, randomness=True)
    assert not calls
    assert not any(isinstance(value, Tensor) and value.grad_fn for value in vars(model).values())


BAD: dict[str, tuple[Any, str]] = {
    "not finite": (lambda output, y: F.cross_entropy(output, y) * float("nan"), "batch 0: the loss is nan"),
    "infinite": (lambda output, y: F.cross_entropy(output, y) / 0, "the loss is inf"),
    "not scalar": (lambda output, y: output, r"shape \(3, 4\).*must be a scalar"),
    "not a tensor": (lambda output, y: 1.0, "returned float"),
    "no gradient": (lambda output, y: F.cross_entropy(output, y).detach(), "no gradient"),
    "not of the model": (lambda output, y: torch.ones((), requires_grad=True) * 2, "not depend on any"),
    "raises": (lambda output, y: F.cross_entropy(output, y[:0]), "loss raised"),
}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("what", BAD)
def test_bad_losses(what: str, per_sample: bool) -> None:
    pattern = BAD[what][1].replace("3, 4", "1, 4" if per_sample else "3, 4")
    model, graph, loader = traced("linear")
    before = Snapshot.of(model)
    with pytest.raises(prunus.PruningError, match=pattern):
        quiet(graph, loader, BAD[what][0], per_sample=per_sample)
    assert not before.differences(model, identity=True, randomness=True)
    assert graph.calibration is None


def test_a_loss_that_becomes_infinite_later_names_its_batch() -> None:
    _, graph, loader = traced("linear")
    loader[2] = (loader[2][0] * float("inf"), loader[2][1])
    for per_sample in (False, True):
        with pytest.raises(prunus.PruningError, match="batch 2.*: the loss is nan"):
            quiet(graph, loader, F.cross_entropy, per_sample=per_sample)


def test_bad_arguments() -> None:
    model, graph, loader = traced("linear")
    x = loader[0][0]
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (model, {"loader": loader}, "prunus.trace"),
        (graph, {"loader": []}, "empty"),
        (graph, {"loader": iter(())}, "empty"),
        (graph, {"loader": x}, "must yield batches, got Tensor"),
        (graph, {"loader": 3}, "must yield batches, got int"),
        (graph, {"loader": loader, "loss": "cross_entropy"}, "loss must be a function"),
        (graph, {"loader": loader, "batches": 0}, "batches=0"),
        (graph, {"loader": loader, "batches": 1.5}, "batches=1.5"),
        (graph, {"loader": loader, "per_sample": True}, "give loss"),
        (graph, {"loader": loader, "activations": False}, "give loss"),
        (graph, {"loader": [(x, x, x)]}, "batch 0 is a tuple of 3 items"),
        (graph, {"loader": ["text"]}, "inputs of type str"),
        (graph, {"loader": [x[:0]]}, "batch 0 has no samples"),
        (graph, {"loader": [x, torch.randn(2, 3)]}, "fails on batch 1 of the loader"),
        (graph, {"loader": [(torch.randn(2, 3), 0)], "loss": F.cross_entropy}, "fails on batch 0"),
        (graph, {"loader": [{"y": x}]}, "fails on batch 0"),
    ]
    before = Snapshot.of(model)
    for given, options, pattern in cases:
        with pytest.raises(prunus.PruningError, match=pattern):
            calibrate(given, **{"progress": False, **options})
    assert not before.differences(model, identity=True, randomness=True)
    assert graph.calibration is None


def test_a_model_cut_since_it_was_traced_is_refused() -> None:
    model, graph, loader = traced("linear")
    prunus.prune(model, loader[0][0], ratio=0.5)
    with pytest.raises(prunus.PruningError, match="trace it again"):
        quiet(graph, loader)


def test_importances_ask_for_what_they_need() -> None:
    _, graph, loader = traced("linear")
    needs = {
        "taylor": "needs gradients",
        "taylor_element": "needs gradients",
        "obd": "per_sample=True",
        "obdc": "per_sample=True",
        "fisher": "per_sample=True",
        "activation": "needs activations",
        "apoz": "needs activations",
        "wanda": "needs activations",
    }
    for importance, pattern in needs.items():
        with pytest.raises(prunus.PruningError, match=f"'{importance}' .*{pattern}"):
            graph.plan(ratio=0.5, importance=importance)
    quiet(graph, loader, F.cross_entropy, activations=False)
    for importance in ("obd", "obdc", "fisher", "activation", "apoz", "wanda"):
        with pytest.raises(prunus.PruningError, match=needs[importance]):
            graph.plan(ratio=0.5, importance=importance)
    graph.plan(ratio=0.5, importance="taylor")


def test_gradients_that_are_not_finite_name_the_parameter() -> None:
    _, graph, loader = traced("linear")
    quiet(graph, loader, F.cross_entropy)
    graph.calibration.gradients["2.weight"][0, 0] = float("nan")
    with pytest.raises(prunus.PruningError, match=r"'2.weight' has gradients"):
        graph.plan(ratio=0.5, importance="taylor")


def test_a_progress_bar_writes_nothing_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    _, graph, loader = traced("linear")
    calibrate(graph, iter(loader), batches=2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu(name: str) -> None:
    model, graph, loader = traced(name)
    wanted = quiet(graph, loader, F.cross_entropy, per_sample=True)
    model = model.cuda()
    graph = prunus.trace(model, loader[0][0].cuda())
    found = quiet(graph, loader, F.cross_entropy, per_sample=True)
    for key, gradient in wanted.gradients.items():
        assert found.gradients[key].is_cuda
        assert torch.allclose(found.gradients[key].cpu(), gradient, rtol=1e-6, atol=1e-9)
    for importance in prunus.importance.names():
        graph.plan(ratio=0.5, importance=importance, scope="global", seed=0)

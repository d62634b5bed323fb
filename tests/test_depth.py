"""Removing whole blocks: what the model computes then, which go, what it costs, and the way back."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from hugging_face import tiny_llama, transformers
from oracle import check_same_outputs, masked_copy, outputs_of
from prunus.graph.blocks import Block
from prunus.plan import history
from prunus.surgery.blocks import Skip
from snapshots import Snapshot
from test_blocks import Residual, network


def first_tensor(args: Any, kwargs: Any) -> Tensor:
    return next(item for item in (*args, *kwargs.values()) if isinstance(item, Tensor))


def with_zeroed_branches(model: nn.Module, blocks: list[Block]) -> nn.Module:
    """A copy whose blocks return their input, and whose branches return zeros, by hooks."""
    model = copy.deepcopy(model)
    kept: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        kept[module] = first_tensor(args, kwargs).clone()

    def replaced(kind: str) -> Any:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            x = kept.pop(module)
            x = torch.zeros_like(x) if kind == "branch" else x
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return after

    for block in blocks:
        module = model.get_submodule(block.name)
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(replaced(block.kind), with_kwargs=True)
    return model


def check_depth(model: nn.Module, args: Any, kwargs: dict[str, Any], **options: Any) -> prunus.Plan:
    """Apply a plan of depth alone and hold everything it says against the model; then undo."""
    model.eval()
    args = args if isinstance(args, tuple) else (args,)
    original = copy.deepcopy(model)
    before = Snapshot.of(model)
    plan = prunus.trace(model, args, kwargs).plan(**options)
    modules = {name: model.get_submodule(name) for name in plan.blocks}
    gone = {id(t) for module in modules.values() for t in module.parameters()}
    plan.apply(model)
    expected = with_zeroed_branches(original, list(plan.graph.removed))
    for a, b in zip(outputs_of(expected, args, kwargs), outputs_of(model, args, kwargs), strict=True):
        assert torch.equal(a, b)
    if plan.exact:
        zeroed = outputs_of(masked_copy(original, plan.masks()), args, kwargs)
        check_same_outputs(zeroed, outputs_of(model, args, kwargs))
    assert prunus.trace(model, args, kwargs).cost() == plan.cost
    assert sum(p.numel() for p in model.parameters()) == plan.cost.params
    assert not gone & {id(t) for t in model.parameters()}
    masks = plan.masks()
    for name, parameter in original.named_parameters():
        inside = any(name.startswith(f"{block}.") for block in plan.blocks)
        assert masks[name].shape == parameter.shape
        assert bool(masks[name].any()) != inside
        assert [len(i) for i in plan.indices(name)] == (
            [0] * parameter.dim() if inside else list(parameter.shape)
        )
    plan.undo(model)
    assert not before.differences(model, identity=True)
    assert all(model.get_submodule(name) is module for name, module in modules.items())
    return plan


# --- what the model computes ---------------------------------------------------------------------------


def small_torchvision(name: str) -> nn.Module:
    from benchmarks.zoo.torchvision_shim import import_torchvision

    return getattr(import_torchvision().models, name)(weights=None, num_classes=5)  # type: ignore[no-any-return]


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "swin_t"])
def test_torchvision(name: str) -> None:
    plan = check_depth(small_torchvision(name), torch.randn(2, 3, 32, 32), {}, depth=3)
    assert len(plan.blocks) == 3
    assert plan.exact


@pytest.mark.parametrize("depth", [1, ["model.layers.0"], ["model.layers.0.mlp", "model.layers.1.self_attn"]])
def test_llama(depth: Any) -> None:
    assert check_depth(tiny_llama(), torch.randint(0, 31, (2, 7)), {}, depth=depth).exact


def test_gpt2() -> None:
    package = transformers()
    config = package.GPT2Config(
        vocab_size=31,
        n_embd=16,
        n_layer=3,
        n_head=2,
        n_positions=16,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    check_depth(package.GPT2LMHeadModel(config), torch.randint(0, 31, (2, 7)), {}, depth=2)


def test_t5_hands_the_position_bias_through() -> None:
    package = transformers()
    config = package.T5Config(
        vocab_size=31,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=3,
        num_heads=2,
        use_cache=False,
        decoder_start_token_id=0,
    )
    ids = torch.randint(0, 31, (2, 7))
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    check_depth(
        package.T5ForConditionalGeneration(config), (), inputs, depth=["encoder.block.1", "decoder.block.1"]
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder_in_torch(norm_first: bool) -> None:
    """Code outside reads attributes of the first layer, and of the attention that may be gone."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 3)
    plan = check_depth(
        model, torch.randn(2, 5, 8), {}, depth=["layers.0" if norm_first else "layers.0.self_attn"]
    )
    assert plan.graph.removed[0].kind == ("block" if norm_first else "branch")
    check_depth(model, torch.randn(2, 5, 8), {}, depth=3)


def test_a_branch_that_does_not_vanish_makes_the_plan_approximate() -> None:
    plan = check_depth(network(Residual(tail=nn.Sigmoid()), Residual()), torch.randn(2, 5), {}, depth=["1"])
    assert not plan.exact
    assert list(plan.approximate_axes) == ["1"]


def test_what_is_written_to_afterwards_is_copied() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Linear(5, 8), Residual(), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.block(x)
            y.mul_(3)
            return self.head(y) + x

    check_depth(Model(), torch.randn(2, 5), {}, depth=1)

    class InputIsWrittenTo(Model):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.block(x)
            x.mul_(3)
            return self.head(y) + x

    check_depth(InputIsWrittenTo(), torch.randn(2, 5), {}, depth=1)


def test_the_input_that_comes_back_need_not_be_the_first() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(8, 8)

        def forward(self, memory: Tensor, pair: dict[str, Any], *, flag: bool = True) -> Any:
            x = pair["x"][1]
            return {
                "x": [memory, x + self.f(x) * memory],
                "more": None,
                "unused": memory.sum(),
                "flag": memory,
            }

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b, self.head = nn.Linear(5, 8), Cross(), Cross(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            memory = x.sin()
            pair = self.a(memory, {"x": [memory, x]}, flag=False)
            pair = self.b(pair=pair, memory=memory)
            return self.head(pair["x"][1] * pair["flag"])

    model, x = Model().eval(), torch.randn(2, 5)
    plan = prunus.trace(model, x).plan(depth=2)
    assert plan.blocks == ["a", "b"]
    stem = model.stem(x)
    expected = model.head(stem * stem.sin())
    plan.apply(model)
    assert torch.equal(model(x), expected)


# --- together with widths ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"ratio": 0.3}, {"budget": prunus.Budget(macs=0.3), "scope": "global"}])
@pytest.mark.parametrize("make", ["resnet", "llama", "mlp"])
@pytest.mark.filterwarnings("ignore")
def test_depth_and_widths(make: str, options: dict[str, Any]) -> None:
    if make == "resnet":
        model, x = small_torchvision("resnet18"), torch.randn(2, 3, 32, 32)
    elif make == "llama":
        model, x = tiny_llama(num_hidden_layers=3), torch.randint(0, 31, (2, 7))
    else:
        model, x = network(Residual(), Residual(), Residual()), torch.randn(2, 5)
    model.eval()
    original = copy.deepcopy(model)
    before = Snapshot.of(model)
    graph = prunus.trace(model, x)
    plan = graph.plan(depth=1, **options)
    plan.apply(model)
    again = prunus.trace(model, x)
    assert again.cost() == plan.cost
    if "budget" in options:
        assert 0.2 * graph.cost().macs < plan.cost.macs <= 0.3 * graph.cost().macs
    assert plan.counts
    if plan.exact:
        check_same_outputs(
            outputs_of(masked_copy(original, plan.masks()), (x,), {}), outputs_of(model, (x,), {})
        )
    second = again.plan(depth=1, ratio=0.2)
    second.apply(model)
    assert len(again.blocks) > len(prunus.trace(model, x).blocks)
    with pytest.raises(prunus.PruningError, match="undo the later plan"):
        plan.undo(model)
    second.undo(model)
    plan.undo(model)
    assert not before.differences(model, identity=True)


def test_config_still_follows_the_widths_and_keeps_its_number_of_layers() -> None:
    model = tiny_llama(num_hidden_layers=3)
    prunus.prune(model, torch.randint(0, 31, (2, 7)), depth=["model.layers.1"], ratio=0.5)
    assert model.config.num_hidden_layers == 3
    assert model.config.intermediate_size == 20
    assert model.model.layers[2].mlp.gate_proj.out_features == 20


# --- which blocks go -----------------------------------------------------------------------------------


def graded() -> tuple[nn.Sequential, Tensor]:
    """Blocks '1'..'4' with weights that make their importances 3, 1, 4, 2 in order."""
    model = network(*(Residual() for _ in range(4)))
    with torch.no_grad():
        for block, size in zip(model[1:5], (3.0, 1.0, 4.0, 2.0), strict=True):
            for parameter in block.parameters():
                parameter.fill_(size)
    return model, torch.randn(2, 5)


def test_least_important_first() -> None:
    model, x = graded()
    graph = prunus.trace(model, x)
    for importance in ("l1", "l2", prunus.importance.Magnitude(p=1)):
        assert graph.plan(depth=1, block_importance=importance).blocks == ["2"]
        assert graph.plan(depth=2, block_importance=importance).blocks == ["2", "4"]
    assert graph.plan(depth=0.8).blocks == ["1", "2", "4"]
    assert graph.plan(depth=0.2).blocks == []
    assert graph.plan(depth=2, ignore=["4"]).blocks == ["1", "2"]
    assert graph.plan(depth=2, ignore=["2.norm"]).blocks == ["1", "4"]
    given = {"1": 0.5, graph.blocks[1]: 2, model[3]: 0.1, "4": 9}
    assert graph.plan(depth=2, block_importance=given).blocks == ["1", "3"]


def test_l2_by_hand() -> None:
    """The mean over the units of the block's axes of the root of the squares of its own entries there."""
    from prunus.select.block_scores import block_scores

    block = Residual()
    graph = prunus.trace(network(block, Residual()), torch.randn(2, 5))
    up, down = block.up.weight.double(), block.down.weight.double()
    hidden = up.square().sum(1) + block.up.bias.double().square() + down.square().sum(0)
    outer = (
        up.square().sum(0)
        + down.square().sum(1)
        + block.down.bias.double().square()
        + block.norm.weight.double().square()
        + block.norm.bias.double().square()
    )
    expected = torch.cat([hidden.sqrt(), outer.sqrt()]).mean().item()
    assert block_scores(graph, graph.blocks, "l2")[graph.blocks[0]] == pytest.approx(expected, rel=1e-6)


def test_gradients_rank_blocks_and_their_absence_is_an_error() -> None:
    model, x = graded()
    graph = prunus.trace(model, x)
    with pytest.raises(prunus.PruningError, match="gradient"):
        graph.plan(depth=1, block_importance="taylor")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[3].zero_grad(set_to_none=False)
    assert graph.plan(depth=1, block_importance="taylor").blocks == ["3"]


def test_budget_removes_as_few_blocks_as_it_can() -> None:
    model, x = graded()
    graph = prunus.trace(model, x)
    full = graph.cost().macs
    each = graph.blocks[0].macs
    for count, order in ((1, ["2"]), (2, ["2", "4"]), (3, ["1", "2", "4"])):
        plan = graph.plan(depth="budget", budget=prunus.Budget(macs=full - count * each))
        assert plan.blocks == order
        assert plan.cost.macs == full - count * each
        assert not plan.counts
    assert graph.plan(depth="budget", budget=prunus.Budget(macs=1.0)).blocks == []
    with pytest.raises(prunus.errors.BudgetError, match=f"smallest reachable: {full - 4 * each}"):
        graph.plan(depth="budget", budget=prunus.Budget(macs=full - 4 * each - 1))


def test_latency_budget_is_timed_on_copies() -> None:
    model = nn.Sequential(*(Slow() for _ in range(4)), nn.Linear(8, 3))
    x = torch.randn(2, 8)
    before = Snapshot.of(model)
    plan = prunus.trace(model, x).plan(depth="budget", budget=prunus.Budget(latency=0.6))
    assert len(plan.blocks) == 2
    assert plan.latency is not None
    assert plan.latency.after <= 0.62 * plan.latency.before
    assert not before.differences(model, identity=True)
    with pytest.raises(prunus.errors.BudgetError, match="smallest reached"):
        prunus.trace(model, x).plan(depth="budget", budget=prunus.Budget(latency="1 us"))


class Slow(nn.Module):
    """A block that takes a while, whatever its size."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.f(x)
        for _ in range(200):
            h = h * 1.0
        return x + h


def test_ratios_of_what_is_removed_do_not_count() -> None:
    model, x = graded()
    graph = prunus.trace(model, x)
    plan = graph.plan(depth=["2"], ratio={"2.up": 0.5, "3.up": 0.5})
    assert list(plan.axes) == ["3.up.out"]
    assert not graph.plan(depth=["2"], ratio={"2.up": 0.5}).axes
    with pytest.raises(prunus.errors.UnknownNameError):
        graph.plan(depth=["2"], ratio={"9.up": 0.5})


def test_fixed_depth_beside_a_budget_that_it_meets_alone_cuts_no_widths() -> None:
    model, x = graded()
    plan = prunus.trace(model, x).plan(depth=3, budget=prunus.Budget(macs=0.5))
    assert len(plan.blocks) == 3
    assert not plan.counts


# --- the way back, the optimizer, copies ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {"amsgrad": True})]
)
def test_optimizer(kind: Any, options: dict[str, Any]) -> None:
    model, x = graded()
    rest = [*model[:2].parameters(), *model[3:].parameters()]
    optimizer = kind([{"params": model[2].parameters()}, {"params": rest}], lr=0.01, **options)
    model(x).square().sum().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    groups = [list(map(id, group["params"])) for group in optimizer.param_groups]
    plan = prunus.trace(model, x).plan(depth=["2"])
    plan.apply(model, optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} == held
    plan.undo(model)
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == groups
    after = optimizer.state_dict()
    assert json.dumps(before["param_groups"]) == json.dumps(after["param_groups"])
    for number, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after["state"][number][key]))
    plan.apply(model, optimizer)
    model(x).square().sum().backward()
    optimizer.step()


def test_a_mode_that_changed_meanwhile_is_followed() -> None:
    model, x = graded()
    plan = prunus.trace(model, x).plan(depth=["2"])
    plan.apply(model)
    model.train()
    plan.undo(model)
    assert all(module.training for module in model.modules())


def test_a_failure_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = graded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = prunus.trace(model, x).plan(depth=2, ratio=0.5)
    before = Snapshot.of(model)

    def fail(*_: Any) -> None:
        raise prunus.errors.SurgeryError("made up")

    monkeypatch.setattr("prunus.plan.verify", fail)
    with pytest.raises(prunus.errors.SurgeryError):
        plan.apply(model, optimizer)
    assert not before.differences(model, identity=True)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_skips_can_be_copied_and_pickled_and_say_what_they_replace() -> None:
    model, x = graded()
    prunus.prune(model, x, depth=1)
    assert isinstance(model[2], Skip)
    assert "Residual" in repr(model[2])
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    other = pickle.loads(pickle.dumps(model[2]))
    assert other(x) is x
    assert not list(model[2].parameters())
    with pytest.raises(prunus.PruningError, match="'x'"):
        model[2]()


def test_history_and_text_name_the_blocks() -> None:
    model, x = graded()
    plan = prunus.prune(model, x, depth=1)
    assert history(model)[-1]["blocks"] == ["2"]
    assert "1 blocks removed" in str(plan)


# --- checkpoints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [True, False])
def test_save_and_load(tmp_path: Path, factory: bool) -> None:
    def build() -> nn.Module:
        return network(Residual(), Residual(), Residual())

    model, x = build(), torch.randn(2, 5)
    prunus.prune(model, x, depth=["2"], ratio=0.4)
    prunus.save(model, tmp_path)
    loaded = prunus.load(build if factory else build(), tmp_path)
    assert isinstance(loaded[2], Skip)
    assert torch.equal(loaded(x), model(x))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert [type(m) for m in loaded.modules()] == [type(m) for m in model.modules()]
    assert history(loaded) == history(model)
    prunus.prune(loaded, x, depth=1)
    assert isinstance(prunus.load(loaded, _saved(loaded, tmp_path / "again"))[2], Skip)


def _saved(model: nn.Module, folder: Path) -> Path:
    prunus.save(model, folder)
    return folder


def test_llama_is_saved_and_loaded(tmp_path: Path) -> None:
    model, ids = tiny_llama(num_hidden_layers=3).eval(), torch.randint(0, 31, (2, 7))
    prunus.prune(model, ids, depth=["model.layers.0", "model.layers.2.mlp"], ratio=0.25)
    prunus.save(model, tmp_path)
    loaded = prunus.load(lambda: tiny_llama(num_hidden_layers=3), tmp_path).eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_model_that_does_not_fit_is_left_as_it_was(tmp_path: Path) -> None:
    model, x = graded()
    prunus.prune(model, x, depth=["2"])
    prunus.save(model, tmp_path)
    for other in (network(Residual()), network(*(Residual(width=8) for _ in range(4)), nn.Linear(8, 8))):
        before = Snapshot.of(other)
        with pytest.raises(prunus.errors.CheckpointError):
            prunus.load(other, tmp_path)
        assert not before.differences(other, identity=True)


@pytest.mark.parametrize(
    "template",
    [
        [], "input", ["run", "0", "x"], ["input"], ["input", "-1", "x"], ["input", "", ""], ["none", "x"],
        ["input", "0", 1], ["tuple", "x"], ["dict", ["a"]], ["input", "0", "x", "__class__"], None, 3,
    ],
)  # fmt: skip
def test_damaged_templates_are_refused(template: Any) -> None:
    from prunus.surgery.blocks import from_data

    with pytest.raises(prunus.errors.CheckpointError, match="damaged"):
        from_data(template)
    deep: Any = ["none"]
    for _ in range(40):
        deep = ["tuple", deep]
    with pytest.raises(prunus.errors.CheckpointError):
        from_data(deep)


# --- what cannot be done -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"depth": ["7"]}, prunus.errors.UnknownNameError, "no module named '7'"),
        ({"depth": ["layer2.1x"]}, prunus.errors.UnknownNameError, "did you mean"),
        ({"depth": ["layer2.0"]}, prunus.errors.InputError, "another shape"),
        ({"depth": ["conv1"]}, prunus.errors.InputError, "cannot be removed"),
        ({"depth": [""]}, prunus.errors.InputError, "the model itself"),
        ({"depth": ["layer1"]}, prunus.errors.InputError, "blocks in a row"),
        ({"depth": 6}, prunus.errors.InputError, "5 blocks can be removed"),
        ({"depth": -1}, prunus.errors.InputError, "5 blocks can be removed"),
        ({"depth": 1.0}, prunus.errors.InputError, "fraction"),
        ({"depth": 0.0}, prunus.errors.InputError, "fraction"),
        ({"depth": float("nan")}, prunus.errors.InputError, "fraction"),
        ({"depth": True}, prunus.errors.ArgumentTypeError, "bool"),
        ({"depth": {"layer1.0": 1}}, prunus.errors.ArgumentTypeError, "dict"),
        ({"depth": [3]}, prunus.errors.ArgumentTypeError, "int"),
        ({"depth": nn.Linear(2, 2)}, prunus.errors.UnknownNameError, "not part of the traced model"),
        ({"depth": "budget"}, prunus.errors.InputError, "needs budget"),
        ({"depth": "budget", "ratio": 0.5}, prunus.errors.InputError, "needs budget"),
        ({"depth": 1, "ratio": 0.5, "budget": prunus.Budget(macs=0.5)}, prunus.errors.InputError, "either"),
        ({"depth": 1, "ignore": ["nothing"]}, prunus.errors.UnknownNameError, "nothing"),
        ({"depth": ["layer1.0"], "ignore": ["layer1"]}, prunus.errors.InputError, "ignore"),
        ({"depth": 1, "block_importance": "best"}, prunus.errors.InputError, "unknown importance"),
        ({"depth": 1, "block_importance": 3}, prunus.errors.ArgumentTypeError, "int"),
        ({"depth": 1, "block_importance": "influence"}, prunus.errors.InputError, "block_influence"),
        ({"depth": 1, "block_importance": {"layer1.0": 1.0}}, prunus.errors.InputError, "says nothing of"),
        ({"depth": 1, "block_importance": {"layer1.0": float("nan")}}, prunus.errors.InputError, "nan"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_bad_input(options: dict[str, Any], error: type[Exception], text: str, resnet: Any) -> None:
    graph, before = resnet
    with pytest.raises(error, match=text):
        graph.plan(**options)
    assert not before.differences(graph.model, identity=True)


@pytest.fixture(scope="module")
def resnet() -> Any:
    model = small_torchvision("resnet18").eval()
    return prunus.trace(model, torch.randn(1, 3, 32, 32)), Snapshot.of(model)


def test_a_block_and_one_inside_it() -> None:
    graph = prunus.trace(tiny_llama(), torch.randint(0, 31, (2, 7)))
    with pytest.raises(prunus.errors.InputError, match="lies in"):
        graph.plan(depth=["model.layers.0", "model.layers.0.mlp"])


def test_a_model_that_was_pruned_since() -> None:
    model, x = graded()
    graph, other = prunus.trace(model, x), prunus.trace(model, x)
    plan = graph.plan(depth=1)
    plan.apply(model)
    with pytest.raises(prunus.errors.PlanError):
        plan.apply(model)
    with pytest.raises(prunus.errors.PlanError):
        other.plan(depth=1).apply(model)

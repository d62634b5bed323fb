"""Removing whole blocks: what the model computes then, which go, what it costs, and the way back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from hugging_face import tiny_llama, transformers
from oracle import check_same_outputs, masked_copy, outputs_of
from prunus.graph.blocks import Block
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


KINDS = {
    "plain": lambda: Residual(),
    "relu": lambda: Residual(after=nn.ReLU()),
    "relu6": lambda: Residual(after=nn.ReLU6()),
    "norm": lambda: Residual(after=nn.LayerNorm(8)),
    "gated": lambda: Residual(tail=nn.Tanh()),
    "pair": lambda: nn.Sequential(Residual(), Residual(tail=nn.ReLU())),
    "wide": lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU6()),
}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6), st.data())
def test_any_subset_of_what_can_go(kinds: list[str], data: st.DataObject) -> None:
    """A clamp after the sum is passed or not by what comes before; the zeroed original decides."""
    torch.manual_seed(len(kinds))
    model, x = network(*(KINDS[kind]() for kind in kinds)), torch.randn(3, 5)
    names = [block.name for block in prunus.trace(model, x).blocks if block.removable]
    chosen = data.draw(st.sets(st.sampled_from(names)) if names else st.just(set()))
    check_depth(model, x, {}, depth=sorted(chosen))


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

"""Which modules are blocks that can be removed, and why the others cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from hugging_face import tiny_llama, transformers


class Residual(nn.Module):
    """`after(x + scale * f(before(x)))`, with pieces left out by default."""

    def __init__(self, width: int = 8, after: nn.Module | None = None, tail: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 12)
        self.down = nn.Linear(12, width)
        self.after = after or nn.Identity()
        self.tail = tail or nn.Identity()

    def branch(self, x: Tensor) -> Tensor:
        return self.tail(self.down(self.up(self.norm(x)).relu()))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.branch(x))


def network(*blocks: nn.Module, first: nn.Module | None = None) -> nn.Sequential:
    """A stem, blocks named '1', '2', ... and a head."""
    stem = nn.Sequential(nn.Linear(5, 8), first) if first is not None else nn.Linear(5, 8)
    return nn.Sequential(stem, *blocks, nn.Linear(8, 3)).eval()


def verdicts(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, str | None]:
    return {block.name: block.reason for block in prunus.trace(model, args, kwargs).blocks}


def reason(block: nn.Module, **options: Any) -> str:
    found = verdicts(network(block, Residual(), **options), torch.randn(2, 5))["1"]
    assert found is not None
    return found


def test_a_plain_residual_block_is_removable_and_knows_what_it_costs() -> None:
    graph = prunus.trace(network(Residual(), Residual()), torch.randn(2, 5))
    assert [block.name for block in graph.blocks] == ["1", "2"]
    for block in graph.blocks:
        assert block.removable
        assert block.kind == "block"
        assert block.macs == 2 * (8 * 12 + 12 * 8)
        assert block.params == 16 + 8 * 12 + 12 + 12 * 8 + 8


def test_asking_leaves_no_trace() -> None:
    model = network(Residual(), Residual()).train()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    state = torch.get_rng_state()
    _ = prunus.trace(model, torch.randn(2, 5)).blocks
    for name, module in model.named_modules():
        assert module.__dict__.keys() == before[name].keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_with_kwargs
        assert module.training
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.set_rng_state(state)


# --- what comes after the addition ---------------------------------------------------------------------


def test_relu_after_the_sum_needs_an_input_that_is_not_negative() -> None:
    assert "relu" in reason(Residual(after=nn.ReLU()))
    for proof in (nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.Sequential(nn.ReLU(), nn.Dropout())):
        model = network(Residual(after=nn.ReLU()), first=proof)
        assert verdicts(model, torch.randn(2, 5))["1"] is None
    for no_proof in (nn.Tanh(), nn.GELU(), nn.Sequential(nn.ReLU(), nn.Linear(8, 8))):
        model = network(Residual(after=nn.ReLU()), Residual(), first=no_proof)
        assert "relu" in str(verdicts(model, torch.randn(2, 5))["1"])


def test_relu6_after_the_sum_needs_an_input_between_zero_and_six() -> None:
    relu = network(Residual(after=nn.ReLU6()), Residual(), first=nn.ReLU())
    assert "hardtanh" in str(verdicts(relu, torch.randn(2, 5))["1"])
    assert verdicts(network(Residual(after=nn.ReLU6()), first=nn.ReLU6()), torch.randn(2, 5))["1"] is None


def test_the_proof_holds_when_the_block_before_is_removed_too() -> None:
    """The second block's input is only certain to be at least zero while the first one runs."""
    model = network(Residual(after=nn.ReLU()), Residual(after=nn.ReLU()), first=nn.ReLU())
    assert verdicts(model, torch.randn(2, 5)) == {"1": None, "2": None}

    class Positive(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.branch(x).exp() - x.abs() * 0  # at least x, which may be negative

    model = network(Positive(), Residual(after=nn.ReLU()), Residual())
    assert "relu" in str(verdicts(model, torch.randn(2, 5))["2"])


def test_other_things_after_the_sum_are_refused() -> None:
    assert "native_layer_norm" in reason(Residual(after=nn.LayerNorm(8)))
    assert "gelu" in reason(Residual(after=nn.GELU()))
    assert "mul" in reason(Scaled())


class Scaled(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)) * 0.7


def test_scaling_of_the_branch_alone_is_fine() -> None:
    class Gated(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(x, self.gain * self.branch(x), alpha=2)

    assert verdicts(network(Gated()), torch.randn(2, 5)) == {"1": None}


def test_the_factor_of_the_input_must_be_one() -> None:
    class Backwards(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return torch.add(self.branch(x), x, alpha=2)

    class Twice(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return x + (x + self.branch(x))

    class Negative(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.branch(x) - x

    assert "not its input plus something" in reason(Backwards())
    assert "more than once" in reason(Twice())
    assert "not its input plus something" in reason(Negative())


def test_views_that_are_undone_do_not_matter_and_others_do() -> None:
    class Moved(nn.Module):
        def __init__(self, undo: bool) -> None:
            super().__init__()
            self.undo = undo
            self.f = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = x.permute(0, 2, 1).contiguous().permute(0, 2, 1)
            h = (h + self.f(h)).reshape(x.shape[0], -1, 2, 4)
            if not self.undo:
                h = h.transpose(1, 2)
            return h.reshape(x.shape[0], 2, 8)

    for undo in (True, False):
        model = nn.Sequential(nn.Linear(5, 8), Moved(undo), Moved(undo), nn.Linear(8, 3))
        found = verdicts(model, torch.randn(2, 2, 5))
        assert (found["1"] is None) == undo


# --- what else leaves the block ------------------------------------------------------------------------


def test_no_residual_another_shape_and_several_calls() -> None:
    class Plain(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.branch(x)

    class Wider(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(5, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    found = verdicts(nn.Sequential(nn.Linear(5, 8), Plain(), Plain()), torch.randn(2, 5))
    assert all("not its input plus something" in str(why) for why in found.values())
    assert found
    assert "another shape" in str(verdicts(nn.Sequential(Wider(), nn.Linear(8, 3)), torch.randn(2, 5))["0"])
    shared = Residual()
    graph = prunus.trace(network(shared, shared), torch.randn(2, 5))
    assert "called 2 times" in str(graph.blocks[0].reason)
    assert [block.removable for block in graph.blocks] == [False]


def test_what_a_block_leaves_behind_is_seen() -> None:
    class Leaky(Residual):
        def __init__(self, bag: list[Tensor]) -> None:
            super().__init__()
            self.bag = bag

        def forward(self, x: Tensor) -> Tensor:
            h = self.branch(x)
            self.bag.append(h)
            return x + h

    class Model(nn.Module):
        def __init__(self, bag: list[Tensor]) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Linear(5, 8), Leaky(bag), nn.Linear(8, 3)
            self.bag = bag

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.stem(x))) + self.bag[-1][:, :3]

    assert "used outside" in str(verdicts(Model([]), torch.randn(2, 5))["block"])


def test_writing_to_others_tensors_is_refused_and_adding_in_place_is_not() -> None:
    class InPlace(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x += self.branch(x)
            return x

    class Spoils(Residual):
        def forward(self, x: Tensor) -> Tensor:
            h = self.branch(x)
            y = x + h
            x.mul_(2)
            return y

    class BehindItsBack(Residual):
        def forward(self, x: Tensor) -> Tensor:
            y = x + self.branch(x)
            seen = y.view(-1)
            y.mul_(2)
            return seen.view(x.shape)

    assert verdicts(network(InPlace()), torch.randn(2, 5)) == {"1": None}
    assert "from outside" in reason(Spoils())
    assert "writes to what it returns" in reason(BehindItsBack())


def test_weights_that_are_used_elsewhere_too() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Linear(5, 8), Residual()

        def forward(self, x: Tensor) -> Tensor:
            y = self.block(self.stem(x))
            return y @ self.block.down.weight

    assert "'block.down.weight' is used outside" in str(verdicts(Model(), torch.randn(2, 5))["block"])


def test_tied_weights_stay_with_those_that_share_them() -> None:
    model = network(Residual(), Residual())
    model[2].up.weight = model[1].up.weight
    x = torch.randn(2, 5)
    plan = prunus.trace(model, x).plan(depth=["1"])
    assert bool(plan.masks()["1.up.weight"].all())
    assert not plan.masks()["1.down.weight"].any()
    before = sum(p.numel() for p in model.parameters())
    plan.apply(model)
    assert sum(p.numel() for p in model.parameters()) == plan.cost.params == before - 8 * 12 - 12 - 8 - 16


def test_the_proof_holds_when_a_branch_before_is_removed_too() -> None:
    class Model(nn.Module):
        def __init__(self, low: float) -> None:
            super().__init__()
            self.stem, self.lift = nn.Linear(5, 8), nn.Sequential(nn.Linear(8, 8), nn.Hardtanh(1.0, 2.0))
            self.block = Residual(after=nn.ReLU())
            self.low = low

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).clamp(min=self.low)
            x = x + self.lift(x)
            return self.block(x)

    found = verdicts(Model(-0.5), torch.randn(2, 5))
    assert "relu" in str(found["block"])  # at least 0.5 with the branch, and perhaps -0.5 without
    assert verdicts(Model(0.0), torch.randn(2, 5))["block"] is None


def test_long_chains_take_no_longer_than_they_should() -> None:
    model = network(*(Residual() for _ in range(30)), Residual(after=nn.ReLU()))
    graph = prunus.trace(model, torch.randn(2, 5))
    assert [block.removable for block in graph.blocks] == [True] * 30 + [False]


def test_position_codes_and_added_inputs_are_no_blocks() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table

    assert not [
        name for name, why in verdicts(network(Positions()), torch.randn(2, 5)).items() if why is None
    ]


# --- structures ----------------------------------------------------------------------------------------


def test_stacks_are_not_blocks_and_inner_blocks_are_listed() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Residual(), Residual(tail=nn.Dropout())
            self.second.up = nn.Linear(8, 20)
            self.second.down = nn.Linear(20, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    graph = prunus.trace(network(nn.Sequential(Outer(), Outer())), torch.randn(2, 5))
    names = [block.name for block in graph.blocks]
    assert names == ["1.0", "1.0.first", "1.0.second", "1.1", "1.1.first", "1.1.second"]
    assert all(block.removable for block in graph.blocks)


def test_a_sequence_of_unlike_blocks_is_a_stack_too() -> None:
    graph = prunus.trace(
        network(nn.Sequential(Residual(), Residual(after=nn.Linear(8, 8)))), torch.randn(2, 5)
    )
    assert [block.name for block in graph.blocks if block.removable] == ["1.0"]
    graph = prunus.trace(network(nn.Sequential(Residual(), Residual(tail=nn.PReLU()))), torch.randn(2, 5))
    assert [block.name for block in graph.blocks] == ["1.0", "1.1"]


def test_branches_of_one_big_forward() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)
            self.mlps = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(3)
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.mlps[0](self.norm(x))
            x = x + 0.5 * self.mlps[1](x)
            return self.head(x * self.mlps[2](x))

    graph = prunus.trace(Model(), torch.randn(2, 5))
    found = {block.name: block.kind for block in graph.blocks if block.removable}
    assert found == {"mlps.0": "branch", "mlps.1": "branch"}


# --- models from elsewhere -----------------------------------------------------------------------------


def removable(model: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> list[str]:
    return [b.name for b in prunus.trace(model, args, kwargs).blocks if b.removable and b.kind == "block"]


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", "layer1.0 layer1.1 layer2.1 layer3.1 layer4.1"),
        ("mobilenet_v2", " ".join(f"features.{n}" for n in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16))),
        (
            "convnext_tiny",
            " ".join(f"features.{s}.{n}" for s, c in ((1, 3), (3, 3), (5, 9), (7, 3)) for n in range(c)),
        ),
        (
            "swin_t",
            " ".join(f"features.{s}.{n}" for s, c in ((1, 2), (3, 2), (5, 6), (7, 2)) for n in range(c)),
        ),
        ("vit_b_16", " ".join(f"encoder.layers.encoder_layer_{n}" for n in range(12))),
        ("googlenet", ""),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_torchvision(name: str, blocks: str) -> None:
    from benchmarks.zoo.torchvision_shim import import_torchvision

    with torch.device("meta"):
        model = getattr(import_torchvision().models, name)(weights=None)
    assert removable(model, torch.empty(1, 3, 224, 224, device="meta")) == blocks.split()


def test_llama_with_and_without_a_cache() -> None:
    ids = torch.randint(0, 31, (2, 7))
    graph = prunus.trace(tiny_llama(), ids)
    assert [b.name for b in graph.blocks if b.kind == "block"] == ["model.layers.0", "model.layers.1"]
    assert {b.name for b in graph.blocks if b.kind == "branch"} == {
        f"model.layers.{n}.{part}" for n in (0, 1) for part in ("self_attn", "mlp")
    }
    assert all(block.removable for block in graph.blocks)
    cached = verdicts(tiny_llama(use_cache=True), ids)
    assert "use_cache=False" in str(cached["model.layers.0"])


def test_bert_is_post_norm() -> None:
    package = transformers()
    config = package.BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    found = verdicts(package.BertModel(config), torch.randint(0, 31, (2, 7)))
    assert "layer_norm" in str(found["encoder.layer.0"])


def test_t5_hands_its_position_bias_on() -> None:
    package = transformers()
    config = package.T5Config(
        vocab_size=31, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, use_cache=False
    )
    ids = torch.randint(0, 31, (2, 7))
    model = package.T5EncoderModel(config)
    found = verdicts(model, input_ids=ids)
    assert "another output of it is used outside" in str(found["encoder.block.0"])
    assert found["encoder.block.1"] is None
    assert found["encoder.block.0.layer.1"] is None

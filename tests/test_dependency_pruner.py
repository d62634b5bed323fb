"""Pruners of whole models: what Torch-Pruning's own scripts come to, and what its arguments mean."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import dependency_scripts as scripts
import prunus
import prunus.dependency as tp
from dependency_models import peer
from dependency_scripts import (
    Cascade,
    FusedAttention,
    LeNet,
    SmallResNet,
    SmallViT,
    both,
    ignored,
    run_by,
    shapes,
)
from prunus import PruningError

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
DIGIT = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def pruner(model, x=IMAGE, **options):
    options.setdefault("importance", tp.importance.MagnitudeImportance())
    options.setdefault("ignored_layers", ignored(model))
    return tp.pruner.MagnitudePruner(model, x, **options)


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


# -- the same as the original ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iterative_steps": 4, "pruning_ratio": 0.7},
        {"global_pruning": True},
        {"global_pruning": True, "iterative_steps": 3},
        {"round_to": 4, "pruning_ratio": 0.4},
        {"round_to": 4, "global_pruning": True},
        {"round_to": 4, "global_pruning": True, "iterative_steps": 2, "pruning_ratio": 0.4},
    ],
)
def test_the_same_weights_stay_as_in_torch_pruning(options):
    ours, theirs = both(SmallResNet, scripts.magnitude, IMAGE, options)
    assert shapes(ours) == shapes(theirs)
    assert same(ours, theirs)
    torch.testing.assert_close(ours(IMAGE), theirs(IMAGE))


def grouped():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.GroupNorm(4, 32),
        nn.Conv2d(32, 48, 3, groups=4),
        nn.BatchNorm2d(48),
        nn.Conv2d(48, 16, 1),
        nn.GroupNorm(2, 16),
        nn.Flatten(),
        nn.Linear(16 * 12 * 12, 5),
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_the_number_of_groups_stays(steps):
    model = run_by(tp, grouped, scripts.magnitude, IMAGE, {"iterative_steps": steps})
    assert model[1].num_groups == model[2].groups == 4
    assert model[2].weight.shape == (24, 4, 3, 3)


@pytest.mark.parametrize("steps", [1, 2])
def test_groups_are_those_of_torch_pruning(steps):
    ours, theirs = both(grouped, scripts.magnitude, IMAGE, {"iterative_steps": steps})
    assert shapes(ours) == shapes(theirs)


SCRIPTS = [scripts.interactive, scripts.own_importance, scripts.slimming, scripts.low_level]


@pytest.mark.parametrize("script", [*SCRIPTS, scripts.taylor])
def test_scripts_run(script):
    model = run_by(tp, SmallResNet, script, IMAGE)
    assert model(IMAGE).shape == (2, 10)
    assert model.layer2.conv1.out_channels < 32


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_of_torch_pruning(script):
    ours, theirs = both(SmallResNet, script, IMAGE)
    assert shapes(ours) == shapes(theirs)
    if script is not scripts.slimming:
        assert same(ours, theirs)


def test_scripts_with_gradients_prune_to_the_same_widths():
    ours, theirs = both(SmallResNet, scripts.taylor, IMAGE)
    assert shapes(ours) == shapes(theirs)


def test_flattened_channels():
    model = run_by(tp, LeNet, scripts.magnitude, DIGIT, {})
    assert (model.conv1.out_channels, model.conv2.out_channels, model.fc1.in_features) == (3, 8, 128)


def test_flattened_channels_are_those_of_torch_pruning():
    ours, theirs = both(LeNet, scripts.magnitude, DIGIT, {})
    assert shapes(ours) == shapes(theirs)


def test_concatenations_of_concatenations():
    model = Cascade()
    steps = pruner(model, ignored_layers=[model.merge], iterative_steps=5)
    for _ in range(5):
        steps.step()
    assert [m.out_channels for m in (model.a, model.b, model.c)] == [5, 5, 5]
    assert model.merge.in_channels == 30


@pytest.mark.parametrize(
    ("name", "reduction", "normalizer"),
    [
        *(("magnitude", reduction, None) for reduction in ("mean", "sum", "max", "first")),
        *(("squares", reduction, "mean") for reduction in ("mean", "max")),
        *(
            ("magnitude", "mean", name)
            for name in ("mean", "max", "standarization", "gaussian", "sentinel_0.5")
        ),
        *(("lamp", reduction, "lamp") for reduction in ("mean", "sum", "max")),
        *(("bn", reduction, "mean") for reduction in ("mean", "sum", "max")),
        ("random", "mean", None),
    ],
)
def test_importances_are_those_of_torch_pruning(name, reduction, normalizer):
    torch.manual_seed(0)
    model = SmallResNet().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    makers = {
        "magnitude": lambda p: p.importance.MagnitudeImportance(
            p=1, group_reduction=reduction, normalizer=normalizer
        ),
        "squares": lambda p: p.importance.GroupMagnitudeImportance(
            p=2, group_reduction=reduction, normalizer=normalizer
        ),
        "lamp": lambda p: p.importance.LAMPImportance(group_reduction=reduction),
        "bn": lambda p: p.importance.BNScaleImportance(group_reduction=reduction, normalizer=normalizer),
        "random": lambda p: p.importance.RandomImportance(),
    }
    found = []
    for package in (tp, peer()):
        graph = package.DependencyGraph().build_dependency(model, IMAGE)
        values = []
        for layer in (model.conv1, model.layer2.conv1):
            idxs = list(range(layer.out_channels))
            group = graph.get_pruning_group(layer, package.prune_conv_out_channels, idxs)
            torch.manual_seed(3)
            values.append(makers[name](package)(group).double())
        found.append(values)
    if name == "magnitude" and reduction == "first":
        found = [values[1:] for values in found]  # of several convolutions on one stream, neither
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "max", "prod", "first"])
def test_importances_derived_from_those_of_torch_pruning(reduction):
    """People take the base class's attributes, reduction and normaliser, and score the items themselves."""

    def script(package):
        class Outputs(package.importance.GroupMagnitudeImportance):
            def __call__(self, group):
                scores, idxs = [], []
                for number, (dep, _) in enumerate(group):
                    if dep.handler == package.prune_conv_out_channels:
                        scores.append(dep.target.module.weight.data.flatten(1).abs().pow(self.p).sum(1))
                        idxs.append(group[number].root_idxs)
                return self._normalize(self._reduce(scores, idxs), "max")

        model = SmallResNet()
        graph = package.DependencyGraph().build_dependency(model, IMAGE)
        group = graph.get_pruning_group(model.layer2.conv2, package.prune_conv_out_channels, list(range(32)))
        return Outputs(p=1, group_reduction=reduction)(group)

    torch.manual_seed(0)
    ours = script(tp)
    torch.manual_seed(0)
    torch.testing.assert_close(ours, script(peer()), rtol=1e-4, atol=1e-5)


# -- arguments ------------------------------------------------------------------------------------------


def test_ratios_of_modules_and_scopes():
    model = SmallResNet()
    pruner(model, pruning_ratio=0.5, pruning_ratio_dict={model.layer2: 0.25, model.layer3.conv1: 0.75}).step()
    assert model.layer1.conv1.out_channels == 8
    assert model.layer2.conv1.out_channels == 24
    assert model.layer2.conv2.out_channels == 24
    assert model.layer3.conv1.out_channels == 16

    model = SmallResNet()
    with torch.no_grad():
        model.layer1.conv1.weight.mul_(100)
    scope = (model.layer1.conv1, model.layer2.conv1)
    flat = tp.importance.MagnitudeImportance(normalizer=None)
    pruner(model, importance=flat, global_pruning=True, pruning_ratio_dict={scope: 0.5}).step()
    assert model.layer1.conv1.out_channels == 16
    assert model.layer2.conv1.out_channels == 8


def test_ignored_layers():
    model = SmallResNet()
    pruner(model, ignored_layers=[model.layer2, nn.Linear]).step()
    assert model.layer2.conv1.out_channels == model.layer2.conv2.out_channels == 32
    assert model.layer3.conv1.out_channels == 32
    assert model.fc.out_features == 10
    vit = SmallViT()
    pruner(vit, ignored_layers=[vit.positions, vit.head]).step()
    assert vit.positions.shape == (1, 17, 24)
    assert vit.mlps[0][0].out_features == 24


def test_heads_are_found_and_counted():
    """The script sets integers after pruning as people do; here they are right already."""
    model = SmallViT()
    heads = {layer: 4 for a in model.attention for layer in (a.query, a.key, a.value)}
    steps = pruner(
        model, num_heads=heads, prune_num_heads=True, prune_head_dims=False, head_pruning_ratio=0.5
    )
    steps.step()
    for attention in model.attention:
        assert attention.num_attention_heads == steps.num_heads[attention.query] == 2
        assert attention.attention_head_size == attention.query.out_features // 2 == 6
    assert model.head.in_features == 12
    assert model(IMAGE).shape == (2, 5)

    model = SmallViT()
    pruner(model).step()
    assert [a.num_attention_heads for a in model.attention] == [4, 4]
    assert [a.attention_head_size for a in model.attention] == [3, 3]
    assert model(IMAGE).shape == (2, 5)


@pytest.mark.parametrize(
    ("tied", "options", "left"),
    [
        (False, {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 0.5}, (2, 6)),
        (False, {"prune_num_heads": True, "head_pruning_ratio": 0.5}, (2, 3)),
        (False, {}, (4, 3)),
        (True, {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 0.5}, (4, 3)),
        (True, {}, (4, 3)),
    ],
)
def test_heads_of_one_matrix_for_queries_keys_and_values(tied, options, left):
    model = FusedAttention(tied)
    inputs = torch.randn(1, 5, 6)
    steps = pruner(model, inputs, num_heads={model.qkv: 4}, ignored_layers=[model.head], **options)
    steps.step()
    heads, width = left
    assert model.heads == steps.num_heads[model.qkv] == heads
    assert model.qkv.weight.shape == (3 * heads * width, 12)
    assert model.proj.weight.shape == (12, heads * width)
    assert model(torch.randn(2, 5, 6)).shape == (2, 5, 3)


def test_grouped_query_heads_go_by_their_ratio():
    from hugging_face import tiny_llama

    model = tiny_llama()  # 4 heads for queries, 2 for keys and values
    layers = [layer.self_attn for layer in model.model.layers]
    heads = {a.q_proj: 4 for a in layers} | {p: 2 for a in layers for p in (a.k_proj, a.v_proj)}
    steps = pruner(
        model,
        torch.randint(0, 31, (1, 6)),
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=0.5,
        forward_fn=lambda model, ids: model(ids, use_cache=False).logits,
    )
    steps.step()
    for a in layers:
        assert [p.out_features for p in (a.q_proj, a.k_proj, a.v_proj)] == [32, 16, 16]
        assert (steps.num_heads[a.q_proj], steps.num_heads[a.k_proj]) == (2, 1)


def test_attention_layers_of_torch_follow_their_embedding():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 16), layer, nn.Linear(16, 3)).eval()
    x = torch.randn(2, 5, 6)
    pruner(model, x).step()
    assert (layer.self_attn.embed_dim, layer.self_attn.num_heads, layer.linear1.out_features) == (8, 2, 16)
    assert model(x).shape == (2, 5, 3)


def test_unwrapped_parameters_and_forward_fn():
    model = SmallViT()
    steps = pruner(
        model,
        {"x": IMAGE},
        unwrapped_parameters={model.cls: 2, model.positions: 2},
        forward_fn=lambda model, inputs: {"logits": model(**inputs)},
        output_transform=lambda out: out["logits"].sum(),
    )
    steps.step()
    assert model.cls.shape == (1, 1, 12)


def test_isomorphic_ranks_alike_groups_together():
    model = SmallResNet()
    with torch.no_grad():
        model.layer2.conv1.weight.mul_(0.01)
    plain = tp.importance.MagnitudeImportance(normalizer=None)
    pruner(model, importance=plain, isomorphic=True, global_pruning=True).step()
    inner = [block.conv1.out_channels for block in (model.layer1, model.layer2, model.layer3)]
    assert sum(inner) == 56
    assert inner[1] < 16
    assert model.conv1.out_channels == 8


def test_scores_of_some_channels_are_normalised_among_them():
    model = SmallResNet()
    graph = tp.DependencyGraph().build_dependency(model, IMAGE)

    def scores(idxs, normalizer):
        group = graph.get_pruning_group(model.conv1, tp.prune_conv_out_channels, idxs)
        return tp.importance.MagnitudeImportance(normalizer=normalizer)(group)

    some = scores(range(16), None)[[9, 1, 12]]
    torch.testing.assert_close(scores([9, 1, 12], "mean"), some / some.mean())


def test_no_axis_loses_more_than_the_limit():
    model = SmallResNet()
    pruner(model, pruning_ratio=0.9, max_pruning_ratio=0.5).step()
    assert (model.conv1.out_channels, model.layer3.conv1.out_channels) == (8, 32)
    model = SmallResNet()
    pruner(model, pruning_ratio=0.9, max_pruning_ratio=0.75, global_pruning=True).step()
    assert min(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)) >= 4


@pytest.mark.parametrize("make", [SmallResNet, SmallViT, Cascade])
def test_histories_replay_to_the_same_model(make):
    model = make()
    again = copy.deepcopy(model)
    steps = pruner(model, ignored_layers=[], iterative_steps=2)
    steps.step()
    steps.step()
    other = pruner(again, ignored_layers=[])
    other.load_pruning_history(json.loads(json.dumps(steps.pruning_history())))
    assert shapes(model) == shapes(again)
    assert same(model, again)


def test_histories_of_layers_that_share_an_axis():
    """Rotary heads of all layers are equally wide: of the second layer's, positions have moved."""
    from hugging_face import tiny_llama

    model, ids = tiny_llama(), torch.randint(0, 31, (1, 6))
    again = copy.deepcopy(model)
    options = {"forward_fn": lambda model, ids: model(ids, use_cache=False).logits}
    steps = pruner(model, ids, prune_num_heads=True, head_pruning_ratio=0.5, **options)
    steps.step()
    attention = model.model.layers[1].self_attn
    assert [p.out_features for p in (attention.q_proj, attention.k_proj)] == [16, 8]
    graph = tp.DependencyGraph().build_dependency(again, ids, **options)
    graph.load_pruning_history(json.loads(json.dumps(steps.pruning_history())))
    assert shapes(model) == shapes(again)
    assert same(model, again)


def test_one_by_one_is_the_same_as_at_once():
    for make in (SmallResNet, SmallViT, Cascade):
        torch.manual_seed(0)
        model = make()
        other = copy.deepcopy(model)
        pruner(model).step()
        steps = pruner(other)
        for group in steps.step(interactive=True):
            group.prune()
        assert shapes(model) == shapes(other), make
        assert same(model, other), make


def test_groups_may_be_passed_over():
    model = SmallResNet()
    for group in pruner(model).step(interactive=True):
        if group[0].dep.target.module is model.layer1.conv1:
            group.prune()
    assert model.layer1.conv1.out_channels == 8
    assert model.layer2.conv1.out_channels == 32


def test_a_schedule_of_ones_own_and_steps_beyond_it():
    model = SmallResNet()
    steps = pruner(
        model, iterative_steps=2, iterative_pruning_ratio_scheduler=lambda ratio, n: [0, ratio / 4, ratio]
    )
    steps.step()
    assert model.conv1.out_channels == 14
    steps.step()
    assert (model.conv1.out_channels, steps.current_step) == (8, 2)
    with pytest.warns(UserWarning, match="nothing is pruned any more"):
        steps.step()
    assert model.conv1.out_channels == 8


def test_manual_width():
    model = SmallResNet()
    steps = pruner(model)
    steps.manual_prune_width(model.layer1.conv1, tp.prune_conv_out_channels, 0.25)
    steps.manual_prune_width(model.layer2.conv1, tp.prune_conv_out_channels, [0, 3])
    assert (model.layer1.conv1.out_channels, model.layer2.conv1.out_channels) == (12, 30)


def test_an_importance_that_says_none_leaves_groups_alone():
    model = SmallResNet()
    pruner(model, importance=lambda group: None).step()
    assert model.conv1.out_channels == 16
    lenet = LeNet()
    pruner(lenet, DIGIT, importance=tp.importance.BNScaleImportance()).step()
    assert lenet.conv1.out_channels == 6


def test_names_and_importances_of_axes_do_as_well():
    for importance in ("l1", prunus.importance.Magnitude(p=1), tp.importance.FPGMImportance()):
        model = SmallResNet()
        pruner(model, importance=importance).step()
        assert model.conv1.out_channels == 8


# -- importances that need data -------------------------------------------------------------------------


def test_hessian_accumulates_all_samples():
    model = LeNet()
    importance = tp.importance.HessianImportance(normalizer=None, group_reduction="sum")
    with pytest.raises(ValueError, match="accumulate_grad"):
        pruner(model, DIGIT, importance=importance).step()
    importance.zero_grad()
    squares = []
    for sample in DIGIT:
        model.zero_grad()
        model(sample[None]).square().sum().backward()
        importance.accumulate_grad(model)
        squares.append((model.fc2.weight.grad.square(), model.fc3.weight.grad.square()))
    rows, columns = ((squares[0][i] + squares[1][i]) / 2 for i in (0, 1))
    want = (model.fc2.weight.square() * rows).sum(1) + (model.fc3.weight.square() * columns).sum(0)
    graph = tp.DependencyGraph().build_dependency(model, DIGIT)
    group = graph.get_pruning_group(model.fc2, tp.prune_linear_out_channels, [3, 8, 80])
    torch.testing.assert_close(importance(group).float(), want[[3, 8, 80]].detach(), rtol=1e-4, atol=0)
    pruner(model, DIGIT, importance=importance).step()
    assert model.fc2.out_features == 42
    with pytest.raises(ValueError, match="accumulate_grad"):
        pruner(model, DIGIT, importance=importance).step()


def test_channel_wise_optimal_brain_damage_sees_single_samples():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, groups=2, padding=1, padding_mode="reflect"),
        nn.Flatten(),
        nn.Linear(8 * 64, 10),
        nn.ReLU(),
        nn.Linear(10, 4),
    ).double()
    x = IMAGE.double()
    importance = tp.importance.OBDCImportance(group_reduction="sum", normalizer=None, num_classes=4)
    steps = pruner(model, x, importance=importance, ignored_layers=[model[6], model[0]])
    importance._prepare_model(model, steps)
    model(x).square().mean(1).mean().backward()
    importance.step()
    importance._rm_hooks(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    wanted = {2: torch.zeros(8).double(), 4: torch.zeros(10).double()}
    for sample in x:
        model.zero_grad()
        model(sample[None]).square().mean().backward()
        for layer in wanted:
            weight = model[layer].weight
            wanted[layer] += (weight * weight.grad).square().flatten(1).sum(1).detach() / len(x)
    for layer, prune in ((2, tp.prune_conv_out_channels), (4, tp.prune_linear_out_channels)):
        size = len(wanted[layer])
        group = steps.DG.get_pruning_group(model[layer], prune, list(range(size)))
        scores = importance(group)
        want = wanted[layer]
        if layer == 2:  # a place has its group's score, and that of a channel that both groups lose
            want = want.reshape(2, 4).sum(0)
            scores, want = scores.reshape(2, 4) - scores.reshape(2, 4)[:, :1], (want - want[0]).expand(2, 4)
        torch.testing.assert_close(scores, want, rtol=1e-6, atol=1e-15)
    steps.step()
    assert model[4].out_features == 5
    importance._clear_buffer()
    with pytest.raises(ValueError, match="gradients"):
        pruner(model, x, importance=importance).step()


def test_activations_are_what_layers_read():
    model = LeNet()
    importance = tp.importance.ActivationImportance(normalizer=None)
    with importance.compute_importance(model):
        model(DIGIT)
    seen = {}
    hook = model.fc2.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    model(DIGIT)
    hook.remove()
    graph = tp.DependencyGraph().build_dependency(model, DIGIT)
    group = graph.get_pruning_group(model.fc1, tp.prune_linear_out_channels, [2, 100, 7])
    want = seen["x"].abs().mean(0)[[2, 100, 7]].double()
    torch.testing.assert_close(importance(group), want)
    assert not model.fc2._forward_pre_hooks
    pruner(model, DIGIT, importance=importance).step()
    assert model.fc1.out_features == 60


# -- sparse training ------------------------------------------------------------------------------------


def pressed(kind, x, model, before_pressing=lambda steps: None, **options):
    """What a regulariser adds to the gradients."""
    steps = kind(model, x, tp.importance.GroupNormImportance(), ignored_layers=ignored(model), **options)
    before_pressing(steps)
    model(x).sum().backward()
    before = {key: p.grad.clone() for key, p in model.named_parameters()}
    steps.regularize(model)
    added = {key: p.grad - before[key] for key, p in model.named_parameters()}
    steps.step()
    steps.update_regularizer()
    model(x).sum().backward()
    steps.regularize(model)
    return added


def test_slimming_presses_scales():
    model = SmallResNet().double()
    gamma = model.layer1.bn1.weight.detach().clone()
    added = pressed(tp.pruner.BNScalePruner, IMAGE.double(), model, reg=0.3)
    torch.testing.assert_close(added["layer1.bn1.weight"], 0.3 * gamma.sign())
    assert not added["layer1.conv1.weight"].any()


def test_penalties_of_groups_press_all_weights_of_a_channel():
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    w1, b1, w2 = start[0].weight.detach(), start[0].bias.detach(), start[2].weight.detach()
    size = w1.square().sum(1) + b1.square() + w2.square().sum(0)
    least = (size.max() - size) / (size.max() - size.min())
    kinds = tp.pruner

    def grow(steps):
        steps.update_reg()
        steps.update_reg()

    cases = [
        (kinds.GroupNormPruner, {"reg": 0.3}, 0.3 * 2 ** (4 * least)),
        (kinds.GroupNormPruner, {"reg": 0.3, "alpha": 2}, 0.3 * 2 ** (2 * least)),
        (kinds.BNScalePruner, {"reg": 0.3, "group_lasso": True}, 0.3 / size.sqrt()),
        (kinds.GrowingRegPruner, {"reg": 0.3}, torch.full((8,), 0.3).double()),
        (kinds.GrowingRegPruner, {"reg": 0.3, "delta_reg": 0.1, "before_pressing": grow}, 0.3 + 0.2 * least),
    ]
    for kind, options, factor in cases:
        added = pressed(kind, torch.randn(4, 6).double(), copy.deepcopy(start), **options)
        torch.testing.assert_close(added["0.weight"], factor[:, None] * w1, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(added["0.bias"], factor * b1, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(added["2.weight"], factor * w2, rtol=1e-5, atol=1e-7)
        assert not added["2.bias"].any()


def test_random_pruner_is_a_control():
    model = SmallResNet()
    steps = tp.pruner.RandomPruner(model, IMAGE, ignored_layers=ignored(model))
    steps.step()
    assert model.conv1.out_channels == 8
    assert steps.regularize(model) is None


# -- customised layers, counting, printing --------------------------------------------------------------


def test_customised_layers():
    class Scale(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width, self.scale = width, nn.Parameter(torch.rand(width))

        def forward(self, x):
            return x * self.scale

    class ScalePruner(tp.pruner.BasePruningFunc):
        def prune_out_channels(self, layer, idxs):
            keep = sorted(set(range(layer.width)) - set(idxs))
            layer.scale = nn.Parameter(layer.scale.data[keep])
            layer.width = len(keep)
            return layer

        def get_out_channels(self, layer):
            return layer.width

        prune_in_channels, get_in_channels = prune_out_channels, get_out_channels

    model = nn.Sequential(nn.Linear(6, 8), Scale(8), nn.ReLU(), nn.Linear(8, 3))
    steps = pruner(model, torch.randn(2, 6), customized_pruners={Scale: ScalePruner()})
    steps.step()
    assert (model[0].out_features, model[1].width, model[3].in_features) == (4, 4, 4)
    assert model(torch.randn(2, 6)).shape == (2, 3)


def test_counting_and_printing(capsys):
    model = LeNet()
    macs, params = tp.utils.count_ops_and_params(model, DIGIT[:1])
    want = 24 * 24 * 6 * 25 + 8 * 8 * 16 * 150 + 256 * 120 + 120 * 84 + 84 * 10
    assert (macs, params) == (want, tp.utils.count_params(model))
    tp.utils.print_tool.before_pruning(model)
    pruner(model, DIGIT).step()
    text = tp.utils.print_tool.after_pruning(model)
    assert "Linear(in_features=120, out_features=84, bias=True) => (fc2): Linear(in_features=60" in text
    assert text in capsys.readouterr().out
    with pytest.raises(PruningError, match="before_pruning"):
        tp.utils.print_tool.after_pruning(model)


# -- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"pruning_ratio": 1.5}, ValueError, r"pruning_ratio=1.5 is outside \[0, 1\)"),
        ({"iterative_steps": 0}, ValueError, "iterative_steps=0"),
        ({"round_to": 2.5}, ValueError, "round_to=2.5"),
        ({"importance": 3}, TypeError, "got int"),
        ({"importance": tp.importance.MagnitudeImportance}, TypeError, "make an object of it"),
        ({"importance": "nonsense"}, ValueError, "unknown importance"),
        ({"ignored_layers": [nn.Linear(1, 1)]}, ValueError, "no part of the model"),
        ({"ignored_layers": ["fc"]}, TypeError, "'fc'"),
        ({"pruning_ratio_dict": {nn.Linear(1, 1): 0.5}}, ValueError, "no part of the model"),
        ({"pruning_ratio_dict": {"fc": 0.5}}, TypeError, "keys are modules"),
        ({"iterative_pruning_ratio_scheduler": lambda r, n: [r]}, ValueError, "ratios in"),
        ({"max_pruning_ratio": -1.0}, ValueError, "max_pruning_ratio=-1.0"),
        ({"head_pruning_ratio": -0.1}, ValueError, "head_pruning_ratio"),
    ],
)
def test_bad_arguments_are_refused(options, error, match):
    model = SmallResNet()
    with pytest.raises(error, match=match) as caught:
        pruner(model, **options)
    assert isinstance(caught.value, PruningError)
    assert model.conv1.out_channels == 16


@pytest.mark.parametrize(
    "importance",
    [
        lambda group: torch.rand(3),
        lambda group: 5,
        lambda group: torch.full((len(group[0].idxs),), float("nan")),
    ],
)
def test_bad_scores_are_refused(importance):
    model = SmallResNet()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"importance of the group of '.*'"):
        pruner(model, importance=importance).step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: tp.importance.MagnitudeImportance(group_reduction="median"), "group_reduction='median'"),
        (lambda: tp.importance.MagnitudeImportance(normalizer="l7"), "normalizer='l7'"),
        (lambda: tp.importance.MagnitudeImportance(p=0), "p=0"),
        (lambda: tp.importance.ActivationImportance(group_reduction="max"), "group_reduction='max'"),
    ],
)
def test_bad_importances_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()

"""Pruning functions of single layers: outputs are the original's without those channels, inputs as if 0."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dependency_layers import CASES, randomised, same_state, state, without, zeroed
from dependency_models import peer
from hugging_face import transformers
from prunus import PruningError
from prunus.dependency import functions as fn
from prunus.dependency.ops import OPTYPE


def run(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = layer(x)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("lstm", "rnn", "gru")])
def test_outputs_are_the_original_ones_without_those_channels(name):
    case = CASES[name]
    prune, dim, idxs = case.prune_out, case.dim, case.outputs
    layer = randomised(case.make())
    x = torch.randn(case.shape, dtype=torch.float64)
    want = without(run(layer, x), idxs, dim)
    grads = {key: p.grad.clone() for key, p in layer.named_parameters()}
    own = {key: id(p) for key, p in layer.named_parameters()}
    assert prune(layer, idxs) is layer
    torch.testing.assert_close(run(layer, x), want, rtol=1e-12, atol=1e-12)
    assert {key: id(p) for key, p in layer.named_parameters()} == own
    for key, p in layer.named_parameters():
        assert p.grad.shape == p.shape
        assert set(p.grad.flatten().tolist()) <= set(grads[key].flatten().tolist())
    run(layer, x).sum().backward()


@pytest.mark.parametrize("name", list(CASES))
def test_inputs_go_as_if_they_were_zero(name):
    case = CASES[name]
    prune, dim, idxs = case.prune_in, case.dim, case.inputs
    layer = randomised(case.make())
    x = torch.randn(case.shape, dtype=torch.float64)
    want = run(layer, zeroed(x, idxs, dim))
    assert prune(layer, idxs) is layer
    torch.testing.assert_close(run(layer, without(x, idxs, dim)), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "gone"), [(4, 4, [0, 3]), (4, 8, [0, 1, 6, 7]), (8, 4, [2])])
def test_depthwise_loses_whole_groups(transposed, inputs, outputs, gone):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = randomised(kind(inputs, outputs, 3, groups=4))
    x = torch.randn(2, inputs, 5, 5, dtype=torch.float64)
    want = without(layer(x), gone, 1)
    groups = sorted({index // (outputs // 4) for index in gone})
    gone_in = [group * (inputs // 4) + i for group in groups for i in range(inputs // 4)]
    fn.prune_depthwise_conv_out_channels(layer, gone)
    assert layer.groups == 4 - len(groups)
    torch.testing.assert_close(layer(without(x, gone_in, 1)), want)


@pytest.mark.parametrize(
    ("layer", "prune", "shape", "dim"),
    [
        (nn.BatchNorm1d(6), fn.prune_batchnorm_out_channels, (3, 6), 1),
        (nn.BatchNorm2d(6), fn.prune_batchnorm_in_channels, (3, 6, 2, 2), 1),
        (nn.BatchNorm2d(6, affine=False), fn.prune_batchnorm_out_channels, (3, 6, 2, 2), 1),
        (nn.BatchNorm2d(6, track_running_stats=False), fn.prune_batchnorm_out_channels, (3, 6, 2, 2), 1),
        (nn.InstanceNorm2d(6), fn.prune_instancenorm_out_channels, (3, 6, 4, 4), 1),
        (
            nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
            fn.prune_instancenorm_in_channels,
            (3, 6, 4, 4),
            1,
        ),
        (nn.PReLU(6), fn.prune_prelu_out_channels, (3, 6, 2), 1),
        (nn.PReLU(), fn.prune_prelu_in_channels, (3, 6, 2), 1),
    ],
)
def test_layers_that_work_channel_by_channel(layer, prune, shape, dim):
    layer = randomised(copy.deepcopy(layer))
    x = torch.randn(shape, dtype=torch.float64)
    want = without(layer(x), [0, 4], dim)
    prune(layer, [0, 4])
    torch.testing.assert_close(layer(without(x, [0, 4], dim)), want)


def test_norms_over_features_are_those_of_what_stays():
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    gone, small = [1, 6], without(x, [1, 6], -1)
    layer = randomised(nn.LayerNorm(8))
    weight, bias = without(layer.weight, gone, 0).detach(), without(layer.bias, gone, 0).detach()
    fn.prune_layernorm_out_channels(layer, gone)
    mean, var = small.mean(-1, keepdim=True), small.var(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(layer(small), (small - mean) / (var + layer.eps).sqrt() * weight + bias)
    assert layer.normalized_shape == (6,)

    layer = randomised(nn.RMSNorm(8, eps=1e-6))
    weight = without(layer.weight, gone, 0).detach()
    fn.prune_rmsnorm_in_channels(layer, gone)
    rms = (small.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(layer(small), small / rms * weight)


def test_hugging_face_classes():
    transformers()
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.pytorch_utils import Conv1D

    norm = randomised(LlamaRMSNorm(8))
    fn.prune_rmsnorm_out_channels(norm, [0])
    assert norm.weight.shape == (7,)
    assert norm(torch.randn(2, 7)).shape == (2, 7)
    layer, x = randomised(Conv1D(6, 4)), torch.randn(3, 4, dtype=torch.float64)
    want = without(layer(zeroed(x, [1], 1)), [0, 5], 1)
    fn.prune_conv1d_out_channels(layer, [5, 0])
    fn.prune_conv1d_in_channels(layer, [1])
    torch.testing.assert_close(layer(without(x, [1], 1)), want)
    assert (layer.nf, layer.nx) == (4, 3)


def test_layernorm_over_several_dimensions():
    layer = nn.LayerNorm((4, 6))
    fn.LayernormPruner(pruning_dim=-2).prune_out_channels(layer, [0])
    assert layer.normalized_shape == (3, 6)
    assert layer.weight.shape == (3, 6)
    whole = nn.LayerNorm(6)
    assert fn.LayernormPruner(pruning_dim=-2).prune_out_channels(whole, [0]).normalized_shape == (6,)


def test_groupnorm_drops_whole_groups_exactly_and_thins_the_others_evenly():
    x = torch.randn(2, 8, 3, dtype=torch.float64)
    layer = randomised(nn.GroupNorm(4, 8))
    want = without(layer(x), [2, 3], 1)
    fn.prune_groupnorm_out_channels(layer, [3, 2])
    assert (layer.num_groups, layer.num_channels) == (3, 6)
    torch.testing.assert_close(layer(without(x, [2, 3], 1)), want)

    layer = randomised(nn.GroupNorm(2, 8))
    affine = [without(p, [0, 6], 0).detach()[None, :, None] for p in (layer.weight, layer.bias)]
    fn.prune_groupnorm_in_channels(layer, [0, 6])
    small = without(x, [0, 6], 1)
    normed = torch.cat(
        [nn.functional.layer_norm(part, (3, 3), eps=layer.eps) for part in small.chunk(2, 1)], 1
    )
    torch.testing.assert_close(layer(small), normed * affine[0] + affine[1])


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings(kind):
    layer = randomised(kind(10, 6))
    x = torch.randint(0, 10, (3, 4))
    want = without(layer(x), [0, 2], -1)
    fn.prune_embedding_out_channels(layer, [2, 0])
    torch.testing.assert_close(layer(x), want)
    assert layer.embedding_dim == 4


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_parameters_are_cut_in_place_along_the_dimension_of_their_pruner(dim):
    parameter = nn.Parameter(torch.randn(4, 5, 6))
    parameter.grad = torch.randn(4, 5, 6)
    want, want_grad = without(parameter, [0, 3], dim), without(parameter.grad, [0, 3], dim)
    assert fn.ParameterPruner(dim).prune_out_channels(parameter, [0, 3]) is parameter
    assert torch.equal(parameter, want)
    assert torch.equal(parameter.grad, want_grad)
    own = fn.prune_parameter_in_channels(nn.Parameter(torch.ones(2, 3)), [0])
    assert own.shape == (2, 2)
    with pytest.raises(ValueError, match="no dimension 3"):
        fn.ParameterPruner(3).prune_out_channels(parameter, [0])


# -- attention ----------------------------------------------------------------------------------------


def attention_oracle(layer, query, key, value, outer, inner):
    """The original with channels outside and positions inside zeroed, and the outputs left out."""
    whole = copy.deepcopy(layer)
    with torch.no_grad():
        if whole._qkv_same_embed_dim:
            makers = list(whole.in_proj_weight.chunk(3))
        else:
            makers = [whole.q_proj_weight, whole.k_proj_weight, whole.v_proj_weight]
        for weight in makers:
            weight[inner] = 0
        for bias in whole.in_proj_bias.chunk(3) if whole.in_proj_bias is not None else ():
            bias[inner] = 0
        for extra in (whole.bias_k, whole.bias_v):
            if extra is not None:
                extra[..., inner] = 0
    inputs = [zeroed(x, outer, -1) if x.shape[-1] == layer.embed_dim else x for x in (query, key, value)]
    return without(whole(*inputs)[0], outer, -1)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_bias_kv": True}, {"kdim": 5, "vdim": 7}])
@pytest.mark.parametrize("gone", [[0, 5], [0, 1, 6, 4], [4, 5, 6, 7]])
def test_attention_equals_the_zeroed_one(options, gone):
    layer = randomised(nn.MultiheadAttention(8, 2, batch_first=True, **options))
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    key = torch.randn(2, 4, options.get("kdim", 8), dtype=torch.float64)
    value = torch.randn(2, 4, options.get("vdim", 8), dtype=torch.float64)
    want = attention_oracle(layer, x, key, value, gone, gone)
    fn.prune_multihead_attention_out_channels(layer, gone)
    assert layer.num_heads == (1 if gone == [4, 5, 6, 7] else 2)
    inputs = [without(item, gone, -1) if item.shape[-1] == 8 else item for item in (x, key, value)]
    torch.testing.assert_close(layer(*inputs)[0], want)


def test_attention_with_uneven_channels_loses_the_weakest_of_each_head():
    layer = randomised(nn.MultiheadAttention(8, 2, batch_first=True))
    with torch.no_grad():
        for weight in (*layer.in_proj_weight.chunk(3), layer.out_proj.weight.T):
            weight[[2, 7]] *= 1e-3
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    want = attention_oracle(layer, x, x, x, [0, 1], [2, 7])
    fn.prune_multihead_attention_in_channels(layer, [0, 1])
    small = without(x, [0, 1], -1)
    torch.testing.assert_close(layer(small, small, small)[0], want)
    with pytest.raises(ValueError, match="does not divide by its 2 heads"):
        fn.prune_multihead_attention_out_channels(layer, [0])


# -- recurrent layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "projected"), [(nn.LSTM, 0), (nn.LSTM, 4), (nn.GRU, 0), (nn.RNN, 0)])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_equal_those_whose_hidden_units_are_never_read(kind, depth, both, projected):
    options = {"proj_size": projected} if projected else {}
    layer = randomised(kind(3, 6, depth, batch_first=True, bidirectional=both, **options))
    size, gone = projected or 6, [0, 3]
    whole = copy.deepcopy(layer)
    with torch.no_grad():
        for name, weight in whole.named_parameters():
            if name.startswith("weight_hh"):
                weight[:, gone] = 0
            elif name.startswith("weight_ih") and not name.startswith("weight_ih_l0"):
                for part in weight.chunk(1 + both, 1):
                    part[:, gone] = 0
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    both_ways = gone + [index + size for index in gone] * both
    want = without(whole(x)[0], both_ways, -1)
    prune = fn.pruner_of(layer)
    assert prune.get_out_channels(layer) == size
    prune.prune_out_channels(layer, gone)
    torch.testing.assert_close(layer(x)[0], want)
    assert (layer.proj_size, layer.hidden_size) == ((2, 6) if projected else (0, 4))
    torch.testing.assert_close(copy.deepcopy(layer)(x)[0], want)


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("idxs", [[99], [-99], [0, 0], [0, -1000], "all", [0.5], torch.tensor([True]), ["a"]])
def test_bad_indices_are_refused_and_nothing_is_touched(name, idxs):
    case = CASES[name]
    for side in ("out", "in"):
        layer = randomised(case.make())
        before = state(layer)
        prune = getattr(case, f"prune_{side}")
        size = getattr(prune.__self__, f"get_{side}_channels")(layer)
        bad = range(size) if isinstance(idxs, str) else idxs
        with pytest.raises((IndexError, ValueError, TypeError)) as caught:
            prune(layer, bad)
        assert isinstance(caught.value, PruningError)
        assert type(layer).__name__ in str(caught.value)
        assert same_state(before, state(layer))


def test_messages_name_layer_and_indices():
    with pytest.raises(IndexError, match=r"\[7\] are out of range for the outputs of Linear\(in_fea"):
        fn.prune_linear_out_channels(nn.Linear(2, 3), [0, 7])
    with pytest.raises(ValueError, match=r"\[1\] come more than once"):
        fn.prune_linear_out_channels(nn.Linear(2, 3), [1, -2])
    with pytest.raises(TypeError, match=r"does not fit a Linear: use LinearPruner\.prune_out_channels"):
        fn.prune_conv_out_channels(nn.Linear(2, 3), [1])
    with pytest.raises(TypeError, match="derive from BasePruningFunc"):
        fn.prune_conv_out_channels(nn.ReLU(), [1])


@pytest.mark.parametrize(
    ("layer", "prune", "idxs", "match"),
    [
        (nn.Conv2d(4, 8, 1, groups=2), fn.prune_conv_out_channels, [0], "would stay"),
        (nn.Conv2d(8, 4, 1, groups=2), fn.prune_conv_in_channels, [0, 5], "same places"),
        (nn.ConvTranspose2d(4, 8, 1, groups=2), fn.prune_conv_out_channels, [0, 5], "same places"),
        (nn.Conv2d(4, 8, 1, groups=4), fn.prune_depthwise_conv_out_channels, [0], "whole groups"),
        (nn.Conv2d(4, 8, 1), fn.prune_depthwise_conv_out_channels, [0], "whole groups"),
        (nn.GroupNorm(2, 8), fn.prune_groupnorm_out_channels, [0], "would stay"),
        (
            nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
            fn.prune_linear_out_channels,
            [0],
            "dependency graph",
        ),
    ],
)
def test_cuts_that_would_compute_something_else_are_refused(layer, prune, idxs, match):
    before = state(layer)
    with pytest.raises(ValueError, match=match):
        prune(layer, idxs)
    assert same_state(before, state(layer))


def test_a_failure_halfway_leaves_the_layer_as_it_was(monkeypatch):
    from prunus.surgery.operation import Operation

    layer = randomised(nn.MultiheadAttention(8, 2))
    before = state(layer)

    def fail(*_):
        raise RuntimeError("halfway")

    monkeypatch.setattr(Operation, "set", fail)
    with pytest.raises(RuntimeError, match="halfway"):
        fn.prune_multihead_attention_out_channels(layer, [0, 4])
    assert same_state(before, state(layer))


# -- the interface ------------------------------------------------------------------------------------


def test_free_functions_are_the_methods_of_the_box():
    assert fn.PrunerBox[OPTYPE.CONV].prune_out_channels == fn.prune_conv_out_channels
    assert fn.pruner_of(nn.Linear(1, 2)).prune_in_channels in (fn.prune_linear_in_channels, None)
    assert fn.prune_conv_out_channels != fn.prune_conv_in_channels
    assert fn.prune_batchnorm_out_channels == fn.prune_batchnorm_in_channels


def test_free_functions_are_those_of_torch_pruning():
    other_package = peer().pruner.function
    for name in other_package.__all__:
        assert hasattr(fn, name), name
        theirs = getattr(other_package, name)
        if name.endswith("_out_channels"):
            other = name.replace("_out_", "_in_")
            coupled = theirs == getattr(other_package, other)
            assert (getattr(fn, name) == getattr(fn, other)) == coupled, name


def test_calling_a_pruner():
    layer = nn.Linear(4, 6)
    pruner = fn.LinearPruner()
    copy_ = pruner(layer, [5, 0], inplace=False)
    assert (copy_.out_features, layer.out_features) == (4, 6)
    pruner(layer, [0], to_output=False)
    assert layer.in_features == 3
    assert pruner(layer, [0], dry_run=True).out_features == 6
    assert pruner(layer, []).out_features == 6
    assert pruner.prune_out_channels(layer, torch.tensor([1])).out_features == 5


def test_ties_and_optimizers_survive():
    embedding, head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
    head.weight = embedding.weight
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    fn.prune_embedding_out_channels(embedding, [0, 1])
    fn.prune_linear_in_channels(head, [0, 1])
    assert head.weight is embedding.weight
    assert head.weight.shape == (9, 4)
    assert head.in_features == 4
    before = head.weight.detach().clone()
    head(embedding(torch.tensor([1, 2]))).sum().backward()
    optimizer.step()
    assert not torch.equal(before, head.weight)


def test_a_pruner_of_ones_own_may_use_the_functions():
    class Scaled(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.scale, self.fc = nn.Parameter(torch.rand(width)), nn.Linear(width, width)

        def forward(self, x):
            return self.fc(x * self.scale)

    class ScaledPruner(fn.BasePruningFunc):
        TARGET_MODULES = Scaled

        def prune_out_channels(self, layer, idxs):
            keep = sorted(set(range(len(layer.scale))) - set(idxs))
            layer.scale = self._prune_parameter_and_grad(layer.scale, keep, 0)
            fn.prune_linear_in_channels(layer.fc, idxs)
            fn.prune_linear_out_channels(layer.fc, idxs)
            return layer

        def get_out_channels(self, layer):
            return len(layer.scale)

        prune_in_channels, get_in_channels = prune_out_channels, get_out_channels

    layer = Scaled(6)
    layer(torch.randn(2, 6)).sum().backward()
    grad = without(layer.scale.grad, [0, 3], 0)
    pruner = ScaledPruner()
    assert pruner(layer, [3, 0])(torch.randn(2, 4)).shape == (2, 4)
    assert torch.equal(layer.scale.grad, grad)
    with pytest.raises(IndexError, match="out of range"):
        pruner.check(layer, [4], True)
    with pytest.raises(TypeError, match="does not fit"):
        pruner.check(nn.Linear(2, 2), [0], True)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_indices_of_any_grouped_convolution(data):
    """What is accepted equals the original without those outputs; what is refused leaves it as it was."""
    groups = data.draw(st.sampled_from([1, 2, 3]))
    inputs, outputs = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 3))
    kind = data.draw(st.sampled_from([nn.Conv1d, nn.ConvTranspose1d]))
    layer = randomised(kind(inputs, outputs, 2, groups=groups))
    idxs = data.draw(st.lists(st.integers(-outputs, outputs - 1), max_size=outputs))
    x = torch.randn(2, inputs, 4, dtype=torch.float64)
    whole, before = layer(x), state(layer)
    try:
        fn.prune_conv_out_channels(layer, idxs)
    except PruningError:
        assert same_state(before, state(layer))
    else:
        torch.testing.assert_close(layer(x), without(whole, idxs, 1))


@pytest.mark.parametrize("name", ["conv2d", "linear"])
def test_agrees_with_torch_pruning(name):
    case = CASES[name]
    ours = case.make()
    theirs = copy.deepcopy(ours)
    for side, idxs in (("out", case.outputs), ("in", case.inputs)):
        getattr(case, f"prune_{side}")(ours, idxs)
        getattr(peer(), f"prune_{case.kind}_{side}_channels")(theirs, list(idxs))
    assert str(ours) == str(theirs)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))

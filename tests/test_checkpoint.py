"""Checkpoints: what is loaded is what was saved, bit for bit, from a class, a model, or a fresh process."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import prunus
from checkpoint_models import FAMILIES, Residual, VisionTransformer, WeightNorm, output, pruned
from micro import REGISTRY
from prunus.checkpoint.build import _on_meta
from prunus.plan import history
from snapshots import Snapshot


def flat(out: Any) -> list[Tensor]:
    """Every tensor in a nest of outputs."""
    if isinstance(out, Tensor):
        return [out]
    if hasattr(out, "values") and callable(out.values):
        out = list(out.values())
    elif hasattr(out, "__dataclass_fields__"):
        out = list(vars(out).values())
    return [tensor for item in out for tensor in flat(item)] if isinstance(out, list | tuple) else []


def differences(before: Snapshot, model: nn.Module) -> list[str]:
    """What is not as it was; numbers of hooks and wrappers, which count up, aside."""
    aside = ("hooks:", "_torchdynamo_wrapper_id", "_is_hf_initialized")
    return [item for item in before.differences(model) if not any(word in item for word in aside)]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("target", ["factory", "instance", "training_instance"])
def test_a_loaded_model_is_the_saved_one(name: str, target: str, tmp_path: Path) -> None:
    model, args = pruned(name)
    before = Snapshot.of(model)
    prunus.save(model, tmp_path)
    assert before.differences(model, identity=True) == []
    build = FAMILIES[name].build
    loaded = prunus.load(build if target == "factory" else build().train(target != "instance"), tmp_path)
    assert differences(before, loaded) == []
    assert torch.equal(output(loaded, args), output(model, args))
    assert history(loaded) == history(model) != []


@pytest.mark.parametrize("name", REGISTRY)
def test_every_coupling_pattern_survives(name: str, tmp_path: Path) -> None:
    micro = REGISTRY[name]
    model, args, kwargs = micro.fresh()
    with contextlib.suppress(prunus.PruningError):  # then the unpruned model is saved
        prunus.prune(model, args, kwargs, ratio=0.5)
    before = Snapshot.of(model)
    prunus.save(model, tmp_path)
    loaded = prunus.load(lambda: micro.build()[0], tmp_path)
    assert differences(before, loaded) == []
    with torch.no_grad():
        torch.manual_seed(1)
        expected = flat(model(*args, **kwargs))
        torch.manual_seed(1)
        found = flat(loaded(*args, **kwargs))
    assert expected
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b) or bool((a != a).any())


def test_a_fresh_process_gives_the_same_bits(tmp_path: Path) -> None:
    expected = {}
    for name in FAMILIES:
        model, args = pruned(name)
        prunus.save(model, tmp_path / name)
        save_file({str(i): value for i, value in enumerate(args)}, tmp_path / f"{name}.inputs")
        expected[name] = output(model, args)
    code = "import sys, pathlib, checkpoint_models as m; m.reload_all(pathlib.Path(sys.argv[1]))"
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(Path(prunus.__file__).parents[1])]
    code = f"import torch; torch.set_num_threads(1); import sys; sys.path[:0] = {paths!r}; {code}"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    for name, value in expected.items():
        assert torch.equal(load_file(tmp_path / f"{name}.outputs")["output"], value), name


def test_an_unpruned_model_is_saved_too(tmp_path: Path) -> None:
    model, (x_BCHW,) = Residual().eval(), FAMILIES["residual"].inputs()
    prunus.save(model, tmp_path)
    loaded = prunus.load(Residual, tmp_path)
    assert torch.equal(loaded(x_BCHW), model(x_BCHW))
    assert history(loaded) == []


def test_what_was_loaded_can_be_pruned_and_saved_again(tmp_path: Path) -> None:
    model, args = pruned("transformer", ratio=0.25)
    for step in range(2):
        prunus.save(model, tmp_path)
        model = prunus.load(VisionTransformer, tmp_path)
        assert len(history(model)) == step + 1
        prunus.prune(model, args, ratio=0.34)
    prunus.save(model, tmp_path / "last")
    loaded = prunus.load(VisionTransformer(), tmp_path / "last")
    assert torch.equal(output(loaded, args), output(model, args))
    assert history(loaded) == history(model)
    assert len(history(loaded)) == 3


def test_a_loaded_model_trains(tmp_path: Path) -> None:
    model, args = pruned("residual")
    model.stem.weight.requires_grad_(False)
    model.train()
    model.norm.eval()
    prunus.save(model, tmp_path)
    loaded = prunus.load(Residual, tmp_path)
    assert loaded.training
    assert not loaded.norm.training
    optimizer = torch.optim.SGD([p for p in loaded.parameters() if p.requires_grad], lr=0.1)
    before = Snapshot.of(loaded)
    loaded(*args).square().sum().backward()
    optimizer.step()
    changed = [line for line in before.differences(loaded) if line.startswith("value of")]
    assert sorted(changed) == sorted(
        f"value of {name}" for name, p in loaded.named_parameters() if p.requires_grad
    )


@pytest.mark.parametrize("name", ["transformer", "llama", "gpt2", "grouped"])
def test_a_copy_that_has_lost_its_history_is_saved_as_well(name: str, tmp_path: Path) -> None:
    model, args = pruned(name)
    twin = copy.deepcopy(model)
    assert history(twin) == []
    prunus.save(twin, tmp_path)
    assert torch.equal(output(prunus.load(FAMILIES[name].build, tmp_path), args), output(model, args))


# -- instances, factories, wrappers -------------------------------------------------------------------------


def test_an_instance_keeps_its_parameter_objects(tmp_path: Path) -> None:
    model, _ = pruned("recurrent")
    prunus.save(model, tmp_path)
    target = FAMILIES["recurrent"].build()
    for p in target.parameters():
        p.grad = torch.ones_like(p)
    objects = dict(target.named_parameters())
    assert prunus.load(target, tmp_path) is target
    for name, p in target.named_parameters():
        assert p is objects[name]
        assert p.grad is None
    assert target.lstm._flat_weights[0] is target.lstm.weight_ih_l0


def test_most_factories_run_without_memory(tmp_path: Path) -> None:
    for family in FAMILIES.values():
        assert _on_meta(family.build) is not None
    model, _ = pruned("recurrent")
    prunus.save(model, tmp_path)
    loaded = prunus.load(FAMILIES["recurrent"].build, tmp_path)
    assert loaded.lstm._flat_weights[0] is loaded.lstm.weight_ih_l0


class ReadsValues(Residual):
    """Cannot be built without values."""

    def __init__(self) -> None:
        super().__init__(width=int(torch.tensor(16).item()))


class HidesTensors(Residual):
    """Keeps a tensor where nothing would fill it."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.linspace(0.5, 1.5, 3)
        self.scale = lambda: table

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW * self.scale()[:, None, None])


@pytest.mark.parametrize("kind", [ReadsValues, HidesTensors])
def test_other_factories_run_normally(kind: type[Residual], tmp_path: Path) -> None:
    model, args = kind().eval(), FAMILIES["residual"].inputs()
    prunus.prune(model, args, ratio=0.5)
    prunus.save(model, tmp_path)
    assert _on_meta(kind) is None
    state = torch.get_rng_state()
    assert torch.equal(output(prunus.load(kind, tmp_path), args), output(model, args))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_on_the_meta_device_is_filled(tmp_path: Path) -> None:
    model, args = pruned("gpt2")
    prunus.save(model, tmp_path)
    with torch.device("meta"):
        target = FAMILIES["gpt2"].build()
    loaded = prunus.load(target, tmp_path)
    assert loaded is target
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert torch.equal(output(loaded, args), output(model, args))


def test_one_configuration_serves_many_checkpoints(tmp_path: Path) -> None:
    """A configuration and a list that the caller owns are not changed by loading."""
    from hugging_face import transformers

    package = transformers()
    options = {"vocab_size": 31, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1}
    args = (torch.randint(0, 31, (2, 7)),)
    models = []
    for number, ratio in enumerate((0.5, 0.25)):
        config = package.LlamaConfig(**options, num_attention_heads=4, use_cache=False)
        models.append(package.LlamaForCausalLM(config).eval())
        prunus.prune(models[-1], args, ratio=ratio)
        prunus.save(models[-1], tmp_path / str(number))
    config = package.LlamaConfig(**options, num_attention_heads=4, use_cache=False)
    for number, model in enumerate(models):
        loaded = prunus.load(lambda: package.LlamaForCausalLM(config), tmp_path / str(number))
        assert torch.equal(output(loaded, args), output(model, args))
        assert loaded.config.intermediate_size == model.config.intermediate_size
        assert loaded.model.layers[0].self_attn.config is loaded.config
    assert config.intermediate_size == 40


@pytest.mark.parametrize("saved", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("target", ["plain", "compiled", "factory"])
def test_compiled_wrappers_either_way(saved: bool, target: str, tmp_path: Path) -> None:
    model, args = pruned("transformer")
    expected = output(model, args)
    prunus.save(torch.compile(model, backend="eager") if saved else model, tmp_path)

    def build() -> nn.Module:
        return (
            VisionTransformer() if target == "plain" else torch.compile(VisionTransformer(), backend="eager")
        )

    loaded = prunus.load(build if target == "factory" else build(), tmp_path)
    assert torch.equal(output(getattr(loaded, "_orig_mod", loaded), args), expected)
    assert history(loaded) == history(model)
    assert not loaded.training
    prunus.save(loaded, tmp_path / "again")
    assert history(prunus.load(VisionTransformer, tmp_path / "again")) == history(model)


def test_a_compiled_part(tmp_path: Path) -> None:
    model, args = pruned("transformer")
    expected = output(model, args)
    model.mlps[0] = torch.compile(model.mlps[0], backend="eager")
    prunus.save(model, tmp_path)
    assert torch.equal(output(prunus.load(VisionTransformer, tmp_path), args), expected)


def test_modules_in_plain_lists_are_saved(tmp_path: Path) -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(4, 4), {"b": nn.Linear(4, 4)}]

        def forward(self, x_BE: Tensor) -> Tensor:
            return self.layers[1]["b"](self.layers[0](x_BE))

    model, x_BE = Loose(), torch.randn(2, 4)
    prunus.save(model, tmp_path)
    assert torch.equal(prunus.load(Loose, tmp_path)(x_BE), model(x_BE))
    assert torch.equal(prunus.load(Loose(), tmp_path)(x_BE), model(x_BE))


def test_shared_modules_stay_shared(tmp_path: Path) -> None:
    def build() -> nn.Module:
        shared = nn.Linear(8, 8)
        return nn.Sequential(nn.Linear(4, 8), shared, nn.ReLU(), shared, nn.Linear(8, 3))

    model, x_BE = build(), torch.randn(2, 4)
    prunus.prune(model, x_BE, ratio=0.5)
    prunus.save(model, tmp_path)
    loaded = prunus.load(build, tmp_path)
    assert loaded[1] is loaded[3]
    assert torch.equal(loaded(x_BE), model(x_BE))


def test_a_parametrization_stays(tmp_path: Path) -> None:
    model, args = pruned("weight_norm")
    prunus.save(model, tmp_path)
    loaded = prunus.load(WeightNorm, tmp_path)
    torch.nn.utils.parametrize.remove_parametrizations(loaded.first, "weight")
    assert torch.equal(output(loaded, args), output(model, args))


def test_loading_inside_inference_mode_gives_ordinary_parameters(tmp_path: Path) -> None:
    model, _ = pruned("residual")
    prunus.save(model, tmp_path)
    with torch.inference_mode():
        loaded = prunus.load(Residual, tmp_path)
    assert not any(p.is_inference() for p in loaded.parameters())


def test_a_checkpoint_of_another_torch_program_can_read_the_weights(tmp_path: Path) -> None:
    model, _ = pruned("residual")
    prunus.save(model, tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    state = load_file(weights)
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value)

"""Callbacks for Lightning and the Hugging Face Trainer: when they cut, and that training goes on rightly."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import prunus
from prunus.errors import BudgetError, InputError, UnknownNameError
from prunus.training import agp, linear
from prunus.training.moments import Moments

X, Y = torch.randn(24, 6), torch.randint(0, 3, (24,))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 3))


def lightning() -> Any:
    """Lightning, where it is installed and can be imported."""
    pytest.importorskip("torch.utils.data")
    try:
        from benchmarks.zoo.torchvision_shim import import_torchvision

        import_torchvision()  # torchmetrics imports it, and without its kernels that fails
    except ImportError:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lightning.pytorch")


def transformers() -> Any:
    pytest.importorskip("accelerate")
    return pytest.importorskip("transformers")


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Moments have the sizes of their parameters, for every parameter that has any."""
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape


# -- when ---------------------------------------------------------------------------------------------------


def test_the_moments_of_the_cuts() -> None:
    moments = Moments(steps=3, every=2, start=1, unit="epoch")
    done, cuts = 0, []
    for epoch in range(10):
        if moments.due(epoch, done):
            done += 1
            cuts.append(epoch)
    assert cuts == [1, 3, 5]
    assert moments.last == 5
    moments.check(6)
    moments.check(None)
    with pytest.raises(InputError, match="training has 5"):
        moments.check(5)


@pytest.mark.parametrize("asked", [{"every": 0}, {"every": 1.5}, {"start": -1}])
def test_moments_that_are_none(asked: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Moments(**{"steps": 3, "every": 1, "start": 0, "unit": "epoch", **asked})


def test_nothing_of_this_is_imported_with_prunus() -> None:
    code = (
        "import sys, prunus, prunus.training; "
        "sys.exit(any(n.split('.')[0] in ('lightning', 'transformers', 'matplotlib', 'rich') "
        "for n in sys.modules))"
    )
    source = Path(prunus.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=source).returncode == 0


# -- Lightning ----------------------------------------------------------------------------------------------


def lit(pl: Any, inner: nn.Module | None = None) -> Any:
    class Lit(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = inner if inner is not None else network()
            self.sizes: list[int] = []

        def forward(self, x_BF: Tensor) -> Tensor:
            return self.net(x_BF)

        def training_step(self, batch: Any, _: int) -> Tensor:
            self.sizes.append(self.net[0].out_features)
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    return Lit()


def trainer_of(pl: Any, callback: Any, **options: Any) -> Any:
    return pl.Trainer(
        **{
            "accelerator": "cpu", "max_epochs": 6, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [callback], **options,
        }
    )  # fmt: skip


BATCHES = DataLoader(list(zip(X, Y, strict=True)), batch_size=12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inside", ["", "net"])
def test_lightning_cuts_at_the_epochs_asked_for(inside: str) -> None:
    pl = lightning()
    from prunus.training.lightning import PruningCallback

    callback = PruningCallback(X[:2], ratio=0.5, steps=2, schedule=linear, every=2, start=1, module=inside)
    model = lit(pl)
    trainer = trainer_of(pl, callback)
    trainer.fit(model, BATCHES)
    assert model.sizes == [40] * 2 + [30] * 4 + [20] * 6  # two batches an epoch
    assert callback.pruning is not None
    assert callback.pruning.step == 2
    check_optimizer(model, trainer.optimizers[0])
    assert prunus.trace(model.net, X[:2]).cost().params == sum(p.numel() for p in model.parameters())


@pytest.mark.filterwarnings("ignore")
def test_lightning_with_a_budget() -> None:
    pl = lightning()
    from prunus.training.lightning import PruningCallback

    model = lit(pl)
    whole = prunus.trace(model.net, X[:1]).cost().macs
    budget = prunus.Budget(macs=0.3)
    trainer_of(pl, PruningCallback(X[:1], budget=budget, steps=3, scope="global")).fit(model, BATCHES)
    assert prunus.trace(model.net, X[:1]).cost().macs <= 0.3 * whole


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"steps": 9}, InputError, "training has 6"),
        ({"module": "typo"}, UnknownNameError, "typo"),
        ({"ratio": None, "budget": prunus.Budget(macs=1)}, BudgetError, "smallest reachable"),
        ({"ratio": None}, InputError, "either ratio"),
    ],
)
def test_lightning_refuses_before_training(asked: dict[str, Any], error: type, message: str) -> None:
    pl = lightning()
    from prunus.training.lightning import PruningCallback

    model = lit(pl)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    callback = PruningCallback(X[:1], **{"ratio": 0.5, **asked})
    with pytest.raises(error, match=message):
        trainer_of(pl, callback).fit(model, BATCHES)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore")
def test_lightning_with_two_optimizers_on_the_network_is_refused() -> None:
    pl = lightning()
    from prunus.training.lightning import PruningCallback

    model = lit(pl)
    model.automatic_optimization = False
    model.configure_optimizers = lambda: [
        torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (model.net[0], model.net[2])
    ]
    with pytest.raises(InputError, match="2 optimizers"):
        trainer_of(pl, PruningCallback(X[:1], ratio=0.5)).fit(model, BATCHES)


# -- Hugging Face -------------------------------------------------------------------------------------------


def tiny(hf: Any) -> nn.Module:
    config = hf.GPT2Config(
        n_layer=1, n_head=4, n_embd=16, n_positions=16, vocab_size=50, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(config)


TOKENS = torch.randint(0, 50, (16, 8))


def hf_trainer(hf: Any, model: nn.Module, callback: Any, folder: Path, **options: Any) -> Any:
    data = [{"input_ids": row, "labels": row} for row in TOKENS]
    arguments = hf.TrainingArguments(
        **{
            "output_dir": str(folder), "num_train_epochs": 4, "per_device_train_batch_size": 8,
            "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "seed": 0,
            "logging_strategy": "no", **options,
        }
    )  # fmt: skip
    return hf.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])


def inner_size(model: nn.Module) -> int:
    return model.transformer.h[0].mlp.c_fc.weight.shape[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_the_trainer_cuts_when_asked_to(tmp_path: Path, unit: str) -> None:
    hf = transformers()
    from prunus.training.transformers import PruningCallback

    class Sizes(hf.TrainerCallback):
        seen: list[int] = []

        def on_step_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
            self.seen.append(inner_size(model))

    model = tiny(hf)
    callback = PruningCallback(
        kwargs={"input_ids": TOKENS[:1], "use_cache": False},
        ratio={"transformer.h.0.mlp": 0.5},
        steps=2, schedule=linear, start=1, every=2, unit=unit,
    )  # fmt: skip
    trainer = hf_trainer(hf, model, callback, tmp_path)
    sizes = Sizes()
    sizes.seen = []
    trainer.add_callback(sizes)
    trainer.train()
    expected = [64] * 2 + [48] * 4 + [32] * 2 if unit == "epoch" else [64] + [48] * 2 + [32] * 5
    assert sizes.seen == expected
    assert callback.pruning is not None
    optimizer = trainer.optimizer.optimizer
    check_optimizer(model, optimizer)
    losses = model(TOKENS, labels=TOKENS).loss
    assert torch.isfinite(losses)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_trains_as_if_it_had_been_cut_by_hand(tmp_path: Path) -> None:
    """One cut before the first step is the same as pruning first and training then."""
    hf = transformers()
    from prunus.training.transformers import PruningCallback

    inputs = {"input_ids": TOKENS[:1], "use_cache": False}
    with_callback, by_hand = tiny(hf), tiny(hf)
    callback = PruningCallback(kwargs=inputs, ratio=0.4, steps=1, schedule=agp)
    hf_trainer(hf, with_callback, callback, tmp_path).train()
    prunus.prune(by_hand, kwargs=inputs, ratio=0.4)
    nothing = hf.TrainerCallback()
    hf_trainer(hf, by_hand, nothing, tmp_path).train()
    for (name, one), other in zip(with_callback.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("asked", "message"), [({"steps": 5}, "training has 4"), ({"steps": 9, "unit": "step"}, "training has 8")]
)
def test_the_trainer_refuses_before_training(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    hf = transformers()
    from prunus.training.transformers import PruningCallback

    callback = PruningCallback(kwargs={"input_ids": TOKENS[:1], "use_cache": False}, ratio=0.5, **asked)
    model = tiny(hf)
    with pytest.raises(InputError, match=message):
        hf_trainer(hf, model, callback, tmp_path).train()
    assert inner_size(model) == 64


def test_the_unit_is_checked() -> None:
    transformers()
    from prunus.training.transformers import PruningCallback

    with pytest.raises(InputError, match="unit"):
        PruningCallback(TOKENS[:1], ratio=0.5, unit="year")

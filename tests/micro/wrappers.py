"""Parametrizations, adapters, graph modules, compiled wrappers, and all kinds of inputs and outputs."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ._registry import Built, micro


def image() -> Tensor:
    return torch.randn(2, 3, 5, 6)


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 14, 3),
        nn.Conv2d(14, 5, 1),
    )


PLAIN = {"0.weight": 0, "1.weight": 0, "3.weight": (0, 1), "4.weight": 1}


@micro(
    "weight_norm",
    halved={
        "0.parametrizations.weight.original0": 0,
        "0.parametrizations.weight.original1": 0,
        "3.parametrizations.weight.original1": (0, 1),
        "4.weight": 1,
    },
    exact=None,
)
def weight_norm() -> Built:
    """g and v are pruned; v's norm over removed inputs is a statistic like any other."""
    model = plain()
    for layer in (model[0], model[3]):
        parametrizations.weight_norm(layer)
    return model, (image(),), {}


@micro(
    "spectral_norm",
    halved={
        "0.parametrizations.weight.original": 0,
        "3.parametrizations.weight.original": (0, 1),
        "4.weight": 1,
    },
    exact=None,
)
def spectral_norm() -> Built:
    """The singular vectors are buffers: u is as long as the outputs, v as inputs x kernel."""
    model = plain()
    for layer in (model[0], model[3]):
        parametrizations.spectral_norm(layer)
    return model, (image(),), {}


class LowRank(nn.Module):
    """A LoRA adapter as a parametrization: W + B A."""

    def __init__(self, outputs: int, inputs: int, rank: int) -> None:
        super().__init__()
        self.a_RI = nn.Parameter(torch.randn(rank, inputs) * 0.3)
        self.b_OR = nn.Parameter(torch.randn(outputs, rank) * 0.3)

    def forward(self, weight_OI: Tensor) -> Tensor:
        return weight_OI + self.b_OR @ self.a_RI


@micro(
    "lora_parametrization",
    halved={
        "0.weight": 0,
        "2.parametrizations.weight.original": (0, 1),
        "2.parametrizations.weight.0.a_RI": 1,
        "2.parametrizations.weight.0.b_OR": 0,
        "4.weight": 1,
    },
)
def lora_parametrization() -> Built:
    model = nn.Sequential(nn.Linear(6, 14), nn.ReLU(), nn.Linear(14, 10), nn.GELU(), nn.Linear(10, 5))
    parametrize.register_parametrization(model[2], "weight", LowRank(10, 14, 4))
    return model, (torch.randn(2, 6),), {}


class Adapted(nn.Module):
    """A LoRA adapter as modules beside a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.base, self.head = nn.Linear(6, 14), nn.Linear(14, 10), nn.Linear(10, 5)
        self.lora_a, self.lora_b = nn.Linear(14, 4, bias=False), nn.Linear(4, 10, bias=False)
        self.base.requires_grad_(False)

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BF = self.inner(x_BF).relu()
        return self.head(self.base(x_BF) + 0.5 * self.lora_b(self.lora_a(x_BF)))


@micro(
    "lora_modules",
    halved={
        "inner.weight": 0,
        "base.weight": (0, 1),
        "lora_a.weight": (0, 1),
        "lora_b.weight": (0, 1),
        "head.weight": 1,
    },
)
def lora_modules() -> Built:
    return Adapted(), (torch.randn(2, 6),), {}


@micro("graph_module", halved=PLAIN)
def graph_module() -> Built:
    return torch.fx.symbolic_trace(plain()), (image(),), {}


class Flattening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(3, 10, 3), nn.Linear(120, 14), nn.Linear(14, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = torch.relu(self.conv(x_BCHW))
        return self.head(self.fc(x_BCHW.view(x_BCHW.shape[0], -1)).tanh())


@micro("graph_module_flatten", halved={"conv.weight": 0, "fc.weight": (0, 1), "head.weight": 1})
def graph_module_flatten() -> Built:
    """Shapes are read inside the graph, so its code adapts."""
    return torch.fx.symbolic_trace(Flattening()), (image(),), {}


@micro("compiled", halved={f"_orig_mod.{name}": dims for name, dims in PLAIN.items()}, train=False)
def compiled() -> Built:
    return torch.compile(plain(), backend="eager"), (image(),), {}


@dataclass
class Result:
    logits: Tensor
    extras: dict[str, Any]


Pair = namedtuple("Pair", "first second")


class Structured(nn.Module):
    """Nested keyword inputs, and an output of the kind asked for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.head = nn.Linear(6, 14), nn.Linear(4, 14), nn.Linear(14, 5)

    def forward(self, batch: dict[str, Any], *, scale: float = 1.0, flags: tuple[Any, ...] = ()) -> Any:
        a_BC, b_BC = self.a(batch["x"]).relu(), self.b(batch["nested"][0]).relu()
        first, second = self.head(a_BC) * scale, self.head(a_BC * b_BC)
        if flags:
            second = second + flags[0]
        return {
            "tuple": (first, [second, None]),
            "dict": {"first": first, "rest": {"second": second}},
            "dataclass": Result(first, {"second": second}),
            "namedtuple": Pair(first, (second, "text", 3)),
        }[self.kind]


def structured(kind: str) -> Built:
    batch = {"x": torch.randn(2, 6), "nested": [torch.randn(2, 4)], "name": "example"}
    return Structured(kind), (), {"batch": batch, "scale": 0.5, "flags": (torch.randn(2, 1), None)}


STRUCTURED = {"a.weight": 0, "b.weight": 0, "head.weight": 1}


@micro("output_tuple", halved=STRUCTURED)
def output_tuple() -> Built:
    return structured("tuple")


@micro("output_dict", halved=STRUCTURED)
def output_dict() -> Built:
    return structured("dict")


@micro("output_dataclass", halved=STRUCTURED)
def output_dataclass() -> Built:
    return structured("dataclass")


@micro("output_namedtuple", halved=STRUCTURED)
def output_namedtuple() -> Built:
    return structured("namedtuple")


class Features(nn.Module):
    """Hidden features handed out beside the logits: as outputs, they stay whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 14), nn.Linear(14, 10), nn.Linear(10, 5)

    def forward(self, x_BF: Tensor) -> dict[str, Tensor]:
        features_BC = self.a(x_BF).relu()
        return {"features": features_BC, "logits": self.head(self.b(features_BC).relu())}


@micro(
    "hidden_features_as_output",
    halved={"b.weight": 0, "head.weight": 1},
    whole={"a.weight": 0, "b.weight": 1},
    frozen="output",
)
def hidden_features_as_output() -> Built:
    return Features(), (torch.randn(2, 6),), {}


class Unused(nn.Module):
    """A layer that this input never reaches: it stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head, self.never = nn.Linear(6, 14), nn.Linear(14, 5), nn.Linear(14, 14)

    def forward(self, x_BF: Tensor, extra: bool = False) -> Tensor:
        x_BF = self.a(x_BF).relu()
        return self.head(self.never(x_BF) if extra else x_BF)


@micro("unused_layer", halved={"a.weight": 0, "head.weight": 1}, whole={"never.weight": (0, 1)})
def unused_layer() -> Built:
    return Unused(), (torch.randn(2, 6),), {}


class Branching(nn.Module):
    """The code reads a value: fake tensors have none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 14), nn.Linear(14, 10), nn.Linear(10, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        x_BF = self.a(x_BF).relu()
        if x_BF.sum().item() < -1:
            return self.head(self.b(x_BF * 2))
        steps = int(x_BF.ge(0).any()) + 1
        for _ in range(steps):
            x_BF = x_BF * 0.9
        return self.head(self.b(x_BF).relu())


@micro("branches_on_a_value", halved={"a.weight": 0, "b.weight": (0, 1), "head.weight": 1}, exact=None)
def branches_on_a_value() -> Built:
    return Branching(), (torch.randn(2, 6),), {}


class HalfPrecisionInside(nn.Module):
    """Casts on the way: an upcast before a sum, as autocast-minded code writes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 14), nn.Linear(14, 10), nn.Linear(10, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        y_BF = self.a(x_BF).to(torch.float32).relu().type_as(x_BF)
        return self.head(self.b(y_BF.double().detach() + y_BF.to(x_BF.device)).relu().to(x_BF.dtype))


@micro("casts", halved={"a.weight": 0, "b.weight": (0, 1), "head.weight": 1}, tolerance=1e-5)
def casts() -> Built:
    return HalfPrecisionInside(), (torch.randn(2, 6),), {}


class DroppedOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop2d = nn.Conv2d(3, 14, 1), nn.Dropout2d(0.5)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(14, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BC = self.drop2d(self.conv(x_BCHW)).relu().flatten(2).mean(-1)
        return self.head(nn.functional.dropout(self.drop(x_BC), 0.1, self.training))


@micro("dropout", halved={"conv.weight": 0, "head.weight": 1})
def dropout() -> Built:
    return DroppedOut(), (image(),), {}


class Complex(nn.Module):
    """A Fourier filter over positions: channels pass through a complex pointwise product."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(3, 14, 1), nn.Conv1d(14, 5, 1)
        self.filter_CF2 = nn.Parameter(torch.randn(14, 5, 2))

    def forward(self, x_BCT: Tensor) -> Tensor:
        f_BCF = torch.fft.rfft(self.stem(x_BCT), dim=2) * torch.view_as_complex(self.filter_CF2)
        return self.head(torch.fft.irfft(f_BCF, n=x_BCT.shape[2], dim=2).relu())


@micro(
    "fourier_filter",
    halved={"stem.weight": 0, "filter_CF2": 0, "head.weight": 1},
    frozen="fft|complex|unknown",
    either=True,
)
def fourier_filter() -> Built:
    return Complex(), (torch.randn(2, 3, 8),), {}

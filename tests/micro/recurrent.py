"""Recurrent layers and embeddings, tied weights and shared modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ._registry import Built, micro


class Recurrent(nn.Module):
    """embed -> recurrent -> head over all the outputs."""

    def __init__(self, cell: type[nn.RNNBase], directions: int = 1, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 10)
        self.rnn = cell(10, 14, bidirectional=directions == 2, **options)
        self.head = nn.Linear(directions * (options.get("proj_size") or 14), 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.embed(x).relu())
        return self.head(y)


def recurrent(cell: type[nn.RNNBase], directions: int = 1, **options: Any) -> Built:
    return Recurrent(cell, directions, **options), (torch.randn(3, 2, 6),), {}


ONE_LAYER = {
    "embed.weight": 0,
    "rnn.weight_ih_l0": (0, 1),
    "rnn.weight_hh_l0": (0, 1),
    "rnn.bias_ih_l0": 0,
    "head.weight": 1,
}
TWO_LAYERS = {**ONE_LAYER, "rnn.weight_ih_l1": (0, 1), "rnn.weight_hh_l1": (0, 1), "rnn.bias_hh_l1": 0}
REVERSED = {"rnn.weight_ih_l0_reverse": (0, 1), "rnn.weight_hh_l0_reverse": (0, 1)}


@micro("lstm", halved=ONE_LAYER)
def lstm() -> Built:
    """Four gates in one weight: each loses the same units, and the cell state with them."""
    return recurrent(nn.LSTM)


@micro("lstm_two_layers_batch_first", halved=TWO_LAYERS)
def lstm_two_layers_batch_first() -> Built:
    """One hidden_size for both layers: different axes, equal sizes."""
    return recurrent(nn.LSTM, num_layers=2, batch_first=True, dropout=0.1)


@micro("lstm_bidirectional", halved={**ONE_LAYER, **REVERSED})
def lstm_bidirectional() -> Built:
    return recurrent(nn.LSTM, 2)


@micro("lstm_bidirectional_two_layers", halved={**TWO_LAYERS, **REVERSED, "rnn.weight_ih_l1_reverse": (0, 1)})
def lstm_bidirectional_two_layers() -> Built:
    return recurrent(nn.LSTM, 2, num_layers=2)


@micro("lstm_without_bias", halved={"rnn.weight_ih_l0": (0, 1), "rnn.weight_hh_l0": (0, 1), "head.weight": 1})
def lstm_without_bias() -> Built:
    return recurrent(nn.LSTM, bias=False)


@micro(
    "lstm_projected",
    halved={
        "rnn.weight_ih_l0": (0, 1),
        "rnn.weight_hh_l0": (0, 1),
        "rnn.weight_hr_l0": (0, 1),
        "head.weight": 1,
    },
)
def lstm_projected() -> Built:
    """proj_size: the cell is 14 wide, the output 8."""
    return recurrent(nn.LSTM, proj_size=8)


@micro("gru", halved=ONE_LAYER)
def gru() -> Built:
    return recurrent(nn.GRU)


@micro("gru_bidirectional_two_layers", halved={**TWO_LAYERS, **REVERSED})
def gru_bidirectional_two_layers() -> Built:
    return recurrent(nn.GRU, 2, num_layers=2, batch_first=True)


@micro("rnn_tanh", halved=TWO_LAYERS)
def rnn_tanh() -> Built:
    return recurrent(nn.RNN, num_layers=2)


@micro("rnn_relu", halved={**ONE_LAYER, **REVERSED})
def rnn_relu() -> Built:
    return recurrent(nn.RNN, 2, nonlinearity="relu")


class FinalState(nn.Module):
    """The classifier reads the last state; the first state is built from the attribute hidden_size."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 14, num_layers=2, batch_first=True)
        self.head = nn.Linear(14, 5)

    def forward(self, x_BTF: Tensor) -> Tensor:
        zeros = x_BTF.new_zeros(self.rnn.num_layers, len(x_BTF), self.rnn.hidden_size)
        _, (h_LBH, c_LBH) = self.rnn(x_BTF, (zeros, zeros))
        return self.head(h_LBH[-1] + c_LBH[-1].tanh())


@micro("lstm_final_state", halved={"rnn.weight_ih_l0": 0, "rnn.weight_ih_l1": (0, 1), "head.weight": 1})
def lstm_final_state() -> Built:
    return FinalState(), (torch.randn(2, 3, 6),), {}


class Cells(nn.Module):
    """Single-step cells in a Python loop, the state carried by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 14
        self.lstm, self.gru, self.head = nn.LSTMCell(6, 14), nn.GRUCell(14, 10), nn.Linear(10, 5)

    def forward(self, x_TBF: Tensor) -> Tensor:
        h = c = x_TBF.new_zeros(x_TBF.shape[1], self.hidden)
        g = None
        for x_BF in x_TBF:
            h, c = self.lstm(x_BF, (h, c))
            g = self.gru(h, g)
        return self.head(g)


@micro(
    "recurrent_cells",
    halved={"lstm.weight_hh": (0, 1), "gru.weight_ih": (0, 1), "gru.weight_hh": (0, 1), "head.weight": 1},
)
def recurrent_cells() -> Built:
    return Cells(), (torch.randn(3, 2, 6),), {}


class Embedded(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 14, padding_idx=0)
        self.positions = nn.Embedding(4, 14)
        self.up, self.down = nn.Linear(14, 20), nn.Linear(20, 14)
        self.head = nn.Linear(14, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTE = self.embed(tokens_BT) + self.positions(torch.arange(tokens_BT.shape[1]))
        return self.head(x_BTE + self.down(self.up(x_BTE).relu()))


LANGUAGE = {"embed.weight": 1, "positions.weight": 1, "up.weight": (0, 1), "down.weight": (0, 1)}


@micro(
    "embedding",
    halved={**LANGUAGE, "head.weight": 1},
    whole={"embed.weight": 0},
    frozen="vocabulary|index|embed",
)
def embedding() -> Built:
    return Embedded(False), (torch.tensor([[1, 0, 4, 10], [7, 2, 2, 9]]),), {}


@micro("tied_embedding", halved=LANGUAGE, whole={"embed.weight": 0}, frozen="vocabulary|index|embed|output")
def tied_embedding() -> Built:
    """One parameter read as a table and as a matrix: it must stay one parameter."""
    return Embedded(True), (torch.tensor([[1, 0, 4, 10], [7, 2, 2, 9]]),), {}


class Bagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(11, 14, mode="sum"), nn.Linear(14, 5)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.head(self.bag(tokens_BT).relu())


@micro("embedding_bag", halved={"bag.weight": 1, "head.weight": 1}, whole={"bag.weight": 0})
def embedding_bag() -> Built:
    return Bagged(), (torch.tensor([[1, 0, 4], [7, 2, 2]]),), {}


class SharedModule(nn.Module):
    """One layer used twice on one stream: its inputs and outputs are the same axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = (
            nn.Conv2d(3, 14, 1),
            nn.Conv2d(14, 14, 3, padding=1),
            nn.Conv2d(14, 5, 1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.stem(x_BCHW)
        for _ in range(2):
            x_BCHW = self.block(x_BCHW).relu()
        return self.head(x_BCHW)


@micro("shared_module", halved={"stem.weight": 0, "block.weight": (0, 1), "head.weight": 1})
def shared_module() -> Built:
    return SharedModule(), (torch.randn(2, 3, 4, 4),), {}


class SharedBranches(nn.Module):
    """A siamese trunk, and one module registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 14), nn.ReLU(), nn.Linear(14, 10))
        self.alias = self.trunk
        self.head = nn.Linear(20, 5)

    def forward(self, left_BF: Tensor, right_BF: Tensor) -> Tensor:
        return self.head(torch.cat([self.trunk(left_BF), self.alias(right_BF).tanh()], 1))


@micro("siamese", halved={"trunk.0.weight": 0, "trunk.2.weight": (0, 1), "head.weight": 1})
def siamese() -> Built:
    return SharedBranches(), (torch.randn(2, 6), torch.randn(2, 6)), {}


class TiedTranspose(nn.Module):
    """An autoencoder whose decoder is the encoder, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.encode = nn.Linear(6, 16), nn.Linear(16, 10)
        self.out = nn.Linear(16, 5)

    def forward(self, x_BF: Tensor) -> Tensor:
        z_BC = self.encode(self.inner(x_BF).relu()).tanh()
        return self.out(nn.functional.linear(z_BC, self.encode.weight.t()))


@micro("tied_transpose", halved={"inner.weight": 0, "encode.weight": (0, 1), "out.weight": 1})
def tied_transpose() -> Built:
    return TiedTranspose(), (torch.randn(2, 6),), {}

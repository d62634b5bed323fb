"""Pruning functions: removing outputs or inputs of a single layer, in place.

Each kind of layer has one object in `PrunerBox`, and the free functions are its methods, so that
`handler == prune_conv_out_channels` tells what a dependency does.
"""

from __future__ import annotations

from typing import Any

from ..ops import OPTYPE, module2type
from .attention import MultiheadAttentionPruner
from .base import BasePruningFunc
from .convolution import ConvPruner, DepthwiseConvPruner
from .dense import Conv1DPruner, EmbeddingPruner, LinearPruner, ParameterPruner, PReLUPruner
from .errors import ChannelIndexError, MismatchedLayerError
from .normalization import (
    BatchnormPruner,
    GroupnormPruner,
    InstanceNormPruner,
    LayernormPruner,
    RMSNormPruner,
)
from .recurrent import GRUPruner, LSTMPruner, RecurrentPruner, RNNPruner

PrunerBox: dict[OPTYPE, BasePruningFunc] = {
    OPTYPE.CONV: ConvPruner(),
    OPTYPE.LINEAR: LinearPruner(),
    OPTYPE.BN: BatchnormPruner(),
    OPTYPE.DEPTHWISE_CONV: DepthwiseConvPruner(),
    OPTYPE.PRELU: PReLUPruner(),
    OPTYPE.LN: LayernormPruner(),
    OPTYPE.EMBED: EmbeddingPruner(),
    OPTYPE.PARAMETER: ParameterPruner(),
    OPTYPE.MHA: MultiheadAttentionPruner(),
    OPTYPE.LSTM: LSTMPruner(),
    OPTYPE.GN: GroupnormPruner(),
    OPTYPE.IN: InstanceNormPruner(),
    OPTYPE.RNN: RNNPruner(),
    OPTYPE.GRU: GRUPruner(),
    OPTYPE.RMS: RMSNormPruner(),
    OPTYPE.CONV1D: Conv1DPruner(),
}
"""The pruning functions of each kind of layer."""

prune_conv_out_channels = PrunerBox[OPTYPE.CONV].prune_out_channels
prune_conv_in_channels = PrunerBox[OPTYPE.CONV].prune_in_channels
prune_depthwise_conv_out_channels = PrunerBox[OPTYPE.DEPTHWISE_CONV].prune_out_channels
prune_depthwise_conv_in_channels = PrunerBox[OPTYPE.DEPTHWISE_CONV].prune_in_channels
prune_linear_out_channels = PrunerBox[OPTYPE.LINEAR].prune_out_channels
prune_linear_in_channels = PrunerBox[OPTYPE.LINEAR].prune_in_channels
prune_conv1d_out_channels = PrunerBox[OPTYPE.CONV1D].prune_out_channels
prune_conv1d_in_channels = PrunerBox[OPTYPE.CONV1D].prune_in_channels
prune_batchnorm_out_channels = PrunerBox[OPTYPE.BN].prune_out_channels
prune_batchnorm_in_channels = PrunerBox[OPTYPE.BN].prune_in_channels
prune_layernorm_out_channels = PrunerBox[OPTYPE.LN].prune_out_channels
prune_layernorm_in_channels = PrunerBox[OPTYPE.LN].prune_in_channels
prune_rmsnorm_out_channels = PrunerBox[OPTYPE.RMS].prune_out_channels
prune_rmsnorm_in_channels = PrunerBox[OPTYPE.RMS].prune_in_channels
prune_groupnorm_out_channels = PrunerBox[OPTYPE.GN].prune_out_channels
prune_groupnorm_in_channels = PrunerBox[OPTYPE.GN].prune_in_channels
prune_instancenorm_out_channels = PrunerBox[OPTYPE.IN].prune_out_channels
prune_instancenorm_in_channels = PrunerBox[OPTYPE.IN].prune_in_channels
prune_prelu_out_channels = PrunerBox[OPTYPE.PRELU].prune_out_channels
prune_prelu_in_channels = PrunerBox[OPTYPE.PRELU].prune_in_channels
prune_embedding_out_channels = PrunerBox[OPTYPE.EMBED].prune_out_channels
prune_embedding_in_channels = PrunerBox[OPTYPE.EMBED].prune_in_channels
prune_parameter_out_channels = PrunerBox[OPTYPE.PARAMETER].prune_out_channels
prune_parameter_in_channels = PrunerBox[OPTYPE.PARAMETER].prune_in_channels
prune_multihead_attention_out_channels = PrunerBox[OPTYPE.MHA].prune_out_channels
prune_multihead_attention_in_channels = PrunerBox[OPTYPE.MHA].prune_in_channels
prune_lstm_out_channels = PrunerBox[OPTYPE.LSTM].prune_out_channels
prune_lstm_in_channels = PrunerBox[OPTYPE.LSTM].prune_in_channels
prune_rnn_out_channels = PrunerBox[OPTYPE.RNN].prune_out_channels
prune_rnn_in_channels = PrunerBox[OPTYPE.RNN].prune_in_channels
prune_gru_out_channels = PrunerBox[OPTYPE.GRU].prune_out_channels
prune_gru_in_channels = PrunerBox[OPTYPE.GRU].prune_in_channels


GroupNormPruner = GroupnormPruner
"""The name of Torch-Pruning; not among those of `*`, where it is a pruner of whole models."""


def pruner_of(module: Any) -> BasePruningFunc | None:
    """The pruning functions of a layer or parameter; None for what has no channels of its own."""
    return PrunerBox.get(module2type(module))


__all__ = [
    "BasePruningFunc",
    "BatchnormPruner",
    "ChannelIndexError",
    "Conv1DPruner",
    "ConvPruner",
    "DepthwiseConvPruner",
    "EmbeddingPruner",
    "GRUPruner",
    "GroupnormPruner",
    "InstanceNormPruner",
    "LSTMPruner",
    "LayernormPruner",
    "LinearPruner",
    "MismatchedLayerError",
    "MultiheadAttentionPruner",
    "PReLUPruner",
    "ParameterPruner",
    "PrunerBox",
    "RMSNormPruner",
    "RNNPruner",
    "RecurrentPruner",
    "pruner_of",
    *sorted(name for name in list(globals()) if name.startswith("prune_")),
]

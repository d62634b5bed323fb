"""Prune a vision transformer that was not written with pruning in mind.

The attention below is the usual one: one fused projection for queries, keys and values, reshaped with the
integers `num_heads` and `head_dim` that the module keeps. Nothing tells Prunus about heads. It finds them in
the reshape, removes whole units of the axes, and repairs the integers so that the code still runs.

    python examples/prune_vit.py

Shapes: B images, C channels, H and W pixels, T tokens, N heads, D head dimension, E embedding, K classes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus


class Attention(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x_BTE: Tensor) -> Tensor:
        batch, tokens, _ = x_BTE.shape
        qkv = self.qkv(x_BTE).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q_BNTD, k_BNTD, v_BNTD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y_BNTD = F.scaled_dot_product_attention(q_BNTD, k_BNTD, v_BNTD)
        return self.proj(y_BNTD.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class Block(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = Attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.fc2 = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x_BTE: Tensor) -> Tensor:
        x_BTE = x_BTE + self.attention(self.norm1(x_BTE))
        return x_BTE + self.fc2(F.gelu(self.fc1(self.norm2(x_BTE))))


class ViT(nn.Module):
    def __init__(self, image: int = 32, patch: int = 8, embed_dim: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, embed_dim, patch, patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.positions = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, embed_dim))
        self.blocks = nn.Sequential(*[Block(embed_dim, num_heads=4) for _ in range(depth)])
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, 10)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        tokens_BTE = self.patches(x_BCHW).flatten(2).transpose(1, 2)
        class_B1E = self.class_token.expand(len(x_BCHW), -1, -1)
        tokens_BTE = torch.cat([class_B1E, tokens_BTE], dim=1) + self.positions
        return self.head(self.norm(self.blocks(tokens_BTE))[:, 0])


@torch.no_grad()
def difference_from_zeroed(original: ViT, pruned: ViT, plan: prunus.Plan, x_BCHW: Tensor) -> float:
    """Largest difference between the pruned model and the original whose removed weights are zero."""
    zeroed = copy.deepcopy(original)
    masks = plan.masks()
    for name, parameter in zeroed.named_parameters():
        if name in masks:
            parameter.mul_(masks[name])
    return (pruned(x_BCHW) - zeroed(x_BCHW)).abs().max().item()


def main() -> None:
    torch.manual_seed(0)
    x_BCHW = torch.randn(8, 3, 32, 32)
    model = ViT().eval()

    print("Every axis of the model, what it couples, and why the rest stay whole:\n")
    graph = prunus.trace(model, x_BCHW)
    print(graph)

    # Layer norm computes a mean over the embedding, so cutting the embedding changes what is kept: such a
    # plan is approximate, and says so.
    plan = graph.plan(ratio=0.5)
    print(f"\nhalf of every axis: exact is {plan.exact}; approximate axes:")
    for axis in plan.approximate_axes:
        print(f"  {axis}")

    # With the embedding left whole, only heads, head dimensions and hidden units go, and the plan is exact.
    plan = graph.plan(ratio=0.5, ignore=[model.patches])
    original = copy.deepcopy(model)
    before = graph.cost()
    plan.apply(model)
    after = prunus.trace(model, x_BCHW).cost()
    attention = model.blocks[0].attention

    print(f"\nembedding kept: exact is {plan.exact}")
    print(f"  parameters   {before.params:,} -> {after.params:,}")
    print(f"  MACs         {before.macs:,} -> {after.macs:,}")
    print(f"  num_heads    {original.blocks[0].attention.num_heads} -> {attention.num_heads}")
    print(f"  head_dim     {original.blocks[0].attention.head_dim} -> {attention.head_dim}")
    difference = difference_from_zeroed(original, model, plan, x_BCHW)
    print(f"  largest difference from the original with the removed weights zeroed: {difference:.1e}")
    if not (plan.exact and difference < 1e-4):
        raise SystemExit("the pruned model should equal the zeroed one")


if __name__ == "__main__":
    main()

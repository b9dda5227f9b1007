"""SiT: a transformer on image patches, conditioned on time and class by adaptive layer norm.

The architecture is DiT's (Peebles & Xie, arXiv 2212.09748) as used by SiT (Ma et al.,
arXiv 2401.08740). Parameter names and shapes are those of the official checkpoints.
"""

import math
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Attention, Mlp, PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FREQUENCIES = 256  # width of the sinusoidal time embedding


class SiT(nn.Module):
    """A velocity (or score, or noise) network on (N, C, H, W) latents or pixels.

    Args:
        input_size: height and width of the input; a multiple of `patch_size`.
        patch_size: side of a patch; the network sees T = (input_size / patch_size)^2 tokens.
        in_channels: C.
        hidden_size: width D of the tokens; a multiple of `num_heads` and of 4.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of a block's MLP over D.
        class_dropout_prob: probability with which training replaces a label by the null label,
            number `num_classes`. 0 leaves the model without a null label, so without guidance.
        num_classes: K.
        learn_sigma: give twice the output channels, of which the second half is unused. The
            official checkpoints have them.

    Raises `ValueError` when the sizes do not divide as said above.
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ):
        super().__init__()
        check_divides("input_size", input_size, "patch_size", patch_size)
        check_divides("hidden_size", hidden_size, "num_heads", num_heads)
        check_divides("hidden_size", hidden_size, "4 (sine, cosine, two axes)", 4)
        self.in_channels = in_channels
        self.out_channels = in_channels * 2 if learn_sigma else in_channels
        self.patch_size = patch_size
        self.num_classes = num_classes
        self.class_dropout_prob = class_dropout_prob
        self.learn_sigma = learn_sigma
        self.checkpoint_activations = 0  # n: recompute every n-th block in the backward pass
        self.residual_dtype: torch.dtype | None = None  # of tokens between blocks, if not x's

        self.x_embedder = PatchEmbed(input_size, patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout_prob)
        grid = sincos_2d(hidden_size, input_size // patch_size)  # (T, D)
        self.pos_embed = nn.Parameter(grid.unsqueeze(0), requires_grad=False)
        self.blocks = nn.ModuleList(
            [SiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth)]
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, self.out_channels)
        self.initialize_weights()

    @classmethod
    def from_pretrained(cls, name: str | PathLike) -> "SiT":
        """Load a trained network, its moving average where there is one, on the CPU in eval mode.

        Args:
            name: a checkpoint file, a folder that scripts/share.py made, ORG/NAME or ORG/NAME/FILE
                on the Hugging Face hub, or a published checkpoint's short name ("sit-xl-2").

        Raises `ValueError` when it cannot be had, is of another network, or is REPA's, whose time
        runs the other way: `load_trained(name).network` turns that.
        """
        from models.trained import load_trained  # which imports this file

        trained = load_trained(Path(name))
        if trained.reversed_time:
            raise ValueError(
                f"checkpoint {name}: REPA's network, whose time runs the other way; "
                f"models.trained.load_trained({str(name)!r}).network turns it"
            )
        return trained.model

    @property
    def null_label(self) -> int:
        """The label that means "no class"; `ValueError` if the model was made without one."""
        if self.class_dropout_prob == 0:
            raise ValueError(
                "this model has no null label (class_dropout_prob 0): guidance is impossible"
            )
        return self.num_classes

    def initialize_weights(self) -> None:
        """Initialise as DiT does: blocks start as the identity, the output as zero (adaLN-Zero)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        projection = self.x_embedder.proj  # a convolution, initialised as the linear map it is
        nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
        nn.init.zeros_(self.x_embedder.get_parameter("proj.bias"))
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.t_embedder.get_parameter("mlp.0.weight"), std=0.02)
        nn.init.normal_(self.t_embedder.get_parameter("mlp.2.weight"), std=0.02)
        for layer in (*self.blocks, self.final_layer):
            nn.init.zeros_(layer.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor, force_drop_ids: Tensor | None = None
    ) -> Tensor:
        """Predict at (x, t) for class y.

        Args:
            x: (N, C, H, W).
            t: (N,), 0 is noise and 1 is data.
            y: (N,) labels in 0..K, K being the null label.
            force_drop_ids: (N,) booleans, whose labels to drop. Without it a model in training
                mode draws them itself from torch's global generator.

        Returns (N, C, H, W).
        """
        x = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        x = x if self.residual_dtype is None else x.to(self.residual_dtype)
        c = self.t_embedder(t) + self.y_embedder(y, self.training, force_drop_ids)  # (N, D)
        every = self.checkpoint_activations if self.training else 0
        for i, block in enumerate(self.blocks):
            recompute = every and i % every == 0
            x = checkpoint(block, x, c, use_reentrant=False) if recompute else block(x, c)
        x = self.unpatchify(self.final_layer(x, c))  # (N, C or 2C, H, W)
        return x.chunk(2, dim=1)[0] if self.learn_sigma else x

    def forward_with_cfg(
        self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float, cfg_channels: int | None = 3
    ) -> Tensor:
        """Predict with classifier-free guidance, by SiT's calling convention.

        Args:
            x: (2N, C, H, W); only the first half is looked at.
            t: (2N,).
            y: (2N,): N labels, then N null labels.
            cfg_scale: w in `uncond + w (cond - uncond)`.
            cfg_channels: how many leading channels are guided, None for all. SiT's published
                numbers guide 3 of the 4 latent channels.

        Returns (2N, C, H, W), the guided channels twice.
        """
        half = x[: len(x) // 2]
        cond, uncond = self(torch.cat([half, half]), t, y).chunk(2)
        guided = (uncond + cfg_scale * (cond - uncond))[:, :cfg_channels]
        rest = slice(guided.shape[1], None)
        return torch.cat(
            [torch.cat([guided, cond[:, rest]], dim=1), torch.cat([guided, uncond[:, rest]], dim=1)]
        )

    def unpatchify(self, x: Tensor) -> Tensor:
        """Put patches together: (N, T, p * p * C) to (N, C, H, W)."""
        p, side = self.patch_size, math.isqrt(x.shape[1])
        x = x.reshape(len(x), side, side, p, p, -1)  # (N, rows, columns, p, p, C)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), -1, side * p, side * p)


class SiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, num_heads=num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio), act_layer=TanhGELU)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            self.adaLN_modulation(c).unsqueeze(1).chunk(6, dim=-1)  # each (N, 1, D)
        )
        x = x + gate_a * self.attn(self.norm1(x) * (1 + scale_a) + shift_a)
        return x + gate_m * self.mlp(self.norm2(x) * (1 + scale_m) + shift_m)


class FinalLayer(nn.Module):
    """The last layer, from tokens to patches: (N, T, D) to (N, T, p * p * C)."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).unsqueeze(1).chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class TimestepEmbedder(nn.Module):
    """Sinusoids of t through a two-layer MLP: (N,) to (N, D)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
        angles = t.float()[:, None] * torch.exp(-math.log(10_000) * exponent)  # (N, half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        first: Any = self.mlp[0]
        return self.mlp(waves.to(first.weight.dtype))


class LabelEmbedder(nn.Module):
    """Embedding of classes, (N,) to (N, D); the last row of the table is the null label."""

    def __init__(self, num_classes: int, hidden_size: int, dropout_prob: float):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (dropout_prob > 0), hidden_size)
        self.num_classes = num_classes
        self.dropout_prob = dropout_prob

    def forward(self, y: Tensor, train: bool, force_drop_ids: Tensor | None = None) -> Tensor:
        if force_drop_ids is None and train and self.dropout_prob > 0:
            force_drop_ids = torch.rand(len(y), device=y.device) < self.dropout_prob
        if force_drop_ids is not None:
            y = torch.where(force_drop_ids, self.num_classes, y)
        return self.embedding_table(y)


class TanhGELU(nn.GELU):
    def __init__(self):
        super().__init__(approximate="tanh")


def sincos_2d(width: int, side: int) -> Tensor:
    """Return the fixed position embedding of a side x side grid, (side^2, width).

    The first half of the width encodes the column and the second half the row, each as sines and
    then cosines of frequencies 10000^(-k / (width / 4)); computed in float64.
    """
    frequencies = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # (side, width / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (side, width / 2)
    columns = waves[None].expand(side, side, -1)
    rows = waves[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).reshape(side * side, width).float()


def check_divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{name} {value} is not a multiple of {divisor_name} {divisor}")

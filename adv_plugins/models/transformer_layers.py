"""The parts of a Transformer over padded sequences, which ignore the padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal_positions(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Position encodings of sines and cosines.

    Args:
        length (int): Number of positions, T.
        width (int): Size of an encoding.
        device (torch.device, optional): Device of the result. Defaults to None: the CPU.

    Returns:
        Tensor: (T, width); at position t, entry 2i is sin(t / 10000^(2i / width)) and entry
        2i + 1 is the cosine of the same angle.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.5.
    """
    rates = 10000 ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class SelfAttention(nn.Module):
    """Multi-head self-attention over the valid frames of a sequence.

    Args:
        width (int): Size of a frame's vector.
        num_heads (int): Number of heads; divides ``width``.
        dropout (float): Dropout of the attention weights in training.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Let frames (B, T, width) attend to those where ``keys`` (B, T) is True."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mask = keys[:, None, None, :]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(x.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """A Transformer encoder layer with normalisation after the residual sums, as in the original.

    Args:
        width (int): Size of a frame's vector.
        num_heads (int): Number of attention heads.
        mlp_ratio (float): Width of the hidden layer, as a multiple of ``width``.
        dropout (float): Dropout of both branches and of the attention weights.

    Raises:
        ValueError: ``mlp_ratio`` leaves no hidden unit.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.1.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        if hidden < 1:
            raise ValueError(
                f'mlp_ratio={mlp_ratio} leaves no hidden unit for the width {width}; write a '
                'larger one, e.g. 4'
            )
        self.attention = SelfAttention(width, num_heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Encode frames (B, T, width), which attend to those where ``keys`` (B, T) is True."""
        x = self.norm1(x + self.dropout(self.attention(x, keys)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class MaskedPooling(nn.Module):
    """Pool the valid frames of a video to one vector; a video without frames gives zeros.

    Args:
        width (int): Size of a frame's vector.
        pooling (str): ``'mean'``, ``'max'``, or ``'attention'``: a mean weighted by the softmax,
            over the frames, of a learned linear score.
    """

    def __init__(self, width: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.score = nn.Linear(width, 1) if pooling == 'attention' else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (B, T, width) over the frames where ``mask`` (B, T) is True."""
        mask = mask[..., None]
        if self.score is not None:
            # The lowest finite score, because -inf would give NaN for a video without frames.
            scores = self.score(x)
            lowest = torch.finfo(scores.dtype).min
            weights = scores.masked_fill(~mask, lowest).softmax(dim=1)
            return (weights * x).masked_fill(~mask, 0.0).sum(dim=1)
        if self.pooling == 'max':
            x = x.masked_fill(~mask, -torch.inf).amax(dim=1)
            return x.masked_fill(~mask.any(dim=1), 0.0)
        return x.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)

"""Attention maps: capturing them in a forward pass, and regularising them under attack."""

from .capture import capture_attention
from .frobenius import AttentionFrobenius
from .maps import AttentionMap

__all__ = ['AttentionFrobenius', 'AttentionMap', 'capture_attention']

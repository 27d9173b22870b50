"""Attention maps: capturing them in a forward pass, and regularising them under attack."""

from .capture import AttentionMap, capture_attention
from .frobenius import AttentionFrobenius

__all__ = ['AttentionFrobenius', 'AttentionMap', 'capture_attention']

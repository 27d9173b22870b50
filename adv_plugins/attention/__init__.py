"""Attention maps: read out of a forward pass, and kept from moving under attack."""

from .capture import AttentionMap, capture_attention
from .frobenius import AttentionFrobenius

__all__ = ['AttentionFrobenius', 'AttentionMap', 'capture_attention']

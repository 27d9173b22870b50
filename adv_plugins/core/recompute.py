"""Cutting a clean record off its graph, and finding the cuts again in a second clean forward.

A regularizer differentiates both records. To hold only one graph at a time, the step lets go of the
clean one before the attack: the regularizer then reads leaves with the same values. Their gradients
are sent through the graph of a second clean forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .batch import map_tensors
from .record import Record


def cut(record: Record) -> list[Tensor]:
    """Replace all that a regularizer can differentiate in a record by leaves.

    Returns:
        list[Tensor]: The leaves.
    """
    return _replace_tensors(record, lambda value: value.detach().requires_grad_())


def gradients_at(
    record: Record, leaves: Sequence[Tensor], taken: Sequence[Tensor | None]
) -> dict[Tensor, Tensor | None]:
    """The gradients of leaves, by the tensors of a second record that they stand for.

    Raises:
        RuntimeError: The second forward has recorded something else than the first.
    """
    tensors = _replace_tensors(record, lambda value: value)
    shapes, before = ([tuple(value.shape) for value in values] for values in (tensors, leaves))
    if shapes != before:
        raise RuntimeError(
            f'the clean forward recorded tensors of the shapes {before}, and {shapes} when it ran '
            'once more; recompute=True needs a model that does the same with the same inputs and '
            'random state: write recompute=False'
        )
    return dict(zip(tensors, taken, strict=True))


def _replace_tensors(record: Record, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Replace the floating-point tensors of a record; returns the new ones in a fixed order."""
    changed: dict[Tensor, Tensor] = {}

    def replace(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        # The loss may also be one of the losses.
        if value not in changed:
            changed[value] = change(value)
        return changed[value]

    record.features = None
    record.losses, record.loss, record.logits, record.recorded = map_tensors(
        replace, (record.losses, record.loss, record.logits, record.recorded)
    )
    return list(changed.values())

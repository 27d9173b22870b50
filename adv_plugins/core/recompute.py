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
    """Replace every tensor of a record that has a graph by a leaf, so that the graph is freed.

    Returns:
        list[Tensor]: The leaves, in the order of :func:`tensors_with_graph`.
    """
    leaves: dict[Tensor, Tensor] = {}

    def leaf(value: Tensor) -> Tensor:
        if not value.requires_grad:
            return value
        # The loss may also be one of the losses.
        return leaves.setdefault(value, value.detach().requires_grad_())

    _replace_tensors(record, leaf)
    return list(leaves.values())


def tensors_with_graph(record: Record) -> list[Tensor]:
    """What a regularizer can differentiate in a record."""
    found: dict[Tensor, None] = {}

    def note(value: Tensor) -> Tensor:
        if value.requires_grad:
            found.setdefault(value)
        return value

    _replace_tensors(record, note)
    return list(found)


def gradients_at(
    record: Record, leaves: Sequence[Tensor], taken: Sequence[Tensor | None]
) -> dict[Tensor, Tensor | None]:
    """The gradients of leaves, by the tensors of a second record that they stand for.

    Raises:
        RuntimeError: The second forward has recorded something else than the first.
    """
    tensors = tensors_with_graph(record)
    shapes, before = ([tuple(value.shape) for value in values] for values in (tensors, leaves))
    if shapes != before:
        raise RuntimeError(
            f'the clean forward recorded tensors of the shapes {before}, and {shapes} when it ran '
            'once more; recompute=True needs a model that does the same with the same inputs and '
            'random state: write recompute=False'
        )
    return dict(zip(tensors, taken, strict=True))


def _replace_tensors(record: Record, change: Callable[[Tensor], Tensor]) -> None:
    record.features = None
    record.losses, record.loss, record.logits, record.recorded = map_tensors(
        change, (record.losses, record.loss, record.logits, record.recorded)
    )

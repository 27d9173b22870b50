"""The classes of YouTube-8M's label spaces as nodes, built from its vocabulary."""

from __future__ import annotations

from collections.abc import Collection

from .label_nodes import Node
from .yt8m_vocabulary import Entity, yt8m_verticals, yt8m_vocabulary

PAPER_NUM_CLASSES = 317
"""Number of classes of A-ART's hierarchy."""


def entity_nodes() -> list[Node]:
    """One node for each entity, in the group of its first vertical."""
    return [
        Node(entity.name, entities=[entity.index], verticals=entity.verticals[:1])
        for entity in yt8m_vocabulary()
    ]


def nodes_of_vertical(name: str, any_vertical: bool) -> list[Node]:
    """One node for each entity whose first (or any) vertical is ``name``."""
    return [
        Node(entity.name, entities=[entity.index], verticals=[name])
        for entity in yt8m_vocabulary()
        if name in (entity.verticals if any_vertical else entity.verticals[:1])
    ]


def vertical_nodes(unknown: bool, without: Collection[int] = ()) -> list[Node]:
    """One node for each vertical, with all entities that have it, except those in ``without``."""
    return [
        Node(
            name,
            entities=[
                entity.index
                for entity in yt8m_vocabulary()
                if name in entity.verticals and entity.index not in without
            ],
        )
        for name in yt8m_verticals(unknown)
    ]


def hierarchy_nodes(num_classes: int | None, min_count: int | None, unknown: bool) -> list[Node]:
    """The verticals, then their frequent entities; see ``LabelSpace.hierarchy``."""
    if num_classes is not None and min_count is not None:
        raise ValueError(
            f'num_classes={num_classes} and min_count={min_count} both fix the size of the '
            'hierarchy: give one of them.'
        )
    verticals = yt8m_verticals(unknown)
    entities = [entity for entity in yt8m_vocabulary() if entity.verticals[0] in verticals]
    if min_count is not None:
        frequent = {entity.index for entity in entities if entity.count >= min_count}
    else:
        num_classes = PAPER_NUM_CLASSES if num_classes is None else num_classes
        frequent = _most_frequent(entities, num_classes, len(verticals))
    return vertical_nodes(unknown, without=frequent) + [
        Node(entity.name, parents=entity.verticals, entities=[entity.index])
        for entity in entities
        if entity.index in frequent
    ]


def _most_frequent(entities: list[Entity], num_classes: int, num_verticals: int) -> set[int]:
    """Indices of the entities that fill a hierarchy up to its number of classes."""
    wanted = num_classes - num_verticals
    if not 0 <= wanted <= len(entities):
        raise ValueError(
            f'num_classes={num_classes} cannot be reached: {num_verticals} verticals and up to '
            f'{len(entities)} entities give {num_verticals} to {num_verticals + len(entities)}.'
        )
    ranked = sorted(entities, key=lambda entity: (-entity.count, entity.index))
    return {entity.index for entity in ranked[:wanted]}

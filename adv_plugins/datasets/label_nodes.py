"""The nodes of a label space, one for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Node:
    """One class of a label space.

    Args:
        name (str): Name of the class.
        parents (Sequence[str]): Names of the classes that are positive whenever this one is.
            Defaults to ().
        entities (Sequence[int | str]): What makes the class positive by itself: raw labels, or
            the names (of YouTube-8M entities also Knowledge Graph ids) that stand for them.
            Defaults to ().
        verticals (Sequence[str]): Groups of classes that are measured together and hold this
            class. Defaults to (): see ``LabelSpace.verticals``.
    """

    name: str
    parents: Sequence[str] = ()
    entities: Sequence[int | str] = ()
    verticals: Sequence[str] = ()


NODE_KEYS = tuple(field.name for field in fields(Node))
LIST_KEYS = NODE_KEYS[1:]


def as_node(node: Node | Mapping[str, Any]) -> Node:
    """A node from a node, or from a mapping with its keys.

    Raises:
        ValueError: If the name is missing, a key is unknown, or another value is no list.
    """
    if not isinstance(node, Node):
        if not isinstance(node, Mapping) or not node.get('name'):
            raise ValueError(
                f'the node {node!r} has no name: write dict(name=..., entities=[...]).'
            )
        for key in node:
            if key not in NODE_KEYS:
                raise ValueError(
                    f'the node {node["name"]!r} has the unknown key {key!r}: write '
                    f'{", ".join(NODE_KEYS)}.'
                )
        node = Node(**node)
    for key in LIST_KEYS:
        value = getattr(node, key)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f'{key} of the node {node.name!r} is {value!r}: write a list.')
    return node

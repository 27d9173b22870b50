"""Label spaces: from the entities a video is labelled with to the classes a model predicts.

YouTube-8M labels a video with some of 3,862 entities. Papers predict all of them, those of one
vertical (Finance, Games, ...), or a hierarchy in which an entity's categories are classes too.
A ``LabelSpace`` is a list of nodes, one for each class: the entities that belong to it, and its
parents, which become positive with it. It turns the labels of a video into the multi-hot target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..core.checks import is_integer, near_names
from .label_files import read_mapping, write_mapping
from .label_nodes import Node, as_node
from .yt8m_nodes import entity_nodes, hierarchy_nodes, nodes_of_vertical, vertical_nodes
from .yt8m_vocabulary import yt8m_verticals, yt8m_vocabulary


class LabelSpace:
    """The classes of a multi-label task, and how they follow from the raw labels of a video.

    Use one of the constructors below, or ``from_config`` for what a config may write.

    Args:
        nodes (Sequence[Node | Mapping]): The classes, in their order. Mappings have the keys of
            ``Node``.
        entities (Sequence[str], optional): Names of the raw labels, in their order. Defaults to
            None, which means the 3,862 entities of YouTube-8M.
        name (str): What the space is called in messages. Defaults to 'label space'.

    Raises:
        ValueError: If a node is named twice, names an unknown parent, entity or key, or if the
            parents form a cycle.

    Example:
        >>> space = LabelSpace(
        ...     [Node('Money'), Node('Coin', parents=['Money'], entities=['Coin', 'Bullion'])])
        >>> space.encode([824])
        array([1., 1.], dtype=float32)
    """

    def __init__(
        self,
        nodes: Sequence[Node | Mapping[str, Any]],
        entities: Sequence[str] | None = None,
        name: str = 'label space',
    ) -> None:
        self.name = name
        self._is_yt8m = entities is None
        if entities is None:
            entities = [entity.name for entity in yt8m_vocabulary()]
        self.entities = tuple(entities)
        nodes = [as_node(node) for node in nodes]
        self.classes = tuple(node.name for node in nodes)
        self._check_names()
        numbers = self._entity_numbers()
        self.nodes = tuple(self._with_entity_indices(node, numbers) for node in nodes)
        self._ancestors = self._closure()
        self._positives = self._positives_of_entities()

    @classmethod
    def all_entities(cls) -> LabelSpace:
        """The 3,862 entities of YouTube-8M, as they are.

        Returns:
            LabelSpace: Class ``i`` is raw label ``i``; grouped by each entity's first vertical.
        """
        return cls(entity_nodes(), name='all')

    @classmethod
    def vertical(cls, name: str, any_vertical: bool = False) -> LabelSpace:
        """The entities of one vertical of YouTube-8M.

        Args:
            name (str): Name of the vertical, such as 'Finance' or 'Arts & Entertainment'.
            any_vertical (bool): Whether an entity also belongs to its second and third vertical.
                Defaults to False.

        Returns:
            LabelSpace: One class for each entity, in the order of the vocabulary.

        Raises:
            ValueError: If no vertical has that name.
        """
        known = yt8m_verticals(unknown=True)
        if name not in known:
            raise ValueError(
                f'The vertical {name!r} is unknown.{_did_you_mean(name, known)} Write one of '
                f'{", ".join(known)}.'
            )
        return cls(nodes_of_vertical(name, any_vertical), name=name)

    @classmethod
    def all_verticals(cls, unknown: bool = False) -> LabelSpace:
        """The 24 verticals of YouTube-8M as classes.

        Args:
            unknown (bool): Whether '(Unknown)' is a class, the 25th. Defaults to False.

        Returns:
            LabelSpace: The verticals in alphabetical order. An entity makes each of its one to
            three verticals positive.
        """
        return cls(vertical_nodes(unknown), name='verticals')

    @classmethod
    def hierarchy(
        cls,
        num_classes: int | None = None,
        min_count: int | None = None,
        unknown: bool = False,
    ) -> LabelSpace:
        """Verticals and their most frequent entities, built from the vocabulary.

        The verticals come first, in alphabetical order, then the frequent entities in the order
        of the vocabulary. The parents of an entity are its one to three verticals. An entity too
        rare for a class of its own makes its verticals positive, and is dropped if it has none.

        Note:
            With the default of 317 classes (24 verticals and the 293 most frequent entities) the
            space has as many classes as the hierarchy of A-ART (section 3.1). **It is not the
            paper's list**, which is not public: results are not comparable with its tables.

        Args:
            num_classes (int, optional): Number of classes, verticals included. Defaults to None,
                which means 317 unless ``min_count`` is given.
            min_count (int, optional): Training videos that an entity needs for a class of its
                own, instead of ``num_classes``. Defaults to None.
            unknown (bool): Whether '(Unknown)' is a vertical like the others. Otherwise the 138
                entities that have no other vertical are dropped. Defaults to False.

        Returns:
            LabelSpace: The hierarchy.

        Raises:
            ValueError: If both sizes are given or the number of classes cannot be reached.
        """
        nodes = hierarchy_nodes(num_classes, min_count, unknown)
        return cls(nodes, name='hierarchy')

    @classmethod
    def flat(cls, classes: Sequence[str]) -> LabelSpace:
        """Classes of one's own data: raw label ``i`` is class ``i``.

        Args:
            classes (Sequence[str]): Names of the classes.

        Returns:
            LabelSpace: No parents, no verticals.
        """
        nodes = [Node(name, entities=[index]) for index, name in enumerate(classes)]
        return cls(nodes, entities=classes, name='flat')

    @classmethod
    def load(cls, path: str | PathLike[str]) -> LabelSpace:
        """Read a mapping file, as ``save`` writes it or as edited by hand.

        A .json file holds ``{"nodes": [{"name": ..., "parents": [...], "entities": [...],
        "verticals": [...]}, ...]}``, and for data other than YouTube-8M also ``"entities"``, the
        names of its raw labels. A .csv file (YouTube-8M only) has a header with the columns
        ``name,parents,entities,verticals`` and one row for each node; items of a list are
        separated by ``;``. Only the name is needed. For entities see ``Node``.

        Args:
            path (str | PathLike): Path to the .json or .csv file.

        Returns:
            LabelSpace: The space.

        Raises:
            ValueError: If the file is neither, or if its contents are wrong.
        """
        path = Path(path)
        try:
            return cls._from_mapping(read_mapping(path), path.stem)
        except (ValueError, TypeError) as error:
            raise ValueError(f'{path} is not a mapping of labels: {error}') from error

    @classmethod
    def from_config(cls, config: LabelSpace | str | Sequence[str] | Mapping) -> LabelSpace:
        """Build what a config may write as ``label_space``.

        Args:
            config (LabelSpace | str | Sequence[str] | Mapping): A label space; 'all',
                'verticals', 'hierarchy', the name of a vertical or the path to a .json or .csv
                mapping file; the class names of one's own data; a mapping with ``nodes`` as in
                a .json file; or ``dict(type=...)`` with 'all', 'vertical', 'verticals' or
                'hierarchy' and the arguments of that constructor.

        Returns:
            LabelSpace: The space.

        Raises:
            ValueError: If the config is none of these.
            FileNotFoundError: If the mapping file does not exist.

        Example:
            >>> LabelSpace.from_config(dict(type='vertical', name='Finance')).num_classes
            10
        """
        if isinstance(config, LabelSpace):
            return config
        builders = dict(
            all=cls.all_entities,
            vertical=cls.vertical,
            verticals=cls.all_verticals,
            hierarchy=cls.hierarchy,
        )
        if isinstance(config, str):
            if config.endswith(('.json', '.csv')):
                return cls.load(config)
            # The word 'vertical' alone does not say which one.
            by_word = config in builders and config != 'vertical'
            return builders[config]() if by_word else cls.vertical(config)
        if isinstance(config, Mapping):
            if 'nodes' in config:
                return cls._from_mapping(config, 'label space')
            options = dict(config)
            kind = options.pop('type', None)
            if kind in builders:
                return builders[kind](**options)
        elif isinstance(config, Sequence) and all(isinstance(name, str) for name in config):
            return cls.flat(config)
        raise ValueError(
            f"label_space={config!r} is unknown: write 'all', 'verticals', 'hierarchy', the name "
            'of a vertical, the path to a .json or .csv file, a list of class names, '
            f'dict(type=...) with one of {", ".join(builders)}, or dict(nodes=[...]).'
        )

    @classmethod
    def _from_mapping(cls, mapping: Any, name: str) -> LabelSpace:
        if not isinstance(mapping, Mapping) or not isinstance(mapping.get('nodes'), Sequence):
            raise ValueError('write {"nodes": [{"name": ..., "entities": [...]}, ...]}.')
        surplus = sorted(set(mapping) - {'nodes', 'entities'})
        if surplus:
            raise ValueError(f'the keys {surplus} are unknown: write "nodes" and "entities".')
        return cls(mapping['nodes'], mapping.get('entities'), name)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def num_entities(self) -> int:
        """Number of raw labels: 3862 for YouTube-8M."""
        return len(self.entities)

    @property
    def verticals(self) -> dict[str, tuple[int, ...]]:
        """Class indices of each group of classes, for metrics by vertical.

        The nodes name their groups. If none does, each root of the hierarchy forms a group with
        its descendants; without parents there are no groups.
        """
        groups: dict[str, list[int]] = {}
        if any(node.verticals for node in self.nodes):
            for index, node in enumerate(self.nodes):
                for name in node.verticals:
                    groups.setdefault(name, []).append(index)
        elif any(node.parents for node in self.nodes):
            for index in range(self.num_classes):
                for ancestor in sorted(self._ancestors[index]):
                    if not self.nodes[ancestor].parents:
                        groups.setdefault(self.classes[ancestor], []).append(index)
        return {name: tuple(group) for name, group in groups.items()}

    def encode(self, labels: Sequence[int] | np.ndarray) -> np.ndarray:
        """The target of a video.

        Args:
            labels (Sequence[int] | np.ndarray): Shape (L,), raw labels; may be empty. Labels that
                belong to no class are dropped.

        Returns:
            np.ndarray: Shape (C,), float32, 1 for every class that one of the labels belongs to
            and for all of its ancestors.

        Raises:
            ValueError: If a label is not an index into ``entities``.
        """
        labels = np.asarray(labels)
        target = np.zeros(self.num_classes, dtype=np.float32)
        if labels.size == 0:
            return target
        if labels.dtype.kind not in 'iu' or labels.min() < 0 or labels.max() >= self.num_entities:
            wrong = [x for x in labels.tolist() if x not in range(self.num_entities)]
            raise ValueError(
                f'the labels {wrong or labels} are no indices into the {self.num_entities} raw '
                f'labels of the label space {self.name!r}, which go from 0 to '
                f'{self.num_entities - 1}. Data with other labels needs its own label_space, for '
                'example the list of its class names.'
            )
        for label in labels.tolist():
            target[self._positives[label]] = 1
        return target

    def save(self, path: str | PathLike[str]) -> None:
        """Write the space to a mapping file, to be edited and read by ``load``.

        The file is written whole or not at all: if that fails, an older one stays as it was.

        Args:
            path (str | PathLike): Where to write. '.json', or for YouTube-8M also '.csv', which
                spreadsheets open. A missing folder is made.

        Raises:
            ValueError: If the file cannot hold the space.
        """
        write_mapping(Path(path), self.nodes, None if self._is_yt8m else self.entities)

    def __repr__(self) -> str:
        return (
            f'LabelSpace({self.name!r}, num_classes={self.num_classes}, '
            f'num_entities={self.num_entities})'
        )

    def _check_names(self) -> None:
        if not self.classes:
            raise ValueError('a label space needs at least one class, but this one has none.')
        for what, names in (('class', self.classes), ('raw label', self.entities)):
            first: dict[str, int] = {}
            for number, name in enumerate(names):
                if first.setdefault(name, number) != number:
                    raise ValueError(
                        f'the {what} {name!r} appears twice, as number {first[name]} and '
                        f'{number}: give each its own name.'
                    )

    def _entity_numbers(self) -> dict[str, int]:
        numbers = {name: index for index, name in enumerate(self.entities)}
        if self._is_yt8m:
            for entity in yt8m_vocabulary():
                numbers.setdefault(entity.knowledge_graph_id, entity.index)
        return numbers

    def _with_entity_indices(self, node: Node, numbers: Mapping[str, int]) -> Node:
        """The node with raw labels in place of the names of its entities."""
        entities = []
        for entity in node.entities:
            index = numbers.get(entity, -1) if isinstance(entity, str) else entity
            if not is_integer(index) or not 0 <= index < self.num_entities:
                raise ValueError(
                    f'the entity {entity!r} of the node {node.name!r} is unknown.'
                    f'{_did_you_mean(entity, numbers)} Write a raw label from 0 to '
                    f'{self.num_entities - 1} or a name.'
                )
            entities.append(int(index))
        return Node(node.name, tuple(node.parents), tuple(entities), tuple(node.verticals))

    def _closure(self) -> list[frozenset[int]]:
        """For each class the indices of the class and all its ancestors."""
        index_of = {name: index for index, name in enumerate(self.classes)}
        graph = {}
        for index, node in enumerate(self.nodes):
            for parent in node.parents:
                if parent not in index_of:
                    raise ValueError(
                        f'the parent {parent!r} of the node {node.name!r} is not a node itself.'
                        f'{_did_you_mean(parent, index_of)} Add a node of that name.'
                    )
            graph[index] = [index_of[parent] for parent in node.parents]
        ancestors: list[frozenset[int]] = [frozenset()] * len(self.nodes)
        try:
            for index in TopologicalSorter(graph).static_order():
                above = (ancestors[parent] for parent in graph[index])
                ancestors[index] = frozenset({index}).union(*above)
        except CycleError as error:
            cycle = ' <- '.join(self.classes[index] for index in error.args[1])
            raise ValueError(
                f'the parents form a cycle, {cycle}: no node can be its own ancestor.'
            ) from error
        return ancestors

    def _positives_of_entities(self) -> list[np.ndarray]:
        """For each raw label the classes that become positive with it."""
        positives: list[set[int]] = [set() for _ in self.entities]
        for ancestors, node in zip(self._ancestors, self.nodes, strict=True):
            for entity in node.entities:
                positives[entity] |= ancestors
        return [np.array(sorted(classes), dtype=np.int64) for classes in positives]


def _did_you_mean(name: object, known: Iterable[str]) -> str:
    """A hint at names that are spelled alike, if there are any."""
    near = near_names(str(name), known)
    return f' Did you mean {" or ".join(map(repr, near))}?' if near else ''

"""Label spaces: from the entities a video is labelled with to the classes a model predicts.

YouTube-8M labels a video with some of 3,862 entities. Papers predict all of them, those of one
vertical (Finance, Games, ...), or a hierarchy in which an entity's categories are classes too.
A ``LabelSpace`` is a list of nodes, one for each class: the entities that belong to it, and its
parents, which become positive with it. It turns the labels of a video into the one-hot target.

The vocabulary shipped beside this file is Google's, CC BY 4.0: see yt8m_vocabulary.LICENSE.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

UNKNOWN = '(Unknown)'
PAPER_NUM_CLASSES = 317
_VOCABULARY = Path(__file__).with_name('yt8m_vocabulary.csv')
_SEPARATOR = ';'


class Entity(NamedTuple):
    """One row of YouTube-8M's vocabulary.

    Args:
        index (int): The label in the records, 0 to 3861.
        count (int): Number of training videos that carry the label.
        knowledge_graph_id (str): Such as '/m/01mw1'.
        name (str): English name, or the Knowledge Graph id of the 56 entities without one.
        verticals (tuple[str, ...]): One to three categories, such as 'Games'.
    """

    index: int
    count: int
    knowledge_graph_id: str
    name: str
    verticals: tuple[str, ...]


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
        nodes = [self._as_node(node) for node in nodes]
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
        nodes = [_entity_node(entity) for entity in yt8m_vocabulary()]
        return cls(nodes, name='all')

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
                f'The vertical {name!r} is unknown.{_near(name, known)} Write one of '
                f'{", ".join(known)}.'
            )
        nodes = [
            Node(entity.name, entities=[entity.index], verticals=[name])
            for entity in yt8m_vocabulary()
            if name in (entity.verticals if any_vertical else entity.verticals[:1])
        ]
        return cls(nodes, name=name)

    @classmethod
    def all_verticals(cls, unknown: bool = False) -> LabelSpace:
        """The 24 verticals of YouTube-8M as classes.

        Args:
            unknown (bool): Whether '(Unknown)' is a class, the 25th. Defaults to False.

        Returns:
            LabelSpace: The verticals in alphabetical order. An entity makes each of its one to
            three verticals positive.
        """
        names = yt8m_verticals(unknown)
        nodes = [Node(name, entities=_entities_of(name)) for name in names]
        return cls(nodes, name='verticals')

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
        rare for a class of its own is merged into its parents; one without any is dropped.

        Note:
            With the default of 317 classes (24 verticals and the 293 most frequent entities) the
            space has as many classes as that of A-ART (arXiv 2110.13950). **It is not the paper's
            list**, which is not public: numbers are not comparable with the paper's tables.

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
        nodes = [Node(name, entities=_entities_of(name, besides=frequent)) for name in verticals]
        nodes += [
            Node(entity.name, parents=entity.verticals, entities=[entity.index])
            for entity in entities
            if entity.index in frequent
        ]
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
        """Read a mapping file, as ``save`` writes it and as people edit it.

        A .json file holds ``{"nodes": [{"name": ..., "parents": [...], "entities": [...],
        "verticals": [...]}, ...]}``, and for data other than YouTube-8M also ``"entities"``, the
        names of its raw labels. A .csv file (YouTube-8M only) has a header with the columns
        ``name,parents,entities,verticals`` and one row for each node; lists are separated by
        ``;``. Only the name is needed. Entities are raw labels or names, see ``Node``.

        Args:
            path (str | PathLike): Path to the .json or .csv file.

        Returns:
            LabelSpace: The space.

        Raises:
            ValueError: If the file is neither or its contents are wrong.
        """
        path = Path(path)
        try:
            if path.suffix == '.csv':
                return cls(_read_csv(path), name=path.stem)
            return cls._from_mapping(json.loads(path.read_text(encoding='utf-8')), path.stem)
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
            return builders[config]() if _is_builder(config, builders) else cls.vertical(config)
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

        Groups are what the nodes name. If none names any, each root of the hierarchy is a group
        of itself and its descendants; a space without parents then has no groups.
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
                f'labels of the label space {self.name!r}: they go from 0 to '
                f'{self.num_entities - 1}. Data with other labels needs its own label_space, for '
                'example the list of its class names.'
            )
        for label in labels.tolist():
            target[self._positives[label]] = 1
        return target

    def save(self, path: str | PathLike[str]) -> None:
        """Write the space to a mapping file, to be edited and read by ``load``.

        Args:
            path (str | PathLike): Where to write. '.json', or for YouTube-8M also '.csv', which
                spreadsheets open.

        Raises:
            ValueError: If the file cannot hold the space.
        """
        path = Path(path)
        if path.suffix == '.csv':
            self._save_csv(path)
        elif path.suffix == '.json':
            content = {} if self._is_yt8m else {'entities': list(self.entities)}
            content['nodes'] = [
                {key: getattr(node, key) for key in _NODE_KEYS if getattr(node, key)}
                for node in self.nodes
            ]
            text = json.dumps(content, ensure_ascii=False, indent=1)
            path.write_text(text + '\n', encoding='utf-8')
        else:
            raise ValueError(f'{path}: write a path that ends in .json or .csv.')

    def _save_csv(self, path: Path) -> None:
        if not self._is_yt8m:
            raise ValueError(
                f'{path}: a .csv file holds labels of YouTube-8M only, as it has no place for the '
                'names of others: write a .json file.'
            )
        names = {name for node in self.nodes for name in (node.name, *node.verticals)}
        unfit = sorted(name for name in names if _SEPARATOR in name)
        if unfit:
            raise ValueError(
                f'{path}: the names {unfit} hold {_SEPARATOR!r}, which separates names in a .csv '
                'file: write a .json file.'
            )
        with path.open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, _NODE_KEYS, lineterminator='\n')
            writer.writeheader()
            for node in self.nodes:
                lists = {key: _SEPARATOR.join(map(str, getattr(node, key))) for key in _LIST_KEYS}
                writer.writerow(dict(name=node.name, **lists))

    def __repr__(self) -> str:
        return (
            f'LabelSpace({self.name!r}, num_classes={self.num_classes}, '
            f'num_entities={self.num_entities})'
        )

    @staticmethod
    def _as_node(node: Node | Mapping[str, Any]) -> Node:
        if not isinstance(node, Node):
            if not isinstance(node, Mapping) or not node.get('name'):
                raise ValueError(
                    f'the node {node!r} has no name: write dict(name=..., entities=[...]).'
                )
            for key in node:
                if key not in _NODE_KEYS:
                    raise ValueError(
                        f'the node {node["name"]!r} has the unknown key {key!r}: write '
                        f'{", ".join(_NODE_KEYS)}.'
                    )
            node = Node(**node)
        for key in _LIST_KEYS:
            value = getattr(node, key)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ValueError(f'{key} of the node {node.name!r} is {value!r}: write a list.')
        return node

    def _check_names(self) -> None:
        if not self.classes:
            raise ValueError('a label space needs at least one class, this one has none.')
        for what, names in (('class', self.classes), ('raw label', self.entities)):
            twice = _repeated(names)
            if twice:
                raise ValueError(f'the {what} {twice[0]!r} is there twice: give each a name.')

    def _entity_numbers(self) -> dict[str, int]:
        numbers = {name: index for index, name in enumerate(self.entities)}
        if self._is_yt8m:
            for entity in yt8m_vocabulary():
                numbers.setdefault(entity.knowledge_graph_id, entity.index)
        return numbers

    def _with_entity_indices(self, node: Node, numbers: Mapping[str, int]) -> Node:
        """The node with raw labels instead of names, all of them known."""
        entities = []
        for entity in node.entities:
            index = numbers.get(entity, -1) if isinstance(entity, str) else entity
            if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
                index = -1
            if not 0 <= index < self.num_entities:
                raise ValueError(
                    f'the entity {entity!r} of the node {node.name!r} is unknown.'
                    f'{_near(entity, numbers)} Write a raw label from 0 to '
                    f'{self.num_entities - 1} or a name.'
                )
            entities.append(int(index))
        return Node(node.name, tuple(node.parents), tuple(entities), tuple(node.verticals))

    def _closure(self) -> list[frozenset[int]]:
        """For each class the indices of itself and of all its ancestors."""
        index_of = {name: index for index, name in enumerate(self.classes)}
        graph = {}
        for index, node in enumerate(self.nodes):
            for parent in node.parents:
                if parent not in index_of:
                    raise ValueError(
                        f'the parent {parent!r} of the node {node.name!r} is no node itself.'
                        f'{_near(parent, index_of)} Add a node of that name.'
                    )
            graph[index] = [index_of[parent] for parent in node.parents]
        ancestors: list[frozenset[int]] = [frozenset()] * len(self.nodes)
        try:
            for index in TopologicalSorter(graph).static_order():
                above = (ancestors[parent] for parent in graph[index])
                ancestors[index] = frozenset({index}).union(*above)
        except CycleError as error:
            circle = ' <- '.join(self.classes[index] for index in error.args[1])
            raise ValueError(
                f'the parents form a circle, {circle}: no node can be its own ancestor.'
            ) from error
        return ancestors

    def _positives_of_entities(self) -> list[np.ndarray]:
        """For each raw label the classes that become positive with it."""
        positives: list[set[int]] = [set() for _ in self.entities]
        for ancestors, node in zip(self._ancestors, self.nodes, strict=True):
            for entity in node.entities:
                positives[entity] |= ancestors
        return [np.array(sorted(classes), dtype=np.int64) for classes in positives]


_NODE_KEYS = tuple(field.name for field in fields(Node))
_LIST_KEYS = _NODE_KEYS[1:]


@lru_cache(maxsize=1)
def yt8m_vocabulary() -> tuple[Entity, ...]:
    """The entities of YouTube-8M (version of 2018), in the order of their index.

    Returns:
        tuple[Entity, ...]: 3,862 entities.
    """
    with _VOCABULARY.open(newline='', encoding='utf-8') as file:
        return tuple(
            Entity(
                index=int(row['Index']),
                count=int(row['TrainVideoCount']),
                knowledge_graph_id=row['KnowledgeGraphId'],
                name=row['Name'].strip() or row['KnowledgeGraphId'],
                verticals=tuple(row[f'Vertical{i}'] for i in (1, 2, 3) if row[f'Vertical{i}']),
            )
            for row in csv.DictReader(file)
        )


def yt8m_verticals(unknown: bool = False) -> list[str]:
    """The verticals of YouTube-8M.

    Args:
        unknown (bool): Whether to list '(Unknown)' too. Defaults to False.

    Returns:
        list[str]: 24 names (25 with '(Unknown)') in alphabetical order.
    """
    names = sorted({name for entity in yt8m_vocabulary() for name in entity.verticals})
    return [name for name in names if unknown or name != UNKNOWN]


def _entity_node(entity: Entity) -> Node:
    return Node(entity.name, entities=[entity.index], verticals=entity.verticals[:1])


def _entities_of(vertical: str, besides: Iterable[int] = ()) -> list[int]:
    """Indices of the entities that have the vertical as any of their three."""
    return [
        entity.index
        for entity in yt8m_vocabulary()
        if vertical in entity.verticals and entity.index not in besides
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


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """The nodes of a .csv file. Spreadsheets may have put a byte order mark before the header."""
    with path.open(newline='', encoding='utf-8-sig') as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        if 'name' not in header or not set(header) <= set(_NODE_KEYS):
            raise ValueError(
                f'its header is {",".join(header)!r}: write {",".join(_NODE_KEYS)}, of which only '
                'name is needed.'
            )
        nodes = []
        for row in reader:
            if None in row:
                raise ValueError(f'line {reader.line_num} has more columns than the header.')
            node: dict[str, Any] = {'name': row['name'].strip()}
            for key in set(header) - {'name'}:
                parts = [part.strip() for part in (row[key] or '').split(_SEPARATOR)]
                node[key] = [part for part in parts if part]
            node['entities'] = [
                int(entity) if entity.isdecimal() else entity for entity in node.get('entities', ())
            ]
            nodes.append(node)
    return nodes


def _repeated(names: Sequence[str]) -> list[str]:
    """Names that occur more than once."""
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]


def _is_builder(name: str, builders: Mapping[str, Any]) -> bool:
    """Whether a word alone names a builder; 'vertical' needs to know which."""
    return name in builders and name != 'vertical'


def _near(name: object, known: Iterable[str]) -> str:
    """A hint at names that are spelled alike."""
    matches = get_close_matches(str(name), list(known), n=3)
    return f' Did you mean {" or ".join(map(repr, matches))}?' if matches else ''

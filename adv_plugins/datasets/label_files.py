"""Mapping files: a label space as .json, or as the .csv that spreadsheets open."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .label_nodes import LIST_KEYS, NODE_KEYS, Node

_SEPARATOR = ';'


def read_mapping(path: Path) -> Any:
    """Read a mapping file; see ``LabelSpace.load`` for what it holds.

    Returns:
        Any: What a .json file holds, unchecked; of a .csv file a dict with its ``nodes``.

    Raises:
        ValueError: If the file is no JSON, or the header or a row of the .csv file is wrong.
    """
    if path.suffix == '.csv':
        return {'nodes': _read_csv(path)}
    return json.loads(path.read_text(encoding='utf-8'))


def write_mapping(path: Path, nodes: Sequence[Node], entities: Sequence[str] | None) -> None:
    """Write a mapping file.

    Args:
        path (Path): Where to write: '.json' or '.csv'.
        nodes (Sequence[Node]): The nodes.
        entities (Sequence[str], optional): Names of the raw labels; None for YouTube-8M's.

    Raises:
        ValueError: If the file cannot hold them.
    """
    if path.suffix == '.csv':
        _write_csv(path, nodes, entities)
    elif path.suffix == '.json':
        content: dict[str, Any] = {} if entities is None else {'entities': list(entities)}
        content['nodes'] = [
            {key: getattr(node, key) for key in NODE_KEYS if getattr(node, key)} for node in nodes
        ]
        text = json.dumps(content, ensure_ascii=False, indent=1)
        path.write_text(text + '\n', encoding='utf-8')
    else:
        raise ValueError(f'{path}: write a path that ends in .json or .csv.')


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """The nodes of a .csv file; spreadsheets may put a byte order mark before its header."""
    with path.open(newline='', encoding='utf-8-sig') as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        if 'name' not in header or not set(header) <= set(NODE_KEYS):
            raise ValueError(
                f'its header is {",".join(header)!r}: write {",".join(NODE_KEYS)}, of which only '
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


def _write_csv(path: Path, nodes: Sequence[Node], entities: Sequence[str] | None) -> None:
    if entities is not None:
        raise ValueError(
            f'{path}: a .csv file holds labels of YouTube-8M only, as it has no place for the '
            'names of others: write a .json file.'
        )
    names = {name for node in nodes for name in (node.name, *node.verticals)}
    unfit = sorted(name for name in names if _SEPARATOR in name)
    if unfit:
        raise ValueError(
            f'{path}: the names {unfit} hold {_SEPARATOR!r}, which separates names in a .csv '
            'file: write a .json file.'
        )
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, NODE_KEYS, lineterminator='\n')
        writer.writeheader()
        for node in nodes:
            lists = {key: _SEPARATOR.join(map(str, getattr(node, key))) for key in LIST_KEYS}
            writer.writerow(dict(name=node.name, **lists))

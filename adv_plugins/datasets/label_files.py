"""Mapping files: a label space as .json, or as the .csv that spreadsheets open."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import replacing
from .label_nodes import LIST_KEYS, NODE_KEYS, Node
from .text_files import Names, read_text

_SEPARATOR = ';'


def read_mapping(path: Path) -> Any:
    """Read a mapping file; see ``LabelSpace.load`` for what it holds.

    Returns:
        Any: What a .json file holds, unchecked; of a .csv file a dict with its ``nodes``.

    Raises:
        ValueError: If the file is no JSON, a key stands twice in one of its objects, or the header
            or a row of the .csv file is wrong.
    """
    text = read_text(path)
    if path.suffix == '.csv':
        return {'nodes': _parse_csv(text)}
    return json.loads(text, object_pairs_hook=_object)


def write_mapping(path: Path, nodes: Sequence[Node], entities: Sequence[str] | None) -> None:
    """Write a mapping file, complete or not at all.

    Args:
        path (Path): Where to write: '.json' or '.csv'.
        nodes (Sequence[Node]): The nodes.
        entities (Sequence[str], optional): Names of the raw labels; None for YouTube-8M's.

    Raises:
        ValueError: If the file cannot hold them.
    """
    if path.suffix == '.csv':
        text = _as_csv(path, nodes, entities)
    elif path.suffix == '.json':
        content: dict[str, Any] = {} if entities is None else {'entities': list(entities)}
        content['nodes'] = [
            {key: getattr(node, key) for key in NODE_KEYS if getattr(node, key)} for node in nodes
        ]
        text = json.dumps(content, ensure_ascii=False, indent=1) + '\n'
    else:
        raise ValueError(f'{path}: write a path that ends in .json or .csv.')
    try:
        data = text.encode('utf-8')
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.end + 20]
        raise ValueError(
            f'{path}: a name holds {text[error.start]!r}, which is no character: {around!r}. '
            'Rename it.'
        ) from error
    with replacing(path) as file:
        file.write(data)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a .json file, of which Python keeps the last of two equal keys."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key {twice!r} stands twice in one object: keep one of them.')
    return content


def _parse_csv(text: str) -> list[dict[str, Any]]:
    """The nodes in the text of a .csv file."""
    # With strict=True, a quote that nothing closes is an error, and takes no lines with it.
    reader = csv.DictReader(io.StringIO(text, newline=''), strict=True)
    try:
        return _nodes(reader)
    except csv.Error as error:
        raise ValueError(f'the row after line {reader.line_num} is wrong: {error}.') from error


def _nodes(reader: csv.DictReader) -> list[dict[str, Any]]:
    header = reader.fieldnames or []
    if 'name' not in header or not set(header) <= set(NODE_KEYS) or len(set(header)) < len(header):
        raise ValueError(
            f'its header is {",".join(header)!r}: write {",".join(NODE_KEYS)}, each at most once, '
            'of which only name is needed.'
        )
    nodes = []
    names = Names('give each class its own name')
    for row in reader:
        if None in row:
            raise ValueError(f'line {reader.line_num} has more columns than the header.')
        # What spreadsheets leave of rows that were cleared.
        if not any((value or '').strip() for value in row.values()):
            continue
        node: dict[str, Any] = {'name': (row['name'] or '').strip()}
        names.add(node['name'], reader.line_num)
        for key in set(header) - {'name'}:
            parts = [part.strip() for part in (row[key] or '').split(_SEPARATOR)]
            node[key] = [part for part in parts if part]
        node['entities'] = [
            int(entity) if entity.isdecimal() else entity for entity in node.get('entities', ())
        ]
        nodes.append(node)
    return nodes


def _as_csv(path: Path, nodes: Sequence[Node], entities: Sequence[str] | None) -> str:
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
    file = io.StringIO(newline='')
    writer = csv.DictWriter(file, NODE_KEYS, lineterminator='\n')
    writer.writeheader()
    for node in nodes:
        lists = {key: _SEPARATOR.join(map(str, getattr(node, key))) for key in LIST_KEYS}
        writer.writerow(dict(name=node.name, **lists))
    return file.getvalue()

"""Mapping files: what is saved is read again, and a file edited by hand is understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adv_plugins.datasets.label_nodes import Node
from adv_plugins.datasets.label_space import LabelSpace
from adv_plugins.datasets.yt8m_vocabulary import yt8m_vocabulary

NODES = [
    dict(name='money', entities=[0]),
    dict(name='coin', parents=['money'], entities=[2, 1]),
]
RAW = ['bill', 'iron', 'penny']


@pytest.mark.parametrize('suffix', ['.json', '.csv'])
@pytest.mark.parametrize('config', ['all', 'Finance', 'hierarchy', 'verticals'])
def test_saved_and_read_again(config: str, suffix: str, tmp_path: Path) -> None:
    space = LabelSpace.from_config(config)
    path = tmp_path / f'space{suffix}'
    space.save(path)
    again = LabelSpace.from_config(str(path))
    assert (again.classes, again.entities) == (space.classes, space.entities)
    assert again.nodes == space.nodes
    assert again.verticals == space.verticals
    for labels in ([730, 3], [0], [3861, 5]):
        assert np.array_equal(again.encode(labels), space.encode(labels))


def test_own_labels_are_saved_as_json_only(tmp_path: Path) -> None:
    space = LabelSpace(NODES, entities=RAW)
    space.save(tmp_path / 'mine.json')
    again = LabelSpace.load(tmp_path / 'mine.json')
    assert (again.nodes, again.entities) == (space.nodes, space.entities)
    with pytest.raises(ValueError, match='mine.csv.*write a .json'):
        space.save(tmp_path / 'mine.csv')
    with pytest.raises(ValueError, match='ends in .json or .csv'):
        space.save(tmp_path / 'mine.txt')
    with pytest.raises(ValueError, match="'a;b'.*separates"):
        LabelSpace([Node('a;b')]).save(tmp_path / 'mine.csv')


def test_a_csv_edited_by_hand(tmp_path: Path) -> None:
    path = tmp_path / 'mine.csv'
    bank = next(entity for entity in yt8m_vocabulary() if entity.name == 'Bank')
    lines = [
        'name,entities,parents',
        'Money,,',
        'Metal,Bullion,',
        f'"Coins, all",824; {bank.knowledge_graph_id} ;,Money;Metal',
    ]
    # A spreadsheet writes a byte order mark first.
    path.write_text('\ufeff' + '\n'.join(lines), encoding='utf-8')
    space = LabelSpace.load(path)
    assert space.classes == ('Money', 'Metal', 'Coins, all')
    for label, expected in {824: [1, 1, 1], 2643: [1, 1, 1], 3621: [0, 1, 0]}.items():
        assert space.encode([label]).tolist() == expected


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('name,entity\na,1\n', "header is 'name,entity'"),
        ('', "header is ''"),
        ('name,entities\na,1,2\n', 'line 2 has more columns'),
        ('name,entities\n,1\n', 'has no name'),
    ],
)
def test_wrong_csv(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'mine.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=f'mine.csv is not a mapping.*{message}'):
        LabelSpace.load(path)


@pytest.mark.parametrize('text', ['{', '[1]', '{"nodes": 3}', '{"nodes": [], "classes": []}'])
def test_wrong_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / 'mine.json'
    path.write_text(text)
    with pytest.raises(ValueError, match='mine.json is not a mapping of labels'):
        LabelSpace.load(path)

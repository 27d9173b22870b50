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
        ('name,entities\na,1\n\nb,2\na,3\n', "line 5: 'a' is there twice, first on line 2"),
        ('name,entities,entities\na,1,2\n', "header is 'name,entities,entities'.*at most once"),
        ('entities,name\n1,a\n2\n', 'has no name'),
        ('name,entities\na,1\n"b,1\nc,2\n', 'after line 2 is wrong: unexpected end of data'),
    ],
)
def test_wrong_csv(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'mine.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=f'mine.csv is not a mapping.*{message}'):
        LabelSpace.load(path)


def test_rows_that_a_spreadsheet_cleared_and_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / 'mine.csv'
    path.write_bytes(b'\xef\xbb\xbfname,entities\r\n,\r\na,1\r\n\r\n , \r\nb,2\r\n,\r\n\r\n')
    assert LabelSpace.load(path).classes == ('a', 'b')


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / 'mine.json'
    path.write_text('\ufeff{"nodes": [{"name": "a"}], "entities": ["x"]}\r\n', encoding='utf-8')
    assert LabelSpace.load(path).classes == ('a',)
    path.write_text('{"nodes": [{"name": "a"}]}', encoding='utf-16')
    with pytest.raises(ValueError, match='looks like UTF-16: save it as UTF-8'):
        LabelSpace.load(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"nodes": [{"name": "a"}], "nodes": [{"name": "b"}]}', "the key 'nodes' stands twice"),
        ('{"nodes": [{"name": "a", "entities": [1], "entities": [2]}]}', "key 'entities' stands"),
        (
            '{"nodes": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}',
            "class 'a' appears twice, as number 0 and 2",
        ),
        (
            '{"nodes": [{"name": "a"}], "entities": ["x", "y", "y"]}',
            "raw label 'y' appears twice, as number 1 and 2",
        ),
    ],
)
def test_what_stands_twice_in_json(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'mine.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=f'mine.json is not a mapping of labels.*{message}'):
        LabelSpace.load(path)


@pytest.mark.parametrize('suffix', ['.json', '.csv'])
@pytest.mark.parametrize('name', ['\udc80', 'a;b', object()])
def test_a_space_that_cannot_be_written_leaves_the_old_file(
    name: object, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f'mine{suffix}'
    LabelSpace([Node('old')]).save(path)
    before = path.read_bytes()
    bad = LabelSpace([Node('fine'), Node(name)])
    if name == 'a;b' and suffix == '.json':
        bad.save(path)
        assert LabelSpace.load(path).classes == ('fine', 'a;b')
        return
    with pytest.raises((ValueError, TypeError)) as error:
        bad.save(path)
    assert name != '\udc80' or 'which is no character' in str(error.value)
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize('suffix', ['.json', '.csv'])
def test_a_full_disk_leaves_the_old_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f'mine{suffix}'
    LabelSpace([Node('old')]).save(path)

    def full(*args: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.replace', full)
    with pytest.raises(OSError, match='No space left'):
        LabelSpace([Node('new')]).save(path)
    assert LabelSpace.load(path).classes == ('old',)
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize('text', ['{', '[1]', '{"nodes": 3}', '{"nodes": [], "classes": []}'])
def test_wrong_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / 'mine.json'
    path.write_text(text)
    with pytest.raises(ValueError, match='mine.json is not a mapping of labels'):
        LabelSpace.load(path)

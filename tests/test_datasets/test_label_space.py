"""LabelSpace: targets against a slow version, the vocabulary against its published numbers."""

from __future__ import annotations

import csv
import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adv_plugins.datasets import label_space
from adv_plugins.datasets.label_nodes import Node
from adv_plugins.datasets.label_space import LabelSpace
from adv_plugins.datasets.yt8m_vocabulary import yt8m_verticals, yt8m_vocabulary

FOLDER = Path(label_space.__file__).parent
# Entities by their first vertical, as counted in the vocabulary of May 2018.
VERTICALS = {
    'Games': 734,
    'Arts & Entertainment': 525,
    'Autos & Vehicles': 466,
    'Computers & Electronics': 302,
    'Food & Drink': 278,
    'Business & Industrial': 259,
    'Sports': 167,
    'Pets & Animals': 150,
    '(Unknown)': 138,
    'Hobbies & Leisure': 132,
    'Home & Garden': 120,
    'Shopping': 116,
    'Science': 116,
    'Beauty & Fitness': 86,
    'Travel': 48,
    'People & Society': 46,
    'Reference': 41,
    'Law & Government': 32,
    'Internet & Telecom': 26,
    'Books & Literature': 20,
    'News': 18,
    'Health': 14,
    'Jobs & Education': 12,
    'Finance': 10,
    'Real Estate': 6,
}
FINANCE = {
    730: 'Money',
    824: 'Coin',
    895: 'Foreign exchange market',
    2415: 'Banknote',
    2643: 'Bank',
    2872: 'Credit card',
    3237: 'United States dollar',
    3333: 'Cash',
    3498: 'Automated teller machine',
    3621: 'Bullion',
}
# Two roots, a node with both as parents, and a chain below it; entities overlap.
NODES = [
    dict(name='money', entities=[0]),
    dict(name='metal', entities=[1, 5]),
    dict(name='coin', parents=['money', 'metal'], entities=[2]),
    dict(name='gold coin', parents=['coin'], entities=[3, 5]),
]
RAW = ['bill', 'iron', 'penny', 'sovereign', 'cloud', 'medal']


def rows() -> list[dict[str, str]]:
    with (FOLDER / 'yt8m_vocabulary.csv').open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def slow_target(nodes: list[dict], labels: list[int]) -> list[float]:
    """The target as its definition reads: own entities first, then parents until none is new."""
    positive = {node['name'] for node in nodes if set(node.get('entities', ())) & set(labels)}
    while True:
        above = {p for node in nodes if node['name'] in positive for p in node.get('parents', ())}
        if above <= positive:
            return [float(node['name'] in positive) for node in nodes]
        positive |= above


def test_vocabulary_is_that_of_2018() -> None:
    entities = yt8m_vocabulary()
    assert [entity.index for entity in entities] == list(range(3862))
    assert sum(entity.count for entity in entities) == 11_711_620
    assert min(entity.count for entity in entities) == 123
    assert Counter(len(entity.verticals) for entity in entities) == {1: 3278, 2: 552, 3: 32}
    assert Counter(entity.verticals[0] for entity in entities) == VERTICALS
    pairs = Counter()
    for entity in entities:
        pairs[entity.verticals[0]] += entity.count
    assert pairs['Arts & Entertainment'] == max(pairs.values()) == 3_274_869
    assert pairs['Finance'] == min(pairs.values()) == 6_061


def test_entities_without_a_name_are_called_by_their_id() -> None:
    assert len({entity.name for entity in yt8m_vocabulary()}) == 3862
    nameless = [row for row in rows() if not row['Name']]
    assert len(nameless) == 56
    names = {entity.index: entity.name for entity in yt8m_vocabulary()}
    assert all(names[int(row['Index'])] == row['KnowledgeGraphId'] for row in nameless)


def test_only_the_columns_needed_are_shipped_with_attribution() -> None:
    columns = 'Index TrainVideoCount KnowledgeGraphId Name Vertical1 Vertical2 Vertical3'
    assert list(rows()[0]) == columns.split()
    notice = (FOLDER / 'yt8m_vocabulary.LICENSE').read_text()
    assert all(words in notice for words in ('CC BY 4.0', 'Google', 'YouTube-8M', 'Changes:'))


def test_all_entities_are_the_identity() -> None:
    space = LabelSpace.all_entities()
    assert (space.num_classes, space.num_entities) == (3862, 3862)
    assert space.classes[730] == 'Money'
    target = space.encode(np.array([3861, 730, 730]))
    assert target.dtype == np.float32
    assert np.flatnonzero(target).tolist() == [730, 3861]
    assert {name: len(group) for name, group in space.verticals.items()} == VERTICALS
    assert sorted(i for group in space.verticals.values() for i in group) == list(range(3862))


def test_vertical_finance() -> None:
    space = LabelSpace.vertical('Finance')
    assert space.classes == tuple(FINANCE.values())
    for position, index in enumerate(FINANCE):
        assert np.flatnonzero(space.encode([index, 0])).tolist() == [position]
    assert not space.encode([0, 1, 2]).any()
    assert space.verticals == {'Finance': tuple(range(10))}


@pytest.mark.parametrize('any_vertical', [False, True])
@pytest.mark.parametrize('name', ['Science', '(Unknown)'])
def test_vertical_by_first_or_any_of_three(name: str, any_vertical: bool) -> None:
    columns = ['Vertical1', 'Vertical2', 'Vertical3'][: 3 if any_vertical else 1]
    members = [row for row in rows() if name in [row[column] for column in columns]]
    space = LabelSpace.vertical(name, any_vertical=any_vertical)
    assert space.classes == tuple(called(row) for row in members)
    assert space.num_classes > VERTICALS[name] or not any_vertical or name == '(Unknown)'
    for position, row in enumerate(members):
        assert np.flatnonzero(space.encode([int(row['Index'])])).tolist() == [position]


@pytest.mark.parametrize('unknown', [False, True])
def test_verticals_as_classes(unknown: bool) -> None:
    space = LabelSpace.all_verticals(unknown)
    assert space.num_classes == 24 + unknown
    assert list(space.classes) == yt8m_verticals(unknown)
    for row in rows():
        of_row = {row['Vertical1'], row['Vertical2'], row['Vertical3']} - {''}
        expected = [float(name in of_row) for name in space.classes]
        assert space.encode([int(row['Index'])]).tolist() == expected


def test_an_unknown_vertical_is_told_what_is_near() -> None:
    with pytest.raises(ValueError, match="'Finanse' is unknown.*mean 'Finance'.*Real Estate"):
        LabelSpace.vertical('Finanse')


def called(row: dict[str, str]) -> str:
    return row['Name'].strip() or row['KnowledgeGraphId']


def slow_hierarchy(size: int) -> tuple[list[str], list[set[str]]]:
    """Class names, and for each entity the names that it makes positive."""
    table = [row for row in rows() if row['Vertical1'] != '(Unknown)']
    names = sorted({row['Vertical1'] for row in table})
    order = sorted(table, key=lambda row: int(row['TrainVideoCount']), reverse=True)
    cut = int(order[size - len(names) - 1]['TrainVideoCount'])
    frequent = [row for row in table if int(row['TrainVideoCount']) >= cut]
    positives: list[set[str]] = [set() for _ in rows()]
    for row in table:
        above = {row['Vertical1'], row['Vertical2'], row['Vertical3']} - {''}
        positives[int(row['Index'])] = above | ({called(row)} if row in frequent else set())
    return names + [called(row) for row in frequent], positives


def test_hierarchy_of_317_nodes() -> None:
    space = LabelSpace.hierarchy()
    names, positives = slow_hierarchy(317)
    assert space.num_classes == len(names) == 317
    assert list(space.classes) == names
    for index, expected in enumerate(positives):
        on = {space.classes[i] for i in np.flatnonzero(space.encode([index]))}
        assert on == expected
    # An entity is listed once: where it has a class of its own, not in its verticals too.
    own = {entity for node in space.nodes[24:] for entity in node.entities}
    assert not any(own & set(node.entities) for node in space.nodes[:24])
    assert list(space.verticals) == yt8m_verticals()
    targets = [space.encode([index]) for index in range(3862)]
    for name, group in space.verticals.items():
        assert space.classes[group[0]] == name
        for target, expected in zip(targets, positives, strict=True):
            assert target[list(group)].any() == (name in expected)


def test_hierarchy_by_count_and_with_the_unknown_vertical() -> None:
    known = [entity for entity in yt8m_vocabulary() if entity.verticals != ('(Unknown)',)]
    frequent = [entity for entity in known if entity.count >= 1000]
    space = LabelSpace.hierarchy(min_count=1000)
    assert space.classes[24:] == tuple(entity.name for entity in frequent)
    # With '(Unknown)' all counts at least 5,310 are 293 entities, beside 25 verticals.
    assert LabelSpace.hierarchy(min_count=5310, unknown=True).num_classes == 25 + 293
    assert LabelSpace.hierarchy(num_classes=24).classes == tuple(yt8m_verticals())
    assert LabelSpace.hierarchy(num_classes=24 + 3862 - 138).num_classes == 3748


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_classes=23), 'num_classes=23 cannot be reached.* 24 to 3748'),
        (dict(num_classes=3749), 'num_classes=3749 cannot be reached'),
        (dict(num_classes=317, min_count=5), 'num_classes=317 and min_count=5.*one of them'),
    ],
)
def test_hierarchy_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSpace.hierarchy(**options)


def test_closure_upward_with_several_parents() -> None:
    space = LabelSpace(NODES, entities=RAW)
    assert space.encode([3]).tolist() == [1, 1, 1, 1]
    assert space.encode([2]).tolist() == [1, 1, 1, 0]
    assert space.encode([1]).tolist() == [0, 1, 0, 0]
    assert space.encode([4]).tolist() == [0, 0, 0, 0]
    assert space.encode([]).tolist() == [0, 0, 0, 0]
    assert space.verticals == {'money': (0, 2, 3), 'metal': (1, 2, 3)}


@st.composite
def graphs(draw: st.DrawFn) -> list[dict]:
    """Random nodes whose parents come later or earlier, but never in a circle."""
    size = draw(st.integers(1, 8))
    rank = draw(st.permutations(range(size)))
    return [
        dict(
            name=f'n{i}',
            parents=[f'n{j}' for j in range(size) if rank[j] < rank[i] and draw(st.booleans())],
            entities=draw(st.lists(st.integers(0, 5), max_size=3)),
        )
        for i in range(size)
    ]


@settings(max_examples=60, deadline=None)
@given(nodes=graphs(), labels=st.lists(st.integers(0, 5), max_size=4))
def test_targets_agree_with_the_slow_version(nodes: list[dict], labels: list[int]) -> None:
    space = LabelSpace(nodes, entities=RAW)
    assert space.encode(np.array(labels, dtype=np.int64)).tolist() == slow_target(nodes, labels)


def test_a_long_chain_of_parents() -> None:
    nodes = [Node(f'n{i}', parents=[f'n{i + 1}']) for i in range(2000)]
    space = LabelSpace([*nodes, Node('n2000')], entities=['only'])
    assert space.verticals == {'n2000': tuple(range(2001))}


@pytest.mark.parametrize(
    ('nodes', 'message'),
    [
        ([dict(name='a', parents=['b']), dict(name='b', parents=['a'])], 'cycle, .*a.*b'),
        ([dict(name='a', parents=['a'])], 'cycle, a <- a'),
        ([dict(name='metal'), dict(name='b', parents=['metall'])], "'metall'.*'b'.*mean 'metal'"),
        ([dict(name='a'), dict(name='a')], "class 'a' appears twice"),
        ([dict(name='a', entities=[6])], "entity 6 of the node 'a'.*0 to 5"),
        ([dict(name='a', entities=[-1])], "entity -1 of the node 'a'"),
        ([dict(name='a', entities=[True])], "entity True of the node 'a'"),
        ([dict(name='a', entities=['peny'])], "'peny'.*mean 'penny'"),
        ([dict(name='a', entities='penny')], "entities of the node 'a' is 'penny': write a list"),
        ([Node('a', parents='b')], "parents of the node 'a' is 'b': write a list"),
        ([dict(name='a', parent=['b'])], "unknown key 'parent'"),
        ([dict(entities=[1])], 'has no name'),
        ([], 'at least one class'),
    ],
)
def test_wrong_nodes(nodes: list, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSpace(nodes, entities=RAW)
    path = tmp_path / 'mine.json'
    if all(isinstance(node, dict) for node in nodes):
        path.write_text(json.dumps(dict(nodes=nodes, entities=RAW)))
        with pytest.raises(ValueError, match=f'mine.json is not a mapping.*{message}'):
            LabelSpace.load(path)


def test_repeated_raw_labels() -> None:
    with pytest.raises(ValueError, match="raw label 'x' appears twice"):
        LabelSpace([Node('a')], entities=['x', 'y', 'x'])


@pytest.mark.parametrize('labels', [[4000, 1], [-1], [3862], [1.5]])
def test_labels_outside_the_raw_labels(labels: list) -> None:
    with pytest.raises(ValueError, match=rf'{labels[0]}\D.*3862 raw labels.*0 to 3861'):
        LabelSpace.vertical('Finance').encode(np.array(labels))


def test_config_forms() -> None:
    space = LabelSpace.flat(['x', 'y'])
    assert LabelSpace.from_config(space) is space
    assert LabelSpace.from_config(['x', 'y']).nodes == space.nodes
    assert LabelSpace.from_config(dict(nodes=NODES, entities=RAW)).encode([3]).sum() == 4
    # Names instead of numbers: Money and Coin are 730 and 824.
    named = LabelSpace.from_config(dict(nodes=[dict(name='cash', entities=['Money', 'Coin'])]))
    assert [named.encode([label]).item() for label in (730, 824, 825)] == [1, 1, 0]
    options = dict(type='hierarchy', num_classes=100)
    assert LabelSpace.from_config(options).num_classes == 100
    assert options == dict(type='hierarchy', num_classes=100)
    sciences = LabelSpace.from_config(dict(type='vertical', name='Science', any_vertical=True))
    assert sciences.num_classes > 116
    assert LabelSpace.from_config(dict(type='verticals', unknown=True)).num_classes == 25


@pytest.mark.parametrize('config', [317, None, dict(type='paper'), dict(num_classes=3), [1, 2]])
def test_unknown_configs(config: object) -> None:
    with pytest.raises(ValueError, match='label_space=.* is unknown: write'):
        LabelSpace.from_config(config)


def test_a_missing_mapping_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match='nowhere.json'):
        LabelSpace.from_config('nowhere.json')


def test_pickles() -> None:
    space = LabelSpace.hierarchy()
    again = pickle.loads(pickle.dumps(space))
    assert np.array_equal(again.encode([730]), space.encode([730]))
    assert repr(again) == "LabelSpace('hierarchy', num_classes=317, num_entities=3862)"

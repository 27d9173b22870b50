"""The vocabulary of YouTube-8M: its 3,862 entities and their verticals.

The .csv file beside this one is Google's, CC BY 4.0: see yt8m_vocabulary.LICENSE.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

UNKNOWN = '(Unknown)'
_VOCABULARY = Path(__file__).with_name('yt8m_vocabulary.csv')


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

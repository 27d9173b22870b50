"""The classes of the sample: motions, digits and background sounds, grouped into verticals."""

from __future__ import annotations

from ..label_nodes import Node
from ..label_space import LabelSpace
from ..ordered_digits import CLASSES

_DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
VERTICALS = {
    'Paths': (*CLASSES[:4], *CLASSES[10:]),
    'Changes': CLASSES[4:10],
    'Digits': tuple(f'digit {name}' for name in _DIGITS),
    'Music': ('drone', 'arpeggio', 'drums'),
    'Noise': ('hum', 'hiss', 'wind'),
}
SAMPLE_CLASSES = (*CLASSES, *VERTICALS['Digits'], *VERTICALS['Music'], *VERTICALS['Noise'])
FIRST_DIGIT = len(CLASSES)
FIRST_SOUND = FIRST_DIGIT + len(_DIGITS)
"""The motions come first, then the digits, then the sounds."""


def sample_label_space() -> LabelSpace:
    """The classes of the sample, grouped into verticals.

    Returns:
        LabelSpace: 28 classes; class ``i`` is raw label ``i`` of the shards.
    """
    vertical_of = {name: vertical for vertical, names in VERTICALS.items() for name in names}
    nodes = [Node(name, entities=[name], verticals=[vertical_of[name]]) for name in SAMPLE_CLASSES]
    return LabelSpace(nodes, entities=SAMPLE_CLASSES, name='yt8m_sample')

"""Videos without a label are told before one of them is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adv_plugins.evaluation.labels import LabelError, check_classes, listed_labels


class Listed:
    """A dataset with a list, of which the fourth entry cannot be read."""

    def __init__(self, *labels: Any) -> None:
        self.labels = labels

    def get_data_info(self, index: int) -> dict[str, Any]:
        if index == 3:
            raise OSError('gone')
        return {'label': self.labels[index]} if index < len(self.labels) else {}


def test_labels_of_a_list() -> None:
    dataset = Listed(2, [1], torch.tensor(0), 9, np.int64(3), None, -1)
    known = listed_labels(dataset, range(9))
    assert known == {0: 2, 1: 1, 2: 0, 4: 3, 5: -1, 6: -1}
    assert listed_labels(object(), range(9)) == {}


def test_labels_are_taken_alone_where_the_dataset_gives_them() -> None:
    class Features(Listed):
        def get_label(self, index: int) -> Any:
            return self.labels[index]

        def get_data_info(self, index: int) -> dict[str, Any]:
            raise AssertionError('reads the features')

    assert listed_labels(Features(5, 2, -1), range(3)) == {0: 5, 1: 2, 2: -1}


@pytest.mark.parametrize('label', [[1, 2], torch.tensor([0.0, 1.0]), [], 0.5])
def test_several_labels_are_for_another_loop(label: Any) -> None:
    with pytest.raises(LabelError, match='AdversarialTestLoop'):
        listed_labels(Listed(label), range(1))


def test_labels_that_are_no_class_are_told() -> None:
    check_classes({4: 0, 7: 11}, 12)
    with pytest.raises(LabelError, match='2 of 3 videos have no label .*: 4, 7;.*TestLoop'):
        check_classes({4: -1, 7: -5, 8: 0}, 12)
    with pytest.raises(LabelError, match=r'1 of 2 videos .* 12 classes .* 7 \(label 12\)'):
        check_classes({4: 0, 7: 12}, 12)

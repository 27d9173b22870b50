"""Models inside the wrappers of trainers."""

import pytest
from torch import nn

pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')

from adv_plugins.adapters.wrappers import inner_model


def test_a_wrapper_is_taken_off_and_a_plain_model_is_itself():
    model = nn.Linear(2, 2)
    assert inner_model(model) is model
    assert inner_model(nn.DataParallel(model)) is model
    # An attribute of this name does not make a wrapper.
    model.module = nn.Linear(2, 2)
    assert inner_model(model) is model

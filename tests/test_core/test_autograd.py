"""Scalars that bring gradients which are not those of their own graph."""

import pytest
import torch

from adv_plugins.core.autograd import inject_gradients, with_gradient_of


@pytest.mark.parametrize('source', [3.0, float('inf'), float('nan')])
def test_shows_one_scalar_and_is_differentiated_as_another(source):
    x = torch.tensor(source, requires_grad=True)
    shown = with_gradient_of(torch.tensor(7.0, requires_grad=True), 5 * x)
    assert shown == 7
    (2 * shown).backward()
    assert x.grad == 10


def test_known_gradients_are_scaled_and_added():
    first, second, reached = (torch.ones(2, requires_grad=True) for _ in range(3))
    known = {first: torch.tensor([1.0, 2.0]), second: torch.tensor([3.0, 4.0]), reached: None}
    value = inject_gradients(torch.tensor(0.5), known)
    assert value == 0.5
    (2 * value + first.sum()).backward()
    assert first.grad.tolist() == [3, 5] and second.grad.tolist() == [6, 8]
    assert reached.grad is None or not reached.grad.any()

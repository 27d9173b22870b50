"""Scalars that bring gradients which are not those of their own graph."""

import pytest
import torch

from adv_plugins.core.autograd import (
    gradients,
    graph_nodes,
    inject_gradients,
    leaves_of,
    with_gradient_of,
)


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
    leaves = {id(leaf) for leaf in leaves_of(graph_nodes(value))}
    assert leaves == {id(first), id(second), id(reached)}
    (2 * value + first.sum()).backward()
    assert first.grad.tolist() == [3, 5] and second.grad.tolist() == [6, 8]


def test_nothing_known_leaves_the_graph_alone():
    x = torch.ones((), requires_grad=True)
    value = 3 * x
    assert inject_gradients(value, None) is value


def test_an_input_that_is_changed_after_use_is_told():
    x = torch.ones(3, requires_grad=True)
    moved = x.clone()
    value = (moved * moved).sum()
    moved.sub_(1)
    with pytest.raises(RuntimeError, match='in place after it was used.*x = x - mean'):
        gradients(value, [x])

"""Every equation against a closed form, a slow obvious version or captum."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adv_plugins.core.functional import relative_size
from adv_plugins.functional import (
    ascent_direction,
    attention_frobenius,
    attention_mse,
    project,
    random_wrong_labels,
    temporal_cam,
    temporal_cam_loss,
)


def slow_cam(features, gradients):
    batch, frames, channels, height, width = features.shape
    cam = torch.zeros(batch, frames, height, width)
    for b in range(batch):
        for t in range(frames):
            for c in range(channels):
                weight = sum(gradients[b, t, c].flatten()) / (height * width)
                cam[b, t] += weight * features[b, t, c]
    return cam


def slow_loss(cam, num_frames, normalize):
    losses = []
    for maps in cam:
        low, high = maps.min(), maps.max()
        maps = (maps - low) / ((high - low) if normalize == 'minmax' else high)
        non_key = sorted(maps, key=lambda frame: frame.sum())[:num_frames]
        losses.append(sum(frame.mean() for frame in non_key) / num_frames)
    return torch.stack(losses)


def test_temporal_cam_is_equation_2():
    features, gradients = torch.randn(2, 2, 3, 4, 3, 5)
    torch.testing.assert_close(temporal_cam(features, gradients), slow_cam(features, gradients))


def test_elementwise_weighting_multiplies_in_place():
    features, gradients = torch.randn(2, 2, 3, 4, 3, 5)
    expected = torch.einsum('btchw,btchw->bthw', features, gradients)
    torch.testing.assert_close(temporal_cam(features, gradients, 'elementwise'), expected)


@pytest.mark.parametrize('normalize', ['minmax', 'max'])
@pytest.mark.parametrize('num_frames', [1, 2, 5])
def test_temporal_cam_loss_is_equations_3_to_5(num_frames, normalize):
    cam = torch.randn(3, 5, 2, 3)
    expected = slow_loss(cam, num_frames, normalize)
    torch.testing.assert_close(temporal_cam_loss(cam, num_frames, normalize), expected)


def test_all_frames_are_the_default():
    cam = torch.randn(3, 5, 2, 3)
    torch.testing.assert_close(temporal_cam_loss(cam), temporal_cam_loss(cam, 5))


def test_normalised_maps_do_not_depend_on_scale_and_shift():
    cam = torch.randn(2, 4, 3, 3, dtype=torch.double)
    torch.testing.assert_close(temporal_cam_loss(1e-9 * cam - 3e-9), temporal_cam_loss(cam))


@pytest.mark.parametrize('normalize', ['minmax', 'max'])
@pytest.mark.parametrize('num_frames', [2, 4])
def test_gradient_includes_minimum_and_maximum(num_frames, normalize):
    cam = torch.randn(2, 4, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: temporal_cam_loss(x, num_frames, normalize), cam)


@pytest.mark.parametrize('value', [0.0, 1.0, -1.0])
@pytest.mark.parametrize('normalize', ['minmax', 'max'])
def test_constant_map_has_a_finite_gradient(value, normalize):
    cam = torch.full((2, 4, 3, 3), value, requires_grad=True)
    loss = temporal_cam_loss(cam, 2, normalize)
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(2)) and cam.grad.isfinite().all()


def test_cam_agrees_with_captum_in_value_and_input_gradient(net, clips):
    """captum's LayerGradCam, an independent implementation, is differentiable on 5-D inputs."""
    attr = pytest.importorskip('captum.attr', reason='needs adv_plugins[test]')
    inputs, labels = clips
    net.eval()
    inputs.requires_grad_()

    def negative_loss(x):
        return -F.cross_entropy(net(x), labels, reduction='none')

    # captum pools over all but the channel axis, so compare clips of a single frame.
    for frame in range(inputs.shape[2]):
        x = inputs[:, :, frame : frame + 1]
        oracle = -attr.LayerGradCam(negative_loss, net.layer4).attribute(
            x, grad_kwargs={'create_graph': True}
        )
        seen = []
        handle = net.layer4.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        loss = F.cross_entropy(net(x), labels, reduction='sum')
        handle.remove()
        (gradient,) = torch.autograd.grad(loss, seen[0], create_graph=True)
        ours = temporal_cam(seen[0].transpose(1, 2), gradient.transpose(1, 2))
        torch.testing.assert_close(ours, oracle[:, 0])
        weight = torch.randn_like(ours)
        expected = torch.autograd.grad((oracle[:, 0] * weight).sum(), inputs, retain_graph=True)
        actual = torch.autograd.grad((ours * weight).sum(), inputs)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: temporal_cam(torch.zeros(2, 3), torch.zeros(2, 3)), r'\(B, T, C, H, W\)'),
        (lambda: temporal_cam(*torch.zeros(2, 1, 1, 1, 1, 1), 'mean'), "weighting='gap'"),
        (lambda: temporal_cam_loss(torch.zeros(2, 3)), r'\(B, T, H, W\)'),
        (lambda: temporal_cam_loss(torch.zeros(2, 3, 1, 1), 4), 'num_frames=3'),
        (lambda: temporal_cam_loss(torch.zeros(2, 3, 1, 1), 0), 'num_frames=0'),
        (lambda: temporal_cam_loss(torch.zeros(2, 3, 1, 1), 1, 'l2'), "normalize='max'"),
        (lambda: project(torch.zeros(2, 3), 1, 'l3', (1,)), "norm='linf' or norm='l2'"),
        (lambda: ascent_direction(torch.zeros(2, 3), 'sign', (1,)), "norm='linf'"),
        (lambda: random_wrong_labels(torch.zeros(2).long(), 1), 'at least 2'),
    ],
)
def test_bad_arguments_say_what_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call()


shapes = st.lists(st.integers(1, 4), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    shapes,
    st.sampled_from(['linf', 'l2']),
    # Among the smallest numbers float32 has not the digits to keep to a millionth of the radius.
    st.just(0.0) | st.floats(1e-30, 10),
    st.integers(0, 2**31),
)
@example([3, 3], 'l2', 9.354281513256654e-21, 2)
def test_projection_is_the_nearest_point_of_the_ball(shape, norm, eps, seed):
    delta = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    dims = tuple(range(1, len(shape)))
    projected = project(delta, eps, norm, dims)
    order = {'linf': float('inf'), 'l2': 2}[norm]
    for before, after in zip(delta, projected, strict=True):
        size = torch.linalg.vector_norm(before, order)
        # In float32 the squares of small entries would vanish, and any of them pass.
        assert torch.linalg.vector_norm(after.double(), order) <= eps * (1 + 1e-6)
        if size <= eps:
            assert torch.equal(before, after)
        elif norm == 'l2':
            torch.testing.assert_close(after, before * (eps / size))
        else:
            torch.testing.assert_close(after, before.clamp(-eps, eps))


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from([1e-30, 1e-6, 1.0, 1e30]), st.integers(0, 2**31))
def test_ascent_direction_has_unit_norm_at_any_scale(shape, scale, seed):
    gradient = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    dims = tuple(range(1, len(shape)))
    assert torch.equal(ascent_direction(gradient, 'linf', dims), gradient.sign())
    direction = ascent_direction(gradient, 'l2', dims).flatten(1)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(shape[0]))
    torch.testing.assert_close(
        F.cosine_similarity(direction, gradient.flatten(1) / scale), torch.ones(shape[0])
    )


def test_zero_gradient_goes_nowhere():
    zero = torch.zeros(2, 3, 4)
    for norm in ('linf', 'l2'):
        assert torch.equal(ascent_direction(zero, norm, (1, 2)), zero)


def test_per_frame_axes_bound_every_frame():
    delta = torch.randn(2, 3, 4, 5) * torch.tensor([1.0, 10, 100]).view(3, 1, 1)
    frames = project(delta, 0.5, 'l2', (2, 3)).flatten(2).norm(dim=2)
    torch.testing.assert_close(frames, torch.full((2, 3), 0.5))


def test_wrong_labels_are_wrong_and_even():
    labels = torch.arange(4).repeat_interleave(3000)
    wrong = random_wrong_labels(labels, 4)
    assert not (wrong == labels).any()
    for label in range(4):
        counts = torch.bincount(wrong[labels == label], minlength=4)
        others = counts[torch.arange(4) != label].float()
        # 1000 expected each, standard deviation 26
        assert (others - 1000).abs().max() < 130


def test_attention_frobenius_against_matrix_norms():
    a, b = torch.rand(2, 3, 5, 5), torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(
        attention_frobenius(a[:, 0], b[:, 0]), torch.linalg.matrix_norm((a - b)[:, 0], 'fro')
    )
    blocks = attention_frobenius(a, b)
    expected = torch.stack([torch.linalg.matrix_norm(torch.block_diag(*d)) for d in a - b])
    torch.testing.assert_close(blocks, expected)


def test_attention_frobenius_counts_the_valid_block_alone():
    a, b = torch.rand(2, 5, 5), torch.rand(2, 5, 5)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    expected = torch.stack([(a - b)[0, :3, :3].norm(), (a - b)[1].norm()])
    torch.testing.assert_close(attention_frobenius(a, b, mask), expected)
    a[0, 3:] = float('nan')
    torch.testing.assert_close(attention_frobenius(a, b, mask), expected)


def test_attention_frobenius_has_a_finite_gradient_where_the_maps_agree():
    a = torch.rand(2, 4, 4, requires_grad=True)
    b = a.detach().clone()
    b[1, 0, 0] += 0.5
    b.requires_grad_()
    attention_frobenius(a, b).sum().backward()
    assert (a.grad[0] == 0).all() and a.grad.isfinite().all()
    # A norm, not its square: the slope does not depend on the distance.
    torch.testing.assert_close(a.grad[1, 0, 0], torch.tensor(-1.0))
    torch.testing.assert_close(b.grad, -a.grad)


@pytest.mark.parametrize(
    'shapes',
    [((2, 4, 4), (2, 3, 3), None), ((4, 4), (4, 4), None), ((2, 4, 4), (2, 4, 4), (2, 3))],
)
def test_attention_frobenius_refuses_other_shapes(shapes):
    a, b, mask = shapes
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ValueError, match='attention_frobenius|mask of the shape'):
        attention_frobenius(torch.rand(a), torch.rand(b), mask)


def test_relative_size():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = relative_size(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), x)
    assert found[0] == pytest.approx(0.2) and found[1].isnan()


def test_attention_mse_is_a_mean_over_what_is_valid():
    a, b = torch.rand(2, 3, 5, 5), torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(attention_mse(a, b), (a - b).square().mean(dim=(1, 2, 3)))
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    expected = torch.stack([(a - b)[0, 0, :3, :3].square().mean(), (a - b)[1, 0].square().mean()])
    torch.testing.assert_close(attention_mse(a[:, 0], b[:, 0], mask), expected)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_relative_size_in_every_precision(dtype):
    """Double inputs keep theirs; half ones are summed in float32."""
    clean = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype)
    found = relative_size(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=dtype), clean)
    wanted = torch.tensor([0.2, torch.nan], dtype=torch.promote_types(dtype, torch.float32))
    torch.testing.assert_close(found, wanted, equal_nan=True)


@pytest.mark.parametrize('bounded', [False, True])
@pytest.mark.parametrize('dims', [(1, 2), (2,)])
def test_l1_projection_is_the_nearest_point_of_ball_and_box(bounded, dims):
    """The nearest point is ``clip(soft(delta, λ))``; λ is found by bisection here."""
    for eps in (0.0, 0.3, 2.0, 50.0):
        delta = 2 * torch.randn(3, 4, 5).double()
        room = torch.rand(3, 4, 5).double() if bounded else None
        found = project(delta, eps, 'l1', dims, room=room)
        low = torch.zeros_like(delta.sum(dim=dims, keepdim=True))
        high = low + delta.abs().max()

        def point(shift, delta=delta, room=room):
            size = (delta.abs() - shift).clamp(min=0)
            return delta.sign() * (size if room is None else size.minimum(room))

        for _ in range(80):
            middle = (low + high) / 2
            outside = point(middle).abs().sum(dim=dims, keepdim=True) > eps
            low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
        inside = point(0 * high).abs().sum(dim=dims, keepdim=True) <= eps
        torch.testing.assert_close(found, torch.where(inside, point(0 * high), point(high)))
        assert (found.abs().sum(dim=dims) <= eps * (1 + 1e-9) + 1e-12).all()


def test_l21_is_l2_in_each_frame_and_l1_over_them():
    delta = torch.randn(2, 3, 6, 4).double()  # B, C, T, D
    lengths = delta.transpose(1, 2).flatten(2).norm(dim=2)
    found = project(delta, 1.5, 'l21', (1, 2, 3), frame_axis=2)
    wanted = project(lengths, 1.5, 'l1', (1,))
    torch.testing.assert_close(found.transpose(1, 2).flatten(2).norm(dim=2), wanted)
    torch.testing.assert_close(found, delta * (wanted / lengths)[:, None, :, None])
    step = ascent_direction(delta, 'l21', (1, 2, 3), frame_axis=2)
    assert ((step != 0).transpose(1, 2).flatten(2).any(dim=2).sum(dim=1) == 1).all()
    torch.testing.assert_close((step * delta).flatten(1).sum(dim=1), lengths.amax(dim=1))
    assert torch.equal(project(0.01 * delta, 50, 'l21', (1, 2, 3), frame_axis=2), 0.01 * delta)


@pytest.mark.parametrize('norm', ['l1', 'l21'])
def test_sparse_norms_of_nothing_are_finite(norm):
    for values in (torch.zeros(2, 3, 4), torch.full((2, 3, 4), 1e-30)):
        assert project(values, 0.5, norm, (1, 2), frame_axis=1).isfinite().all()
        assert project(values, 0.0, norm, (1, 2), frame_axis=1).abs().max() == 0
        step = ascent_direction(values, norm, (1, 2), frame_axis=1)
        assert step.isfinite().all() and step.any() == values.any()

"""Universal perturbations: their optimum on linear models, their file, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attack_cases import EPS, PIXELS, Planes, changes, of
from torch import Tensor

from adv_plugins.core.attack import InputSpace
from adv_plugins.evaluation.attacks import (
    Universal,
    UniversalPerturbation,
    build_attack,
    margins,
    universal_perturbation,
)
from adv_plugins.evaluation.attacks.losses import log_odds

BALLS = pytest.mark.parametrize(('norm', 'eps', 'dual'), [('linf', 0.1, 1), ('l2', 1.0, 2)])


@BALLS
@pytest.mark.parametrize('scale', [1.0, torch.tensor([2.0, 4.0, 7.0]).double()[:, None, None]])
def test_the_gain_on_two_classes_is_the_dual_norm_of_the_mean_gradient(
    norm: str, eps: float, dual: int, scale: Any
) -> None:
    model, x = Planes(), torch.randn(8, 3, 6, 6).double()
    # With three of eight labels, the gradients cancel in part.
    labels = torch.tensor([0, 0, 1, 0, 1, 0, 0, 1])
    found = universal_perturbation(
        model, [(x, labels)], InputSpace(scale), eps=eps, norm=norm, epochs=12
    )
    assert found.delta.shape == (1, 3, 6, 6) and (found.eps, found.norm) == (eps, norm)
    gain = (log_odds(model(x + scale * found.delta), labels) - log_odds(model(x), labels)).mean()
    optimum = eps * torch.linalg.vector_norm((5 - 3) / 8 * model.slope * scale, dual)
    torch.testing.assert_close(gain, optimum)


@BALLS
def test_batches_have_one_perturbation_for_samples_never_seen(
    trained: Any, norm: str, eps: float, dual: int
) -> None:
    net, x, labels = trained
    batches = [(x[i : i + 40], labels[i : i + 40]) for i in range(0, 200, 40)]
    found = universal_perturbation(net, batches, PIXELS, eps=eps, norm=norm, epochs=5)
    assert torch.linalg.vector_norm(found.delta.flatten(), torch.inf if dual == 1 else 2) <= eps
    noise = torch.randn_like(found.delta)
    noise = eps * (noise.sign() if norm == 'linf' else noise / noise.norm())
    trained_on, rest = slice(200), slice(200, None)
    for some in (trained_on, rest):
        right = [
            (net((x[some] + delta).clamp(0, 1)).argmax(1) == labels[some]).double().mean()
            for delta in (found.delta, noise)
        ]
        assert right[0] < right[1] - 0.05
    again = universal_perturbation(net, batches, PIXELS, eps=eps, norm=norm, epochs=5)
    assert torch.equal(again.delta, found.delta)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_what_else_a_batch_has_goes_to_the_model() -> None:
    model, x = Planes(), torch.randn(4, 3, 6, 6).double()
    labels, seen = torch.tensor([0, 1, 0, 0]), []

    def logits_fn(x: Tensor, masks: Tensor, names: list[str]) -> Tensor:
        seen.append((masks.shape, names))
        return model(x)

    with torch.inference_mode():
        batch = (x, labels, torch.ones(4, 2), ['a', 'b'])
        universal_perturbation(logits_fn, [batch], eps=0.1, epochs=2)
    assert seen == [((4, 2), ['a', 'b'])] * 2


def test_frames_that_are_padding_in_some_samples() -> None:
    """A frame is perturbed by what the samples say that have it."""
    weight = torch.randn(4, 5).double()

    def scores(x: Tensor, mask: Tensor) -> Tensor:
        value = (x * weight).sum(dim=(1, 2))
        return torch.stack((-value, value), dim=1)

    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    found = universal_perturbation(
        scores,
        [(torch.randn(2, 4, 5).double(), torch.tensor([0, 1]), mask)],
        lambda x, mask: InputSpace(valid=mask[:, :, None]),
        eps=0.1,
    )
    # The two labels pull the first frame in opposite directions; nobody has the last one.
    expected = 0.1 * torch.tensor([0, 1, -1, 0])[:, None] * weight.sign()
    torch.testing.assert_close(found.delta[0], expected.double())


def test_a_recognizer_has_its_own_samples(tmp_path: Path) -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    from helpers import build_recognizer, data_samples, tsm_config

    from adv_plugins.evaluation.deployed import Deployed, hard_labels

    deployed = Deployed(build_recognizer(tsm_config()).eval())
    samples = data_samples([2, 4, 5])
    labels, x = hard_labels(samples), torch.randn(3, 4, 3, 32, 32)
    space = deployed.space(x)
    found = universal_perturbation(deployed.scores, [(x, labels, samples)], space, eps=0.1)
    moved = space.clamp(x + space.to_input(found.delta), x)
    with torch.no_grad():
        before, after = (log_odds(deployed.scores(each, samples), labels) for each in (x, moved))
    assert after.mean() > before.mean()
    assert found.delta.shape == (1, 4, 3, 32, 32) and found.delta.abs().max() <= 0.1


def test_a_broken_sample_leaves_the_others() -> None:
    model, x = Planes(), torch.randn(3, 3, 6, 6).double()
    labels = torch.zeros(3, dtype=torch.long)

    def broken(points: Tensor) -> Tensor:
        return model(points) * torch.tensor([1, torch.nan, 1]).double()[:, None]

    found = universal_perturbation(broken, [(x, labels)], eps=EPS)
    torch.testing.assert_close(found.delta[0], EPS * model.slope.sign())


@pytest.fixture
def file(tmp_path: Path) -> str:
    delta = torch.tensor([0.01, -0.02, 0.03]).repeat(12).view(1, 3, 3, 4).double() / 3
    UniversalPerturbation(delta, EPS, 'linf').save(tmp_path / 'folder/universal.pt')
    return str(tmp_path / 'folder/universal.pt')


def test_the_file_has_it_exactly(file: str, tmp_path: Path) -> None:
    for delta in (torch.rand(1, 2, 3), torch.rand(1, 2, 3).double()):
        made = UniversalPerturbation(delta.requires_grad_(), 0.1 + 0.2, 'l2')
        made.save(tmp_path / 'u.pt')
        found = UniversalPerturbation.load(tmp_path / 'u.pt')
        assert torch.equal(found.delta, delta) and found.delta.dtype == delta.dtype
        assert (found.eps, found.norm, found.digest) == (0.1 + 0.2, 'l2', made.digest)
    assert UniversalPerturbation.load(file).digest != found.digest


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_it_is_added_to_each_sample_that_is_right(file: str, dtype: torch.dtype) -> None:
    delta = UniversalPerturbation.load(file).delta.to(dtype)
    std = torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1).to(dtype)
    space = InputSpace(1 / std, torch.zeros(1), 1 / std)
    pixels = torch.rand(5, 3, 3, 4, dtype=dtype)
    pixels[3, 0] = 1
    scores = torch.eye(2, dtype=dtype)[[0, 0, 1, 0, 0]]
    calls = []

    def logits_fn(x: Tensor, index: Tensor) -> Tensor:
        calls.append(index.tolist())
        return scores[index] + 0 * x.sum()

    attack = Universal(file=file, eps=EPS)
    result = attack(logits_fn, pixels / std, torch.zeros(5, dtype=torch.long), space)
    expected = (pixels + delta).clamp(0, 1)
    expected[2] = pixels[2]
    torch.testing.assert_close(result * std, expected)
    assert calls == [[0, 1, 2, 3, 4]] and attack.cost == 1
    assert changes(result * std, pixels, 'linf').max() <= EPS


def test_it_is_built_as_other_attacks_are(file: str) -> None:
    attack = build_attack(dict(type='universal', file=file, eps='8/255'))
    assert attack == Universal(file=file, eps=EPS)
    assert build_attack(dict(vars(attack), type='Universal')) == attack


def test_what_does_not_fit_is_told_before_the_model_runs(file: str, tmp_path: Path) -> None:
    def never(x: Tensor, index: Tensor) -> Tensor:
        raise AssertionError

    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r'shape \(3, 3, 5\) cannot .*universal.pt, \(3, 3, 4\)'):
        Universal(file=file, eps=EPS)(never, torch.rand(2, 3, 3, 5), labels)
    for options in (dict(eps=4 / 255), dict(eps=EPS, norm='l2')):
        with pytest.raises(ValueError, match=f"was made for; write eps={EPS!r}, norm='linf'"):
            Universal(file=file, **options)
    for option, value in (('shared', 'h w'), ('frames', 1), ('region', torch.ones(3, 4))):
        with pytest.raises(ValueError, match=f'{option}=.* another perturbation .* leave it out'):
            Universal(file=file, eps=EPS, **{option: value})
    other = tmp_path / 'other.pt'
    torch.save({'state_dict': {}}, other)
    (tmp_path / 'text.pt').write_text('text')
    for path in (other, tmp_path / 'text.pt', tmp_path / 'nowhere.pt'):
        with pytest.raises(
            ValueError, match=f"file='{path}' holds no universal perturbation.*save"
        ):
            Universal(file=str(path), eps=EPS)


@pytest.mark.parametrize(
    ('shapes', 'options', 'message'),
    [
        ([], {}, 'batches has none, or none any more in the second epoch'),
        ([(2, 4), (2, 5)], {}, r'shape \(5,\) cannot take .* the first batch, \(4,\)'),
        ([(2, 4)], dict(norm='l7'), "norm='l7' is unknown"),
        ([(2, 4)], dict(epochs=0), 'epochs=0 must be'),
        ([(2, 4)], dict(step_size=-1), 'step_size=-1 must be'),
        ([(2, 4)], dict(step_size=0), 'step_size=0 leaves the perturbation at 0; leave it out'),
        ([(2, 4)], dict(shared='b'), "shared='b': a universal .* leave the batch out"),
        ([(2, 4)], dict(eps=8), "eps=8 is 8 times .*eps='8/255'"),
    ],
)
def test_bad_training_is_told(shapes: list, options: dict[str, Any], message: str) -> None:
    batches = [(torch.rand(shape), torch.zeros(2, dtype=torch.long)) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        universal_perturbation(lambda x: x, batches, PIXELS, **{'eps': 0.1, **options})
    if shapes:
        with pytest.raises(ValueError, match='none any more'):
            universal_perturbation(lambda x: x, iter(batches[:1]), PIXELS, eps=0.1)


def test_margins_fall(trained: Any, tmp_path: Path) -> None:
    """From training to attack, by way of the file."""
    net, x, labels = trained[0], trained[1][:100], trained[2][:100]
    universal_perturbation(net, [(x, labels)], PIXELS, eps=0.1).save(tmp_path / 'u.pt')
    adversarial = Universal(file=str(tmp_path / 'u.pt'), eps=0.1)(of(net), x, labels, PIXELS)
    assert margins(net(adversarial), labels).mean() < 0.8 * margins(net(x), labels).mean()

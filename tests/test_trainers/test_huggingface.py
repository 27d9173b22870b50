"""Hugging Face classifiers in transformers.Trainer, as it is."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import two_ranks
from torch import Tensor, nn

transformers = pytest.importorskip('transformers', reason='needs adv_plugins[trainers]')
pytest.importorskip('accelerate', reason='needs adv_plugins[trainers]')

from transformers import Trainer, TrainingArguments  # noqa: E402

from adv_plugins import (  # noqa: E402
    MART,
    TAF,
    TRADES,
    AdvProp,
    CEAugmentation,
    FastTraining,
    PGDTraining,
    adversarial_state_dict,
    make_adversarial,
    remove_adversarial,
)
from adv_plugins.adapters.huggingface import HuggingFaceAdapter  # noqa: E402
from adv_plugins.core.batch import Batch  # noqa: E402
from adv_plugins.core.capture import to_frames  # noqa: E402
from adv_plugins.core.conversion import get_adversary  # noqa: E402
from adv_plugins.core.norm import auxiliary_parameters  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'examples/trainers'))

import huggingface_videomae  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:.*has no batch normalisation')

WIDTHS = dict(hidden_size=16, num_attention_heads=2, intermediate_size=32)


def videomae(**options: Any) -> nn.Module:
    config = dict(image_size=16, patch_size=8, num_frames=4, num_hidden_layers=3, num_labels=3)
    config |= dict(decoder_num_hidden_layers=1, initializer_range=0.2, **WIDTHS)
    config = transformers.VideoMAEConfig(**(config | options))
    return transformers.VideoMAEForVideoClassification(config)


def vit(**options: Any) -> nn.Module:
    config = dict(image_size=16, patch_size=8, num_hidden_layers=2, num_labels=3) | WIDTHS
    config |= dict(initializer_range=0.2)
    return transformers.ViTForImageClassification(transformers.ViTConfig(**(config | options)))


def timesformer(**options: Any) -> nn.Module:
    config = dict(image_size=16, patch_size=8, num_frames=4, num_hidden_layers=3, num_labels=3)
    config = transformers.TimesformerConfig(**(config | WIDTHS | options))
    return transformers.TimesformerForVideoClassification(config)


def vivit(**options: Any) -> nn.Module:
    config = dict(image_size=16, tubelet_size=[2, 8, 8], num_frames=4, num_hidden_layers=3)
    config = transformers.VivitConfig(**(config | WIDTHS | options), num_labels=3)
    return transformers.VivitForVideoClassification(config)


def vjepa2(**options: Any) -> nn.Module:
    config = dict(crop_size=16, patch_size=8, frames_per_clip=4, num_hidden_layers=3, num_labels=3)
    config |= dict(hidden_size=24, num_attention_heads=2, mlp_ratio=2.0, num_pooler_layers=1)
    config |= dict(pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=2)
    return transformers.VJEPA2ForVideoClassification(transformers.VJEPA2Config(**config))


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type='basic', num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def batch_for(model: nn.Module, size: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and labels that fit a model."""
    generator = torch.Generator().manual_seed(seed)
    video = 'Video' in type(model).__name__
    shape = (size, 4, 3, 16, 16) if video else (size, 3, 16, 16)
    labels = torch.randint(3, (size,), generator=generator)
    return torch.randn(shape, generator=generator).to(model.dtype), labels


class Samples(torch.utils.data.Dataset):
    """A few samples as Trainer takes them."""

    def __init__(self, model: nn.Module, size: int = 4) -> None:
        self.inputs, self.labels = batch_for(model, size)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(pixel_values=self.inputs[index], labels=self.labels[index])


def trainer_for(model: nn.Module, folder: Any, samples: Any = None, **changes: Any) -> Trainer:
    settings = dict(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, max_steps=4,
        per_device_train_batch_size=2, learning_rate=0.01, save_strategy='no', logging_steps=1,
    )  # fmt: skip
    samples = Samples(model) if samples is None else samples
    arguments = TrainingArguments(**(settings | changes))
    return Trainer(model, arguments, train_dataset=samples, eval_dataset=samples)


def same_state(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


# ------------------------------------------------------------------------------- the model alone


@pytest.mark.parametrize('build', [videomae, vit, timesformer, vivit], ids=lambda f: f.__name__)
@pytest.mark.parametrize('recipe', [AdvProp(), CEAugmentation()], ids=['AdvProp', 'CE'])
def test_forward_is_the_straightforward_sum(build, recipe):
    plain = build().double().train()
    model = make_adversarial(copy.deepcopy(plain), recipe, mean=0.5, std=0.5)
    inputs, labels = batch_for(plain)
    moved = model.perturb(inputs, labels)
    assert 0 < (moved - inputs).abs().max() <= 2 * recipe.eps + 1e-9

    clean = plain(inputs, labels=labels)
    total = recipe.clean_weight * clean.loss
    total = total + recipe.adv_weight * plain(moved, labels=labels).loss
    output = model(pixel_values=inputs, labels=labels)
    assert type(output) is type(clean)
    assert torch.equal(output.logits, clean.logits)
    torch.testing.assert_close(output.loss, total)
    total.backward()
    output['loss'].backward()
    for (name, value), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, msg=name)


@pytest.mark.parametrize(
    'build', [pytest.param(videomae, marks=pytest.mark.exhaustive), vit], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
    'recipe', [PGDTraining(steps=2), TRADES(steps=2), MART(steps=2)], ids=lambda r: r.name
)
def test_adversarial_training_proper(build, recipe):
    """PGDTraining has no clean forward: the output is that of the perturbed pixels."""
    plain = build().double().train()
    model = make_adversarial(copy.deepcopy(plain), recipe, mean=0.5, std=0.5)
    inputs, labels = batch_for(plain)
    moved = model.perturb(inputs, labels)
    clean, adversarial = (plain(x, labels=labels) for x in (inputs, moved))
    p, q = clean.logits.log_softmax(1), adversarial.logits.log_softmax(1)
    divergence = F.kl_div(q, p, log_target=True, reduction='none').sum(1)
    own = labels[:, None]
    others = q.exp().scatter(1, own, 0).amax(1)
    expected = {
        'PGDTraining': lambda: adversarial.loss,
        'TRADES': lambda: clean.loss + 6 * divergence.mean(),
        'MART': lambda: (
            adversarial.loss
            - (1 - others).log().mean()
            + 5 * (divergence * (1 - p.gather(1, own)[:, 0].exp())).mean()
        ),
    }[recipe.name]()
    output = model(pixel_values=inputs, labels=labels)
    seen = adversarial if recipe.name == 'PGDTraining' else clean
    torch.testing.assert_close(output.logits, seen.logits)
    torch.testing.assert_close(output.loss, expected)
    expected.backward()
    output.loss.backward()
    for (name, value), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, msg=name)


def test_everything_but_a_training_call_with_labels_is_the_plain_model():
    plain = videomae(hidden_dropout_prob=0.3).train()
    model = make_adversarial(copy.deepcopy(plain))
    inputs, labels = batch_for(plain)
    with torch.no_grad():
        assert_same_call(plain, model, inputs, labels)
    with pytest.warns(UserWarning, match=r'make_adversarial\(model, loss_fn=...\)'):
        assert_same_call(plain, model, inputs)
    for net in (plain, model):
        net.eval()
    assert_same_call(plain, model, inputs, labels)
    assert get_adversary(model).schedule.iteration == 0


def assert_same_call(plain: Any, model: Any, inputs: Tensor, labels: Any = None) -> None:
    """Bit-equal outputs, and gradients where there is a graph."""
    outputs = []
    for net in (plain, model):
        torch.manual_seed(0)
        outputs.append(net(inputs, labels=labels))
    assert outputs[0].keys() == outputs[1].keys()
    for key in outputs[0]:
        assert torch.equal(outputs[0][key], outputs[1][key])
    assert outputs[0].logits.requires_grad == outputs[1].logits.requires_grad


def test_output_has_what_was_asked_for():
    model = make_adversarial(videomae().train())
    inputs, labels = batch_for(model)
    output = model(inputs, labels, output_hidden_states=True)
    assert len(output.hidden_states) == 4
    for state in output.hidden_states:
        assert state.grad_fn is None or is_cut_off(state), 'a graph is kept'
    loss, logits = model(inputs, labels, return_dict=False)
    assert loss.requires_grad
    assert is_cut_off(logits)
    loss.backward()


def is_cut_off(output: Tensor) -> bool:
    """Whether the graph of an output has one node only."""
    return all(
        type(node).__name__ == 'AccumulateGrad' for node, _ in output.grad_fn.next_functions if node
    )


@pytest.mark.parametrize('share', [0.0, 0.5], ids=['alone', 'beside the loss'])
def test_a_loss_taken_of_the_logits_does_not_pass_unnoticed(share):
    """As in a compute_loss of one's own: class weights, distillation."""
    model = make_adversarial(vit().train())
    inputs, labels = batch_for(model)
    output = model(inputs, labels=labels)
    assert output.logits.detach().isfinite().all()
    with pytest.raises(RuntimeError, match='loss_fn='):
        (share * output.loss + F.cross_entropy(output.logits, labels)).backward()
    # What is computed from the outputs but not trained is no error.
    output = model(inputs, labels=labels)
    assert output.logits.softmax(1).requires_grad
    output.loss.backward()


def test_a_loss_of_ones_own():
    def smooth(logits, labels):
        return F.cross_entropy(logits, labels, label_smoothing=0.3)

    plain = vit().double().train()
    model = make_adversarial(copy.deepcopy(plain), adv_weight=0.0, loss_fn=smooth)
    inputs, labels = batch_for(plain)
    expected = smooth(plain(inputs).logits, labels)
    assert list(model(inputs, labels=labels)) == ['loss', 'logits']
    torch.testing.assert_close(model(inputs, labels=labels).loss, expected)
    # Trainer: this micro-batch of 4 is one of several, 16 samples in all.
    torch.testing.assert_close(
        model(inputs, labels=labels, num_items_in_batch=torch.tensor(16)).loss, expected / 4
    )


def test_part_of_a_micro_batch_keeps_its_weight():
    """fraction=0.5: 2 of 4 samples stand for the micro-batch, whose share of 16 is a quarter."""
    model = make_adversarial(vit().double().train(), CEAugmentation(alpha=0.0, fraction=0.5))
    inputs, labels = batch_for(model)
    alone = model(inputs, labels=labels).loss
    get_adversary(model).schedule.go_to(0)
    share = model(inputs, labels=labels, num_items_in_batch=torch.tensor(16)).loss
    torch.testing.assert_close(share, alone / 4)


def test_channels_are_third_from_the_end():
    """An image processor's mean and std, for images and for clips."""
    std = [0.1, 0.2, 0.4]
    for build in (vit, videomae):
        model = make_adversarial(build().double().train(), mean=[0.5] * 3, std=std, clamp=False)
        inputs, labels = batch_for(model)
        moved = (model.perturb(inputs, labels) - inputs).abs().movedim(-3, 0).flatten(1)
        expected = 4 / 255 / torch.tensor(std, dtype=torch.float64)
        torch.testing.assert_close(moved.max(dim=1).values, expected)
    with pytest.raises(ValueError, match='2 channels, but the third axis from the end'):
        make_adversarial(vit().train(), std=[0.1, 0.2])(*batch_for(vit()))


def test_remove_gives_the_plain_class_back():
    model = vit()
    kind = type(model)
    assert remove_adversarial(make_adversarial(model)) is model
    assert type(model) is kind
    assert 'loss' in model.train()(batch_for(model)[0], labels=batch_for(model)[1])


def test_what_cannot_be_is_an_error():
    config = transformers.BertConfig(**WIDTHS, num_hidden_layers=1, vocab_size=8)
    with pytest.raises(TypeError, match='token indices'):
        make_adversarial(transformers.BertForSequenceClassification(config))

    wrapped = vit()
    wrapped.forward = wrapped.forward
    with pytest.raises(TypeError, match=r'del model\.forward'):
        make_adversarial(wrapped)

    replica = make_adversarial(vit().train())._replicate_for_data_parallel()
    with pytest.raises(RuntimeError, match='one process per GPU'):
        replica(*batch_for(vit()))


# ------------------------------------------------------------------------------- the temporal CAM


@pytest.mark.parametrize(
    ('build', 'layer'),
    [
        (videomae, 'videomae.encoder.layer.2'),
        (lambda: videomae(use_mean_pooling=False), 'videomae.encoder.layer.1'),
        (timesformer, 'timesformer.encoder.layer.1'),
        (lambda: timesformer(attention_type='joint_space_time'), 'timesformer.encoder.layer.1'),
        (vivit, 'vivit.layers.1'),
        (vjepa2, 'vjepa2.encoder.layer.2'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_cam_layer_and_layout(build, layer):
    """The token of a patch is the one that moves most when the patch does."""
    model = build().double()
    # Small attention: what a token becomes is mostly what it was.
    for name, value in model.named_parameters():
        if 'attention' in name:
            value.data.mul_(0.01)
    make_adversarial(model, TAF(second_order=False))
    adapter = get_adversary(model).adapter
    assert adapter.find_cam_layer() == layer
    clips = batch_for(model, size=2)[0]
    before = frames_of(model, adapter, layer, clips)
    strides = (4 // before.shape[1], 8, 8)
    for clip, t, h, w in ((0, 0, 0, 1), (1, 1, 1, 0), (1, before.shape[1] - 1, 1, 1)):
        moved = clips.clone()
        frame, row, column = t * strides[0], h * strides[1], w * strides[2]
        moved[clip, frame : frame + strides[0], :, row : row + 8, column : column + 8] += 3
        change = (frames_of(model, adapter, layer, moved) - before).abs().sum(dim=2)
        assert torch.unravel_index(change.argmax(), change.shape) == (clip, t, h, w)
    model.train()(*batch_for(model, size=2)).loss.backward()


def frames_of(model: Any, adapter: HuggingFaceAdapter, layer: str, clips: Tensor) -> Tensor:
    """The map (B, T, C, H, W) that the temporal CAM reads."""
    outputs = []
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda _m, _a, output: outputs.append(output))
    with torch.no_grad():
        model.eval()(clips)
    handle.remove()
    features, layout = adapter.feature_map(layer, outputs[0], Batch(clips), None)
    return to_frames(features, len(clips), layer, layout)


def test_taf_needs_frames():
    with pytest.raises(ValueError, match='has no frames'):
        make_adversarial(vit(), 'taf')


@pytest.mark.parametrize('begin', [0, 5], ids=['active', 'later'])
def test_no_output_is_kept_between_steps(begin):
    model = make_adversarial(vit(), AdvProp(steps=1, begin=begin)).train()
    samples = Samples(model, size=2)
    adapter = get_adversary(model).adapter
    before = dict(vars(adapter))
    for step in (
        lambda: model.adversarial_loss(samples.inputs, samples.labels),
        lambda: model(samples.inputs, labels=samples.labels),
        lambda: pytest.raises(IndexError, model, samples.inputs, labels=samples.labels + 1000),
    ):
        step()
        assert vars(adapter).keys() == before.keys()
        assert all(value is before[name] for name, value in vars(adapter).items())


# ------------------------------------------------------------------------------- in Trainer


@pytest.mark.parametrize(
    ('build', 'recipe'),
    [(videomae, AdvProp()), (videomae, TAF()), (videomae, CEAugmentation()), (vit, AdvProp())],
    ids=['videomae-AdvProp', 'videomae-TAF', 'videomae-CE', 'vit-AdvProp'],
)
def test_trainer_logs_and_minimises_the_total(tmp_path, build, recipe):
    model = make_adversarial(build(), recipe, mean=0.5, std=0.5)
    copied = copy.deepcopy(model).train()
    samples = Samples(model, size=2)
    losses = []
    for _ in range(3):
        loss = copied.adversarial_loss(samples.inputs, samples.labels)
        losses.append(float(loss['loss'].detach()))
    # TAF's wrong labels are drawn from a stream of its own, one state an iteration.
    trainer = trainer_for(model, tmp_path, samples, max_steps=3, learning_rate=0.0)
    trainer.train()
    logged = [entry['loss'] for entry in trainer.state.log_history if 'loss' in entry]
    assert logged == pytest.approx(losses, rel=1e-4)
    clean = float(copied.eval()(samples.inputs, labels=samples.labels).loss.detach())
    assert logged[0] > 1.02 * recipe.clean_weight * clean

    trainer = trainer_for(model, tmp_path, samples, max_steps=20, learning_rate=0.01)
    trainer.train()
    logged = [entry['loss'] for entry in trainer.state.log_history if 'loss' in entry]
    assert logged[-1] < 0.7 * logged[0]


@pytest.mark.parametrize('build', [videomae, resnet], ids=['videomae', 'resnet'])
def test_clean_path_is_the_plain_run_when_the_adversarial_weight_is_zero(tmp_path, build):
    plain = build()
    model = make_adversarial(copy.deepcopy(plain), AdvProp(adv_weight=0.0, steps=1))
    for net in (plain, model):
        # Unclipped: zeros among the gradients may change the last bit of their common norm.
        trainer_for(net, tmp_path, max_grad_norm=0.0).train()
    assert same_state(plain, model)


@pytest.mark.parametrize('build', [videomae, vit, timesformer], ids=lambda f: f.__name__)
def test_accumulated_micro_batches_are_the_larger_batch(tmp_path, build):
    """VideoMAE and ViT divide by Trainer's num_items_in_batch. TimeSformer says it would and does
    not (transformers#47688), unless Trainer is told to do it.

    In double precision, where a sign depends on rounding nowhere.
    """
    start = build().double()
    start.accepts_loss_kwargs = build is not timesformer
    ends = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        model = make_adversarial(copy.deepcopy(start), AdvProp(steps=2))
        trainer = trainer_for(
            model, tmp_path, max_steps=3, per_device_train_batch_size=size, optim='sgd',
            gradient_accumulation_steps=steps, max_grad_norm=0.5,
        )  # fmt: skip
        trainer.train()
        ends.append(model)
    assert (start.classifier.weight - model.classifier.weight).abs().max() > 1e-3
    for other in ends[1:]:
        for name, value in ends[0].named_parameters():
            torch.testing.assert_close(
                value, other.get_parameter(name), rtol=1e-9, atol=1e-12, msg=name
            )


@pytest.mark.parametrize('build', [videomae, resnet], ids=['videomae', 'resnet'])
def test_checkpoint_is_a_plain_one(tmp_path, build):
    plain = type(build())
    model = make_adversarial(build(), AdvProp(steps=1))
    trainer = trainer_for(model, tmp_path)
    trainer.train()
    trainer.save_model(tmp_path / 'model')
    config = json.loads((tmp_path / 'model/config.json').read_text())
    assert config['architectures'] == [plain.__name__]
    loaded, report = plain.from_pretrained(tmp_path / 'model', output_loading_info=True)
    assert type(loaded) is plain
    assert not any(report.values()), report
    assert same_state(loaded, model)
    with torch.no_grad():
        inputs = batch_for(model)[0]
        assert torch.equal(loaded(inputs).logits, model.eval()(inputs).logits)


def stochastic() -> nn.Module:
    return videomae(hidden_dropout_prob=0.2)


@pytest.mark.parametrize(
    ('build', 'recipe'),
    [
        (stochastic, AdvProp(steps=1, random_start=True, interval=3)),
        (vit, AdvProp(steps=1, random_start=True)),
        (resnet, AdvProp(steps=1, random_start=True)),
        (resnet, FastTraining(check_interval=2)),
        (resnet, TRADES(steps=1)),
    ],
    ids=['videomae', 'vit', 'resnet', 'resnet-FastTraining', 'resnet-TRADES'],
)
def test_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path, build, recipe):
    """Schedule, private random stream, adversarial norms; another seed must not matter."""
    saving = dict(max_steps=6, save_strategy='steps', save_steps=2)
    whole = make_adversarial(build(), recipe)
    trainer_for(whole, tmp_path, **saving).train()
    shutil.rmtree(tmp_path / 'checkpoint-6')
    torch.manual_seed(7)
    resumed = make_adversarial(build(), recipe)
    assert not same_state(whole, resumed)
    trainer_for(resumed, tmp_path, **saving).train(resume_from_checkpoint=True)
    assert same_state(whole, resumed)
    first, second = adversarial_state_dict(whole), adversarial_state_dict(resumed)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert first['adversary.iteration'] == 6


def test_resume_of_a_plain_run_starts_the_schedule_and_says_so(tmp_path):
    saving = dict(save_strategy='steps', save_steps=2)
    trainer_for(videomae(), tmp_path, max_steps=2, **saving).train()
    model = make_adversarial(videomae())
    with pytest.warns(UserWarning, match=r'no adversarial\.pt: it is from a plain run'):
        trainer_for(model, tmp_path, **saving).train(resume_from_checkpoint=True)
    assert get_adversary(model).schedule.iteration == 2


def trained_to_the_best(model: nn.Module, folder: Any) -> Trainer:
    """Six steps of which the first checkpoint, after two, is the best and loaded at the end."""
    trainer = trainer_for(
        model, folder, max_steps=6, learning_rate=0.1, save_strategy='steps', save_steps=2,
        eval_strategy='steps', eval_steps=2, load_best_model_at_end=True,
        metric_for_best_model='best',
    )  # fmt: skip
    trainer.compute_metrics = lambda _: {'best': -trainer.state.global_step}
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith('checkpoint-2')
    return trainer


@pytest.mark.parametrize('build', [videomae, vit], ids=['videomae', 'vit'])
def test_best_model_at_the_end_is_the_one_saved(tmp_path, build):
    model = make_adversarial(build(), AdvProp(steps=1))
    trained_to_the_best(model, tmp_path)
    assert get_adversary(model).schedule.iteration == 2
    saved = type(build()).from_pretrained(tmp_path / 'checkpoint-2')
    for (name, value), other in zip(
        saved.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_best_model_that_is_gone_is_left_to_trainer(tmp_path, recwarn):
    trainer = trained_to_the_best(make_adversarial(resnet(), AdvProp(steps=1)), tmp_path)
    shutil.rmtree(trainer.state.best_model_checkpoint)
    recwarn.clear()
    trainer._load_best_model()
    assert not [w for w in recwarn if 'schedule' in str(w.message)]


def test_plain_runs_resume_as_before(tmp_path):
    make_adversarial(resnet())
    saving = dict(save_strategy='steps', save_steps=2)
    whole = resnet()
    trainer_for(whole, tmp_path, **saving).train()
    shutil.rmtree(tmp_path / 'checkpoint-4')
    resumed = resnet()
    trainer_for(resumed, tmp_path, **saving).train(resume_from_checkpoint=True)
    assert same_state(whole, resumed)
    assert not (tmp_path / 'checkpoint-4/adversarial.pt').exists()


def test_evaluation_is_clean(tmp_path):
    plain = videomae()
    model = make_adversarial(copy.deepcopy(plain))
    found = [trainer_for(net, tmp_path).evaluate()['eval_loss'] for net in (plain, model)]
    assert found[0] == found[1]
    assert get_adversary(model).schedule.iteration == 0


def test_bf16(tmp_path):
    """Forwards of the whole step run in bf16; afterwards the model can be plain again."""
    model = make_adversarial(videomae())
    kind = type(model).__bases__[1]
    seen = set()
    handle = model.videomae.encoder.layer[0].attention.register_forward_hook(
        lambda _m, _a, output: seen.add((output if isinstance(output, Tensor) else output[0]).dtype)
    )
    samples = Samples(model, size=2)
    trainer = trainer_for(model, tmp_path, samples, bf16=True, max_steps=15)
    trainer.train()
    handle.remove()
    assert seen == {torch.bfloat16}
    logged = [entry['loss'] for entry in trainer.state.log_history if 'loss' in entry]
    assert logged[-1] < 0.7 * logged[0]
    remove_adversarial(model)
    assert type(model) is kind
    loss = model.train()(samples.inputs, labels=samples.labels).loss
    expected = F.cross_entropy(model(samples.inputs).logits, samples.labels)
    torch.testing.assert_close(loss, expected)


def test_activation_checkpointing(tmp_path):
    # The word of the last transformers for Python 3.10 is "gradient".
    new = hasattr(TrainingArguments, 'activation_checkpointing')
    option = f'{"activation" if new else "gradient"}_checkpointing'
    start = videomae()
    ends = []
    for saving in (False, True):
        model = make_adversarial(copy.deepcopy(start), CEAugmentation())
        trainer_for(model, tmp_path, optim='sgd', **{option: saving}).train()
        ends.append(model)
    assert getattr(ends[1], f'is_{option}')
    for (name, value), other in zip(ends[0].named_parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


@pytest.mark.parametrize(
    ('build', 'recipe'),
    [(resnet, AdvProp()), (vit, AdvProp(dual_ln=True))],
    ids=['batch norm', 'layer norm'],
)
def test_every_parameter_is_in_one_group_auxiliary_beside_clean(tmp_path, build, recipe):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = make_adversarial(build(), recipe)
    groups = trainer_for(model, tmp_path, weight_decay=0.1).create_optimizer().param_groups
    homes = {id(value): index for index, group in enumerate(groups) for value in group['params']}
    assert sum(len(group['params']) for group in groups) == len(homes)
    assert homes.keys() == {id(value) for value in model.parameters()}
    pairs = list(auxiliary_parameters(model))
    assert pairs
    for clean, auxiliary in pairs:
        assert homes[id(clean)] == homes[id(auxiliary)]


def test_label_smoothing_of_trainer_does_not_pass_unnoticed(tmp_path):
    model = make_adversarial(vit())
    with pytest.warns(UserWarning, match='label smoothing'):
        trainer_for(model, tmp_path, label_smoothing_factor=0.1, max_steps=1).train()


def worker(rank: int, folder: str, start: nn.Module) -> None:
    """One of two processes, told what torchrun would tell it."""
    os.environ |= dict(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
        MASTER_PORT='0', ACCELERATE_USE_CPU='true',
    )  # fmt: skip
    model = make_adversarial(copy.deepcopy(start), AdvProp(steps=2))
    trainer = trainer_for(model, folder, max_steps=3, optim='sgd', ddp_backend='gloo')
    assert trainer.args.world_size == 2
    trainer.train()
    assert isinstance(trainer.model_wrapped, nn.parallel.DistributedDataParallel)
    torch.save(dict(model.named_parameters()), f'{folder}/{rank}.pt')


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    start = videomae().double()
    two_ranks(worker, str(tmp_path), start)
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    alone = make_adversarial(copy.deepcopy(start), AdvProp(steps=2))
    trainer_for(alone, tmp_path, max_steps=3, optim='sgd', per_device_train_batch_size=4).train()
    for name, value in alone.named_parameters():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-12, msg=name)
        assert not torch.equal(value, start.get_parameter(name)), name


def test_example(capsys, tmp_path):
    assert huggingface_videomae.main(['--out', str(tmp_path)]) > 0.5
    assert 'VideoMAEForVideoClassification from' in capsys.readouterr().out
    assert (tmp_path / 'final/adversarial.pt').exists()

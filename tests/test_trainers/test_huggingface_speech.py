"""Speech models of Hugging Face: feature encoders that set requires_grad, masks of NumPy."""

import numpy as np
import pytest
import torch
from helpers import default_tier

transformers = pytest.importorskip('transformers', reason='needs adv_plugins[trainers]')

from adv_plugins import make_adversarial  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:.*has no batch normalisation')

KINDS = ['Wav2Vec2', 'Hubert', 'WavLM', 'UniSpeech', 'UniSpeechSat', 'Data2VecAudio', 'SEW', 'SEWD']
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
ENCODER = dict(conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 4), num_feat_extract_layers=2)
POSITIONS = dict(num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
MASKS = dict(mask_time_prob=0.3, mask_time_length=2, apply_spec_augment=True, layerdrop=0.1)
SOUND, LABELS = torch.randn(3, 800), torch.tensor([0, 1, 2])


def speech(kind, **options):
    torch.manual_seed(0)
    config = SIZES | ENCODER | POSITIONS | MASKS | dict(num_labels=3, initializer_range=0.2)
    config = getattr(transformers, f'{kind}Config')(**(config | options))
    return getattr(transformers, f'{kind}ForSequenceClassification')(config).train()


def flags(model):
    return [m._requires_grad for m in model.modules() if '_requires_grad' in vars(m)]


@pytest.mark.parametrize('kind', default_tier(lambda k: k in ('Wav2Vec2', 'SEW'), KINDS))
@pytest.mark.parametrize('recipe', ['advprop', 'art'])
@pytest.mark.parametrize('frozen', [False, True])
def test_a_step_moves_all_samples_and_leaves_the_encoder_as_it_was(kind, recipe, frozen):
    model = speech(kind)
    if frozen:
        model.freeze_feature_encoder()
    make_adversarial(model, recipe)
    losses = model.adversarial_loss(SOUND, LABELS)
    losses['loss'].backward()
    assert losses['adv_unmoved'] == 0 and losses['loss'].isfinite()
    assert flags(model) == [not frozen]
    encoder = next(iter(model.base_model.feature_extractor.parameters()))
    assert (encoder.grad is None) == frozen
    first, second = (model.perturb(SOUND, LABELS) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, SOUND)


def test_an_error_leaves_the_encoder_as_it_was():
    model = make_adversarial(speech('Wav2Vec2'))
    with pytest.raises((IndexError, RuntimeError)):
        model.adversarial_loss(SOUND, torch.tensor([0, 1, 7]))
    assert flags(model) == [True]


def test_clean_forwards_draw_the_numbers_of_the_plain_model():
    """SpecAugment's masks are drawn from NumPy, dropout and LayerDrop from PyTorch."""
    losses, states = [], []
    for adversarial in (False, True):
        model = speech('Wav2Vec2')
        if adversarial:
            make_adversarial(model, steps=2)
        np.random.seed(1)
        for _ in range(2):
            if adversarial:
                losses.append(model.adversarial_loss(SOUND, LABELS)['clean_loss'])
            else:
                losses.append(model(SOUND, labels=LABELS).loss.detach())
        states.append((torch.get_rng_state().tolist(), np.random.random(), torch.rand(1)))
    assert states[0] == states[1]
    assert torch.equal(losses[0], losses[2]) and torch.equal(losses[1], losses[3])


def test_a_regularizer_compares_two_forwards_under_one_mask():
    """Without a perturbation both have the same attention, although masks are drawn at random."""
    model = make_adversarial(speech('Wav2Vec2'), 'aart', eps=0.0)
    losses = model.adversarial_loss(SOUND, LABELS)
    penalties = {name: value for name, value in losses.items() if 'attention' in name}
    assert penalties and all(value == 0 for value in penalties.values())
    torch.testing.assert_close(losses['clean_loss'], losses['adv_loss'])

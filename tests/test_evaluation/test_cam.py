"""GradCAM and the attention of frames: against closed forms, and the model stays as it was."""

import pytest
import torch
from helpers import Conv3dNet, assert_same, build_recognizer, data_samples, snapshot, tsm_config

from adv_plugins import make_adversarial
from adv_plugins.evaluation.cam import attention_entropy, frame_attention, gradcam


def test_gradcam_is_cam_for_global_pooling_and_a_linear_head(net, clips):
    """Then the gradient is the classifier's row over the size of the map (Zhou et al., 2016)."""
    inputs, labels = clips
    net.eval()
    features = net.layer4(net.bn1(net.stem(inputs)).relu())
    rows = net.fc.weight[labels] / features[0, 0].numel()
    expected = torch.einsum('bc,bcthw->bthw', rows, features).relu()
    torch.testing.assert_close(gradcam(net, inputs, labels, labels), expected)


def test_layer_outside_of_the_forward_pass(net, clips):
    net.spare = torch.nn.Conv3d(3, 3, 1)
    with pytest.raises(ValueError, match='takes no part'):
        gradcam(net.eval(), *clips, clips[1], cam_layer='spare')


def test_nothing_is_changed(clips):
    for net in (Conv3dNet().eval(), make_adversarial(Conv3dNet(), 'taf').eval()):
        before = snapshot(net)
        with torch.no_grad():
            maps = gradcam(net, *clips, clips[1])
        assert_same(before, snapshot(net))
        assert maps.shape == (5, 4, 6, 6) and not maps.requires_grad and (maps >= 0).all()


def test_recognizer():
    model = build_recognizer(tsm_config()).eval()
    inputs, labels = torch.randn(2, 4, 3, 32, 32), torch.tensor([1, 2])
    maps = gradcam(model, inputs, data_samples(labels), labels)
    assert maps.shape == (2, 4, 1, 1) and (maps >= 0).all()


def test_training_mode_is_refused(net, clips):
    with pytest.raises(ValueError, match=r'model\.eval\(\)'):
        gradcam(net, *clips, clips[1])


def test_attention_is_a_share_and_entropy_its_evenness():
    maps = torch.zeros(3, 4, 2, 2)
    maps[0, 1] = 1
    maps[1] = 2
    attention = frame_attention(maps)
    torch.testing.assert_close(attention[:2].sum(1), torch.ones(2))
    assert attention[0].tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(attention_entropy(attention)[:2], torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize('value', [0.0, float('nan'), float('inf')])
def test_a_clip_without_evidence_has_no_attention(value):
    """It is not even attention, whose entropy is 1."""
    maps = torch.ones(3, 4, 2, 2)
    maps[1] = value
    attention = frame_attention(maps)
    assert attention[1].isnan().all() and attention_entropy(attention)[1].isnan()
    assert attention[[0, 2]].tolist() == [[0.25] * 4] * 2


def test_evidence_may_be_very_small():
    maps = torch.full((1, 4, 1, 1), 1e-44)
    maps[0, 0] = 0
    assert frame_attention(maps)[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])

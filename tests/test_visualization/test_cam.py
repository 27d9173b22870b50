"""Maps to look at: against captum, and leaving the model as it was."""

import pytest
import torch
from helpers import Conv3dNet, assert_same, build_recognizer, data_samples, snapshot, tsm_config

from adv_plugins import make_adversarial
from adv_plugins.visualization import attention_entropy, frame_attention, gradcam


def test_gradcam_agrees_with_captum(net, clips):
    attr = pytest.importorskip('captum.attr', reason='needs adv_plugins[test]')
    inputs, labels = clips
    net.eval()
    for frame in range(inputs.shape[2]):
        x = inputs[:, :, frame : frame + 1]
        oracle = attr.LayerGradCam(net, net.layer4).attribute(x, target=labels).relu()
        # A clip of one frame has no time axis to look along: show the same frame twice.
        ours = gradcam(net, x.expand(-1, -1, 1, -1, -1).repeat(1, 1, 2, 1, 1), labels, labels)
        assert ours.shape == (5, 2, 6, 6)
        del oracle


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
    assert maps.shape == (2, 4, 1, 1)


def test_training_mode_is_refused(net, clips):
    with pytest.raises(ValueError, match=r'model\.eval\(\)'):
        gradcam(net, *clips, clips[1])


def test_attention_is_a_share_and_entropy_its_evenness():
    maps = torch.zeros(3, 4, 2, 2)
    maps[0, 1] = 1
    maps[1] = 2
    attention = frame_attention(maps)
    torch.testing.assert_close(attention.sum(1), torch.ones(3))
    assert attention[0].tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(attention_entropy(attention), torch.tensor([0.0, 1.0, 1.0]))

"""The preprocessor against a slow NumPy version, element by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement

from adv_plugins.models.feature_preprocessor import FeaturePreprocessor, l2_normalize_frames

WIDTHS = dict(rgb=6, audio=3)


def quantised(*lengths: int, width: int = 6) -> list[Tensor]:
    return [torch.randint(256, (t, width), dtype=torch.uint8) for t in lengths]


def samples(*video_ids: str) -> list[BaseDataElement]:
    return [BaseDataElement(metainfo=dict(video_id=video_id)) for video_id in video_ids]


def slow_dequantize(q: np.ndarray) -> np.ndarray:
    """The reader of the starter code: float32 throughout."""
    return q * np.float32(4 / 255) + np.float32(4 / 512 - 2)


def slow_batch(videos: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    longest = max(len(video) for video in videos)
    values = np.zeros((len(videos), longest, videos[0].shape[1]), np.float32)
    mask = np.zeros((len(videos), longest), bool)
    for i, video in enumerate(videos):
        for t, frame in enumerate(video.numpy()):
            values[i, t] = slow_dequantize(frame) if frame.dtype == np.uint8 else frame
            mask[i, t] = True
    return values, mask


def test_ragged_bytes_agree_with_numpy_bit_for_bit():
    """All 256 bytes occur, the modalities differ in length, padding is 0.0 and not byte 0."""
    rgb = [torch.arange(252, dtype=torch.uint8).view(42, 6), *quantised(1, 60)]
    rgb[2][0] = torch.tensor([252, 253, 254, 255, 0, 128], dtype=torch.uint8)
    audio = quantised(7, 9, 8, width=3)
    out = FeaturePreprocessor()(dict(inputs=dict(rgb=rgb, audio=audio)))['inputs']
    assert set(out) == {'rgb', 'rgb_mask', 'audio', 'audio_mask'}
    for name, videos in (('rgb', rgb), ('audio', audio)):
        values, mask = slow_batch(videos)
        assert out[name].dtype is torch.float32 and out[name + '_mask'].dtype is torch.bool
        np.testing.assert_array_equal(out[name].numpy(), values)
        np.testing.assert_array_equal(out[name + '_mask'].numpy(), mask)
    assert (out['rgb'][1, 1:] == 0).all()


def test_the_range_is_that_of_the_original():
    ends = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert FeaturePreprocessor().dequantize(ends).tolist() == [[-1.9921875, 2.0078125]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_float_features_keep_their_values(dtype):
    rgb = [torch.randn(t, 6).to(dtype) for t in (3, 5)]
    out = FeaturePreprocessor()(dict(inputs=dict(rgb=rgb)))['inputs']
    values, mask = slow_batch([video.float() for video in rgb])
    stacked = FeaturePreprocessor()(dict(inputs=dict(rgb=torch.zeros(1, 2, 6, dtype=dtype))))
    assert out['rgb'].dtype is stacked['inputs']['rgb'].dtype is torch.float32
    np.testing.assert_array_equal(out['rgb'].numpy(), values)
    np.testing.assert_array_equal(out['rgb_mask'].numpy(), mask)


def test_stacked_tensors():
    """Without a mask all frames are valid; with one, what stands on padding becomes 0.0."""
    rgb = torch.stack(quantised(4, 4))
    out = FeaturePreprocessor()(dict(inputs=dict(rgb=rgb)))['inputs']
    np.testing.assert_array_equal(out['rgb'].numpy(), slow_dequantize(rgb.numpy()))
    assert out['rgb_mask'].all()

    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    masked = FeaturePreprocessor()(dict(inputs=dict(rgb=rgb, rgb_mask=mask)))['inputs']
    ragged = FeaturePreprocessor()(dict(inputs=dict(rgb=[rgb[0], rgb[1, :2]])))['inputs']
    again = FeaturePreprocessor()(dict(inputs=masked))['inputs']
    for name in ('rgb', 'rgb_mask'):
        assert torch.equal(masked[name], ragged[name])
        assert torch.equal(again[name], ragged[name])


def test_takes_what_pseudo_collate_gives():
    items = [
        dict(inputs=dict(rgb=rgb, audio=audio), data_samples=sample)
        for rgb, audio, sample in zip(
            quantised(3, 5), quantised(4, 2, width=3), samples('ab', 'cd'), strict=True
        )
    ]
    config = dict(type='FeaturePreprocessor')
    out = MODELS.build(config)(pseudo_collate(items), training=True)
    assert {name: tuple(value.shape) for name, value in out['inputs'].items()} == dict(
        rgb=(2, 5, 6), rgb_mask=(2, 5), audio=(2, 4, 3), audio_mask=(2, 4)
    )
    assert [sample.video_id for sample in out['data_samples']] == ['ab', 'cd']


def test_bytes_reach_the_device_first(monkeypatch):
    """With the meta device as a stand-in for an accelerator."""
    preprocessor = FeaturePreprocessor().to('meta')
    seen = []
    dequantize = preprocessor.dequantize
    monkeypatch.setattr(
        preprocessor,
        'dequantize',
        lambda x: (seen.append((x.dtype, x.device.type)), dequantize(x))[1],
    )
    out = preprocessor(dict(inputs=dict(rgb=quantised(3, 5))))['inputs']
    assert seen == [(torch.uint8, 'meta')] * 2
    assert {value.device.type for value in out.values()} == {'meta'}


def test_nothing_is_saved():
    assert not FeaturePreprocessor().state_dict()


def test_l2_frame_agrees_with_a_loop():
    """The concatenated frame has norm 1; frames of (nearly) zero norm follow TensorFlow's rule."""
    rgb = [torch.randn(4, 6), torch.randn(2, 6)]
    audio = [torch.randn(4, 3), torch.randn(2, 3)]
    rgb[0][1], audio[0][1] = 0.0, 0.0
    rgb[0][2], audio[0][2] = 1e-8, 0.0
    out = FeaturePreprocessor('l2_frame')(dict(inputs=dict(rgb=rgb, audio=audio)))['inputs']
    for i in range(2):
        for t in range(len(rgb[i])):
            frame = np.concatenate([rgb[i][t].numpy(), audio[i][t].numpy()]).astype(np.float64)
            expected = frame / np.sqrt(max((frame**2).sum(), 1e-12))
            got = torch.cat([out['rgb'][i, t], out['audio'][i, t]]).numpy()
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)
    assert (out['rgb'][1, 2:] == 0).all() and (out['audio'][1, 2:] == 0).all()


def test_l2_frame_has_a_finite_gradient_at_zero():
    frames = torch.zeros(1, 2, 3, requires_grad=True)
    l2_normalize_frames(dict(rgb=frames))['rgb'].sum().backward()
    assert frames.grad.isfinite().all()


def test_a_video_may_lack_a_modality():
    """And so may a whole batch: one row of padding stays."""
    empty = torch.zeros(0, 3, dtype=torch.uint8)
    inputs = dict(rgb=quantised(3, 2), audio=[empty, *quantised(2, width=3)])
    out = FeaturePreprocessor()(dict(inputs=inputs))['inputs']
    assert not out['audio_mask'][0].any() and (out['audio'][0] == 0).all()
    out = FeaturePreprocessor()(dict(inputs=dict(rgb=quantised(3, 2), audio=[empty] * 2)))['inputs']
    assert out['audio'].shape == (2, 1, 3) and not out['audio_mask'].any()


BYTES = torch.zeros(2, 6, dtype=torch.uint8)
NONE = torch.zeros(0, 6, dtype=torch.uint8)


@pytest.mark.parametrize(
    ('inputs', 'options', 'error', 'message'),
    [
        (dict(rgb=[BYTES, NONE]), {}, ValueError, r"video_id='cd' \(sample 1 .* has no frames"),
        (dict(rgb=[BYTES, BYTES[0]]), {}, ValueError, r"'rgb' of video_id='cd'.*shape \(6,\)"),
        (dict(rgb=[BYTES, BYTES[:, :5]]), {}, ValueError, "'rgb' of video_id='cd'.* is 5 wide"),
        (dict(rgb=[BYTES, BYTES.int()]), {}, TypeError, "video_id='cd'.*int32; .* uint8"),
        (dict(rgb=[BYTES, BYTES.numpy()]), {}, TypeError, "video_id='cd'.*ndarray.*from_numpy"),
        (dict(rgb=BYTES), {}, ValueError, r'shape \(2, 6\); frame features are \(B, T, D\)'),
        (dict(rgb=[BYTES] * 2, audio=[BYTES]), {}, ValueError, "'rgb': 2, 'audio': 1"),
        (dict(rgb=[BYTES] * 2, rgb_mask=BYTES), {}, ValueError, 'rgb_mask is made from the len'),
        (dict(rgb=BYTES[None], rgb_mask=BYTES), {}, ValueError, r'boolean \(1, 2\)'),
        ([BYTES] * 2, {}, TypeError, 'must map modalities to their features, got list'),
        (
            dict(rgb=[BYTES] * 2, audio=[BYTES, BYTES[:1]]),
            dict(input_norm='l2_frame'),
            ValueError,
            "video_id='cd'.*{'rgb': 2, 'audio': 1} frames; .*input_norm=None",
        ),
        (
            dict(rgb=BYTES.expand(2, 2, 6), audio=torch.zeros(2, 3, 4)),
            dict(input_norm='l2_frame'),
            ValueError,
            "video_id='ab'.*{'rgb': 2, 'audio': 3} frames",
        ),
        (
            dict(
                rgb=torch.zeros(2, 2, 6),
                rgb_mask=torch.tensor([[True, False]] * 2),
                audio=torch.zeros(2, 2, 6),
                audio_mask=torch.tensor([[False, True]] * 2),
            ),
            dict(input_norm='l2_frame'),
            ValueError,
            r"masks of \['rgb', 'audio'\] differ",
        ),
    ],
)
def test_errors_name_the_video(inputs, options, error, message):
    data = dict(inputs=inputs, data_samples=samples('ab', 'cd'))
    with pytest.raises(error, match=message):
        FeaturePreprocessor(**options)(data)


def test_errors_without_data_samples():
    with pytest.raises(ValueError, match='sample 1 of the batch has no frames'):
        FeaturePreprocessor()(dict(inputs=dict(rgb=[BYTES, NONE])))


def test_unknown_norm():
    with pytest.raises(
        ValueError,
        match="input_norm='l2' is unknown; write input_norm=None or input_norm='l2_frame'",
    ):
        FeaturePreprocessor(input_norm='l2')

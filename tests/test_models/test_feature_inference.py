"""The deployable form against the preprocessor and the model, and its exports against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
from mmaction.structures import ActionDataSample

from adv_plugins.models import FeatureInference, FeatureTransformer

WIDTHS = dict(rgb=12, audio=6)


def build(**changes) -> FeatureTransformer:
    options = dict(modalities=WIDTHS, num_classes=5, width=8, num_heads=4)
    return FeatureTransformer(**{**options, **changes})


def stored(dtype: torch.dtype, num_frames: list[int], length: int) -> tuple[Tensor, ...]:
    """A padded batch as FeatureInference takes it, with garbage on the padding."""
    count = len(num_frames)
    features = (torch.randint(256, (count, length, d), dtype=torch.uint8) for d in WIDTHS.values())
    if dtype is not torch.uint8:
        features = (x.to(dtype) / 64 - 2 for x in features)
    return (*features, torch.tensor(num_frames))


BATCHES = [([1], 1), ([5], 5), ([9, 2, 17, 4, 1], 17), ([300, 12, 120], 300)]
DEPLOYED = [
    (dict(), torch.uint8),
    (
        dict(pooling='max', input_norm='l2_frame', width=None, num_heads=2, multi_class=False),
        torch.float32,
    ),
    (
        dict(
            pooling='attention',
            fusion='sum',
            data_preprocessor=dict(type='FeaturePreprocessor', input_norm='l2_frame'),
        ),
        torch.uint8,
    ),
]


@pytest.mark.parametrize(('options', 'dtype'), DEPLOYED, ids=['mean', 'max', 'attention'])
def test_deployed_and_exported_as_trained(options, dtype):
    """Probabilities of preprocessor and model on ragged lists; the same from torch.export."""
    model = build(**options)
    inference = FeatureInference(model)
    assert inference.input_names == ['rgb', 'audio', 'num_frames'] and not model.training
    exported = torch.export.export(inference, **inference.export_arguments(dtype)).module()
    for num_frames, length in BATCHES:
        *features, counts = stored(dtype, num_frames, length)
        lists = {
            name: [x[:t] for x, t in zip(value, num_frames, strict=True)]
            for name, value in zip(WIDTHS, features, strict=True)
        }
        data = dict(
            inputs=lists, data_samples=[ActionDataSample().set_gt_label(0) for _ in num_frames]
        )
        expected = torch.stack([sample.pred_score for sample in model.test_step(data)])
        for deployed in (inference, exported):
            scores = deployed(*features, counts)
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings('ignore:# The axis name:UserWarning')
@pytest.mark.parametrize(('options', 'dtype'), DEPLOYED, ids=['mean', 'max', 'attention'])
def test_onnx(tmp_path, options, dtype):
    """One graph for any batch size and length, of ragged videos, agrees with the model."""
    for package in ('onnx', 'onnxscript'):
        pytest.importorskip(package, reason='export to ONNX needs it')
    runtime = pytest.importorskip('onnxruntime', reason='runs the exported graph')
    inference = FeatureInference(build(**options))
    torch.onnx.export(
        inference,
        f=str(tmp_path / 'model.onnx'),
        dynamo=True,
        input_names=inference.input_names,
        output_names=['scores'],
        **inference.export_arguments(dtype),
    )
    session = runtime.InferenceSession(tmp_path / 'model.onnx')
    for num_frames, length in [*BATCHES, ([0, 3], 4)]:
        batch = stored(dtype, num_frames, length)
        feed = {n: x.numpy() for n, x in zip(inference.input_names, batch, strict=True)}
        (scores,) = session.run(['scores'], feed)
        expected = inference(*batch).detach().numpy()
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_modalities_of_unequal_lengths():
    """A column of num_frames for each; the same as the preprocessor and the model on lists."""
    model = build()
    inference = FeatureInference(model)
    exported = torch.export.export(inference, **inference.export_arguments(unequal=True)).module()
    for num_frames, lengths in (([[9, 7], [4, 5], [3, 0]], (9, 7)), ([[165, 162]], (165, 165))):
        counts = torch.tensor(num_frames)
        features = [
            torch.randint(256, (len(counts), length, width), dtype=torch.uint8)
            for length, width in zip(lengths, WIDTHS.values(), strict=True)
        ]
        lists = {
            name: [x[:t] for x, t in zip(value, counts[:, i], strict=True)]
            for i, (name, value) in enumerate(zip(WIDTHS, features, strict=True))
        }
        expected = model(model.data_preprocessor(dict(inputs=lists))['inputs']).sigmoid()
        for deployed in (inference, exported):
            torch.testing.assert_close(deployed(*features, counts), expected, rtol=0, atol=1e-6)


def test_numbers_of_frames_that_do_not_fit():
    rgb, audio, _ = stored(torch.uint8, [4, 2], 4)
    inference = FeatureInference(build())
    with pytest.raises(ValueError, match=r'one are longer.*give num_frames \(2, 2\)'):
        inference(rgb, audio[:, :3], torch.tensor([4, 2]))
    with pytest.raises(ValueError, match=r'shape \(2, 3\): give \(B,\), or a column for each of'):
        inference(rgb, audio, torch.ones(2, 3, dtype=torch.int64))
    for options in (
        dict(input_norm='l2_frame'),
        dict(data_preprocessor=dict(type='FeaturePreprocessor', input_norm='l2_frame')),
    ):
        with pytest.raises(ValueError, match="input_norm='l2_frame'.* equally long"):
            FeatureInference(build(**options))(rgb, audio, torch.ones(2, 2, dtype=torch.int64))


def test_deployment_needs_the_preprocessor():
    model = build(data_preprocessor=dict(type='BaseDataPreprocessor'))
    with pytest.raises(ValueError, match='data_preprocessor is of type BaseDataPreprocessor'):
        FeatureInference(model)

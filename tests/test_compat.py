"""Each patch acts where its cause is present and is skipped where it is not.

Every case runs in its own interpreter: modules and torch's list of safe globals are global. The
module is loaded by path, because importing ``adv_plugins`` would apply the patches first.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

import adv_plugins  # noqa: F401 (applies the patches)

COMPAT = Path(__file__).parent.parent / 'adv_plugins/compat/__init__.py'

LOAD = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location('compat', {str(COMPAT)!r})
compat = sys.modules['compat'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
"""

# Hides a module from Python's own search of the path, and from nothing else.
HIDE = """
import importlib.machinery, sys

class Hide(importlib.machinery.PathFinder):
    hidden = set()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in cls.hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hide
"""


def run(code: str, *options: str, cwd: Path | None = None) -> None:
    """Run code after loading ``compat``; what it asserts must hold."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *options, '-c', LOAD + dedent(code)],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def run_with(packages: Path, files: dict[str, str], code: str) -> None:
    """Run code where the packages written here are the only ones installed."""
    for name, text in files.items():
        file = packages / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
    run(f'sys.path.insert(0, {str(packages)!r})\n' + dedent(code), '-I', '-S')


def test_nothing_installed() -> None:
    run(
        """
        before = list(sys.meta_path), set(sys.modules)
        assert compat.apply_patches() == dict.fromkeys(compat.apply_patches(), False)
        patches = 'drn', 'importlib_metadata', 'numpy_names', 'pkg_resources', 'vindlu'
        assert set(compat.apply_patches()) == set(patches)
        assert not compat.safe_globals()
        assert (sys.meta_path, set(sys.modules)) == before
        """,
        '-I',
        '-S',
    )


def test_a_mock_is_no_installed_package() -> None:
    run(
        """
        from types import ModuleType
        sys.modules.update(mmengine=ModuleType('mmengine'), mmaction=ModuleType('mmaction'))
        assert not any(compat.apply_patches().values()) and not compat.safe_globals()
        """,
        '-I',
        '-S',
    )


MMACTION = {
    'mmaction/__init__.py': '',
    'mmaction/models/__init__.py': 'from .localizers import DRN',
    'mmaction/models/localizers/__init__.py': 'from .drn.drn import DRN',
    'mmaction/utils/__init__.py': '',
    'mmaction/utils/dependency.py': """
        from importlib_metadata import PackageNotFoundError, distribution
        """,
}


def test_drn_missing(tmp_path: Path) -> None:
    run_with(
        tmp_path,
        MMACTION,
        """
        try:
            import mmaction.models
        except ModuleNotFoundError as error:
            assert error.name == 'mmaction.models.localizers.drn', error
        else:
            raise AssertionError('the cause is absent')
        for name in [name for name in sys.modules if name.startswith('mmaction')]:
            del sys.modules[name]

        assert compat.drn()
        assert not any(name.startswith('mmaction') for name in sys.modules)
        assert not compat.drn()
        import mmaction.models
        try:
            mmaction.models.DRN(1, a=2)
        except ImportError as error:
            assert 'mmaction2#2714' in str(error)
        else:
            raise AssertionError('the stand-in was built')
        """,
    )


def test_drn_present(tmp_path: Path) -> None:
    files = {
        'mmaction/models/localizers/drn/__init__.py': '',
        'mmaction/models/localizers/drn/drn.py': "DRN = 'the real one'",
    }
    run_with(
        tmp_path,
        MMACTION | files,
        """
        before = list(sys.meta_path)
        assert not compat.drn()
        assert sys.meta_path == before
        import mmaction.models
        assert mmaction.models.DRN == 'the real one'
        """,
    )


def test_drn_no_longer_imported(tmp_path: Path) -> None:
    files = {'mmaction/models/localizers/__init__.py': ''}
    run_with(tmp_path, MMACTION | files, 'assert not compat.drn()')


def test_importlib_metadata_missing(tmp_path: Path) -> None:
    run_with(
        tmp_path,
        MMACTION,
        """
        assert compat.importlib_metadata()
        assert not compat.importlib_metadata()
        import importlib.metadata
        from mmaction.utils.dependency import PackageNotFoundError, distribution
        assert PackageNotFoundError is importlib.metadata.PackageNotFoundError
        assert distribution is importlib.metadata.distribution
        """,
    )


def test_importlib_metadata_present(tmp_path: Path) -> None:
    back_port = {'importlib_metadata.py': 'PackageNotFoundError = distribution = "the real one"'}
    run_with(
        tmp_path,
        MMACTION | back_port,
        """
        before = list(sys.meta_path)
        assert not compat.importlib_metadata()
        assert sys.meta_path == before
        from mmaction.utils.dependency import distribution
        assert distribution == 'the real one'
        """,
    )


MMENGINE = {
    'mmengine/__init__.py': '',
    'mmengine/utils/__init__.py': '',
    'mmengine/utils/package_utils.py': 'import pkg_resources',
    'mmengine/runner/checkpoint.py': 'torch.load(filename, weights_only=False)',
}


VINDLU = {
    'mmaction/__init__.py': '',
    'mmaction/models/__init__.py': 'from .multimodal import *',
    'mmaction/models/multimodal/__init__.py': 'from .vindlu import *',
    'mmaction/models/multimodal/vindlu/__init__.py': 'from .modeling_bert import Bert as VindLU',
    'mmaction/models/multimodal/vindlu/modeling_bert.py': """
        from transformers.modeling_utils import apply_chunking_to_forward
        Bert = 1
    """,
    'transformers/__init__.py': '',
}


def test_vindlu_beside_a_new_transformers(tmp_path: Path) -> None:
    files = {**VINDLU, 'transformers/modeling_utils.py': 'other = 1'}
    run_with(
        tmp_path,
        files,
        """
        assert compat.vindlu() and not compat.vindlu()
        import mmaction.models
        assert not hasattr(mmaction.models, 'VindLU')
        """,
    )


@pytest.mark.parametrize('transformers', ['apply_chunking_to_forward = 1', None])
def test_vindlu_as_it_is(tmp_path: Path, transformers: str | None) -> None:
    """Beside an old transformers it is imported; without any nothing is looked at."""
    files = dict(VINDLU)
    if transformers is None:
        del files['transformers/__init__.py']
        code = 'assert not compat.vindlu()'
    else:
        files['transformers/modeling_utils.py'] = transformers
        code = """
            assert not compat.vindlu()
            import mmaction.models
            assert mmaction.models.VindLU == 1
        """
    run_with(tmp_path, files, code)


def test_pkg_resources_present(tmp_path: Path) -> None:
    # It would raise on import: it is found, not imported.
    real = {'pkg_resources/__init__.py': 'raise AssertionError'}
    run_with(
        tmp_path,
        MMENGINE | real,
        """
        before = list(sys.meta_path)
        assert not compat.pkg_resources()
        assert sys.meta_path == before
        """,
    )


def test_mmengine_that_needs_no_help(tmp_path: Path) -> None:
    fixed = {'mmengine/utils/package_utils.py': 'from importlib.metadata import distribution'}
    code = 'assert not any(compat.apply_patches().values()) and not compat.safe_globals()'
    run_with(tmp_path, MMENGINE | fixed, code)


def test_a_real_module_wins(tmp_path: Path) -> None:
    run_with(
        tmp_path,
        MMENGINE,
        f"""
        assert compat.pkg_resources()
        import importlib
        from pathlib import Path
        Path({str(tmp_path)!r}, 'pkg_resources.py').write_text('real = True')
        importlib.invalidate_caches()
        import pkg_resources
        assert pkg_resources.real
        """,
    )


def test_pkg_resources_missing() -> None:
    pytest.importorskip('mmengine', reason='the patch is for mmengine')
    run(
        HIDE
        + dedent(
            """
            Hide.hidden.add('pkg_resources')
            from mmengine.utils import get_installed_path, is_installed
            from mmengine.utils.package_utils import package2module
            try:
                is_installed('mmengine')
            except ModuleNotFoundError as error:
                assert error.name == 'pkg_resources', error
            else:
                raise AssertionError('the cause is absent')

            assert compat.pkg_resources()
            assert not compat.pkg_resources()
            from pathlib import Path
            import mmengine
            assert is_installed('mmengine') and not is_installed('no-such-package')
            assert is_installed('mmengine')  # reloads the module
            assert Path(get_installed_path('mmengine')) == Path(mmengine.__file__).parent
            assert package2module('mmcv-lite') == 'mmcv'

            from pkg_resources import DistributionNotFound, get_distribution, parse_version
            installed = get_distribution('mmengine')
            assert (installed.project_name, installed.version) == ('mmengine', mmengine.__version__)
            assert not installed.has_metadata('no-such-file')
            assert parse_version('1.10') > parse_version('1.9')
            for call, error in [
                (lambda: installed.get_metadata('no-such-file'), FileNotFoundError),
                (lambda: get_distribution('no-such-package'), DistributionNotFound),
            ]:
                try:
                    call()
                except error:
                    pass
                else:
                    raise AssertionError(error)
            """
        )
    )


def test_mmaction_and_its_configs(tmp_path: Path) -> None:
    """MMAction2 imports, and a config can inherit from it, with none of the three modules there."""
    pytest.importorskip('mmaction', reason='needs MMAction2')
    config = tmp_path / 'config.py'
    config.write_text(
        "_base_ = 'mmaction::recognition/tsn/"
        "tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb.py'\n"
    )
    run(
        HIDE
        + dedent(
            f"""
            Hide.hidden |= {{'pkg_resources', 'importlib_metadata'}}
            folder = importlib.util.find_spec('mmaction').submodule_search_locations[0]
            from pathlib import Path
            complete = Path(folder, 'models', 'localizers', 'drn', 'drn.py').exists()
            applied = compat.apply_patches()
            assert applied['drn'] is not complete, applied
            assert applied['pkg_resources'] and applied['importlib_metadata'], applied
            assert not {{'mmaction', 'mmengine', 'torch'}} & set(sys.modules)

            import mmaction.models, mmaction.utils
            from mmengine.config import Config
            assert Config.fromfile({str(config)!r}).model.type == 'Recognizer2D'
            """
        )
    )


RUNNER = """
import numpy as np
import pickle
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner, load_checkpoint
from torch.utils.data import DataLoader


class Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.fc(inputs).mean()) if mode == 'loss' else [self.fc(inputs)]


class Metric(BaseMetric):

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(a=np.float64(1), b=np.float32(1))


def runner(max_epochs, **options):
    def loader():
        return DataLoader([dict(inputs=torch.ones(3))] * 4, batch_size=2)

    return Runner(
        Model(), 'work_dir', train_dataloader=loader(), val_dataloader=loader(), val_cfg=dict(),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs), val_evaluator=[Metric()],
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, end=1),
            dict(type='MultiStepLR', milestones=[1]),
            dict(type='OneCycleLR', eta_max=0.1, total_steps=9),
        ],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', save_best=['a', 'b'], rule='greater')),
        custom_hooks=[dict(type='EMAHook')], log_level='ERROR',
        experiment_name=f'run{max_epochs}', **options)


def refused(call):
    try:
        call()
    except pickle.UnpicklingError as error:
        return str(error)
    raise AssertionError('nothing was refused')
"""


def test_safe_globals(tmp_path: Path) -> None:
    pytest.importorskip('mmengine', reason='the patch is for mmengine')
    run(
        RUNNER
        + dedent(
            """
            first = runner(1)
            first.train()
            file = 'work_dir/epoch_1.pth'
            assert 'HistoryBuffer' in refused(lambda: load_checkpoint(Model(), file))

            assert compat.safe_globals()
            assert not compat.safe_globals()
            loaded = torch.load(file, weights_only=True)
            assert {'message_hub', 'optimizer', 'param_schedulers', 'ema_state_dict'} <= set(loaded)
            load_checkpoint(Model(), file)
            second = runner(2, load_from=file, resume=True)
            second.train()
            assert second.epoch == 2
            history = second.message_hub.get_scalar('train/loss')
            assert len(history.data[0]) == 4
            assert history.mean() == history.data[0].mean()

            # A file written with numpy 1 names numpy's constructors differently.
            allowed = torch._weights_only_unpickler._get_user_allowed_globals()
            for name in ('_reconstruct', 'scalar'):
                new, old = (f'numpy.{home}.multiarray.{name}' for home in ('_core', 'core'))
                assert allowed[new] is allowed[old]

            # getattr itself stays out of a file's reach.
            class Attack:
                def __init__(self, *args):
                    self.args = args
                def __reduce__(self):
                    return getattr, self.args
            from mmengine.logging import HistoryBuffer
            for args in [(HistoryBuffer, '__init__'), (np.ndarray, 'tofile'), ([], 'append')]:
                torch.save(Attack(*args), 'attack.pth')
                assert 'may not ask' in refused(lambda: torch.load('attack.pth'))
            """
        ),
        cwd=tmp_path,
    )


def test_safe_globals_keeps_the_callers_own(tmp_path: Path) -> None:
    pytest.importorskip('mmengine', reason='the patch is for mmengine')
    run(
        """
        import torch
        torch.serialization.add_safe_globals([getattr])
        assert compat.safe_globals()
        assert not compat.safe_globals()
        allowed = torch._weights_only_unpickler._get_user_allowed_globals()
        assert allowed['builtins.getattr'] is getattr
        # Of two entries for one name torch takes either: its list is a set.
        assert compat.checkpoints._GETATTR not in torch.serialization.get_safe_globals()
        """,
        cwd=tmp_path,
    )


def test_safe_globals_come_with_the_package() -> None:
    torch = pytest.importorskip('torch')
    logging = pytest.importorskip('mmengine.logging', reason='the patch is for mmengine')

    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        importlib.reload(adv_plugins)
        assert logging.HistoryBuffer in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_hues_turn_both_ways() -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    run(
        """
        import numpy as np
        assert not compat.color_jitter(), 'nothing to do before MMAction2 is imported'
        compat.apply_patches()
        from mmaction.datasets.transforms.processing import ColorJitter
        image = np.random.default_rng(0).integers(256, size=(8, 8, 3)).astype(np.float32)
        forward = ColorJitter.adjust_hue(image, 0.05)
        broken = int(np.__version__.split('.')[0]) >= 2
        assert compat.color_jitter() is broken and not compat.color_jitter()
        assert np.array_equal(ColorJitter.adjust_hue(image, 0.05), forward), 'as it was'
        import colorsys
        back = ColorJitter.adjust_hue(image, -0.05)
        assert back.dtype == np.float32 and back.shape == image.shape
        # Twelve of 180 steps back, by the standard library; bytes of hue and saturation round.
        for pixel, turned in zip(image.reshape(-1, 3) / 255, back.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue - 12 / 180) % 1, saturation, value)
            assert np.abs(255 * np.array(expected) - turned).max() < 6
        jitter = ColorJitter()
        for seed in range(20):
            np.random.seed(seed)
            jitter.transform(dict(imgs=[image]))
        """
    )


def test_heads_take_bfloat16_scores() -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    run(
        """
        assert not compat.bfloat16_scores(), 'nothing to do before MMAction2 is imported'
        compat.apply_patches()
        import torch
        from mmaction.models import TSNHead
        from mmaction.structures import ActionDataSample

        head = TSNHead(num_classes=6, in_channels=4)
        samples = [ActionDataSample().set_gt_label(label) for label in (0, 3, 5)]
        scores = torch.randn(3, 6).bfloat16().requires_grad_()
        expected = head.loss_by_feat(scores.float(), samples)
        try:
            head.loss_by_feat(scores, samples)
        except TypeError:
            broken = True
        else:
            broken = False
        assert compat.bfloat16_scores() is broken and not compat.bfloat16_scores()
        losses = head.loss_by_feat(scores, samples)
        assert all(torch.equal(losses[name], expected[name]) for name in expected | losses)
        losses['loss_cls'].backward()
        assert scores.grad.dtype is torch.bfloat16
        full = head.loss_by_feat(scores.float(), samples)
        assert all(torch.equal(full[name], expected[name]) for name in expected)

        # Two heads have a loss of their own.
        from mmaction.models import OmniHead, RGBPoseHead
        omni = OmniHead(image_classes=6, video_classes=6, in_channels=4)
        losses = omni.loss_by_feat(scores, samples)
        assert losses['loss_cls'].isfinite() and losses['top1_acc'] == expected['top1_acc']
        pose = RGBPoseHead(num_classes=6, in_channels=(4, 4))
        pose.loss_weights = [1.0, 1.0]
        both = dict(zip(pose.loss_components, (scores, scores)))
        losses = pose.loss_by_feat(both, samples)
        assert all(losses[f'{name}_loss_cls'].isfinite() for name in both)
        """
    )


def test_rgbpose_head_takes_as_many_clips_as_classes() -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    run(
        """
        assert not compat.scores_by_modality(), 'nothing to do before MMAction2 is imported'
        compat.apply_patches()
        import torch
        from mmaction.models import RGBPoseHead
        from mmaction.structures import ActionDataSample

        head = RGBPoseHead(num_classes=3, in_channels=(4, 4), topk=(1,), loss_weights=[1.0, 0.5])
        samples = [ActionDataSample().set_gt_label(label) for label in (0, 2, 1)]
        scores = dict(rgb=torch.randn(3, 3), pose=torch.randn(3, 3))
        try:
            head.loss_by_feat(scores, samples)
        except AttributeError:
            broken = True
        else:
            broken = False
        assert compat.scores_by_modality() is broken and not compat.scores_by_modality()
        labels = torch.tensor([0, 2, 1])
        losses = head.loss_by_feat(scores, samples)
        for name, weight in dict(rgb=1.0, pose=0.5).items():
            expected = weight * torch.nn.functional.cross_entropy(scores[name], labels)
            assert torch.equal(losses[f'{name}_loss_cls'], expected)
        one = head.loss_by_feat({name: value[:2] for name, value in scores.items()}, samples[:2])
        assert one.keys() == losses.keys(), 'of fewer clips as it was'
        """
    )


def test_every_name_of_numpy_that_the_packages_use_is_there() -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    # adv_plugins has been imported.
    names = _numpy_names('mmaction', 'mmcv', 'mmengine', 'mmpretrain')
    assert {'numpy.Inf', 'numpy.NAN', 'numpy.in1d', 'numpy.trapz'} <= set(names)
    gone = {name: file for name, file in names.items() if not _has(np, name.split('.')[1:])}
    assert gone == {}


def _has(owner: Any, path: list[str]) -> bool:
    return not path or (hasattr(owner, path[0]) and _has(getattr(owner, path[0]), path[1:]))


def _numpy_names(*packages: str) -> dict[str, Path]:
    """The dotted names under numpy in the sources of installed packages, and a file for each."""
    names: dict[str, Path] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        for file in Path(spec.origin).parent.rglob('*.py') if spec else ():
            text = file.read_text(encoding='utf-8')
            if 'numpy' not in text:
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('numpy'):
                    names.update({f'{node.module}.{alias.name}': file for alias in node.names})
                if isinstance(node, ast.Attribute) and (name := _dotted(node)):
                    names[name] = file
    return names


def _dotted(node: ast.expr) -> str:
    """``np.linalg.norm`` as ``numpy.linalg.norm``; nothing where the first name is not numpy's."""
    if isinstance(node, ast.Name):
        return 'numpy' if node.id in ('np', 'numpy') else ''
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f'{owner}.{node.attr}'
    return ''


def test_numpys_names_are_set_only_where_used_and_missing(tmp_path: Path) -> None:
    uses = 'mmaction/datasets/transforms/pose_transforms.py'
    localization = 'mmaction/evaluation/functional/accuracy.py'
    numpy = """
    inf = 1.0
    trapz = 'its own'
    """
    run_with(
        tmp_path,
        {
            'numpy.py': numpy,
            'mmaction/__init__.py': '',
            uses: 'np.Inf',
            localization: 'np.trapz',
        },
        """
        import numpy as np
        assert compat.apply_patches()['numpy_names'] and not compat.numpy_names()
        assert np.Inf == 1.0 and np.trapz == 'its own'
        assert not any(hasattr(np, name) for name in ('NAN', 'in1d', 'float'))
        """,
    )


def test_pose_and_metrics_under_numpy_2() -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    from mmaction.datasets.transforms import PoseCompact
    from mmaction.evaluation.functional import average_recall_at_avg_proposals
    from mmaction.evaluation.functional.multisports_utils import iou3dt_voc
    from mmaction.evaluation.metrics import RetrievalRecall

    points = np.random.default_rng(0).uniform(20, 60, (1, 4, 17, 2))
    compact = PoseCompact(hw_ratio=1.0, allow_imgpad=True)
    assert compact(dict(img_shape=(80, 80), keypoint=points))['img_shape'][0] < 80

    proposals = {'v': np.array([[0, 1.0, 0.9], [2, 3, 0.8]])}
    truth = {'v': np.array([[0, 1.0], [2, 3]])}
    assert 0 < average_recall_at_avg_proposals(truth, proposals, 2)[-1] <= 100

    recall = RetrievalRecall.calculate([[2, 0, 1]], [[0]], (1, 2), True, True)
    assert [float(value) for value in recall] == [0, 100]
    assert np.in1d([[1, 2], [3, 4]], [2, 3]).tolist() == [False, True, True, False]

    tube = np.array([[frame, 0, 0, 2, 2] for frame in range(4)], dtype=float)
    later = tube + np.array([2, 1, 0, 1, 0])
    # Two of six frames are common, and there a third of the area: 1/5 of the time, times 1/3.
    assert iou3dt_voc(tube, tube) == 1 and iou3dt_voc(tube, tube + np.eye(1, 5) * 9) == 0
    assert iou3dt_voc(tube, later, temporalonly=True) == pytest.approx(1 / 5)
    assert iou3dt_voc(tube, later, spatialonly=True) == pytest.approx(1 / 3)
    assert iou3dt_voc(tube, later) == pytest.approx(1 / 15)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_mmcv_turns_hues_back_as_numpy_1_did(backend: str) -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    import mmcv

    red = np.full((2, 2, 3), (0, 0, 255), np.uint8)  # BGR
    # A third of a turn back from red is blue; a byte of hue rounds.
    assert np.abs(mmcv.adjust_hue(red, -1 / 3, backend=backend) - [255.0, 0, 0]).max() <= 6
    assert np.abs(mmcv.adjust_hue(red, 1 / 3, backend=backend) - [0.0, 255, 0]).max() <= 6
    with pytest.raises(ValueError, match='hue_factor'):
        mmcv.adjust_hue(red, -0.6, backend=backend)

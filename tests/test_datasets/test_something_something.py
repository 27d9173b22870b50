"""Something-Something and Diving48: MMAction2's own tool writes the lists that they check."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('mmaction', reason='the datasets subclass those of MMAction2')
pytest.importorskip('av', reason='writes the videos')

import av
import mmaction
from mmengine.registry import DATASETS, DefaultScope

from adv_plugins.datasets import Diving48, SomethingSomethingV1, SomethingSomethingV2

DECODE_FRAMES = [
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=4),
    dict(type='RawFrameDecode'),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
DECODE_VIDEO = [dict(type='DecordInit'), DECODE_FRAMES[0], dict(type='DecordDecode')]
DECODE_VIDEO += DECODE_FRAMES[2:]
TEMPLATES = ('Holding something', 'Moving something up', 'Turning something upside down')


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder ``data/`` of a checkout, and MMAction2's transforms under their plain names."""
    monkeypatch.chdir(tmp_path)
    with DefaultScope.overwrite_default_scope('mmaction'):
        yield tmp_path / 'data'


def write_frames(folder: Path, count: int = 6) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        cv2.imwrite(str(folder / f'{number:05}.jpg'), np.full((32, 40, 3), 9 * number, np.uint8))


def write_video(path: Path, count: int = 6) -> None:
    """H.264, also where the name says .webm: decoders look inside, and not every process of tests
    that has loaded several copies of FFmpeg can open the encoder of VP9."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 32, 'yuv420p'
        for number in range(count):
            image = np.full((32, 64, 3), 9 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        container.mux(stream.encode())


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def prepare_sthv1(data: Path) -> None:
    for video in ('1', '2', '3'):
        write_frames(data / 'sthv1/rawframes' / video)
    annotations = data / 'sthv1/annotations'
    annotations.mkdir()
    for name, lines in dict(
        labels=TEMPLATES,
        train=[f'1;{TEMPLATES[0]}', f'2;{TEMPLATES[2]}'],
        validation=[f'3;{TEMPLATES[1]}'],
        test=['4'],
    ).items():
        (annotations / f'something-something-v1-{name}.csv').write_text('\n'.join(lines))


def prepare_sthv2(data: Path) -> None:
    for video in ('1', '2', '3'):
        write_video(data / f'sthv2/videos/{video}.webm')
    # The templates have brackets in the splits and none in the labels, which are texts.
    templates = [text.replace('something', '[something]') for text in TEMPLATES]
    for name, content in dict(
        labels={text: str(label) for label, text in enumerate(TEMPLATES)},
        train=[dict(id='1', template=templates[0]), dict(id='2', template=templates[2])],
        validation=[dict(id='3', template=templates[1])],
        test=[dict(id='4')],
    ).items():
        write_json(data / f'sthv2/annotations/something-something-v2-{name}.json', content)


def prepare_diving48(data: Path) -> None:
    # Names that start with a dash are real.
    for video in ('-a_00001', 'b_00002', 'c_00003'):
        write_video(data / f'diving48/videos/{video}.mp4')
    train = [dict(vid_name='-a_00001', label=0), dict(vid_name='b_00002', label=47)]
    write_json(data / 'diving48/annotations/Diving48_V2_train.json', train)
    test = [dict(vid_name='c_00003', label=5)]
    write_json(data / 'diving48/annotations/Diving48_V2_test.json', test)


def documented_command(cls: type, split: str) -> tuple[str, str]:
    """The two lines that the error message of a dataset shows."""
    tools, command = cls.release.guide(split).splitlines()[-2:]
    return tools.strip(), command.strip()


def run_the_documented_command(cls: type, split: str, without: str = '') -> None:
    """The second line, in this process: in a shell it would import MMAction2 again."""
    command = documented_command(cls, split)[1].replace(without, '')
    tools = f'{mmaction.__path__[0]}/.mim'
    start = 'PYTHONPATH=$MM python '
    assert command.startswith(start)
    arguments = shlex.split(command.removeprefix(start).replace('$MM', tools))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tools)
        patch.setattr(sys, 'argv', arguments)
        runpy.run_path(arguments[0], run_name='__main__')


def test_the_documented_lines_in_a_shell(data):
    prepare_diving48(data)
    environment = dict(os.environ, PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    lines = '\n'.join(documented_command(Diving48, 'train'))
    subprocess.run(lines, shell=True, check=True, env=environment)
    assert len(build(Diving48)) == 2


def build(cls: type, split: str = 'train', **options: Any) -> Any:
    """The dataset in its official layout; a list of three lines is a subset, of course."""
    config = dict(
        type=cls.__name__,
        ann_file=cls.release.lists.format(split),
        data_prefix={cls.prefix_key: cls.release.folder},
        pipeline=DECODE_FRAMES if cls is SomethingSomethingV1 else DECODE_VIDEO,
        allow_subset=True,
    )
    return DATASETS.build({**config, **options})


def error(cls: type = SomethingSomethingV1, **options: Any) -> str:
    with pytest.raises(ValueError, match=r'problem\(s\) with its data') as caught:
        build(cls, **options)
    return str(caught.value)


def write_list(cls: type, *lines: str, split: str = 'train') -> None:
    path = Path(cls.release.lists.format(split))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


@pytest.mark.parametrize(
    ('cls', 'prepare', 'labels', 'shape'),
    [
        (SomethingSomethingV1, prepare_sthv1, [0, 2, 1], (4, 3, 32, 40)),
        (SomethingSomethingV2, prepare_sthv2, [0, 2, 1], (4, 3, 32, 64)),
        (Diving48, prepare_diving48, [0, 47, 5], (4, 3, 32, 64)),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_from_the_download_to_a_clip(data, cls, prepare, labels, shape):
    prepare(data)
    for split in ('train', 'val'):
        run_the_documented_command(cls, split)
    datasets = build(cls), build(cls, 'val', test_mode=True)
    assert [len(dataset) for dataset in datasets] == [2, 1]
    found = [dataset.get_data_info(i)['label'] for dataset in datasets for i in range(len(dataset))]
    assert sorted(found) == sorted(labels) and found[2] == labels[2]
    for dataset in datasets:
        assert tuple(dataset[0]['inputs'].shape) == shape


@pytest.mark.parametrize('cls', [SomethingSomethingV1, SomethingSomethingV2, Diving48])
def test_with_no_data_at_all_the_error_says_how_to_get_them(cls):
    message = error(cls)
    assert f'no file ann_file={cls.release.lists.format("train")!r}' in message
    assert f'no folder data_prefix=dict({cls.prefix_key}={cls.release.folder!r})' in message
    assert cls.release.download in message and cls.release.annotations in message
    assert re.search(r'PYTHONPATH=\$MM python \$MM/tools/data/build_file_list.py .*', message)


def test_an_empty_list():
    write_list(SomethingSomethingV2)
    assert 'is empty' in error(SomethingSomethingV2)


def test_the_tool_leaves_an_empty_test_list_behind(data):
    prepare_diving48(data)
    with pytest.raises(IndexError):
        run_the_documented_command(Diving48, 'test')
    assert 'is the test list, which the tool cannot write' in error(Diving48, split='test')


def test_garbled_lines_are_shown_with_their_numbers(data):
    prepare_sthv1(data)
    write_list(SomethingSomethingV1, '1 6 0', '', '2 six 1', '3 6 1 2', '1 0 3', '2 6')
    message = error()
    assert '4 of 5 lines' in message and "'FOLDER NUMBER_OF_FRAMES LABEL'" in message
    assert "line 3: '2 six 1'; line 4: '3 6 1 2'; line 5: '1 0 3'" in message


def test_the_official_annotations_are_no_list(data):
    prepare_diving48(data)
    path = 'data/diving48/annotations/Diving48_V2_train.json'
    assert "of the form '-0BRGrkpHxE_00000.mp4 LABEL'" in error(Diving48, ann_file=path)
    Path('binary.txt').write_bytes(bytes(range(128, 256)))
    assert 'not a text file' in error(Diving48, ann_file='binary.txt')


def test_a_list_that_an_editor_of_windows_saved(data):
    prepare_diving48(data)
    path = Path(Diving48.release.lists.format('train'))
    path.write_bytes(b'\xef\xbb\xbf-a_00001.mp4 0\r\n\r\nb_00002.mp4 47\r\n\r\n')
    dataset = build(Diving48)
    assert [dataset.get_data_info(i)['label'] for i in range(2)] == [0, 47]
    path.write_text('-a_00001.mp4 0\n', encoding='utf-16')
    assert f'{path} is not a text file in UTF-8' in error(Diving48)


@pytest.mark.parametrize('again', ['b_00002.mp4 47', 'b_00002.mp4 3'])
def test_a_video_that_is_listed_twice(data, again):
    prepare_diving48(data)
    write_list(Diving48, '-a_00001.mp4 0', 'b_00002.mp4 47', '', again)
    message = error(Diving48)
    assert '1 problem(s)' in message and '1 lines of' in message
    assert 'data/diving48/videos/b_00002.mp4 on lines 2 and 4' in message


def test_what_the_tool_writes_without_the_prefix_of_the_frames(data):
    prepare_sthv1(data)
    run_the_documented_command(SomethingSomethingV1, 'train', without='--rgb-prefix 0')
    assert 'rawframes/1 0' in Path(SomethingSomethingV1.release.lists.format('train')).read_text()
    message = error()
    assert '2 of 2 lines' in message and '--rgb-prefix 0' in message


def test_labels_that_count_from_one(data):
    prepare_sthv1(data)
    write_list(SomethingSomethingV1, '1 6 1', '2 6 174')
    message = error()
    assert '1 of 2 lines have a label outside 0..173' in message
    assert "line 2: '2 6 174'" in message and 'subtract 1' in message


def test_labels_of_another_dataset(data):
    prepare_diving48(data)
    write_list(Diving48, 'b_00002.mp4 399', 'c_00003.mp4 3')
    message = error(Diving48)
    assert 'outside 0..47' in message and '(here 3 to 399)' in message
    assert 'another dataset' in message


def test_several_labels_a_video(data):
    prepare_diving48(data)
    write_list(Diving48, 'b_00002.mp4 1 47', 'c_00003.mp4 3')
    assert '1 of 2 lines' in error(Diving48)
    dataset = build(Diving48, multi_class=True, num_classes=48)
    assert dataset.get_data_info(0)['label'].nonzero().flatten().tolist() == [1, 47]


def test_videos_to_predict_have_no_labels_and_only_in_test_mode(data):
    prepare_diving48(data)
    write_list(Diving48, 'b_00002.mp4', 'c_00003.mp4')
    assert build(Diving48, test_mode=True).get_data_info(0)['label'] == -1
    assert '2 of 2 lines' in error(Diving48)
    write_list(Diving48, 'b_00002.mp4', 'c_00003.mp4 3')
    assert '1 of 2 lines' in error(Diving48, test_mode=True)


def test_a_half_unpacked_archive(data):
    prepare_sthv2(data)
    write_list(SomethingSomethingV2, '1.webm 0', '2.webm 2')
    Path('data/sthv2/videos/1.webm').unlink()
    message = error(SomethingSomethingV2)
    assert '1 of 2 listed videos are not on disk: data/sthv2/videos/1.webm.' in message


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, "no 00006.jpg (total_frames 6 in the list, filename_tmpl='{:05}.jpg', start_index=1)"),
        (dict(filename_tmpl='img_{:05}.jpg'), 'no img_00001.jpg'),
        (dict(start_index=0), 'no 00000.jpg'),
        (dict(filename_tmpl='{}_{:05}.jpg', modality='Flow'), 'no x_00001.jpg'),
    ],
    ids=str,
)
def test_folders_with_fewer_frames_than_the_list_says(data, options, expected):
    write_frames(data / 'sthv1/rawframes/1', 4)
    write_list(SomethingSomethingV1, '1 6 0')
    message = error(**options)
    assert '1 of 1 folders lack frames' in message
    assert expected in message and 'holds 4 files, 00001.jpg to 00004.jpg' in message


def test_clips_with_an_offset(data):
    write_frames(data / 'sthv1/rawframes/1')
    write_list(SomethingSomethingV1, '1 0 6 0', '1 2 4 3')
    assert len(build(SomethingSomethingV1, with_offset=True)) == 2
    write_list(SomethingSomethingV1, '1 3 4 0')
    assert 'no 00007.jpg' in error(with_offset=True)
    write_list(SomethingSomethingV1, '1')
    assert '1 of 1 lines' in error(with_offset=True)


def test_a_list_shorter_than_the_official_split(data, monkeypatch):
    prepare_diving48(data)
    write_list(Diving48, '-a_00001.mp4 0', 'b_00002.mp4 47')
    message = error(Diving48, allow_subset=False)
    assert 'lists 2 videos' in message and 'train 15,027, test 1,970' in message
    assert 'allow_subset=True' in message
    assert len(build(Diving48, allow_subset=False, indices=1)) == 1
    assert len(build(Diving48, allow_subset=False, indices=[1])) == 1
    monkeypatch.setitem(Diving48.release.splits, 'train', 2)
    assert len(build(Diving48, allow_subset=False)) == 2


@pytest.mark.parametrize('indices', [1, -2, [0, 2]])
def test_only_the_videos_that_are_used_must_be_there(data, indices):
    prepare_diving48(data)
    names = ['b_00002.mp4 1', 'gone.mp4 1', 'c_00003.mp4 1']
    if indices == -2:
        names = ['gone.mp4 1', 'b_00002.mp4 1', 'c_00003.mp4 1']
    write_list(Diving48, *names)
    assert '1 of 3 listed videos' in error(Diving48)
    assert len(build(Diving48, indices=indices)) in (1, 2)


def test_all_that_is_wrong_is_in_one_error(data):
    prepare_sthv1(data)
    for frame in list((data / 'sthv1/rawframes/2').iterdir())[1:]:
        frame.unlink()
    write_list(SomethingSomethingV1, '1 6 0', '2 6 500', 'three', '4 6 1')
    message = error(allow_subset=False)
    for expected in ('1 of 4 lines of', 'outside 0..173', 'lists 4 videos', '1 of 3 listed videos'):
        assert expected in message
    assert '5 problem(s)' in message and '1 of 2 folders lack frames' in message


def test_lazy_init_checks_at_the_first_use():
    dataset = build(Diving48, lazy_init=True)
    with pytest.raises(ValueError, match='no file ann_file'):
        len(dataset)


def test_data_root_and_data_prefix(data):
    prepare_diving48(data)
    write_list(Diving48, 'b_00002.mp4 1')
    options = dict(
        data_root='data/diving48',
        ann_file='diving48_train_list_videos.txt',
        data_prefix=dict(video='videos'),
    )
    assert build(Diving48, **options)[0]['inputs'].shape[0] == 4
    options['data_prefix'] = dict(img='videos')
    assert "write data_prefix=dict(video='data/diving48/videos')" in error(Diving48, **options)


def test_files_in_a_remote_backend_are_not_looked_for():
    write_list(Diving48, 'gone.mp4 1')
    assert len(build(Diving48, data_prefix=dict(video='s3://bucket/videos'))) == 1
    pipeline = [dict(type='DecordInit', io_backend='petrel'), *DECODE_VIDEO[1:]]
    assert len(build(Diving48, pipeline=pipeline)) == 1
    assert 'not on disk' in error(Diving48, data_prefix=dict(video='.'))


def test_files_are_looked_for_once_and_by_listing_folders(data, monkeypatch):
    prepare_diving48(data)
    write_list(Diving48, 'b_00002.mp4 1', 'c_00003.mp4 1')
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, 'listdir', lambda path: listed.append(path) or listdir(path))
    dataset = build(Diving48)
    dataset[0], dataset[1]
    assert listed == ['data/diving48/videos']

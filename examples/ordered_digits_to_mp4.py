"""Write OrderedDigits clips as .mp4 files with annotation files for MMAction2's VideoDataset.

For tools and models that need video files. Every frame is encoded independently, so the two classes
of a pair still have the same frames after decoding.

Needs PyAV (``pip install av``) to write, and decord to read the files in MMAction2.

Example:
    python examples/ordered_digits_to_mp4.py data/ordered_digits --split both --size 64
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from adv_plugins.datasets import OrderedDigits
from adv_plugins.files import replacing

FPS = 8


def write_mp4(path: Path, frames: np.ndarray, fps: int = FPS) -> None:
    """Write a clip as H.264.

    Args:
        path (Path): The file to write.
        frames (np.ndarray): Shape (T, H, W, 3), uint8 RGB, with even H and W.
        fps (int): Frames per second. Defaults to 8.
    """
    # Groups of one frame, without B-frames and at a constant quantizer, so that a decoded frame
    # does not depend on its neighbours or their order.
    options = {'g': '1', 'bf': '0', 'qp': '10', 'preset': 'medium'}
    with replacing(path) as file, av.open(file, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.thread_count = 1
        for frame in frames:
            packets = stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24'))
            container.mux(packets)
        container.mux(stream.encode())


def write_split(out_dir: Path, dataset: OrderedDigits) -> Path:
    """Write all clips of a dataset and their annotation file.

    Args:
        out_dir (Path): The folder to write ``<split>/*.mp4`` and ``<split>.txt`` to.
        dataset (OrderedDigits): The clips.

    Returns:
        Path: The annotation file, with one line ``name.mp4 label`` for each clip.
    """
    folder = out_dir / dataset.split
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        name = f'{info["label"]:02d}_{info["draw"]:04d}.mp4'
        write_mp4(folder / name, info['array'])
        lines.append(f'{name} {info["label"]}\n')
    ann_file = out_dir / f'{dataset.split}.txt'
    with replacing(ann_file) as file:
        file.write(''.join(lines).encode())
    return ann_file


def config_lines(split: str, ann_file: Path, num_frames: int) -> str:
    """The lines of a config that read a written split.

    Args:
        split (str): 'train' or 'val'.
        ann_file (Path): The annotation file that ``write_split`` returned.
        num_frames (int): Frames per clip.

    Returns:
        str: Python text.
    """
    test_mode = ', test_mode=True' if split == 'val' else ''
    return f"""\
{split}_dataset = dict(
    type='VideoDataset',
    ann_file={ann_file.as_posix()!r},
    data_prefix=dict(video={(ann_file.parent / split).as_posix()!r}),
    pipeline=[
        dict(type='DecordInit'),
        dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips={num_frames}{test_mode}),
        dict(type='DecordDecode'),
        dict(type='FormatShape', input_format='NCHW'),
        dict(type='PackActionInputs'),
    ]{test_mode})"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out_dir', type=Path, help='folder to write to')
    parser.add_argument('--split', choices=('train', 'val', 'both'), default='both')
    parser.add_argument('--clips-per-class', type=int, help='default: 30 for train, 40 for val')
    parser.add_argument('--size', type=int, default=64, help='even side of a frame in pixels')
    args = parser.parse_args(argv)
    # H.264 subsamples colour and needs an even size. decord 0.6 fails on frames 48 pixels wide
    # ("DECORDArrayCopyFromTo: The size must exactly match").
    if args.size % 2 or args.size == 48:
        parser.error(
            f'--size {args.size} cannot be written and read back: it must be even and not 48, '
            'which decord fails to decode. Write --size 64'
        )
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Write the chosen splits and print how to use them."""
    args = parse_args(argv)
    for split in ('train', 'val') if args.split == 'both' else (args.split,):
        dataset = OrderedDigits(split, clips_per_class=args.clips_per_class, size=args.size)
        ann_file = write_split(args.out_dir, dataset)
        print(f'# {len(dataset)} clips')
        print(config_lines(split, ann_file, dataset.num_frames))


if __name__ == '__main__':
    main()

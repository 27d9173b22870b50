"""YouTube-8M's videos, read from and written to its own shards; needs only numpy and a CRC32C.

A shard is a TFRecord file with one ``SequenceExample`` per video that holds its frames, or one
``Example`` per video that holds the means over its frames. ``read_examples`` reads a shard in
order, ``YT8MShards`` gives random access to many shards, and ``write_examples`` writes one.
"""

from .examples import read_examples, write_examples
from .quantization import dequantize, quantize
from .shards import YT8MShards
from .tfrecord import TFRecordError

__all__ = [
    'TFRecordError',
    'YT8MShards',
    'dequantize',
    'quantize',
    'read_examples',
    'write_examples',
]

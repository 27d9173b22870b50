"""The masked CRC32C that protects every length and every record of a TFRecord file."""

from __future__ import annotations

import struct

try:
    import google_crc32c
except ImportError:  # An extra: only whoever reads or writes shards needs it.
    google_crc32c = None


def require_crc32c() -> None:
    """Raise an ImportError that says what to install, if google-crc32c is missing."""
    if google_crc32c is None:
        raise ImportError(
            'YouTube-8M shards are read and written with checksums, for which google-crc32c is '
            'not installed: pip install "adv_plugins[yt8m]"'
        )


def masked_crc32c(data: bytes) -> bytes:
    """The checksum of some bytes, as the four bytes that a TFRecord file stores.

    Raises:
        ImportError: If google-crc32c is not installed.
    """
    require_crc32c()
    crc = google_crc32c.value(data)
    return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

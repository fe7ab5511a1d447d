"""The key that identifies a file of SRC; the same as `throttlefs.host.files.FileKey`."""

from __future__ import annotations

FileKey = tuple[int, int]
"""st_dev and st_ino. A file keeps its number for as long as a power cut may bring it back."""

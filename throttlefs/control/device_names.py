"""The names by which clients call images.

A client names an image by its path in the mount. A path that is not UTF-8 is percent-encoded as a
whole. A name that looks encoded is first tried as it is.
"""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes


def device_name(path: bytes) -> str:
    """The name of *path* for clients."""
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return quote_from_bytes(path)


def paths_of(device: str) -> list[bytes]:
    """The paths that the name *device* may mean, the likeliest first."""
    plain = device.encode("utf-8", "surrogatepass")
    decoded = unquote_to_bytes(plain) if "%" in device else plain
    return [plain] if decoded == plain else [plain, decoded]

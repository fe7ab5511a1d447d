"""throttlefs: a FUSE filesystem that holds disk images to QEMU's I/O limits."""

__version__ = "0.1.0"

FUSE_SUBTYPE = "throttlefs"
"""The subtype of every mount."""

FILESYSTEM_TYPE = f"fuse.{FUSE_SUBTYPE}"
"""The type of every mount, as mountinfo and mount(8) show it."""

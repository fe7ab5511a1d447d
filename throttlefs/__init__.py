"""throttlefs: a FUSE filesystem that holds disk images to QEMU's I/O limits."""

__version__ = "0.1.0"

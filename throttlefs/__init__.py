"""throttlefs: a FUSE filesystem that holds disk images to QEMU's I/O limits.

`mounted` gives a program, or a test, a slow disk. docs/python.md describes it, and all names here
that are public. They are loaded when they are first used.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

FUSE_SUBTYPE = "throttlefs"
"""The subtype of every mount."""

FILESYSTEM_TYPE = f"fuse.{FUSE_SUBTYPE}"
"""The type of every mount, as mountinfo and mount(8) show it."""

_PUBLIC = {
    "AsyncDisk": "testing.async_disk",
    "AsyncFault": "testing.fault",
    "Change": "testing.figures",
    "Disk": "testing.disk",
    "Fault": "testing.fault",
    "FaultCounts": "testing.fault",
    "ImageStats": "testing.figures",
    "LostFile": "testing.figures",
    "Mounting": "testing.mounting",
    "PowerCut": "testing.figures",
    "Quantiles": "testing.figures",
    "RequestStats": "testing.figures",
    "ThrottlefsError": "errors",
    "UsageError": "errors",
    "mounted": "testing.mounting",
}
"""Each public name, and the module that has it; __init__.pyi says the same to type checkers."""

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(_import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})

"""Reads and writes the image behind; knows no limits and no FUSE.

`create_engine` chooses how blocking I/O is done. `BackingFile` is an open image. `write_flags` says
whether a write must be durable or append. `BlockingPool` runs everything else that may block.
"""

from throttlefs.settings.cachemode import CacheMode

from .buffers import Data
from .engine import Engine, EngineChoice, EngineUnavailableError, create_engine
from .file import BackingFile
from .inline import STALL, StallHabit
from .pool import BlockingPool
from .write_flags import write_flags

__all__ = [
    "STALL",
    "BackingFile",
    "BlockingPool",
    "CacheMode",
    "Data",
    "Engine",
    "EngineChoice",
    "EngineUnavailableError",
    "StallHabit",
    "create_engine",
    "write_flags",
]

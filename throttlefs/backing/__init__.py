"""Reading and writing the image behind; knows no limits and no FUSE.

`create_engine` chooses how blocking I/O is done, `BackingFile` is an open image, and
`BlockingPool` runs everything else that may block.
"""

from throttlefs.backing.buffers import Data
from throttlefs.backing.cachemode import CacheMode
from throttlefs.backing.engine import (
    Engine,
    EngineChoice,
    EngineUnavailableError,
    create_engine,
)
from throttlefs.backing.file import BackingFile
from throttlefs.backing.threads import BlockingPool

__all__ = [
    "BackingFile",
    "BlockingPool",
    "CacheMode",
    "Data",
    "Engine",
    "EngineChoice",
    "EngineUnavailableError",
    "create_engine",
]

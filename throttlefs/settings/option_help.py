"""What the options of ``-o`` mean."""

from __future__ import annotations

from typing import Final

from .option_values import CACHE_MODES, DISCARD_COSTS, ENGINES, SERVERS
from .shared import ON_LOST
from .volatile import ORDERS_OF_NAMES, SECTORS, VOLATILE_DIR

OPTION_HELP: Final = {
    "group=NAME": "all images share the limits, as the group NAME",
    "weight=N": "an image's share in its group, 1 to 10000 (default 100)",
    "config=FILE": "limits by path, groups and fault rules, from a TOML file",
    "fault_log=FILE": "append a line of JSON to FILE for each fault that happens",
    "attr_timeout=SECONDS": "how long the kernel may keep attributes (default 1)",
    "entry_timeout=SECONDS": "how long the kernel may keep names (default 1)",
    "nonempty": "mount over a directory or file that is not empty",
    "auto_cache": "use the page cache of the mount; writes and what misses it are limited",
    "no_mmap": "refuse shared mmap: Linux 6.6 to 6.8 write one file side by side only with this",
    "cache=MODE": "how the images behind are cached: "
    + ", ".join(CACHE_MODES)
    + f" (default {CACHE_MODES[0]})",
    "engine=ENGINE": "how the images behind are read and written: "
    + ", ".join(ENGINES)
    + f" (default {ENGINES[0]})",
    "server=SERVER": "who takes the kernel's requests: "
    + ", ".join(SERVERS)
    + f" (default {SERVERS[0]}; the other is slower, for comparison)",
    "discard=COST": "what a discard or a write of zeroes counts as: one write "
    + ", or as many ".join(DISCARD_COSTS)
    + f" as it covers, as in QEMU (default {DISCARD_COSTS[0]})",
    "max_inflight=BYTES": "memory for the data of waiting writes; more waits in /var/tmp"
    " (default 256M)",
    "max_background=N": "the kernel's bound on asynchronous requests (default 10000)",
    "metrics=HOST:PORT": "serve Prometheus metrics there",
    "shared=URL": "with group: share its limits with all hosts that name the same key of this"
    " Valkey server",
    "password_file=FILE": "the password of that server is the first line of FILE",
    "on_lost=WHAT": "what the group may use while that server is away: "
    + ", ".join(ON_LOST)
    + f" (default {ON_LOST[0]})",
    "volatile": "what was not flushed is lost in a power cut: see throttlefs power-cut",
    "volatile_dir=DIR": f"with volatile: where the undo log lies (default {VOLATILE_DIR})",
    "sector=BYTES": "what a power cut loses or keeps as a whole: "
    + ", ".join(SECTORS)
    + f" (default {SECTORS[0]})",
    "names=ORDER": "what a power cut keeps of names, sizes and attributes: "
    + ", ".join(ORDERS_OF_NAMES)
    + f" (default {ORDERS_OF_NAMES[0]}, as ext4 and XFS do)",
    "auto_da_alloc=WORD": "whether rename over a file writes the data first, as ext4 does: on, off"
    " (default on; XFS: off)",
    "fsync_failure=WHAT": "what was not flushed when an fsync failed: the next one covers it"
    " (dirty), or not (clean); default dirty",
    "allow_other": "other users may use the mount, as the permissions in SRC have it",
    "allow_root": "root may, as well as the user who mounts",
    "auto_unmount": "fusermount3 unmounts if the daemon dies",
    "fsname=NAME": "the source that mount(8) and df(1) show (default SRC)",
}
"""What the options of throttlefs mean, except limits; for ``--help``."""

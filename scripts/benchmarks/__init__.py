"""What throttlefs is measured by: how exact its limits are and what its own way costs.

Run it as ``./scripts/bench accuracy`` or ``./scripts/bench speed``. fio makes the load, QEMU's
``qemu-storage-daemon`` (its FUSE export behind its throttle filter) and the image itself are the
peers, and everything a table says is computed by the pure functions of :mod:`benchmarks.measures`
and :mod:`benchmarks.allowance`.
"""

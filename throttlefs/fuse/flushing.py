"""fsync with a slow device: it waits for the writes before it, and for the device to flush."""

from __future__ import annotations

from throttlefs.device import Writes

from .handle import Handle


async def sync(handle: Handle, datasync: bool) -> None:
    """fsync(2) or, with *datasync*, fdatasync(2) of *handle*. Raises `OSError`.

    A device takes no time for it if nothing was written since its last flush.
    """
    if handle.image.station is None:
        await handle.file.fsync(datasync)
        return
    writes = handle.writes
    await writes.settled()
    while (flush := writes.flush_to_join()) is not None:
        if await flush.wait():
            break
    else:
        if writes.is_dirty:
            await _flush(handle, datasync, writes)
            return
    await handle.file.fsync(datasync)


async def _flush(handle: Handle, datasync: bool, writes: Writes) -> None:
    image = handle.image
    flush = writes.new_flush()
    ticket = None
    has_worked = False
    try:
        ticket = await image.enter_flush()
        writes.flush_begins(flush)
        await handle.file.fsync(datasync)
        if ticket is not None:
            await image.finish(ticket)
        has_worked = True
    finally:
        if ticket is not None and not has_worked:
            image.abandon(ticket)
        writes.flush_ends(flush, has_worked=has_worked)

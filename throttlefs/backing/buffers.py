"""Memory that the kernel reads into and writes from.

The kernel fills a bytes object directly, and that object is the answer, so nothing is copied. Its
memory comes from malloc(3), which reuses memory that was freed a moment ago, so there are no page
faults. O_DIRECT demands aligned memory (open(2), NOTES): small requests are copied from and to
slots that are used again and again, large ones get memory of their own.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import NamedTuple

Data = bytes | bytearray | memoryview
"""What reads return and writes take: anything contiguous."""

_bytes_from_size = ctypes.pythonapi.PyBytes_FromStringAndSize
_bytes_from_size.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]
_bytes_from_size.restype = ctypes.py_object
_bytearray_from_size = ctypes.pythonapi.PyByteArray_FromStringAndSize
_bytearray_from_size.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]
_bytearray_from_size.restype = ctypes.py_object

_BYTES_HEADER = bytes.__basicsize__ - 1
"""A bytes object is a header followed by its data and a zero (CPython, bytesobject.h)."""

_Place = ctypes.c_char * 0


def new_bytes(size: int) -> bytes:
    """A bytes object of *size* bytes whose contents are not initialised.

    PyBytes_FromStringAndSize is documented to make this when its first argument is NULL. The object
    may be filled until somebody else has seen it. Slice off the part that was not filled before
    that: it may hold anything that this process had in memory.
    """
    made: bytes = _bytes_from_size(None, size)
    return made


def new_bytearray(size: int) -> bytearray:
    """A bytearray of *size* bytes, not initialised: `new_bytes` for ``os.preadv``.

    ``bytearray(size)`` would clear it first: 1.3 us of 5.5 us for a cached read of 128 KiB.
    """
    made: bytearray = _bytearray_from_size(None, size)
    return made


def address_of(data: Data) -> int:
    """The address of the data in memory; it stays the same as long as *data* lives.

    Raises `TypeError` for a read-only memoryview, whose address ctypes does not tell.
    """
    if type(data) is bytes:
        return id(data) + _BYTES_HEADER
    return ctypes.addressof(_Place.from_buffer(data))


def addresses_are_known() -> bool:
    """Whether `address_of` is right on this interpreter."""
    probe = b"where does this lie?"
    return ctypes.string_at(address_of(probe), len(probe)) == probe


class AlignedMemory(NamedTuple):
    """Memory of *size* bytes at *address*, a multiple of the alignment that was asked for.

    The memory is the part of *owner* that begins at *start*.
    """

    owner: bytes
    start: int
    address: int
    size: int

    def data(self, start: int, stop: int) -> memoryview:
        """The bytes from *start* to *stop*, not copied."""
        return memoryview(self.owner)[self.start + start : self.start + stop]


def new_aligned(size: int, alignment: int) -> AlignedMemory:
    """Memory of *size* bytes, not initialised, at a multiple of *alignment* (a power of two)."""
    owner = new_bytes(size + alignment - 1)
    address = address_of(owner)
    start = -address & (alignment - 1)
    return AlignedMemory(owner, start, address + start, size)


def copy_aligned(data: Data, alignment: int) -> AlignedMemory:
    """A copy of *data* at a multiple of *alignment* (a power of two)."""
    memory = new_aligned(len(data), alignment)
    ctypes.memmove(memory.address, address_of(data), len(data))
    return memory


SLOT_SIZE = 64 << 10
"""Bytes in a `Slot`: up to this size a copy costs less (1.3 us) than preparing other memory."""

_SLOTS_KEPT = 64
"""How many unused slots are kept: 4 MiB, if all of them were filled once."""


class Slot:
    """`SLOT_SIZE` bytes of page-aligned memory, for one request at a time."""

    __slots__ = ("address", "memory")

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, SLOT_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


_free_slots: list[Slot] = []


def take_slot() -> Slot:
    """A slot that nobody else uses until it is given back."""
    return _free_slots.pop() if _free_slots else Slot()


def give_slot(slot: Slot) -> None:
    """Give back a slot that neither the kernel nor anybody else uses any more."""
    if len(_free_slots) < _SLOTS_KEPT:
        _free_slots.append(slot)

"""The options that are handed to libfuse, asked of libfuse itself."""

import ctypes
import itertools
import re
from pathlib import Path

import pyfuse3
import pytest

from throttlefs.settings import mountflags
from throttlefs.settings.options import parse_options


class _Arguments(ctypes.Structure):
    _fields_ = [
        ("argc", ctypes.c_int),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
        ("allocated", ctypes.c_int),
    ]


@pytest.fixture(scope="module")
def libfuse_takes():
    """Whether libfuse makes a session with these options; nothing is mounted."""
    # The one that pyfuse3 is linked with: its number is 3 or, from libfuse 3.17 on, 4.
    assert pyfuse3
    mapped = Path("/proc/self/maps").read_text()
    (path,) = set(re.findall(r"\S*/libfuse3\.so\S*", mapped))
    library = ctypes.CDLL(path)
    library.fuse_session_new.restype = ctypes.c_void_p
    library.fuse_session_new.argtypes = [
        ctypes.POINTER(_Arguments),
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
    ]
    library.fuse_session_destroy.argtypes = [ctypes.c_void_p]

    def takes(words):
        argv = [b"test", *itertools.chain.from_iterable((b"-o", w.encode()) for w in words)]
        arguments = _Arguments(len(argv), (ctypes.c_char_p * len(argv))(*argv), 0)
        operations = ctypes.create_string_buffer(8)  # no operation at all
        session = library.fuse_session_new(ctypes.byref(arguments), operations, 8, None)
        if session:
            library.fuse_session_destroy(session)
        return bool(session)

    return takes


@pytest.mark.parametrize("name", [*mountflags.FLAG_NAMES, "fsname=a", "bps=1M"])
def test_libfuse_refuses_nothing_it_is_handed(libfuse_takes, name):
    assert libfuse_takes(parse_options([name]).fuse_options())


def test_libfuse_refuses_what_is_withheld(libfuse_takes):
    # The test above would pass if libfuse took anything at all.
    assert not libfuse_takes(["nonempty"])
    assert not libfuse_takes(["relatime"])

"""What /proc showed of programs whose requests waited on a mount (Linux 6.18).

Of status only the lines about signals and what is beside them, of stat all.
"""

from __future__ import annotations

from typing import NamedTuple


class Recorded(NamedTuple):
    """The two files of a process."""

    pid: int
    status: bytes
    stat: bytes


WAITS = Recorded(
    4683,
    b"Name:\tpython\n"
    b"State:\tS (sleeping)\n"
    b"Tgid:\t4683\n"
    b"Pid:\t4683\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t8/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000000000\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000002002\n",
    b"4683 (python) S 4549 4548 3526 0 -1 4194304 1590 0 1 0 2 0 0 0 20 "
    b"0 1 0 1548656 14442496 2717 0 0 0 0 0 0 0 0 16781312 8194 1 0 "
    b"0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
)
"""A read that waits."""

READ_ALARM = Recorded(
    4752,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t4752\n"
    b"Pid:\t4752\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t9/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000002000\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000002002\n",
    b"4752 (python) D 4549 4548 3526 0 -1 4194304 1584 0 0 0 1 0 0 0 20 "
    b"0 1 0 1548964 14442496 2706 0 0 0 0 0 0 0 0 16781312 8194 1 0 "
    b"0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
)
"""The same after a SIGALRM that it handles."""

READ_KILL = Recorded(
    4908,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t4908\n"
    b"Pid:\t4908\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t8/96365\n"
    b"SigPnd:\t0000000000000100\n"
    b"ShdPnd:\t0000000000000100\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000002002\n",
    b"4908 (python) D 4549 4548 3526 0 -1 4194304 1583 0 0 0 1 0 0 0 20 "
    b"0 1 0 1549258 14442496 2710 0 0 0 0 0 0 256 0 16781312 8194 1 0 "
    b"0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 9\n",
)
"""After SIGKILL."""

READ_TERM = Recorded(
    5130,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t5130\n"
    b"Pid:\t5130\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t9/96365\n"
    b"SigPnd:\t0000000000000100\n"
    b"ShdPnd:\t0000000000004000\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000002002\n",
    b"5130 (python) D 4549 4548 3526 0 -1 4194304 1583 0 0 0 1 1 0 0 20 "
    b"0 1 0 1549540 14442496 2703 0 0 0 0 0 0 256 0 16781312 8194 1 0 "
    b"0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 15\n",
)
"""After SIGTERM."""

READ_QUIT = Recorded(
    5296,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t5296\n"
    b"Pid:\t5296\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t9/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000000004\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000002002\n",
    b"5296 (python) D 4549 4548 3526 0 -1 4194304 1584 0 0 0 2 0 0 0 20 "
    b"0 1 0 1549839 14442496 2710 0 0 0 0 0 0 0 0 16781312 8194 1 0 "
    b"0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
)
"""After SIGQUIT."""

READ_STOP = Recorded(
    5386,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t5386\n"
    b"Pid:\t5386\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t9/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000040000\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000002002\n",
    b"5386 (python) D 4549 4548 3526 0 -1 4194304 1582 0 0 0 1 0 0 0 20 "
    b"0 1 0 1550107 14442496 2694 0 0 0 0 0 0 0 0 16781312 8194 1 0 "
    b"0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
)
"""After SIGSTOP."""

READ_TRACED_QUIT = Recorded(
    5489,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t5489\n"
    b"Pid:\t5489\n"
    b"TracerPid:\t5507\n"
    b"Threads:\t1\n"
    b"SigQ:\t9/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000000004\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000002002\n",
    b"5489 (python) D 4549 4548 3526 0 -1 4194304 1582 0 0 0 2 0 0 0 20 "
    b"0 1 0 1550367 14442496 2720 0 0 0 0 0 0 0 0 16781312 8194 1 0 "
    b"0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
)
"""After SIGQUIT, while strace is attached."""

AIO_KILL = Recorded(
    5723,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t5723\n"
    b"Pid:\t5723\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t9/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000000100\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000000002\n",
    b"5723 (python) D 4549 4548 3526 0 -1 4195340 2286 0 0 0 2 1 0 0 20 "
    b"0 1 0 1550675 0 0 0 0 0 0 0 0 0 0 16781312 2 1 0 "
    b"0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 9\n",
)
"""16 AIO reads wait, after SIGKILL."""

AIO_TERM = Recorded(
    5984,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t5984\n"
    b"Pid:\t5984\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t11/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000004000\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000000002\n",
    b"5984 (python) D 4549 4548 3526 0 -1 4195340 2284 0 0 0 2 1 0 0 20 "
    b"0 1 0 1550940 0 0 0 0 0 0 0 0 0 0 16781312 2 1 0 "
    b"0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 15\n",
)
"""The same after SIGTERM."""

AIO_QUIT = Recorded(
    6088,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t6088\n"
    b"Pid:\t6088\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t10/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000000000\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000000002\n",
    b"6088 (python) D 4549 4548 3526 0 -1 4195852 2286 0 0 0 2 0 0 0 20 "
    b"0 1 0 1551217 0 0 0 0 0 0 0 0 0 0 16781312 2 1 0 "
    b"0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 3\n",
)
"""The same after SIGQUIT, when the core was dumped."""

AIO_EXIT0 = Recorded(
    6173,
    b"Name:\tpython\n"
    b"State:\tD (disk sleep)\n"
    b"Tgid:\t6173\n"
    b"Pid:\t6173\n"
    b"TracerPid:\t0\n"
    b"Threads:\t1\n"
    b"SigQ:\t10/96365\n"
    b"SigPnd:\t0000000000000000\n"
    b"ShdPnd:\t0000000000000000\n"
    b"SigBlk:\t0000000000000000\n"
    b"SigIgn:\t0000000001001000\n"
    b"SigCgt:\t0000000000000002\n",
    b"6173 (python) D 4549 4548 3526 0 -1 4194316 2288 0 0 0 3 0 0 0 20 "
    b"0 1 0 1551527 0 0 0 0 0 0 0 0 0 0 16781312 2 1 0 "
    b"0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
)
"""The same after exit(0)."""

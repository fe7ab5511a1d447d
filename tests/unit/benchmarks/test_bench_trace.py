"""Reading the kernel's fuse tracepoints."""

from benchmarks.completions import Completion
from benchmarks.trace import parse_trace

# As Linux 6.18 prints it, with trace_clock set to mono.
HEAD = """\
# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


def sent(moment: str, connection: int, unique: int, opcode: str, length: int) -> str:
    return (
        f"             fio-153     [001] ...2. {moment}: fuse_request_send: "
        f"connection {connection} req {unique} opcode {opcode} len {length} "
    )


def ended(moment: str, connection: int, unique: int, length: int, error: int = 0) -> str:
    return (
        f" qemu-storage-da-15     [000] ..... {moment}: fuse_request_end: "
        f"connection {connection} req {unique} len {length} error {error}"
    )


LINES = [
    sent("2399.497468", 39, 4, "3 (FUSE_GETATTR)", 56),
    ended("2399.497587", 39, 4, 120),
    sent("2399.741386", 39, 6, "16 (FUSE_WRITE)", 1048656),
    sent("2399.741390", 39, 8, "15 (FUSE_READ)", 80),
    sent("2399.741395", 40, 8, "15 (FUSE_READ)", 80),
    ended("2399.742000", 39, 8, 4112),
    ended("2399.750001", 39, 6, 24),
    ended("2399.750002", 40, 8, 8208),
    sent("2399.760000", 39, 10, "15 (FUSE_READ)", 80),
    ended("2399.760100", 39, 10, 16, error=-5),
    sent("2399.770000", 39, 12, "15 (FUSE_READ)", 80),
]
TRACE = HEAD + "\n".join(LINES) + "\n"


def test_reads_and_writes_that_were_answered_are_found_with_their_sizes() -> None:
    assert parse_trace(TRACE, [39]) == [
        Completion(2399_742000_000, False, 4096),
        Completion(2399_750001_000, True, 1048576),
    ]


def test_connections_that_share_request_numbers_are_told_apart() -> None:
    assert parse_trace(TRACE, [40]) == [Completion(2399_750002_000, False, 8192)]
    assert len(parse_trace(TRACE, [39, 40])) == 3


def test_a_request_sent_before_the_trace_began_is_not_counted() -> None:
    ends = "\n".join(line for line in LINES if "_send" not in line)
    assert parse_trace(ends, [39, 40]) == []

"""What can go wrong in a benchmark and is told in one line."""


class BenchmarkError(Exception):
    """A measurement failed; the message names the culprit and, where there is one, the cure."""


class NotMeasurableError(BenchmarkError):
    """A peer cannot do what a case asks for; the table shows why instead of a figure."""


class InterruptedRunError(BaseException):
    """SIGINT or SIGTERM: stop measuring, report what there is, leave nothing behind.

    Not an ``Exception``, so that no handler of failed measurements takes it for one.
    """

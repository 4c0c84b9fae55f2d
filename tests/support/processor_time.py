"""Processor time, for tests that limit what a command costs: other work on the machine does not count."""

import resource


def children_seconds():
    """Processor seconds of all the child processes so far, of those that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime

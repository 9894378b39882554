"""Process helpers: exit with the parent, keep freed memory, limit time and memory, train in one
process at a time.
"""

import contextlib
import ctypes
import os
import platform
import signal
import time
from pathlib import Path
from threading import Thread

import psutil
from filelock import FileLock, Timeout

from pipeline.common.paths import TRAINING_LOCK


def die_with_parent():
    """On Linux, have the kernel send SIGTERM to this process when its parent exits."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def end_with_dvc():
    """Send SIGTERM to this process when the DVC process that started it has ended, because DVC
    does not forward signals.
    """

    def ancestors():
        return psutil.Process().parents()

    def is_dvc(process):
        # It may have ended or, on macOS, belong to another user.
        with contextlib.suppress(psutil.Error):
            return "dvc" in [Path(word).name for word in process.cmdline()[:3]]
        return False

    def watch():
        while ancestors()[: len(chain)] == chain:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    chain = ancestors()
    while chain and not is_dvc(chain[-1]):
        chain.pop()
    if chain:
        Thread(target=watch, daemon=True).start()


def keep_freed_memory():
    """Have glibc keep freed memory for the next step: returning it to the kernel and mapping it
    again takes a tenth of the time of a step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD at their maximum; M_ARENA_MAX = 1, so that threads
    # reuse each other's memory.
    for option, value in {-1: (1 << 31) - 1, -3: 32 << 20, -8: 1}.items():
        ctypes.CDLL(None).mallopt(option, value)


class TimeLimit(BaseException):
    """Raised when a time limit has expired; not an Exception, so that no library handles it."""


@contextlib.contextmanager
def limits(name, seconds, extra_memory):
    """Limit the time and the memory of a block that waits for a service. Raises OSError if the time
    limit expires.

    If the block does not react, because it is in a system call, the process is killed ten seconds
    later. Windows has neither alarms nor this memory limit, so there the block runs without limits.
    """
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    import resource

    def expire(number, frame):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        raise TimeLimit

    used = getattr(psutil.Process().memory_info(), "data", 0)  # on Linux, what RLIMIT_DATA counts
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = used + extra_memory
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    except TimeLimit:
        raise OSError(f"{name} took longer than {seconds} s to answer") from None
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def lock_training():
    """Return a context manager that holds the lock of the active training run. Raises ValueError if
    another process holds it.
    """
    try:
        # wait, because an interrupted run may still be shutting down
        return FileLock(TRAINING_LOCK).acquire(timeout=10)
    except Timeout:
        raise ValueError(
            f"another training run is active in this checkout; wait until it ends ({TRAINING_LOCK})"
        ) from None

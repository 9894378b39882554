"""The record of an MLflow run, as JSON values."""

import contextlib
import time
from dataclasses import field

from filelock import FileLock, Timeout
from pydantic.dataclasses import dataclass

from pipeline.common.paths import OUTBOX

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"  # as in MLflow


def now():
    """Return the milliseconds since 1970, MLflow's unit of time."""
    return int(time.time() * 1000)


MAX_LENGTH = 5900  # characters of a param or tag: MLflow silently truncates values at 6,000


def shorten(value):
    """Return a value as text, cut visibly if it is too long for MLflow."""
    text = str(value)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}... ({len(text)} characters)"


@dataclass
class RunRecord:
    """Everything to log about a run. Raises ValueError if a value has the wrong type.

    name: the prefix of its folders in the outbox
    key: the tag whose value, a checksum or a random number, identifies the run
    store: the store that it belongs to, or None for any
    dataset: the fields of MLflow's Dataset
    metrics: [name, value, time, step] of each
    texts: file name -> contents of an artifact
    """

    name: str
    key: str
    tags: dict[str, str]
    store: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    status: str = RUNNING
    start: int = field(default_factory=now)
    end: int | None = None

    def acquire_lock(self, timeout=0):
        """Return the lock that a run holds until it ends, or None if another process holds it."""
        lock = FileLock(OUTBOX / f"{self.name}.lock", timeout=timeout)
        with contextlib.suppress(Timeout):
            lock.acquire()
        return lock if lock.is_locked else None

    def is_running(self):
        """Return whether a process holds the lock."""
        if lock := self.acquire_lock():
            lock.release()
        return lock is None

    def log_metrics(self, step, values):
        """Add the metrics of a step, name -> value."""
        time = now()
        self.metrics += [(name, value, time, step) for name, value in values.items()]

    def finish(self, status):
        """Set the final status and the end time."""
        self.status, self.end = status, now()

"""The record of an MLflow run, as JSON values."""

import time
from dataclasses import dataclass, field

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from pipeline.common.paths import OUTBOX

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"  # as in MLflow


def now():
    """Return the milliseconds since 1970, MLflow's unit of time."""
    return int(time.time() * 1000)


MAX_VALUE = 5900  # characters of a param or tag: MLflow cuts off what is above 6,000, silently


def shorten(value):
    """Return a value as text, cut visibly if it is too long for MLflow."""
    text = str(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}... ({len(text)} characters)"


@dataclass
class RunRecord:
    """Everything that is to be logged of a run.

    key: the tag whose value, a checksum or a random number, identifies the run. suffix: tells apart
    several records of a run. store: the address of the store that it belongs to; None for any.
    metrics: [name, value, time, step]. texts: file name -> contents of an artifact.
    """

    key: str
    tags: dict[str, str]
    suffix: str = ""
    store: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    status: str = RUNNING
    start: int = field(default_factory=now)
    end: int | None = None

    @classmethod
    def from_json(cls, values):
        """Return a record from its JSON values; unknown fields are ignored. ValueError if the rest
        is not a record.
        """
        try:
            record = TypeAdapter(cls).validate_python(values)
            record.name  # noqa: B018 - must exist
        except (KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"it is not a record of this version: {reason}") from None
        return record

    @property
    def name(self):
        """The name of its folder in the outbox."""
        return f"{self.tags[self.key]}{self.suffix}"

    def acquire_lock(self, timeout=0):
        """Return the lock of the process that writes the record, None if another holds it. A
        training holds it until it ends.
        """
        lock = FileLock(OUTBOX / f"{self.name}.lock")
        try:
            OUTBOX.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout)
        except Timeout:
            return None
        return lock

    def is_running(self):
        """Return whether a process holds the lock."""
        if lock := self.acquire_lock():
            lock.release()
        return lock is None

    def log_metrics(self, step, **values):
        """Add the metrics of a step; None is skipped."""
        time = now()
        self.metrics += [
            (name, value, time, step) for name, value in values.items() if value is not None
        ]

    def finish(self, status):
        """Set the final status and the end time."""
        self.status, self.end = status, now()

"""The record of an MLflow run, as JSON values."""

import time
from dataclasses import dataclass, field

from pydantic import TypeAdapter

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"  # as MLflow has them


def now():
    """Return the milliseconds since 1970, MLflow's unit of time."""
    return int(time.time() * 1000)


@dataclass
class RunRecord:
    """Everything that is to be logged of a run.

    key: the tag whose value identifies the run. metrics: [name, value, time, step].
    """

    key: str
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
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
        return self.tags[self.key]

    def log_metrics(self, step, **values):
        """Add the metrics of a step; None is skipped."""
        time = now()
        self.metrics += [
            (name, value, time, step) for name, value in values.items() if value is not None
        ]

    def finish(self, status):
        """Set the final status and the end time."""
        self.status, self.end = status, now()

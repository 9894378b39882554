"""What MLflow is to know of a run, as JSON."""

import time
from dataclasses import dataclass, field

from pydantic import TypeAdapter

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"  # statuses of a run


def now():
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


@dataclass
class Record:
    """What MLflow is to know of a run, all of it JSON values.

    key: the tag that tells the run from all others. metrics: [name, value, time, step].
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
        """A record from what was written of one, by this version or another: what is unknown is
        left out. ValueError if the rest makes no record.
        """
        try:
            record = TypeAdapter(cls).validate_python(values)
            record.name  # noqa: B018 - it has one
        except (KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"it is no record of this version: {reason}") from None
        return record

    @property
    def name(self):
        """What its folder is called."""
        return self.tags[self.key]

    def log(self, step, **values):
        """Note values of a step."""
        present = {name: value for name, value in values.items() if value is not None}
        self.metrics += [(name, value, now(), step) for name, value in present.items()]

    def finish(self, status):
        """Note how the run has ended, and when."""
        self.status, self.end = status, now()

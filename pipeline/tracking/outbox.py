"""Run records on disk, in data/undelivered, until MLflow has them.

A separate process delivers them, so training does not depend on MLflow. Delivering a record again
changes nothing, so a delivery can be interrupted anywhere; the next one delivers what is left.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zlib

from baregpt.files import atomic_write
from pipeline.common.inputs import checksum
from pipeline.common.paths import OUTBOX, WEIGHTS
from pipeline.common.process import die_with_parent, limits
from pipeline.common.record import FINISHED, KILLED, RUNNING, RunRecord, shorten
from pipeline.common.stage import warn
from pipeline.tracking import store
from pipeline.tracking.client import send

DELIVERY_TIMEOUT = 60  # seconds for all records, without their artifacts
BANDWIDTH = 250_000  # bytes of artifacts per second
MAX_MEMORY = 1 << 30  # bytes that a delivery may use: a server may send an endless response
STOP_TIMEOUT = 3  # seconds to wait for a delivery when a stage is interrupted
RECORD = "record.json"
WORKER_FLAG = "--worker"


def enqueue(record, files=()):
    """Write a record, in a folder with its artifacts, in place of its earlier version.

    The record is written last: a folder without a record is ignored, and one with a record no
    longer changes.
    """
    earlier = sorted(OUTBOX.glob(f"{record.name}.*[0-9]"))
    number = 1 + int(earlier[-1].suffix[1:]) if earlier else 0
    folder = OUTBOX / f"{record.name}.{number:08}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"cannot write {folder}: {error.strerror}") from None
    for path in files:
        contents = path.read_bytes()
        with atomic_write(folder / path.name) as file:
            file.write(contents)
    with atomic_write(folder / RECORD) as file:
        file.write(json.dumps(vars(record)).encode())
    for path in earlier:
        remove(path)


def remove(folder):
    """Delete a record, then its artifacts, so that a record on disk always has its artifacts."""
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def attach_artifacts(md5, section, params, *paths):
    """Add outputs of a stage, with its params as tags, to the run of the weights with this MD5."""
    if checksum(WEIGHTS) != md5:  # the stage reports that
        return
    # not as params, because those of a run cannot change
    tags = {f"{section}.{name}": shorten(value) for name, value in params.model_dump().items()}
    tags["weights.md5"] = md5
    place = store.store_name()
    name = f"{md5}-{section}-{zlib.crc32(place.encode()):x}"  # one for each store
    record = RunRecord(name, "weights.md5", tags, place)
    record.finish(FINISHED)
    enqueue(record, [WEIGHTS, *paths])
    DeliveryProcess().close()


def queued():
    """Return (record, its folder) of the records of this store, training runs first."""
    found = []
    for folder in sorted(OUTBOX.glob("*")):  # the latest version of a record last
        try:
            # earlier releases wrote no name
            values = {"name": folder.name} | json.loads((folder / RECORD).read_bytes())
            record = RunRecord(**values)
        except OSError:  # it has no record, or no longer has one
            continue
        except (TypeError, ValueError) as error:
            warn(f"cannot deliver {folder}, leaving it unchanged ({error})")
            continue
        if record.store not in (None, store.store_name()):
            warn(
                f"records in {OUTBOX} belong to the store {record.store}; set MLFLOW_TRACKING_URI"
                " to deliver them"
            )
            continue
        if record.status == RUNNING and not record.is_running():
            # it was killed before it could record its status
            record.finish(KILLED)
        found.append((record, folder))
    # the training run must be delivered before the records of later stages
    return sorted(found, key=lambda entry: entry[0].key != "training")


def time_limit():
    """Return the seconds that a delivery may take."""
    size = 0
    with contextlib.suppress(OSError):  # another delivery may delete them in the meantime
        for path in [*OUTBOX.glob("*/*"), WEIGHTS]:
            size += path.stat().st_size
    return DELIVERY_TIMEOUT + size // BANDWIDTH


def limited():
    """Return a context manager that limits the time and the memory that talking to MLflow takes."""
    return limits("MLflow", time_limit(), MAX_MEMORY)


def deliver():
    """Deliver all records and return how many were complete. Raises OSError at the end if MLflow
    rejected any.
    """
    count, failed = 0, {}
    with limited(), store.LOCK:
        records = queued()
        connection = store.connect() if records else ()
        for record, folder in records:
            weights = record.tags.get("weights.md5", record.name)
            if weights in failed:  # their training run must be delivered first
                continue
            files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != RECORD]
            try:
                send(record, files, *connection)
            except Exception as error:  # any type: each kind of store has its own
                if not (folder / RECORD).exists():
                    continue  # a later version was written in the meantime
                failed[weights] = f"MLflow rejected a run ({store.without_secrets(error)})"
                with contextlib.suppress(OSError):
                    store.connect()  # opens a new connection, if the server has closed the last one
                continue
            if record.end:
                remove(folder)
                count += 1
    if failed:
        raise OSError(next(iter(failed.values())))
    return count


class DeliveryProcess:
    """A process that delivers the outbox, so that training never waits for MLflow."""

    def __init__(self):
        command = [sys.executable, "-m", "pipeline.deliver", WORKER_FLAG]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        # in a session of its own, so that Ctrl-C reaches only this process
        self.process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, env=environment, start_new_session=True
        )
        assert self.process.stdin
        self.pipe = self.process.stdin
        if hasattr(os, "set_blocking"):  # not on Windows with Python 3.11
            os.set_blocking(self.pipe.fileno(), False)

    def notify(self):
        """Have it deliver what is in the outbox now."""
        with contextlib.suppress(OSError):  # it has ended
            self.pipe.write(b"\n")

    def close(self, timeout=None):
        """Wait until it has delivered everything or failed, at most `timeout` seconds."""
        self.pipe.close()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout or time_limit())
            if not timeout:
                # The last delivery may have started late. Make its time limit expire now, so that
                # it reports the failure itself.
                self.process.send_signal(getattr(signal, "SIGALRM", signal.SIGTERM))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_TIMEOUT)
        finally:
            self.process.kill()


def run_worker():
    """Deliver whenever stdin has data, and once more when it is closed. Only the first failure is
    reported.
    """
    die_with_parent()
    is_open, has_failed = True, False
    while is_open:
        is_open = bool(os.read(sys.stdin.fileno(), 1 << 16))
        try:
            deliver()
        except OSError as error:
            if not has_failed:
                warn(
                    f"{error}; the run is queued in {OUTBOX} and will be delivered by the next"
                    " stage or by `python -m pipeline.deliver`"
                )
            has_failed = True

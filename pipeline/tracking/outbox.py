"""Run records on disk, in data/undelivered, until MLflow has them.

Training does not depend on MLflow: a record is written to a folder here, as record.json with copies
of its artifacts, and a process of its own delivers it. Delivering a record again changes nothing,
so a delivery can be interrupted anywhere: the next stage, or `python -m pipeline.deliver`, delivers
what is left.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys

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
MAX_MEMORY = 1 << 30  # bytes that a delivery may use: a server may answer without end
STOP_TIMEOUT = 3  # seconds to wait for a delivery when a stage is interrupted
WORKER_FLAG = "--worker"
QUEUED = (
    f"the run is queued in {OUTBOX} and will be delivered by the next stage or by"
    " `python -m pipeline.deliver`"
)


def enqueue(record, files=()):
    """Write a record and its artifacts; the caller holds its lock. After an OSError the previous
    version is intact.
    """
    folder = OUTBOX / record.name
    try:
        (folder / "files").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {folder}: {error.strerror}") from None
    for path in files:
        with atomic_write(folder / "files" / path.name) as file:
            file.write(path.read_bytes())
    with atomic_write(folder / "record.json") as file:  # last: marks it complete
        file.write(json.dumps(vars(record)).encode())


def attach_artifacts(md5, section, params, *paths):
    """Add outputs of a stage to the run that made the weights with this MD5, or to a new run if
    MLflow has none; as tags the params that made them, because the params of a run cannot change.

    Do nothing if the weights no longer have this MD5: the stage reports that.
    """
    if checksum(WEIGHTS) != md5:
        return
    tags = {f"{section}.{name}": shorten(value) for name, value in params.model_dump().items()}
    record = RunRecord("weights.md5", {"weights.md5": md5, **tags}, f"-{section}")
    record.store = store.store_name()
    record.finish(FINISHED)
    lock = record.acquire_lock(timeout=10)
    enqueue(record, [WEIGHTS, *paths])
    if lock:
        lock.release()
    with DeliveryProcess():
        pass


def queued():
    """Return (record, its folder, its bytes) of all records: trainings first, because the other
    records belong to them. A training that does not hold its lock was killed.
    """
    found = []
    for path in OUTBOX.glob("*/record.json"):
        data = path.read_bytes()
        try:
            record = RunRecord.from_json(json.loads(data))
        except ValueError as error:
            warn(f"cannot deliver {path.parent}, which is left as it is ({error})")
            continue
        if record.status == RUNNING and not record.is_running():
            record.finish(KILLED)
        found.append((record, path.parent, data))
    return sorted(found, key=lambda entry: entry[0].key != "training")


def limited():
    """Return a context that limits the time and the memory that talking to MLflow takes."""
    size = sum(
        path.stat().st_size for path in [WEIGHTS, *OUTBOX.glob("*/files/*")] if path.exists()
    )
    return limits("MLflow", DELIVERY_TIMEOUT + size // BANDWIDTH, MAX_MEMORY)


def deliver():
    """Deliver the records that belong to the current store; return how many are complete.

    OSError if one of them could not be delivered, after all others.
    """
    count, failures, failed, connection = 0, [], set(), None
    with limited(), store.LOCK:
        for record, folder, data in queued():
            weights = record.tags.get("weights.md5", folder)
            if record.store not in (None, store.store_name()):
                warn(
                    f"records in {OUTBOX} belong to the store {record.store}; set"
                    " MLFLOW_TRACKING_URI to deliver them"
                )
                continue
            if weights in failed:  # their run has to be first
                continue
            try:
                connection = connection or store.connect()
            except OSError as error:
                failures.append(str(error))
                break
            try:
                send(record, sorted((folder / "files").glob("*")), *connection)
            except Exception as error:  # of any type: each kind of store has its own
                failures.append(f"MLflow refused a run ({store.without_secrets(error)})")
                failed.add(weights)
                connection = None
                with contextlib.suppress(OSError):
                    store.connect()  # a server that refuses a request may also hang up
                continue
            if record.end:
                remove(record, folder, data)
                count += 1
    if failures:
        raise OSError(failures[0])
    return count


def remove(record, folder, data):
    """Remove a delivered record, unless a newer version is there or being written."""
    if lock := record.acquire_lock():
        if (folder / "record.json").read_bytes() == data:
            shutil.rmtree(folder)
            os.unlink(lock.lock_file)
        lock.release()


class DeliveryProcess:
    """A process that delivers the outbox, so that training never waits for MLflow.

    As a context manager, it is closed at the end.
    """

    def __init__(self):
        command = [sys.executable, "-m", "pipeline.deliver", WORKER_FLAG]
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        self.pipe = open(write_end, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        # in a session of its own, so that Ctrl-C reaches only this process
        self.process = subprocess.Popen(
            command, stdin=read_end, env=environment, start_new_session=True
        )
        os.close(read_end)

    def notify(self):
        """Have it deliver what is in the outbox now."""
        with contextlib.suppress(OSError):  # it has ended
            self.pipe.write(b"\n")

    def close(self, timeout=None):
        """Wait until it has delivered all or failed, at most `timeout` seconds."""
        self.pipe.close()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return
        finally:
            if self.process.poll() is None:
                self.process.kill()
        if self.process.returncode:
            warn(f"MLflow did not answer; {QUEUED}")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.close(STOP_TIMEOUT if kind is KeyboardInterrupt else None)


def work():
    """Deliver whenever data comes in on stdin, and at its end; warn of the first failure."""
    die_with_parent()
    is_open, has_failed = True, False
    while is_open:
        is_open = bool(os.read(sys.stdin.fileno(), 1 << 16))
        try:
            deliver()
        except OSError as error:
            if not has_failed:
                warn(f"{error}; {QUEUED}")
            has_failed = True

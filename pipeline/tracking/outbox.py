"""Run records on disk, in data/undelivered, until MLflow has them.

A process of its own delivers them, so training does not depend on MLflow. Delivering a record again
changes nothing, so a delivery can be interrupted anywhere; the next one delivers what is left.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

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


def enqueue(record, files=()):
    """Write a record and its artifacts atomically; the caller holds its lock."""
    folder = OUTBOX / record.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = [path for path in folder.iterdir() if path.is_dir()]
        record.files = os.path.basename(tempfile.mkdtemp(dir=folder))
    except OSError as error:
        raise OSError(f"cannot write {folder}: {error.strerror}") from None
    for path in files:
        with atomic_write(folder / record.files / path.name) as file:
            file.write(path.read_bytes())
    with atomic_write(folder / "record.json") as file:
        file.write(json.dumps(vars(record)).encode())
    for path in before:
        shutil.rmtree(path, ignore_errors=True)


def attach_artifacts(md5, section, params, *paths):
    """Add outputs of a stage to the run that made the weights with this MD5, or to a new run, with
    their params as tags, because the params of a run cannot change.
    """
    if checksum(WEIGHTS) != md5:  # the stage reports that
        return
    tags = {f"{section}.{name}": shorten(value) for name, value in params.model_dump().items()}
    tags["weights.md5"] = md5
    record = RunRecord(f"{md5}-{section}", "weights.md5", tags, store.store_name())
    record.finish(FINISHED)
    lock = record.acquire_lock(timeout=10)
    enqueue(record, [WEIGHTS, *paths])
    if lock:
        lock.release()
    DeliveryProcess().close()


def queued():
    """Return (record, its folder, its bytes) of all records that belong to the current store:
    trainings first, because the others belong to them. If nobody holds its lock, it was killed.
    """
    found = []
    for path in OUTBOX.glob("*/record.json"):
        data = path.read_bytes()
        try:
            # earlier versions wrote no name
            record = RunRecord(**{"name": path.parent.name} | json.loads(data))
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            warn(f"cannot deliver {path.parent}, which is left as it is ({reason})")
            continue
        if record.store not in (None, store.store_name()):
            warn(
                f"records in {OUTBOX} belong to the store {record.store}; set MLFLOW_TRACKING_URI"
                " to deliver them"
            )
            continue
        if record.status == RUNNING and not record.is_running():
            record.finish(KILLED)
        found.append((record, path.parent, data))
    return sorted(found, key=lambda entry: entry[0].key != "training")


def time_limit():
    """Return the seconds that a delivery may take."""
    files = [WEIGHTS, *OUTBOX.glob("*/*/*")]
    return DELIVERY_TIMEOUT + sum(p.stat().st_size for p in files if p.exists()) // BANDWIDTH


def limited():
    """Return a context that limits the time and the memory that talking to MLflow takes."""
    return limits("MLflow", time_limit(), MAX_MEMORY)


def deliver():
    """Deliver all records; return how many are complete. OSError, after all others, if one of them
    could not be delivered.
    """
    count, failed = 0, {}
    with limited(), store.LOCK:
        records = queued()
        connection = store.connect() if records else ()
        for record, folder, data in records:
            weights = record.tags.get("weights.md5", record.name)
            if weights in failed:  # their run has to be first
                continue
            try:
                send(record, sorted((folder / record.files).glob("*")), *connection)
            except Exception as error:  # of any type: each kind of store has its own
                if (folder / "record.json").read_bytes() != data:
                    continue  # a newer version was written meanwhile
                failed[weights] = f"MLflow refused a run ({store.without_secrets(error)})"
                with contextlib.suppress(OSError):
                    store.connect()  # again: a server that refuses a request may also hang up
                continue
            if record.end and (lock := record.acquire_lock()):
                if (folder / "record.json").read_bytes() == data:  # else there is a newer version
                    shutil.rmtree(folder)
                    with contextlib.suppress(OSError):  # Windows does not delete open files
                        os.unlink(lock.lock_file)
                    count += 1
                lock.release()
    for failure in failed.values():
        raise OSError(failure)
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
        """Wait until it has delivered all or failed, at most `timeout` seconds."""
        self.pipe.close()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout or time_limit())
            if not timeout:  # a delivery that was under way took time from the last one
                self.process.send_signal(getattr(signal, "SIGALRM", signal.SIGTERM))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_TIMEOUT)
        finally:
            self.process.kill()


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
                warn(
                    f"{error}; the run is queued in {OUTBOX} and will be delivered by the next"
                    " stage or by `python -m pipeline.deliver`"
                )
            has_failed = True

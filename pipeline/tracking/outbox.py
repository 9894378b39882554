"""Run records on disk, in data/undelivered, until MLflow has them.

Training does not depend on MLflow: a record is first written to a folder here, as record.json with
copies of its artifacts, and then delivered, by the training, the next stage, or `python -m
pipeline.deliver`. A delivery can be interrupted anywhere, because delivering a record again changes
nothing.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

from filelock import FileLock, Timeout

from baregpt.files import atomic_write
from pipeline.common.inputs import checksum
from pipeline.common.paths import CHECKOUT, DATA
from pipeline.common.stage import STOP_SIGNALS, warn, warned
from pipeline.tracking import store
from pipeline.tracking.client import Delivery
from pipeline.tracking.record import FINISHED, KILLED, RUNNING, RunRecord, now

UNDELIVERED = Path(os.path.relpath(CHECKOUT / DATA / "undelivered"))
QUEUE_LOCK = FileLock(UNDELIVERED / "queue.lock", timeout=60)  # not held during requests
DELIVERY_TIMEOUT = 60  # seconds; after a longer delivery, training makes no other


def run_lock(name):
    """Return the lock that a training holds while its run goes on."""
    UNDELIVERED.mkdir(parents=True, exist_ok=True)
    return FileLock(UNDELIVERED / f"{name}.lock", timeout=0)


def enqueue(record, files=(), name=None):
    """Write a record and its artifacts; after an OSError the previous version is intact."""
    folder = UNDELIVERED / (name or record.name)
    with QUEUE_LOCK:
        (folder / "files").mkdir(parents=True, exist_ok=True)
        for path in files:
            with atomic_write(folder / "files" / path.name) as file:
                file.write(path.read_bytes())
        with atomic_write(
            folder / "record.json"
        ) as file:  # last: a folder without it is incomplete
            file.write(json.dumps(vars(record)).encode())


def attach_artifacts(weights, md5, *paths):
    """Add artifacts to the run that made these weights, or to a new run if MLflow has none.

    Do nothing if the weights no longer have this MD5: the stage reports that.
    """
    if checksum(weights) != md5:
        return
    record = RunRecord("weights.md5", {"weights.md5": md5}, status=FINISHED, end=now())
    enqueue(record, [weights, *paths], f"{md5}-{paths[0].name}")
    deliver_or_warn()


UNREACHABLE = "MLflow is unreachable"


def deliver_or_warn():
    """Deliver all records, or warn that they stay in the outbox; after a warning, do nothing."""
    if UNREACHABLE in warned:
        return
    start = time.monotonic()
    try:
        deliver()
        if (seconds := time.monotonic() - start) > DELIVERY_TIMEOUT:
            raise OSError(f"MLflow took {seconds:.0f} s to answer")
    except OSError as error:
        warned.add(UNREACHABLE)
        warn(
            f"{error}; the run is queued in {UNDELIVERED} and will be delivered by the next stage"
            " or by `python -m pipeline.deliver`"
        )


@contextlib.contextmanager
def defer_signals():
    """Defer Ctrl-C until the block ends, because an interrupted MLflow leaves its database locked;
    a second Ctrl-C interrupts at once.
    """
    received = list[int]()

    def handle(number, _):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    handled = [stop for stop in STOP_SIGNALS if signal.getsignal(stop) != signal.SIG_IGN]
    previous = {stop: signal.signal(stop, handle) for stop in handled}
    try:
        yield
    finally:
        for stop, handler in previous.items():
            signal.signal(stop, handler)
    if received:
        raise KeyboardInterrupt


def queued():
    """Return (record, its bytes, its folder) of all records, sorted by start time.

    A record says RUNNING but nobody holds its lock: the training was killed.
    """
    found = []
    with QUEUE_LOCK:
        for folder in UNDELIVERED.glob("*/"):
            try:
                written = (folder / "record.json").read_bytes()
                record = RunRecord.from_json(json.loads(written))
            except FileNotFoundError:  # an enqueue or a removal was interrupted
                shutil.rmtree(folder)
                continue
            except ValueError as error:
                warn(f"cannot deliver {folder}, which is left as it is ({error})")
                continue
            if record.status == RUNNING:
                with contextlib.suppress(Timeout), run_lock(folder.name):
                    record.finish(KILLED)
            found.append((record, written, folder))
    return sorted(found, key=lambda entry: entry[0].start)


def remove(folder, written):
    """Remove a delivered record, unless a newer version has replaced it."""
    with QUEUE_LOCK:
        if (folder / "record.json").read_bytes() == written:
            (folder / "record.json").unlink()
            shutil.rmtree(folder)
            (UNDELIVERED / f"{folder.name}.lock").unlink(missing_ok=True)


deliveries = dict[str, Delivery]()  # by folder name


def deliver():
    """Deliver all records; return how many were completed.

    OSError if MLflow refused one of them, after the others have been delivered.
    """
    failures, done, refused = [], 0, set()
    with store.LOCK, defer_signals():
        records = queued()
        connection = store.connect() if records else None
        for record, written, folder in records:
            weights = record.tags.get("weights.md5", folder)
            if weights in refused:  # their run has to be first
                continue
            delivery = deliveries.setdefault(folder.name, Delivery())
            try:
                delivery.deliver(record, connection, sorted((folder / "files").glob("*")))
            except OSError as error:
                failures.append(error)
                refused.add(weights)
                with contextlib.suppress(OSError):
                    store.connect()  # a server that refuses a request may also hang up
                connection = store.connect()  # raises if the server is gone
                continue
            if record.end:
                remove(folder, written)
                del deliveries[folder.name]
                done += 1
    if failures:
        raise failures[0]
    return done

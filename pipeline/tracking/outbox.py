"""What MLflow is to know, as records on disk until it has them.

Training must not depend on a server. So whatever MLflow is to know of a run is written here first,
as a folder of data/undelivered with record.json and copies of the files that go with it, and then
delivered: by the training itself, by the next stage that runs, or by `python -m pipeline.deliver`.
Delivering a record again changes nothing (see tracking.py), so a delivery may be cut off anywhere.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from baregpt.files import atomic_write
from pipeline.common.inputs import checksum
from pipeline.common.stage import DATA, STOPS
from pipeline.tracking import client as tracking
from pipeline.tracking import store
from pipeline.tracking.record import FINISHED, KILLED, RUNNING, Record, now

UNDELIVERED = Path(os.path.relpath(store.HOME / DATA / "undelivered"))
KEEPING = FileLock(UNDELIVERED / "keeping.lock", timeout=60)  # never held while MLflow is asked
PATIENCE = 60  # seconds that a delivery may take before training stops waiting for deliveries


def owner(name):
    """A lock that whoever makes a record holds while its run goes on."""
    UNDELIVERED.mkdir(parents=True, exist_ok=True)
    return FileLock(UNDELIVERED / f"{name}.lock", timeout=0)


def keep(record, files=(), name=None):
    """Put a record and its files on disk; OSError, if there is no room, leaves the former one."""
    folder = UNDELIVERED / (name or record.name)
    with KEEPING:
        (folder / "files").mkdir(parents=True, exist_ok=True)
        for path in files:
            with atomic_write(folder / "files" / path.name) as file:
                file.write(path.read_bytes())
        with atomic_write(folder / "record.json") as file:  # last: without it, nothing is here
            file.write(json.dumps(vars(record)).encode())


def add_to_run_of(weights, md5, *paths):
    """Have MLflow add files to the run that made these weights; or to a new one, if they came
    alone. Nothing, if they are not those of this checksum any more: the stage will say so.
    """
    if checksum(weights) != md5:
        return
    record = Record("weights.md5", {"weights.md5": md5}, status=FINISHED, end=now())
    keep(record, [weights, *paths], f"{md5}-{paths[0].name}")
    deliver_or_warn()


warned = set[str]()
OUT_OF_REACH = "MLflow is out of reach"


def warn(message):
    """Say something that a person has to know, once."""
    if message not in warned:
        print(f"warning: {message}", file=sys.stderr, flush=True)
    warned.add(message)


def deliver_or_warn():
    """Bring all that waits to MLflow, or say once that it goes on waiting; then ask no more."""
    if OUT_OF_REACH in warned:
        return
    begun = time.monotonic()
    try:
        deliver()
        if (seconds := time.monotonic() - begun) > PATIENCE:
            raise OSError(f"MLflow took {seconds:.0f} seconds to answer")
    except OSError as error:
        warned.add(OUT_OF_REACH)
        kept = f"what it should know is kept in {UNDELIVERED}"
        later = "the next stage that runs delivers it, or `python -m pipeline.deliver`"
        warn(f"{error}: the work goes on, and {kept}; {later}")


@contextlib.contextmanager
def signals_wait():
    """Let Ctrl-C wait until a delivery is done, for MLflow leaves its database locked when it is
    cut off; the second Ctrl-C does not wait.
    """
    came = list[int]()

    def note(number, _):
        if came:
            raise KeyboardInterrupt
        came.append(number)

    heard = [stop for stop in STOPS if signal.getsignal(stop) != signal.SIG_IGN]
    former = {stop: signal.signal(stop, note) for stop in heard}
    try:
        yield
    finally:
        for stop, handler in former.items():
            signal.signal(stop, handler)
    if came:
        raise KeyboardInterrupt


def waiting():
    """(record, its bytes, its folder) of all that waits, the oldest first: runs before samples.

    A run that goes on, by its record, while nobody holds its lock was killed.
    """
    found = []
    with KEEPING:
        for folder in UNDELIVERED.glob("*/"):
            try:
                written = (folder / "record.json").read_bytes()
                record = Record.from_json(json.loads(written))
            except FileNotFoundError:  # handing it over was cut short, or clearing it away
                shutil.rmtree(folder)
                continue
            except ValueError as error:
                warn(f"{folder} cannot be delivered, and stays as it is ({error})")
                continue
            if record.status == RUNNING:
                with contextlib.suppress(Timeout), owner(folder.name):
                    record.finish(KILLED)
            found.append((record, written, folder))
    return sorted(found, key=lambda entry: entry[0].start)


def clear(folder, written):
    """Take away what was delivered, unless a later record has come in its place."""
    with KEEPING:
        if (folder / "record.json").read_bytes() == written:
            (folder / "record.json").unlink()
            shutil.rmtree(folder)
            (UNDELIVERED / f"{folder.name}.lock").unlink(missing_ok=True)


deliveries = dict[str, tracking.Delivery]()  # by the name of their folder: what MLflow has already


def deliver():
    """Bring all that waits to MLflow; return how many records are done with. OSError if one is
    left, of which the rest does not suffer.
    """
    failures, done, refused = [], 0, set()
    with store.LOCK, signals_wait():
        records = waiting()
        connection = store.connect() if records else None
        for record, written, folder in records:
            made_by = record.tags.get("weights.md5", folder)
            if made_by in refused:  # its run comes first
                continue
            delivery = deliveries.setdefault(folder.name, tracking.Delivery())
            try:
                delivery.deliver(record, connection, sorted((folder / "files").glob("*")))
            except OSError as error:
                failures.append(error)
                refused.add(made_by)
                with contextlib.suppress(OSError):
                    store.connect()  # a server that refuses what comes may hang up as well
                connection = store.connect()  # else it is gone, and the rest can wait
                continue
            if record.end:
                clear(folder, written)
                del deliveries[folder.name]
                done += 1
    if failures:
        raise failures[0]
    return done

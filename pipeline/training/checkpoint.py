"""Checkpoints: all that a training needs to go on where it was, to the last bit.

Each is called after the inputs of its training (see inputs.py): another experiment in between does
not take it away, and no training goes on from what is not its own.
"""

import contextlib
import hashlib
import json
import math
from dataclasses import dataclass, field

import numpy as np

from baregpt.files import atomic_write
from pipeline.common.stage import CHECKPOINTS
from pipeline.tracking.outbox import warn
from pipeline.tracking.record import Record

KEPT = 2  # the newest; older ones go when a new one is written


@dataclass
class Progress:
    """How far a training has come, beside its arrays; all of it JSON values."""

    train_curve: list = field(default_factory=list)  # the loss of each step
    validation_curve: list = field(default_factory=list)  # [step, loss]
    best_step: int = 0

    @property
    def steps(self):
        return len(self.train_curve)

    def note(self, step, train_loss, validation_loss):
        """Note the losses of a step; whether its validation loss, if it has one, is the best."""
        self.train_curve.append(train_loss)
        if validation_loss is None:
            return False
        best = min((loss for _, loss in self.validation_curve), default=math.inf)
        self.validation_curve.append([step, validation_loss])
        if validation_loss < best:
            self.best_step = step
        return validation_loss < best


def identity(inputs):
    """One checksum of all that decides what a training makes."""
    text = json.dumps([inputs.values, np.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def arrays_of(model, optimizer, best):
    """Name -> array: every number that changes while training."""
    means = {f"mean.{name}": array for name, array in optimizer.mean.items()}
    squares = {f"square.{name}": array for name, array in optimizer.square.items()}
    return {"parameters": model.flat, "best": best, **means, **squares}


def path_of(inputs):
    return CHECKPOINTS / f"{identity(inputs)[:16]}.npz"


def newest_first():
    found = [(path.stat().st_mtime_ns, path) for path in CHECKPOINTS.glob("*.npz")]
    return [path for _, path in sorted(found, reverse=True)]


def save(inputs, progress, record, arrays):
    """Write a checkpoint; OSError leaves the former one as it is."""
    state = {"inputs": inputs.values, "progress": vars(progress), "record": vars(record)}
    try:
        CHECKPOINTS.mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {CHECKPOINTS}: {error.strerror}") from None
    with atomic_write(path_of(inputs)) as file:
        np.savez(file, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **arrays)
    for path in newest_first()[KEPT:]:
        path.unlink(missing_ok=True)


def remove(inputs):
    """Take away the checkpoint of a training that has finished."""
    path_of(inputs).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are left
        CHECKPOINTS.rmdir()


def read(path, names=()):
    """(inputs, progress, record, arrays) in a checkpoint, of its arrays those with some names.
    ValueError if it is damaged, or of another version.
    """
    try:
        with np.load(path) as saved:  # which checks each array's checksum, and unpickles nothing
            state = json.loads(bytes(saved["state"]))
            arrays = {name: saved[name] for name in names}
        record = Record.from_json(state["record"])
        return dict(state["inputs"]), Progress(**state["progress"]), record, arrays
    except OSError:
        raise
    except Exception as error:  # whatever damage provokes
        raise ValueError(f"it is damaged or of another version: {error}") from None


def resume(inputs, arrays):
    """Put arrays back as the last checkpoint of just this training has them; (progress, record), or
    None. Say of all other checkpoints why they are not used: they stay until newer ones come.
    """
    mine = path_of(inputs)
    for path in newest_first():
        if path != mine:
            explain(path, inputs)
    if not mine.exists():
        return None
    try:
        _, progress, record, found = read(mine, arrays)
        for name, array in arrays.items():
            if (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
                raise ValueError(f"{name} is not that of the model")
    except ValueError as error:
        warn(f"{mine} is not used ({error}): training starts from the beginning")
        mine.replace(mine.with_suffix(".damaged"))
        return None
    for name, array in arrays.items():
        array[...] = found[name]
    print(f"going on from {mine}, after step {progress.steps}")
    return progress, record


def explain(path, inputs):
    """Say why a checkpoint is not used."""
    try:
        former, progress, *_ = read(path)
    except ValueError as error:
        print(f"{path} is not used, and stays: {error}")
        return
    changes = inputs.differences(former) or "another NumPy"
    print(f"{path}, after step {progress.steps}, is not used, and stays: {changes}")

"""Checkpoints: the complete state of a training run, from which it resumes with bitwise identical
results.

A checkpoint is named after its run and the fingerprint of the run's inputs, so a run resumes only
from a checkpoint with the same inputs. It is stored in the checkout itself, where it outlives the
temporary copies in which DVC runs experiments.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from baregpt.files import atomic_write
from pipeline.common.paths import CHECKPOINTS
from pipeline.common.record import RunRecord
from pipeline.common.stage import defer_stop_signals, warn
from pipeline.training.progress import Progress

MAX_CHECKPOINTS = 2  # in total, not counting those of other active runs


def fingerprint(inputs):
    """Return a checksum of everything that determines the result of a training run."""
    text = json.dumps([inputs.values, np.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def state_arrays(model, optimizer):
    """Return name -> array for every array that training changes: `best` holds the parameters with
    the lowest validation loss.
    """
    first = {f"m.{name}": array for name, array in optimizer.m.items()}
    second = {f"v.{name}": array for name, array in optimizer.v.items()}
    return {"parameters": model.flat, "best": model.flat.copy(), **first, **second}


@dataclass
class Checkpoint:
    """A checkpoint on disk, without its arrays.

    number: higher than those of all other runs when it was written, whatever the clock says.
    """

    path: Path
    number: int
    inputs: dict
    progress: Progress
    record: RunRecord


def read_checkpoint(path):
    """Return the Checkpoint in a file. Raises ValueError if it is damaged or of another version."""
    try:
        with np.load(path) as saved:  # unpickles nothing
            state = json.loads(bytes(saved["state"]))
        progress, record = Progress(**state["progress"]), RunRecord(**state["record"])
        return Checkpoint(path, int(state["number"]), dict(state["inputs"]), progress, record)
    except Exception as error:  # any type: the file may hold anything
        reason = " ".join(str(error).split())
        raise ValueError(f"it is damaged or from another version: {reason}") from None


def read_arrays(path, arrays):
    """Return name -> array, with shapes and dtypes as in `arrays`. Raises ValueError otherwise."""
    try:
        with np.load(path) as saved:  # checks the checksum of each array
            found = {name: saved[name] for name in arrays}
    except Exception as error:
        raise ValueError(f"it is damaged or from another version: {error}") from None
    for name, array in arrays.items():
        if (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
            raise ValueError(f"{name} differs from the model's in shape or dtype")
    return found


def all_checkpoints():
    """Return all that can be read, the newest first."""
    found = []
    for path in CHECKPOINTS.glob("*.npz"):
        with contextlib.suppress(ValueError):
            found.append(read_checkpoint(path))
    return sorted(found, key=lambda checkpoint: -checkpoint.number)


class TrainingState:
    """Everything that a training run needs to resume: arrays, progress, and its MLflow record.

    interval: the number of steps between checkpoints.
    """

    def __init__(self, inputs, model, optimizer, progress, interval):
        self.inputs, self.progress, self.interval = inputs, progress, interval
        self.arrays = state_arrays(model, optimizer)
        self.record: RunRecord  # of its MLflow run; like the lock, set on rank 0 only
        self.lock: FileLock

    @property
    def path(self):
        run = self.record.name[:8]  # two runs with the same inputs may be active, in two copies
        return CHECKPOINTS / f"{fingerprint(self.inputs)[:16]}-{run}.npz"

    def begin(self, record):
        """Set the record of a training run that starts from the beginning."""
        self.record, self.lock = record, record.acquire_lock()

    def is_due(self, step):
        """Return whether to save a checkpoint after this step."""
        return step == 1 or step % self.interval == 0

    def save(self):
        """Write a checkpoint; after an OSError the previous one is intact."""
        others = [checkpoint for checkpoint in all_checkpoints() if checkpoint.path != self.path]
        state = {
            "number": 1 + max((other.number for other in others), default=0),
            "inputs": self.inputs.values,
            "progress": vars(self.progress),
            "record": vars(self.record),
        }
        try:
            CHECKPOINTS.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot write {CHECKPOINTS}: {error.strerror}") from None
        with defer_stop_signals(), atomic_write(self.path) as file:
            json_bytes = np.frombuffer(json.dumps(state).encode(), np.uint8)
            np.savez(file, state=json_bytes, **self.arrays)
        idle = [other for other in others if not other.record.is_running()]
        for other in idle[MAX_CHECKPOINTS - 1 :]:
            other.path.unlink(missing_ok=True)

    def delete(self):
        """Delete the checkpoint of a training run that has finished. The lock of its record is
        still held, so no other run resumes from it.
        """
        # with temporary files left by a killed process
        for path in CHECKPOINTS.glob(f"{self.path.name}*"):
            path.unlink()
        with contextlib.suppress(OSError):  # not empty
            CHECKPOINTS.rmdir()

    def resume(self):
        """Load the checkpoint of this training run; return whether there was one.

        For each checkpoint of another run, print how its inputs differ.
        """
        own = fingerprint(self.inputs)[:16]
        for path in sorted(CHECKPOINTS.glob("*.npz")):
            if not path.name.startswith(own):
                print_difference(path, self.inputs)
        for path in sorted(CHECKPOINTS.glob(f"{own}*.npz")):
            try:
                checkpoint = read_checkpoint(path)
                lock = checkpoint.record.acquire_lock(timeout=5)
                if lock is None:
                    continue  # it is running, in another copy
                saved = read_arrays(path, self.arrays)
            except ValueError as error:
                renamed = path.with_suffix(".damaged")
                with contextlib.suppress(OSError):  # that training run has ended in the meantime
                    path.replace(renamed)
                warn(f"ignored checkpoint {path}, now renamed to {renamed.name} ({error})")
                continue
            for name, array in self.arrays.items():
                array[...] = saved[name]
            self.progress, self.record, self.lock = checkpoint.progress, checkpoint.record, lock
            print(f"resuming from {path} after step {self.progress.completed_steps}")
            return True
        return False


def print_difference(path, inputs):
    """Print why this training run does not resume from a checkpoint."""
    try:
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        print(f"ignored checkpoint {path}: {error}")
        return
    reason = inputs.describe_differences(checkpoint.inputs) or "NumPy version differs"
    steps = checkpoint.progress.completed_steps
    print(f"ignored checkpoint {path} (step {steps}): {reason}")

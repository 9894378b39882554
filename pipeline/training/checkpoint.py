"""Checkpoints: the complete state of a training, from which it resumes bitwise identically.

A checkpoint is named after the fingerprint of the inputs of its training, so a training only
resumes from its own, and another experiment in between does not overwrite it.
"""

import contextlib
import hashlib
import json

import numpy as np

from baregpt.files import atomic_write
from pipeline.common.paths import CHECKPOINTS
from pipeline.common.stage import warn
from pipeline.training.progress import Progress

MAX_CHECKPOINTS = 2  # older ones are deleted when a new one is written


def fingerprint(inputs):
    """Return a checksum of everything that determines the result of a training."""
    text = json.dumps([inputs.values, np.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoint_path(inputs):
    return CHECKPOINTS / f"{fingerprint(inputs)[:16]}.npz"


def newest_first():
    found = [(path.stat().st_mtime_ns, path) for path in CHECKPOINTS.glob("*.npz")]
    return [path for _, path in sorted(found, reverse=True)]


def state_arrays(model, optimizer):
    """Return name -> array for every array that training changes: `best` holds the parameters with
    the lowest validation loss.
    """
    first = {f"m.{name}": array for name, array in optimizer.m.items()}
    second = {f"v.{name}": array for name, array in optimizer.v.items()}
    return {"parameters": model.flat, "best": model.flat.copy(), **first, **second}


def read_checkpoint(path, names=()):
    """Return (inputs, progress, record, the named arrays); ValueError if the file is damaged or
    from another version.
    """
    try:
        with np.load(path) as saved:  # checks the checksum of each array, unpickles nothing
            state = json.loads(bytes(saved["state"]))
            arrays = {name: saved[name] for name in names}
        return dict(state["inputs"]), Progress(**state["progress"]), state["record"], arrays
    except OSError:
        raise
    except Exception as error:  # of any type: the file may hold anything
        raise ValueError(f"it is damaged or from another version: {error}") from None


def print_difference(path, inputs):
    """Print why this training does not resume from a checkpoint."""
    try:
        other, progress, *_ = read_checkpoint(path)
    except ValueError as error:
        print(f"ignored checkpoint {path}: {error}")
        return
    reason = inputs.differences(other) or "NumPy version differs"
    print(f"ignored checkpoint {path} after step {progress.completed_steps}: {reason}")


class TrainingState:
    """Everything that a training needs to resume: arrays, progress, and the record of its run."""

    def __init__(self, inputs, model, optimizer, progress):
        self.inputs, self.model = inputs, model
        self.arrays = state_arrays(model, optimizer)
        self.progress = progress
        self.record = None  # the run's MLflow record; on rank 0 only

    def save(self):
        """Write a checkpoint; after an OSError the previous one is intact."""
        state = {"inputs": self.inputs.values, "progress": vars(self.progress)}
        state["record"] = vars(self.record)
        try:
            CHECKPOINTS.mkdir(exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot write {CHECKPOINTS}: {error.strerror}") from None
        with atomic_write(checkpoint_path(self.inputs)) as file:
            json_bytes = np.frombuffer(json.dumps(state).encode(), np.uint8)
            np.savez(file, state=json_bytes, **self.arrays)
        for path in newest_first()[MAX_CHECKPOINTS:]:
            path.unlink(missing_ok=True)

    def delete(self):
        """Delete the checkpoint of a training that has finished."""
        checkpoint_path(self.inputs).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            CHECKPOINTS.rmdir()

    def resume(self, parse_record):
        """Load the checkpoint of this training; return whether there was one.

        `parse_record` turns the JSON values of a record into the record, or raises ValueError. For
        each checkpoint of another training, print how its inputs differ.
        """
        path = checkpoint_path(self.inputs)
        for other in newest_first():
            if other != path:
                print_difference(other, self.inputs)
        if not path.exists():
            return False
        try:
            _, progress, record, saved = read_checkpoint(path, self.arrays)
            record = parse_record(record)
            for name, array in self.arrays.items():
                if (saved[name].shape, saved[name].dtype) != (array.shape, array.dtype):
                    raise ValueError(f"{name} does not have the shape and dtype of the model's")
        except ValueError as error:
            warn(f"ignored checkpoint {path} ({error}); training starts from the beginning")
            path.replace(path.with_suffix(".damaged"))
            return False
        for name, array in self.arrays.items():
            array[...] = saved[name]
        self.progress, self.record = progress, record
        print(f"resuming from {path} after step {progress.completed_steps}")
        return True

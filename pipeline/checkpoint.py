"""data/checkpoint.npz: all that a training needs to go on where it was, to the last bit."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from baregpt.files import atomic_write
from pipeline.stage import CHECKPOINT

CODE = [*sorted(Path("baregpt").glob("*.py")), Path("pipeline/train.py"), Path("pipeline/ranks.py")]


def fingerprint(settings, files):
    """One checksum of all that decides what a training makes: settings (JSON values), files, and code."""
    sha = hashlib.sha256(json.dumps([settings, np.__version__], sort_keys=True).encode())
    for path in [*files, *CODE]:
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def save_checkpoint(state, arrays):
    """Write state (JSON values) and arrays, name -> array; OSError leaves the former checkpoint as it is."""
    with atomic_write(CHECKPOINT) as file:
        np.savez(file, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **arrays)


def load_checkpoint():
    """(state, arrays) of the last checkpoint; None if there is none, or if the disk has damaged it; else OSError."""
    try:
        with np.load(CHECKPOINT) as saved:  # which checks each array's checksum, and unpickles nothing
            arrays = dict(saved)
        return json.loads(bytes(arrays.pop("state"))), arrays
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception as error:  # whatever damage provokes
        warn_of_damage(error)
        return None


def warn_of_damage(reason):
    print(f"warning: {CHECKPOINT} is damaged ({reason}): training starts from the beginning", file=sys.stderr)

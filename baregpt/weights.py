"""weights.pkl: a plain pickle of built-in types, so that anyone can open it.

{"config": {...}, "characters": "...", "parameters": {name: array}, "metadata": {...}}, where an
array is {"dtype": "<f4", "shape": [256, 768], "data": bytes}, for NumPy:

    np.frombuffer(array["data"], array["dtype"]).reshape(array["shape"])

A pickle is a program, and `pickle.load` runs whatever it says. Our own loader first looks at every
instruction, and lets through only those that build data: they neither find nor call anything.
"""

import pickle
import pickletools
from pathlib import Path

import numpy as np

from baregpt.files import atomic_write
from baregpt.model import GPT, Config, parameter_shapes
from baregpt.vocab import Vocab

INSTRUCTIONS = set(
    "PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE"
    " BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES"
    " BINBYTES BINBYTES8 EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS".split()
)
AT_MOST = 50_000  # instructions: 250 layers
# A place far out in the memo takes memory; of longer numbers thousands could collide in a dict.
LARGEST = {"LONG_BINPUT": AT_MOST, "LONG1": 2**63}
SCALARS = {str, int, float, bool, type(None)}
PRECISIONS = {"<f2", "<f4", "<f8"}


def save_weights(path, model, vocab, metadata=None):
    """Write model, vocabulary and metadata (name -> str, int, float, bool or None) whole or not at
    all; OSError.
    """
    arrays = {
        name: {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}
        for name, array in model.parameters.items()
    }
    contents = {"config": dict(vars(model.config)), "characters": vocab.characters}
    contents |= {"parameters": arrays, "metadata": metadata or {}}
    with atomic_write(path) as file:
        pickler = pickle.Pickler(file, protocol=4)  # fixed: every Python writes the same bytes
        pickler.fast = True  # no references to what came before, which tell equal from same
        pickler.dump(contents)


def load_weights(path):
    """(model, vocab) from a weights file, our own or a stranger's; raises as `read_weights`."""
    return read_weights(path)[:2]


def read_weights(path):
    """(model, vocab, metadata) from a weights file; ValueError, in one line, if it is anything but
    sound; OSError.
    """
    data = Path(path).read_bytes()
    try:
        _screen(data)
        return _checked(pickle.loads(data))
    except Exception as error:  # whatever a damaged or hostile file provokes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path} is not a sound BareGPT weights file ({reason})") from None


def _screen(data):
    """ValueError unless a pickle only builds data, and not more than a model has."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # finds sizes true
        name = opcode.name
        if name not in INSTRUCTIONS:
            raise ValueError(f"it holds the instruction {name}: if it is old, train anew")
        if count > AT_MOST or (argument and name in LARGEST and abs(argument) > LARGEST[name]):
            raise ValueError("it holds far more than a model has")


def _checked(contents):
    """(model, vocab, metadata) from what was read, if it all fits together."""
    config, characters, metadata = (contents[k] for k in ("config", "characters", "metadata"))
    for value in [characters, *config.values(), *metadata, *metadata.values()]:
        if type(value) not in SCALARS:
            raise ValueError(f"it holds a {type(value).__name__} where text or a number belongs")
    config, vocab = Config(**config), Vocab(characters)
    arrays = {name: _array(**entry) for name, entry in contents["parameters"].items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    fits = config.n_layers <= len(arrays) and shapes == parameter_shapes(config)
    if not fits or config.vocab_size != len(vocab):
        raise ValueError("its config, its vocabulary and its parameters do not fit together")
    model = GPT(config, dtype=np.result_type(np.float32, *arrays.values()))
    for name, array in arrays.items():
        model.parameters[name][...] = array
    if not np.isfinite(model.flat).all():
        raise ValueError("its parameters hold NaN or infinity")
    return model, vocab, metadata


def _array(dtype, shape, data):
    """An array of floating-point numbers from its parts."""
    if dtype not in PRECISIONS:
        raise ValueError("an array in it is not of little-endian floating-point numbers")
    return np.frombuffer(data, dtype).reshape(shape)

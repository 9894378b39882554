"""weights.pkl: a plain pickle of built-in types, so that anyone can open it.

{"config": {...}, "characters": "...", "parameters": {name: array}, "metadata": {...}}, where an
array is {"dtype": "<f4", "shape": [256, 768], "data": bytes}. In NumPy:

    np.frombuffer(array["data"], array["dtype"]).reshape(array["shape"])

A pickle is a program, and `pickle.load` runs it. This loader first checks every opcode and accepts
only those that build data, so a file can neither import nor call anything.
"""

import pickle
import pickletools
from dataclasses import replace
from pathlib import Path

import numpy as np

from baregpt.files import atomic_write
from baregpt.model import GPT, Config, parameter_shapes
from baregpt.vocab import Vocab

PRETRAINED = Path(__file__).with_name("pretrained.pkl")
SAFE_OPCODES = set(
    "PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE "
    "BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES "
    "BINBYTES BINBYTES8 EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS".split()
)
MAX_OPCODES = 50_000  # enough for 250 layers
# A large memo index allocates memory, and thousands of large integers can collide in a dict.
MAX_ARGUMENT = {"LONG_BINPUT": MAX_OPCODES, "LONG1": 2**63}


def save_weights(path, model, vocab, metadata=None):
    """Write a model, its vocabulary and metadata to a weights file, atomically.

    metadata: name -> str, int, float, bool or None. Raises OSError if the file cannot
    be written.
    """
    arrays = {
        name: {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}
        for name, array in model.parameters.items()
    }
    contents = {"config": dict(vars(model.config)), "characters": vocab.characters}
    contents |= {"parameters": arrays, "metadata": metadata or {}}
    with atomic_write(path) as file:
        pickler = pickle.Pickler(file, protocol=4)  # fixed, so that every Python writes these bytes
        pickler.fast = True  # no memo, whose entries depend on object identity
        pickler.dump(contents)


def load_weights(path):
    """Return (model, vocab) from a weights file; raises the same errors as `read_weights`."""
    return read_weights(path)[:2]


def load_pretrained():
    """Return (model, vocab) from the weights that are included in this package."""
    return load_weights(PRETRAINED)


def read_weights(path):
    """Return (model, vocab, metadata) from a weights file, which may be untrusted.

    Raises ValueError, with a one-line message, if it is not a valid weights file, and OSError if it
    cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        _check_opcodes(data)
        return _build(pickle.loads(data))
    except Exception as error:  # a damaged or hostile file may provoke any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path} is not a valid BareGPT weights file ({reason})") from None


def _check_opcodes(data):
    """Raise ValueError unless a pickle only builds data, and no more than a model needs."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # checks sizes, too
        if opcode.name not in SAFE_OPCODES:
            raise ValueError(f"pickle opcode {opcode.name} is not allowed")
        limit = MAX_ARGUMENT.get(opcode.name)
        if count > MAX_OPCODES or (limit and abs(argument or 0) > limit):
            raise ValueError("it holds more data than a model needs")


def _build(contents):
    """Return (model, vocab, metadata). Raises ValueError if the contents are inconsistent."""
    config, characters, metadata = (contents[k] for k in ("config", "characters", "metadata"))
    for value in [characters, *config.values(), *metadata, *metadata.values()]:
        if type(value) not in {str, int, float, bool, type(None)}:
            raise ValueError(f"expected text or a number, got {type(value).__name__}")
    if unknown := config.keys() - Config.__annotations__.keys():
        raise ValueError(f"config has the unknown field {min(map(str, unknown))}; train again")
    config, vocab = Config(**config), Vocab(characters)
    if config.vocab_size != len(vocab):
        raise ValueError(f"vocab_size must be {len(vocab)} (characters), got {config.vocab_size}")
    arrays = {name: _array(**entry) for name, entry in contents["parameters"].items()}
    # with at most one layer too many, because a huge n_layers implies too many shapes to list
    shapes = parameter_shapes(replace(config, n_layers=min(config.n_layers, len(arrays) + 1)))
    diff = [n for n in {**arrays, **shapes} if getattr(arrays.get(n), "shape", 0) != shapes.get(n)]
    if diff:
        raise ValueError(f"parameter {diff[0]} does not match this code; train again")
    model = GPT(config, dtype=np.result_type(np.float32, *arrays.values()))
    for name, array in arrays.items():
        model.parameters[name][...] = array
    if not np.isfinite(model.flat).all():
        raise ValueError("its parameters contain NaN or infinity")
    return model, vocab, metadata


def _array(dtype, shape, data):
    """An array of floating-point numbers from its parts."""
    if dtype not in {"<f2", "<f4", "<f8"}:
        raise ValueError("an array has a dtype other than <f2, <f4 or <f8")
    return np.frombuffer(data, dtype).reshape(shape)

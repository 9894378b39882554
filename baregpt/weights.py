"""weights.pkl: a plain pickle of built-in types and NumPy arrays, so that anyone with NumPy can open it.

{"config": {...}, "characters": "...", "parameters": {name: array}, "metadata": {...}}

A pickle is a program, and `pickle.load` runs whatever it says. Our own loader reads a file through first, refuses it if
it holds any instruction but those that build data, and has calls written down instead of made.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from baregpt.files import atomic_write
from baregpt.model import GPT, Config, parameter_shapes
from baregpt.vocab import Vocab

INSTRUCTIONS = "PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE EMPTY_DICT"
INSTRUCTIONS += " BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES"
INSTRUCTIONS += " BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS"
INSTRUCTIONS += " GLOBAL STACK_GLOBAL REDUCE BUILD"


class _Call:
    """A call that a pickle asks for: the name of the function is that of the class, and nothing happens."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        return type(f"{module}.{name}", (_Call,), {})


def save_weights(path, model, vocab, metadata=None):
    """Write model, vocabulary and metadata (name -> str, int, float, bool or None) whole or not at all; OSError."""
    contents = {"config": dict(vars(model.config)), "characters": vocab.characters, "parameters": model.parameters}
    with atomic_write(path) as file:  # the protocol is fixed, so that every Python writes the same bytes
        pickle.dump(contents | {"metadata": metadata or {}}, file, protocol=4)


def load_weights(path):
    """(model, vocab) from a weights file, our own or a stranger's; raises as `read_weights` does."""
    return read_weights(path)[:2]


def read_weights(path):
    """(model, vocab, metadata) from a weights file; ValueError, in one line, if it is anything but sound; OSError."""
    data = Path(path).read_bytes()
    try:
        return _checked(_unpickled(data))
    except Exception as error:  # whatever a damaged or hostile file provokes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path} is not a sound BareGPT weights file ({reason})") from None


def _unpickled(data):
    """What a pickle builds, with a `_Call` in place of each call."""
    memo, top, built = dict[Any, str](), "", 0  # top: the instruction that made what is on top of the stack
    for opcode, argument, _ in pickletools.genops(data):  # finds all sizes to be true before memory is taken
        built += opcode.name.startswith(("TUPLE", "GLOBAL", "STACK_GLOBAL"))  # deep tuples would crash Python
        if opcode.name not in INSTRUCTIONS.split() or built > 9999:
            raise ValueError(f"it holds the instruction {opcode.name}, which no weights file needs, or too often")
        if opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            if argument not in (None, len(memo)):
                raise ValueError("its memo is out of order")
            memo[len(memo)] = top
        elif opcode.name in ("BINGET", "LONG_BINGET") and memo[argument].startswith(("TUPLE", "SET", "BUILD")):
            raise ValueError("it uses a tuple twice")  # a tower of such doubles with each floor, and so does its hash
        elif opcode.name not in ("PROTO", "FRAME"):
            top = opcode.name
    return _Unpickler(io.BytesIO(data)).load()


def _array(call):
    """The array behind a call, in either of NumPy's two ways, if its numbers are floating-point."""
    function = type(call).__name__.replace("numpy._core.", "numpy.core.")  # NumPy 2 moved it
    if function == "numpy.core.multiarray._reconstruct":
        _, shape, dtype, is_fortran, data = call.state
    elif function == "numpy.core.numeric._frombuffer":
        data, dtype, shape, order = call.arguments
        is_fortran = order == "F"
    else:
        raise ValueError(f"it calls {function}")
    if type(dtype).__name__ != "numpy.dtype" or dtype.arguments[0] not in ("f2", "f4", "f8") or dtype.state[1] != "<":
        raise ValueError("an array in it is not of little-endian floating-point numbers")
    return np.frombuffer(data, dtype.arguments[0]).reshape(shape, order="F" if is_fortran else "C")


def _checked(contents):
    """(model, vocab, metadata) from what was read, if it all fits together."""
    for value in [contents["characters"], *contents["config"].values(), *sum(contents["metadata"].items(), ())]:
        if type(value) not in (str, int, float, bool, type(None)):
            raise ValueError(f"it holds a {type(value).__name__} where text or a number belongs")
    config, vocab = Config(**contents["config"]), Vocab(contents["characters"])
    arrays = {name: _array(call) for name, call in contents["parameters"].items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if config.n_layers > len(arrays) or parameter_shapes(config) != shapes or len(vocab) != config.vocab_size:
        raise ValueError("its config, its vocabulary and its parameters do not fit together")
    model = GPT(config, dtype=np.result_type(np.float32, *arrays.values()))
    model.flat[:] = np.concatenate([arrays[name].ravel() for name in model.parameters])
    if not np.isfinite(model.flat).all():
        raise ValueError("its parameters hold NaN or infinity")
    return model, vocab, contents["metadata"]

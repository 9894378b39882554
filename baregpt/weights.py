"""weights.pkl: a plain pickle of built-in types and NumPy arrays, so that anyone with NumPy can open it.

{"config": {...}, "characters": "...", "parameters": {name: array}, "metadata": {...}}

A pickle is a program, and `pickle.load` runs whatever it says. Our own loader is a small machine instead: it follows
the instructions that build data, writes calls down without making them, and knows no others.
"""

import pickle
import pickletools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from baregpt.files import atomic_write
from baregpt.model import GPT, Config, parameter_shapes
from baregpt.vocab import Vocab

# Instructions: those that carry a value, those that stand for one, and how many values others take off the stack.
LITERALS = set("BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8".split())
LITERALS |= set("SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8".split())
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
OPERANDS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "SETITEM": 2, "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1}


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
    """What a pickle builds, with a note of name, arguments and state in place of each call."""
    stack, marks, memo = list[Any](), list[int](), dict[Any, Any]()
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        count = len(stack) - marks.pop() if name in ("TUPLE", "SETITEMS") else OPERANDS.get(name, 0)
        operands = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name.startswith("TUPLE"):
            stack.append(tuple(operands))
        elif name.startswith("SETITEM") and all(isinstance(key, str) for key in operands[::2]):
            stack[-1].update(zip(operands[::2], operands[1::2], strict=True))
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(SimpleNamespace(name=".".join(operands or str(argument).split(" ")), state=None))
        elif name == "REDUCE":
            stack.append(SimpleNamespace(name=operands[0].name, arguments=operands[1], state=None))
        elif name == "BUILD":
            stack[-1].state = operands[0]
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"it holds the instruction {name}, which no weights file needs")
    return stack.pop()


def _array(call):
    """The array behind a call, in either of NumPy's two ways, if its numbers are floating-point and finite."""
    function = call.name.replace("numpy._core.", "numpy.core.")  # NumPy 2 moved it
    if function == "numpy.core.multiarray._reconstruct":
        _, shape, dtype, is_fortran, data = call.state
    elif function == "numpy.core.numeric._frombuffer":
        data, dtype, shape, order = call.arguments
        is_fortran = order == "F"
    else:
        raise ValueError(f"it calls {call.name}")
    if dtype.name != "numpy.dtype" or dtype.arguments[0] not in ("f2", "f4", "f8") or dtype.state[1] != "<":
        raise ValueError("an array in it is not of little-endian floating-point numbers")
    array = np.frombuffer(data, dtype.arguments[0]).reshape(shape, order="F" if is_fortran else "C")
    if not np.isfinite(array).all():
        raise ValueError("an array in it holds NaN or infinity")
    return array


def _checked(contents):
    """(model, vocab, metadata) from what was read, if it all fits together."""
    for value in [contents["characters"], *contents["config"].values(), *contents["metadata"].values()]:
        if type(value) not in (str, int, float, bool, type(None)):
            raise ValueError(f"it holds a {type(value).__name__} where text or a number belongs")
    config, vocab = Config(**contents["config"]), Vocab(contents["characters"])
    arrays = {name: _array(call) for name, call in contents["parameters"].items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if config.n_layers > len(arrays) or parameter_shapes(config) != shapes or len(vocab) != config.vocab_size:
        raise ValueError("its config, its vocabulary and its parameters do not fit together")
    model = GPT(config, dtype=np.result_type(np.float32, *arrays.values()))
    model.flat[:] = np.concatenate([arrays[name].ravel() for name in model.parameters])
    return model, vocab, contents["metadata"]

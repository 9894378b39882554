"""The weights file: what was saved comes back, and nothing but that comes in."""

import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from baregpt import GPT, Config, Vocab, load_weights, save_weights, weights
from baregpt.weights import read_weights

VOCAB = Vocab("abcdé")
MODEL = GPT(Config(5, block_size=4, d_model=4, n_heads=2, n_layers=2), seed=1)
METADATA = {"steps": 3, "loss": 1.25, "corpus": "x", "best": True, "none": None}


def as_stored(array):
    """An array as a weights file has it."""
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}


def contents(**changes):
    parts = {
        "config": dict(vars(MODEL.config)),
        "characters": VOCAB.characters,
        "parameters": {name: as_stored(array) for name, array in MODEL.parameters.items()},
    }
    return parts | {"metadata": METADATA} | changes


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data, protocol=4))
    return path


def test_load_inverts_save(tmp_path):
    save_weights(tmp_path / "weights.pkl", MODEL, VOCAB, METADATA)
    model, vocab = load_weights(tmp_path / "weights.pkl")
    assert model.config == MODEL.config
    assert vocab.characters == VOCAB.characters
    assert (model.flat == MODEL.flat).all()
    assert read_weights(tmp_path / "weights.pkl")[2] == METADATA


def test_anyone_with_numpy_can_open_it(tmp_path):
    save_weights(tmp_path / "weights.pkl", MODEL, VOCAB, METADATA)
    opened = pickle.loads((tmp_path / "weights.pkl").read_bytes())
    assert opened.keys() == {"config", "characters", "parameters", "metadata"}
    for name, array in opened["parameters"].items():
        found = np.frombuffer(array["data"], array["dtype"]).reshape(array["shape"])
        assert (found == MODEL.parameters[name]).all()


def test_same_weights_give_the_same_bytes(tmp_path):
    save_weights(tmp_path / "first.pkl", MODEL, VOCAB, METADATA)
    save_weights(tmp_path / "second.pkl", *load_weights(tmp_path / "first.pkl"), dict(METADATA))
    assert (tmp_path / "first.pkl").read_bytes() == (tmp_path / "second.pkl").read_bytes()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_pickle_protocols_are_read(tmp_path, protocol):
    path = write(tmp_path / "w.pkl", pickle.dumps(contents(), protocol=protocol))
    assert (load_weights(path)[0].flat == MODEL.flat).all()


@pytest.mark.parametrize(("stored", "loaded"), [(np.float16, np.float32), (np.float64, np.float64)])
def test_other_dtypes_are_read(tmp_path, stored, loaded):
    arrays = {name: as_stored(array.astype(stored)) for name, array in MODEL.parameters.items()}
    model, _ = load_weights(write(tmp_path / "w.pkl", contents(parameters=arrays)))
    assert model.flat.dtype == loaded
    assert model.flat == pytest.approx(MODEL.flat, rel=1e-3)


class Bomb:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def nested_tuples(depth):
    """Small to store, but 2**depth steps to hash, compare or print."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def nested_lists(depth):
    value = []
    for _ in range(depth):
        value = [value, value]
    return value


def with_entry(entry):
    return contents(parameters=contents()["parameters"] | {"head.bias": entry})


def with_array(array, **changes):
    return with_entry(as_stored(array) | changes)


def oversized_files():
    """Name -> files of a megabyte or so that would take seconds."""
    yield "metadata without end", contents(metadata={str(i): i for i in range(80_000)})
    colliding = {i * (2**61 - 1): i for i in range(1, 8_000)}  # all of the same hash
    yield "numbers that collide", contents(metadata=colliding)
    yield "a config without end", contents(config={str(i): i for i in range(80_000)})
    yield "parameters without end", contents(parameters={str(i): {} for i in range(80_000)})


def invalid_files():
    """Name -> what to write into the weights file."""
    good = pickle.dumps(contents(), protocol=4)
    inf = np.full(5, np.inf, np.float32)
    yield "empty", b""
    yield "text", b"not a pickle\n"
    yield "cut off", good[: len(good) // 2]
    yield "cut off in an array", good[:-200]
    yield "not a mapping", 42
    yield "a list", [contents()]
    yield "nothing in it", {}
    for part in contents():
        yield f"no {part}", {name: value for name, value in contents().items() if name != part}
    yield "unknown config", contents(config=vars(MODEL.config) | {"extra": 1})
    yield "impossible config", contents(config=vars(MODEL.config) | {"n_heads": 3})
    yield "config of another model", contents(config=vars(MODEL.config) | {"d_model": 8})
    yield "a billion layers", contents(config=vars(MODEL.config) | {"n_layers": 10**9})
    yield "no parameters", contents(parameters={})
    deep = vars(MODEL.config) | {"n_layers": 10**9}
    yield "a billion layers without parameters", contents(config=deep, parameters={})
    yield "a huge width", contents(config=vars(MODEL.config) | {"d_model": 10**12})
    yield (
        "config nested without end",
        contents(config=vars(MODEL.config) | {"d_model": nested_tuples(60)}),
    )
    yield "vocabulary nested without end", contents(characters=(nested_tuples(60),))
    yield "metadata nested without end", contents(metadata={"steps": nested_tuples(60)})
    yield "vocabulary of another model", contents(characters="abcd")
    yield "vocabulary with a character twice", contents(characters="abcda")
    yield "NaN", with_array(np.full(5, np.nan, np.float32))
    yield "infinity", with_array(inf)
    yield "wrong shape", with_array(np.zeros(6, np.float32))
    yield "integers", with_array(np.zeros(5, np.int32))
    yield "complex numbers", with_array(np.zeros(5, np.complex64))
    yield "objects", with_array(np.zeros(5, np.float32), dtype="|O")
    yield "big-endian", with_array(np.zeros(5, ">f4"))
    yield "records", with_array(np.zeros(5, np.float32), dtype=[["a", "<f4"]])
    yield "text for an array", with_entry("hello")
    yield "text for numbers", with_array(np.zeros(5, np.float32), data="hello")
    yield "fewer numbers than it says", with_array(np.zeros(5, np.float32), data=bytes(16))
    yield "a shape of text", with_array(np.zeros(5, np.float32), shape="5")
    yield "a shape nested without end", with_array(np.zeros(5, "<f4"), shape=nested_lists(60))
    yield "a dtype nested without end", with_array(np.zeros(5, "<f4"), dtype=nested_lists(60))
    yield (
        "config of nested lists",
        contents(config=vars(MODEL.config) | {"rotary": nested_lists(60)}),
    )
    yield "metadata of nested lists", contents(metadata={"steps": nested_lists(60)})
    yield "an array with a part too many", with_array(np.zeros(5, np.float32), order="F")
    yield "as written before, with NumPy's arrays", with_entry(np.zeros(5, np.float32))
    yield from oversized_files()
    yield (
        "a parameter too many",
        contents(parameters=contents()["parameters"] | {"extra": as_stored(inf)}),
    )
    yield "claims a huge array", b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x."
    yield "claims a huge text", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x."
    yield "claims a huge frame", b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N."
    yield "a memo place far out", b"\x80\x04Nr" + struct.pack("<I", (1 << 32) - 1) + b"."
    yield "an unknown memo place", b"\x80\x04h\x07."
    yield "an empty stack", b"\x80\x04\x85."
    yield "no mark", b"\x80\x04t."
    yield "too many tuples", b"\x80\x04})" + b"\x85" * 10_000 + b"Ns."
    # opcodes that leave a tuple as it is
    for name, nothing in (("fills", b"(u"), ("builds", b"Nb")):
        floors = b"".join(b"h" + bytes([i]) + b"\x86" + nothing + b"\x94" for i in range(60))
        yield (
            f"a tower of tuples that it {name}",
            b"\x80\x04})" + nothing + b"\x94" + floors + b"Ns.",
        )
    yield "metadata under a number", contents(metadata={b"steps": 1})
    yield "itself inside itself", b"\x80\x04}\x94\x8c\x06configh\x00s."


@pytest.mark.parametrize(
    ("name", "data"), [pytest.param(*case, id=case[0]) for case in invalid_files()]
)
def test_invalid_file_gives_a_one_line_error(tmp_path, name, data):
    path = write(tmp_path / "strange.pkl", data)
    with pytest.raises(
        ValueError, match=r"strange\.pkl is not a valid BareGPT weights file \(.+\)$"
    ) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "data"), [pytest.param(*case, id=case[0]) for case in oversized_files()]
)
def test_oversized_file_is_refused_after_a_bounded_number_of_steps(tmp_path, name, data):
    """Counted, not timed: each opcode takes a line of Python, and their number is limited."""
    path = write(tmp_path / "w.pkl", data)
    steps = 0

    def count(frame, event, argument):
        nonlocal steps
        steps += 1
        return count

    sys.settrace(count)
    try:
        with pytest.raises(ValueError, match="more data than a model needs"):
            load_weights(path)
    finally:
        sys.settrace(None)
    assert steps < 100 * weights.MAX_OPCODES


def test_tuples_too_deep_for_python_are_refused_before_it_crashes(tmp_path):
    path = write(tmp_path / "w.pkl", b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.")
    code = f"import baregpt; baregpt.load_weights({str(path)!r})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 1
    assert "is not a valid BareGPT weights file" in process.stderr


def hostile(target):
    import functools
    import os
    import shutil
    import subprocess

    command = f"touch {target}"
    yield "os.system", Bomb(os.system, command)
    yield "subprocess", Bomb(subprocess.call, ["touch", str(target)])
    yield "eval", Bomb(eval, f"open({str(target)!r}, 'w')")
    yield "exec", Bomb(exec, f"open({str(target)!r}, 'w')")
    yield "open", Bomb(open, str(target), "w")
    yield "functools.partial", Bomb(functools.partial, os.system, command)
    yield "getattr", Bomb(getattr, Bomb(__import__, "os"), "system")
    yield "numpy.savetxt", Bomb(np.savetxt, str(target), [1.0])
    yield "numpy.fromfile", Bomb(np.fromfile, str(target))
    yield "numpy.memmap", Bomb(np.memmap, str(target), "f4", "w+", 0, (5,))
    yield "shutil.copy", Bomb(shutil.copy, "/etc/hostname", str(target))
    yield "objects in an array", np.array([Bomb(os.system, command)] * 5, dtype=object)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["whole", "array", "config", "metadata"])
def test_code_in_a_file_never_runs(tmp_path, protocol, place):
    target = tmp_path / "trace"
    for name, bomb in hostile(target):
        data = {
            "whole": bomb,
            "array": with_entry(bomb),
            "config": contents(config=vars(MODEL.config) | {"d_model": bomb}),
            "metadata": contents(metadata={"steps": bomb}),
        }[place]
        path = write(tmp_path / "hostile.pkl", pickle.dumps(data, protocol=protocol))
        with pytest.raises(ValueError, match="is not a valid BareGPT weights file"):
            load_weights(path)
        assert not target.exists(), name


def test_every_pickle_opcode_alone_is_refused(tmp_path):
    """A file that consists of one opcode."""
    for opcode in pickletools.opcodes:
        with pytest.raises(ValueError, match="is not a valid"):
            load_weights(
                write(
                    tmp_path / "w.pkl",
                    b"\x80\x04NNN" + opcode.code.encode("latin1") + b"\x00" * 16 + b".",
                )
            )


def test_thousands_of_damaged_files_are_refused_or_loaded(tmp_path):
    """See fuzz.py; `make torture` loads FUZZED=100000 of them."""
    seed = str(int.from_bytes(os.urandom(4)))
    command = [
        sys.executable,
        Path(__file__).with_name("fuzz.py"),
        tmp_path,
        os.environ.get("FUZZED", "2000"),
        seed,
    ]
    process = subprocess.run(command, capture_output=True, text=True)
    print(f"seed {seed}: {process.stdout}")
    assert process.returncode == 0, process.stdout + process.stderr


def test_file_of_a_version_with_other_config_fields_names_the_field(tmp_path):
    old = contents(config=vars(MODEL.config) | {"convolution": False})
    with pytest.raises(ValueError, match="config has the unknown field convolution; train again"):
        load_weights(write(tmp_path / "w.pkl", old))


def test_file_of_other_code_names_the_parameter(tmp_path):
    extra = contents()["parameters"] | {"final_norm.gain": as_stored(np.ones(4, np.float32))}
    with pytest.raises(ValueError, match=r"parameter final_norm\.gain does not match"):
        load_weights(write(tmp_path / "w.pkl", contents(parameters=extra)))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.pkl")


def test_a_failed_save_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "weights.pkl"
    save_weights(path, MODEL, VOCAB, METADATA)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        save_weights(path, MODEL, VOCAB, {"not picklable": lambda: 0})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

"""Load thousands of damaged weights files: python tests/fuzz.py FOLDER COUNT SEED

Each is a good file with a few random changes. Whatever it is, loading it gives a valid model or a
ValueError of one line: any other error, any attempt to run something, and any file that takes much
memory or time ends this program.
"""

import codecs
import collections
import io
import os
import pickle
import re
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from baregpt import GPT, Config, Vocab, load_weights

OPCODES = [
    ord(value)
    for name, value in vars(pickle).items()
    if name.isupper() and type(value) is bytes and len(value) == 1
]
FORBIDDEN = (
    "os.",
    "subprocess.",
    "exec",
    "compile",
    "import",
    "socket.",
    "shutil.",
    "ctypes.",
    "pty.",
    "code.",
)


def good_files():
    """Valid files, written with different pickle protocols and options."""
    model = GPT(Config(3, block_size=2, d_model=4, n_heads=2, n_layers=1), seed=1)
    vocab = Vocab("abé")
    arrays = {
        name: {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}
        for name, array in model.parameters.items()
    }
    contents = {"config": dict(vars(model.config)), "characters": vocab.characters}
    contents["parameters"] = arrays
    contents["metadata"] = {"steps": 3, "loss": 1.25, "corpus": "x", "best": True, "none": None}
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps(contents, protocol=protocol)
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True  # as save_weights does
    pickler.dump(contents)
    yield buffer.getvalue()


def mutate(data, files, random):
    """A few changes at random places: other bytes, other instructions, pieces lost, doubled, or
    from another file.
    """
    data = bytearray(data)
    for _ in range(random.integers(1, 6)):
        start, length = int(random.integers(len(data) + 1)), int(random.geometric(0.1))
        match random.integers(7):
            case 0:
                data[start : start + 1] = random.bytes(1)
            case 1:
                data[start : start + 1] = bytes([random.choice(OPCODES)])
            case 2:
                del data[start : start + length]
            case 3:
                data[start:start] = data[start : start + length]
            case 4:
                data[start:start] = bytes(random.choice(OPCODES, length).astype(np.uint8))
            case 5:
                other = files[random.integers(len(files))]
                there = int(random.integers(len(other)))
                data[start : start + length] = other[there : there + length]
            case 6:  # a size or a number that is out of all proportion
                data[start : start + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


def main(folder, count, seed):
    random, files, outcomes = np.random.default_rng(seed), list(good_files()), collections.Counter()
    path, stage = Path(folder) / "fuzzed.pkl", ["loading"]
    for codec in (
        "ascii",
        "latin-1",
        "utf-8",
        "raw-unicode-escape",
    ):  # which Python imports when it first needs them
        codecs.lookup(codec)
    for data in files:
        path.write_bytes(data)
        load_weights(path)

    def watch(event, arguments):
        opens_another = event == "open" and arguments[0] != str(path)
        if stage[0] == "loading" and (event.startswith(FORBIDDEN) or opens_another):
            print(f"file {i}: {event} {arguments}: see {path}", flush=True)
            os._exit(1)

    stage[0] = "between"
    sys.addaudithook(watch)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    for i in range(count):
        data = mutate(files[random.integers(len(files))], files, random)
        path.write_bytes(data)
        signal.alarm(60)
        stage[0] = "loading"
        try:
            model, vocab = load_weights(path)
        except ValueError as error:
            outcome = "refused"
            assert "\n" not in str(error) and len(str(error)) < 500, (
                f"file {i}: {error}: see {path}"
            )
        else:
            outcome = "valid"
            assert np.isfinite(model.flat).all() and len(vocab) == model.config.vocab_size, (
                f"file {i}: see {path}"
            )
        stage[0] = "between"
        outcomes[outcome] += 1
    signal.alarm(0)
    # Linux's own count: that of `resource` begins with the peak of whatever started this program.
    if sys.platform == "linux":
        peak = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20  # in bytes, on macOS
    refused, valid = outcomes["refused"], outcomes["valid"]
    print(f"{count} files: {refused} refused, {valid} valid; {peak} MiB of memory at most")
    assert outcomes["refused"] and outcomes["valid"], "otherwise, this tests nothing"
    assert peak < 128


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""prepare: check the corpus, and make its line ends alike."""

import hashlib
import json
from pathlib import Path

from baregpt.files import atomic_write
from pipeline.common.params import load_params
from pipeline.common.stage import CORPUS, TEXT, run


def read_corpus(path):
    """The bytes of a corpus; ValueError if there are none to be had."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        mend = "put a text file there, or change corpus.path"
        raise ValueError(f"corpus {path} does not exist: {mend}") from None
    except OSError as error:
        wrong = f"cannot be read ({error.strerror})"
        raise ValueError(f"corpus {path} {wrong}: change corpus.path") from None


def clean(data, path):
    """The text in a corpus, without byte-order mark and with one kind of line end; ValueError if it
    holds none.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise ValueError(f"corpus {path} is not UTF-8 text ({wrong}): save it as UTF-8") from None
    if "\0" in text:
        where = f"at position {text.index(chr(0))}"
        raise ValueError(f"corpus {path} has a NUL character {where}: save it as UTF-8 text")
    if not text.strip():
        raise ValueError(f"corpus {path} is empty: it needs text to learn from")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def prepare():
    corpus = load_params().corpus
    data = read_corpus(corpus.path)
    checksums = {name: hashlib.new(name, data).hexdigest() for name in ("md5", "sha256")}
    if corpus.sha256 not in (None, checksums["sha256"]):
        is_ = f"corpus {corpus.path} has sha256 {checksums['sha256']}"
        raise ValueError(f"{is_}, but corpus.sha256 is {corpus.sha256}")
    text = clean(data, corpus.path)
    with atomic_write(TEXT) as file:
        file.write(text.encode())
    with atomic_write(CORPUS) as file:
        file.write(json.dumps(checksums, indent=2).encode() + b"\n")
    print(f"{corpus.path}: {len(text):,} characters")


if __name__ == "__main__":
    run(prepare, "prepare")

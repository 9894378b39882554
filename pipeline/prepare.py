"""prepare: check the corpus, and make its line ends alike."""

import hashlib
from pathlib import Path

from baregpt.files import atomic_write
from pipeline.params import load_params
from pipeline.stage import TEXT, run


def read_corpus(path, sha256=None):
    """The text of a corpus, without byte-order mark and with "\\n" line ends; ValueError for what is not a text."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"corpus {path} does not exist: put a text file there, or change corpus.path") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 and sha256 != found:
        raise ValueError(f"corpus {path} has sha256 {found}, but corpus.sha256 is {sha256}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise ValueError(f"corpus {path} is not UTF-8 text ({wrong}): save it as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ValueError(f"corpus {path} is empty: it needs text to learn from")
    return text


def prepare():
    corpus = load_params().corpus
    text = read_corpus(corpus.path, corpus.sha256)
    with atomic_write(TEXT) as file:
        file.write(text.encode())
    print(f"{corpus.path}: {len(text):,} characters")


if __name__ == "__main__":
    run(prepare)

"""Reading a corpus."""

from pathlib import Path


def read_corpus(path):
    """Return a corpus as bytes. Raises ValueError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"corpus {path} does not exist; put a text file there") from None
    except OSError as error:
        raise ValueError(f"corpus {path} cannot be read ({error.strerror})") from None


def decode_corpus(data, path):
    """Return the text of a corpus, with "\\n" line endings and without a byte-order mark.

    Raises ValueError if it is empty or not UTF-8 text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise ValueError(f"corpus {path} is not UTF-8 text ({place}); save it as UTF-8") from None
    if "\0" in text:
        place = f"NUL character at position {text.index(chr(0))}"
        raise ValueError(f"corpus {path} is not UTF-8 text ({place}); save it as UTF-8")
    if not text.strip():
        raise ValueError(f"corpus {path} is empty; it must contain text")
    return text.replace("\r\n", "\n").replace("\r", "\n")

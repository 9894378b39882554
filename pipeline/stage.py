"""What every stage shares: how it ends, and where its files lie."""

import ctypes
import platform
import signal
import sys
from pathlib import Path

DATA = Path("data")
CORPUS, TEXT, VOCAB = DATA / "corpus.json", DATA / "text.txt", DATA / "vocab.json"
TRAIN_IDS, VALIDATION_IDS = DATA / "train.npy", DATA / "validation.npy"
WEIGHTS, METRICS, SAMPLES = DATA / "weights.pkl", DATA / "metrics.json", DATA / "samples.txt"
TRAIN_LOSS, VALIDATION_LOSS, LOSS_PICTURE = DATA / "train_loss.csv", DATA / "validation_loss.csv", DATA / "loss.png"
ATTENTION_PICTURE, ATTENTION_PAGE = DATA / "attention.png", DATA / "attention.html"
PRETRAINED = DATA / "pretrained.pkl"
CHECKPOINT = DATA / "checkpoint.npz"  # known to neither DVC nor git


def keep_freed_memory():
    """Have glibc keep what a step frees for the next one: mapping it anew, page by page, costs a tenth of the time."""
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, their largest; M_ARENA_MAX, so that what one thread frees serves all
    for option, value in {-1: (1 << 31) - 1, -3: 32 << 20, -8: 1}.items() if platform.libc_ver()[0] == "glibc" else ():
        ctypes.CDLL(None).mallopt(option, value)


def run(stage):
    """Run a stage and end the process: one line and exit code 1 for what a person can mend, 130 when stopped."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    try:
        stage()
    except FileNotFoundError as error:
        made_here = Path(str(error.filename)).parent == DATA
        sys.exit(f"error: {error.filename} does not exist" + (": `dvc repro` makes it" if made_here else ""))
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except MemoryError as error:
        sys.exit(
            f"error: out of memory ({error}): a smaller model or batch_size in params.yaml, or a smaller corpus, helps"
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def encode_prompt(vocab, prompt, key):
    """The ids of a prompt from params.yaml; ValueError names its key if a character is not in the vocabulary."""
    try:
        return vocab.encode(prompt)
    except ValueError as error:
        raise ValueError(f"params.yaml: {key}: {error}") from None

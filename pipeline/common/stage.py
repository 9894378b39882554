"""What every stage shares: how it ends, what it reads, and where its files lie."""

import ctypes
import io
import os
import platform
import signal
import sys
from pathlib import Path

from pipeline.common.inputs import Inputs

DATA = Path("data")
CORPUS, TEXT, VOCAB = DATA / "corpus.json", DATA / "text.txt", DATA / "vocab.json"
TRAIN_IDS, VALIDATION_IDS = DATA / "train.npy", DATA / "validation.npy"
WEIGHTS, METRICS, SAMPLES = DATA / "weights.pkl", DATA / "metrics.json", DATA / "samples.txt"
TRAIN_LOSS, VALIDATION_LOSS = DATA / "train_loss.csv", DATA / "validation_loss.csv"
LOSS_PICTURE = DATA / "loss.png"
ATTENTION_PICTURE, EXPLORE_PAGE = DATA / "attention.png", DATA / "explore.html"
PRETRAINED = DATA / "pretrained.pkl"
CHECKPOINTS = DATA / "checkpoints"  # known to neither DVC nor git
STOPS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def keep_freed_memory():
    """Have glibc keep what a step frees for the next one: mapping it anew, page by page, costs a
    tenth of the time.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD at their largest; M_ARENA_MAX, so that what one thread
    # frees serves all
    for option, value in {-1: (1 << 31) - 1, -3: 32 << 20, -8: 1}.items():
        ctypes.CDLL(None).mallopt(option, value)


def run(main, stage=None):
    """Run a program and end the process: one line and exit code 1 for what a person can mend, 130
    when stopped. Of a stage, the results stay only if its inputs are still what they were.
    """
    for stop in STOPS:
        if stop != signal.SIGHUP or signal.getsignal(stop) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(stop, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not know every character
    try:
        inputs = Inputs(stage) if stage else None
        main()
        if inputs:
            keep_outputs_if_unchanged(inputs)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # at once: DVC records the params as they are when this process is gone
    except FileNotFoundError as error:
        made_here = Path(str(error.filename)).parent == DATA
        hint = ": `dvc repro` makes it" if made_here else ""
        sys.exit(f"error: {error.filename} does not exist{hint}")
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        sys.exit(f"error: {reason}")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except MemoryError as error:
        helps = "a smaller model or batch_size in params.yaml, or a smaller corpus, helps"
        sys.exit(f"error: out of memory ({error}): {helps}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def keep_outputs_if_unchanged(inputs):
    """The last look of a stage at its inputs: what was made from others does not stay."""
    try:
        inputs.check()
    except (OSError, ValueError):
        for path in inputs.outputs():
            path.unlink(missing_ok=True)
        raise


def encode_prompt(vocab, prompt, key):
    """The ids of a prompt from params.yaml; ValueError names its key if a character is not in the
    vocabulary.
    """
    try:
        return vocab.encode(prompt)
    except ValueError as error:
        raise ValueError(f"params.yaml: {key}: {error}") from None


def prompt_or_excerpt(prompt, vocab, metadata):
    """A prompt from params.yaml; if that is null, how the held-out text begins, as the weights say.

    Weights that do not say give their first characters: any corpus has a prompt that fits it.
    """
    return prompt or metadata.get("excerpt") or vocab.characters[:1]

"""Running commands and stages: errors, signals, exit codes, and prompts from params.yaml."""

import argparse
import contextlib
import io
import os
import signal
import sys
from pathlib import Path

from pipeline.common.inputs import Inputs
from pipeline.common.paths import STAGE_DATA
from pipeline.common.process import end_with_dvc

# Windows has no SIGHUP.
STOP_SIGNALS = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP")]
warned = set[str]()


@contextlib.contextmanager
def defer_stop_signals():
    """Handle stop signals at the end of the block, because NumPy turns an interrupt during a
    write into a different error.
    """
    received = list[int]()
    handled = [stop for stop in STOP_SIGNALS if signal.getsignal(stop) != signal.SIG_IGN]
    handlers = {s: signal.signal(s, lambda number, _: received.append(number)) for s in handled}
    try:
        yield
    finally:
        for stop, handler in handlers.items():
            signal.signal(stop, handler)
    if received:
        raise KeyboardInterrupt


def warn(message):
    """Print a warning to stderr as one line, once per process."""
    if message not in warned:
        print("warning:", *message.split(), file=sys.stderr, flush=True)
    warned.add(message)


def run(main, stage=None, description=None):
    """Run a command and exit: with code 1 and a one-line message after an error that the user can
    fix, with 130 if interrupted.

    A stage's outputs are deleted if its inputs changed while it ran. description: for --help, if
    `main` does not parse arguments.
    """
    if description:
        name = f"python -m pipeline.{Path(sys.argv[0]).stem}"
        argparse.ArgumentParser(prog=name, description=description).parse_args()
    for stop in STOP_SIGNALS:
        if stop.name != "SIGHUP" or signal.getsignal(stop) != signal.SIG_IGN:  # ignored by nohup
            signal.signal(stop, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the terminal may not have every character
    if stage and "DVC_STAGE" in os.environ:
        end_with_dvc()
    try:
        inputs = Inputs(stage) if stage else None
        main()
        if inputs:
            discard_outputs_if_changed(inputs)
            sys.stdout.flush()
            sys.stderr.flush()
            # Exit immediately, to shorten the time between the check and DVC's reading of the
            # params.
            os._exit(0)
    except FileNotFoundError as error:
        if Path(str(error.filename)) in STAGE_DATA:
            sys.exit(f"error: {error.filename} does not exist; run `dvc repro` to create it")
        sys.exit(f"error: {error.filename} does not exist")
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        sys.exit(f"error: {reason}")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except MemoryError as error:
        sys.exit(
            f"error: out of memory ({error}); reduce model.block_size, model.d_model,"
            " model.n_layers, train.batch_size or the corpus"
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def discard_outputs_if_changed(inputs):
    """Delete a stage's outputs and raise ValueError if its inputs have changed."""
    try:
        inputs.check()
    except (OSError, ValueError):
        for path in inputs.outputs():
            path.unlink(missing_ok=True)
        raise


def encode_prompt(vocab, prompt, name):
    """Return the ids of a prompt from params.yaml. Raises ValueError, with the name of the
    parameter, if it has a character outside the vocabulary.
    """
    try:
        return vocab.encode(prompt)
    except ValueError as error:
        raise ValueError(f"params.yaml: {name}: {error}") from None


def default_prompt(vocab, metadata):
    """Return the prompt for `null` in params.yaml: an excerpt of the held-out text, which training
    put into the weights' metadata, or else a newline, or the first character of the vocabulary.
    """
    newline = "\n" if "\n" in vocab.characters else vocab.characters[0]
    return metadata.get("excerpt") or newline

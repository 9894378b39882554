"""Text that a model generates while it learns, one line per evaluation."""

from itertools import accumulate
from unicodedata import east_asian_width

import numpy as np

from baregpt.sampler import generate
from pipeline.common.stage import default_prompt

SAMPLES_BY_STEP = "samples_by_step.txt"  # an artifact of the run
LENGTH = 100  # characters per line


def sample_line(model, vocab, step):
    """Return generated text as one line, the same for the same model and step.

    It has a random generator of its own, so it does not affect the training.
    """
    prompt = default_prompt(vocab, {})
    with np.errstate(all="ignore"):  # training itself reports a divergence
        text = "".join(generate(model, vocab, prompt, LENGTH, seed=step))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def truncate(text, columns):
    """Return as much of a line as fits into the columns of a terminal."""
    ends = accumulate(2 if east_asian_width(c) in "WF" else 1 for c in text)
    return "".join(c for c, end in zip(text, ends) if end <= columns)

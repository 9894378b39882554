"""Snapshots: the losses and attention weights of one held-out line, at some steps of a run.

data/snapshots.json holds

text: the line, of N characters
steps: the steps of the snapshots
max_nats: the loss that byte 255 stands for
snapshots: a list with these entries for each step:
    predictions: the id of the most likely next character at each position, (N,)
    losses: the losses of the second character to the last, (N - 1,)
    attn: the attention weights, (L, H, N, N)

losses (from 0 to max_nats) and attn (from 0 to 1) are unsigned bytes in base64.
"""

import base64
import json
import math

import numpy as np

from baregpt.files import atomic_write
from baregpt.layers import softmax

COUNT = 8
MAX_NATS = 10  # the loss that byte 255 stands for
MAX_BYTES = 700_000  # size of all attention weights, before base64


def to_base64(values):
    """Return values from 0 to 1 as unsigned bytes in base64."""
    quantized = np.clip(np.rint(np.nan_to_num(values) * 255), 0, 255).astype(np.uint8)
    return base64.b64encode(quantized.tobytes()).decode()


class Snapshots:
    """The snapshots of a training run.

    Attributes
    ----------
    text : the line, shortened so that all snapshots together stay below MAX_BYTES
    steps : the steps after which to take a snapshot: spaced geometrically, from 1 to the last
    taken : the snapshots so far, as JSON values
    """

    def __init__(self, line, model, vocab, steps, taken):
        config = model.config
        length = math.isqrt(MAX_BYTES // (COUNT * config.n_layers * config.n_heads))
        self.model = model
        self.text = line[: max(2, length)]
        self.ids = vocab.encode(self.text)
        self.steps = sorted({round(step) for step in np.geomspace(1, steps, COUNT)})
        self.taken = taken

    def take(self, step):
        """Take the snapshot of this step, if there is to be one."""
        if step not in self.steps:
            return
        ids = self.ids
        with np.errstate(all="ignore"):  # training itself reports a divergence
            logits = self.model.logits(ids[None])[0]
            next_probabilities = softmax(logits)[np.arange(len(ids) - 1), ids[1:]]
            losses = -np.log(np.maximum(next_probabilities, 1e-30))
            attn = np.stack([layer[0] for layer in self.model.attention(ids[None])])
        self.taken.append(
            {
                "predictions": logits.argmax(axis=1).tolist(),
                "losses": to_base64(losses / MAX_NATS),
                "attn": to_base64(attn),
            }
        )

    def write(self, path):
        """Write the snapshots to a JSON file."""
        contents = {"text": self.text, "steps": self.steps}
        contents |= {"max_nats": MAX_NATS, "snapshots": self.taken}
        with atomic_write(path) as file:
            file.write(json.dumps(contents).encode() + b"\n")

"""Check that model.js still computes what baregpt computes.

model.js repeats the forward pass of baregpt in JavaScript, so a change of the model needs the same
change there. The logits of a small model show whether the two agree.
"""

import re

import numpy as np
from threadpoolctl import threadpool_limits

from baregpt.model import GPT, Config, parameter_shapes

FIELDS = {"vocab_size", "block_size", "d_model", "n_heads", "n_layers", "rotary"}
PARAMETERS = {  # of each block, and of the rest
    "ln1.gain", "ln1.bias", "attention.qkv", "attention.out", "ln2.gain", "ln2.bias", "mlp.w1",
    "mlp.b1", "mlp.w2", "mlp.b2", "token_embedding", "position_embedding", "head.weight",
    "head.bias",
}  # fmt: skip
# Returned by `sample_logits`, without and with rotary position embeddings.
LOGITS = {
    False: [15.857162, 1.528654, -14.205292, -16.878958, -4.034188],
    True: [14.881512, 10.074564, -3.994892, -14.391462, -11.556589],
}
WAY_OUT = "make the same change in pipeline/explorer/model.js and in pipeline/explorer/mirror.py"


def sample_logits(rotary):
    """Return the logits of a small model of fixed parameters, (V,), after a few characters."""
    model = GPT(Config(5, 8, 12, 3, 2, rotary), dtype=np.float64)
    model.flat[...] = np.sin(np.arange(model.flat.size))
    with threadpool_limits(1):
        return model.logits(np.array([[3, 1, 4, 1, 0, 2]]))[0, -1]


def mismatch(config):
    """Return a sentence that names what model.js does not support in this model, or None."""
    names = {re.sub(r"^blocks\.\d+\.", "", name) for name in parameter_shapes(config)}
    unknown = sorted(names ^ PARAMETERS) + sorted(vars(config).keys() ^ FIELDS)
    if unknown:
        return (
            "the explorer page shows nothing, because its model.js does not support"
            f" {unknown[0]!r}; {WAY_OUT}"
        )
    for rotary, logits in LOGITS.items():
        if not np.allclose(sample_logits(rotary), logits, rtol=0, atol=1e-4):
            return (
                "the explorer page shows nothing, because its model.js does not compute the same"
                f" logits as baregpt; {WAY_OUT}"
            )
    return None

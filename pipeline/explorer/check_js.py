"""Detect changes to baregpt's forward pass that model.js may lack: compare the logits of a small
model with those recorded when the two agreed.
"""

import re

import numpy as np
from threadpoolctl import threadpool_limits

from baregpt.model import GPT, Config, parameter_shapes

FIELDS = {"vocab_size", "block_size", "d_model", "n_heads", "n_layers", "rotary"}
PARAMETERS = {  # names, those of blocks without the prefix
    "ln1.gain", "ln1.bias", "attention.qkv", "attention.out", "ln2.gain", "ln2.bias", "mlp.w1",
    "mlp.b1", "mlp.w2", "mlp.b2", "token_embedding", "position_embedding", "head.weight",
    "head.bias",
}  # fmt: skip
# rotary -> the result of `sample_logits`
LOGITS = {
    False: [15.857162, 1.528654, -14.205292, -16.878958, -4.034188],
    True: [14.881512, 10.074564, -3.994892, -14.391462, -11.556589],
}
HOW_TO_FIX = "make the same change in pipeline/explorer/model.js and pipeline/explorer/check_js.py"
LOGITS_DIFFER = (
    "the explorer page cannot show this model, because its model.js does not compute the same"
    f" logits as baregpt; {HOW_TO_FIX}"
)


def sample_logits(rotary):
    """Return the logits of a small model with fixed parameters, (V,), after a few characters."""
    model = GPT(Config(5, 8, 12, 3, 2, rotary), dtype=np.float64)
    model.flat[...] = np.sin(np.arange(model.flat.size))
    with threadpool_limits(1):
        return model.logits(np.array([[3, 1, 4, 1, 0, 2]]))[0, -1]


def find_problem(config):
    """Return why model.js cannot run a model with this config, as a sentence, or None if it can."""
    names = {re.sub(r"^blocks\.\d+\.", "", name) for name in parameter_shapes(config)}
    unknown = sorted(names ^ PARAMETERS) + sorted(vars(config).keys() ^ FIELDS)
    if unknown:
        return (
            "the explorer page cannot show this model, because its model.js does not support"
            f" {unknown[0]!r}; {HOW_TO_FIX}"
        )
    for rotary, logits in LOGITS.items():
        if not np.allclose(sample_logits(rotary), logits, rtol=0, atol=1e-4):
            return LOGITS_DIFFER
    return None

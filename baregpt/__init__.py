"""A GPT in NumPy: forward pass, hand-written backward pass, training and sampling.

Nothing outside this list is promised to stay as it is.
"""

from baregpt.model import GPT, Config
from baregpt.sampler import generate, generate_batch
from baregpt.vocab import Vocab
from baregpt.weights import load_weights, save_weights

__all__ = ["GPT", "Config", "Vocab", "generate", "generate_batch", "load_weights", "save_weights"]

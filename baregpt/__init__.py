"""A GPT in NumPy: forward pass, hand-written backward pass, training and sampling.

The names in `__all__` are the stable public interface.
"""

from baregpt.model import GPT, Config
from baregpt.sampler import generate, generate_batch
from baregpt.trainer import TrainConfig, train
from baregpt.vocab import Vocab
from baregpt.weights import load_pretrained, load_weights, save_weights

__all__ = [
    "GPT",
    "Config",
    "TrainConfig",
    "Vocab",
    "generate",
    "generate_batch",
    "load_pretrained",
    "load_weights",
    "save_weights",
    "train",
]

"""How much a model uses its attention heads."""

import contextlib
from dataclasses import dataclass

import numpy as np

# A head below this fraction of the entropy of uniform attention attends selectively.
LOW_ENTROPY = 0.85
IDLE = 0.001  # nats per character: a head that changes the loss by less is idle


@dataclass
class HeadStatistics:
    """Arrays are (L, H): layers, heads."""

    loss: float  # nats per character, with all heads
    increase_all_off: float  # increase of the loss with all heads switched off
    increases: np.ndarray  # increases of the loss with only this head switched off
    entropies: np.ndarray  # entropies of the weights, relative to uniform attention
    n_windows: int
    length: int  # characters in each window


@contextlib.contextmanager
def switched_off(model, layers, heads):
    """Switch off heads in some layers: set their rows of the attention output matrices to zero."""
    width = model.config.d_model // model.config.n_heads
    rows = [slice(head * width, (head + 1) * width) for head in heads]
    matrices = [model.parameters[f"blocks.{layer}.attention.out"] for layer in layers]
    saved = [matrix.copy() for matrix in matrices]
    for matrix in matrices:
        for row in rows:
            matrix[row] = 0
    try:
        yield
    finally:
        for matrix, copy in zip(matrices, saved):
            matrix[...] = copy


def entropy_fractions(attn):
    """Return the entropy of attention weights (H, T, T) as a fraction of that of uniform attention.

    Both are means over the T queries; query i, from 0, can spread over i + 1 keys. Shape (H,).
    """
    length = attn.shape[-1]
    logs = np.log(attn, out=np.zeros_like(attn), where=attn > 0)
    entropy = -(attn * logs).sum(axis=-1, dtype=np.float64).mean(axis=-1)
    return entropy / np.log(np.arange(1, length + 1)).mean()


def head_statistics(model, ids, max_windows=64, progress=iter):
    """Measure the heads on at most `max_windows` windows of block_size characters, spread evenly
    over `ids`. Raises ValueError if a window would have fewer than two characters.

    `progress` may wrap the list of (layer, head) to show progress.
    """
    config = model.config
    length = min(config.block_size, len(ids) - 1)
    if length < 2:
        raise ValueError(
            f"attention heads are measured on windows of at least 2 characters, not {length}"
        )
    available = (len(ids) - 1) // length
    count = min(max_windows, available)
    starts = [i * available // count * length for i in range(count)]
    windows = [ids[None, start : start + length + 1] for start in starts]

    def mean_loss():
        return float(np.mean([model.loss(window[:, :-1], window[:, 1:]) for window in windows]))

    loss, layers, heads = mean_loss(), range(config.n_layers), range(config.n_heads)
    attn = (model.attention(window[:, :-1]) for window in windows)
    fractions = [[entropy_fractions(layer[0]) for layer in window_attn] for window_attn in attn]
    increases = np.empty((config.n_layers, config.n_heads))
    for layer, head in progress([(layer, head) for layer in layers for head in heads]):
        with switched_off(model, [layer], [head]):
            increases[layer, head] = mean_loss() - loss
    with switched_off(model, layers, heads):
        increase_all_off = mean_loss() - loss
    return HeadStatistics(
        loss, increase_all_off, increases, np.mean(fractions, axis=0), count, length
    )

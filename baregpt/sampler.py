"""Sampling text, one character at a time."""

import numpy as np


class KeyValueCache:
    """One layer's keys and values of the positions so far, so that each is computed only once."""

    def __init__(self, config, dtype):
        shape = (1, config.n_heads, config.block_size, config.d_model // config.n_heads)
        self.keys, self.values, self.length = np.empty(shape, dtype), np.empty(shape, dtype), 0

    def append(self, key, value):
        """Add T positions, (1, H, T, d) each; return all S positions so far, (1, H, S, d) each."""
        start, self.length = self.length, self.length + key.shape[2]
        self.keys[:, :, start : self.length] = key
        self.values[:, :, start : self.length] = value
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


def new_caches(model):
    """An empty `KeyValueCache` for each layer."""
    return [KeyValueCache(model.config, model.flat.dtype) for _ in range(model.config.n_layers)]


def choose(logits, temperature, top_k, random):
    """Draw an id from logits (V,): the likeliest at temperature 0, else from the softmax of the top_k best."""
    if temperature == 0:
        return int(logits.argmax())
    logits = (logits - logits.max()).astype(np.float64) / temperature
    if top_k and top_k < len(logits):
        logits[logits < np.partition(logits, -top_k)[-top_k]] = -np.inf
    cumulative = np.exp(logits).cumsum()
    return int(cumulative.searchsorted(random.random() * cumulative[-1], side="right"))


def generate(model, vocab, prompt, max_new_tokens=512, temperature=0.8, top_k=20, seed=None):
    """Return an iterator over the characters that continue `prompt`, each yielded as soon as it is drawn.

    temperature: 0 always takes the likeliest character; higher is bolder. top_k: only the k likeliest may be
    drawn; 0 for all. seed: the same seed gives the same text; None, another each time.

    The model sees at most block_size characters, T. When they are full, the older half is dropped and the
    newer half read again in one pass, so that speed does not fall with length: every character is drawn
    with the last T/2 to T characters in view, as far as there are any.

    Raises ValueError for an empty prompt, a character outside the vocabulary, or a number out of range.
    """
    if not prompt:
        raise ValueError("the prompt is empty: give at least one character to continue from")
    names = "max_new_tokens", "temperature", "top_k", "seed"
    for name, value in zip(names, (max_new_tokens, temperature, top_k, seed or 0)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}: it must be at least 0")
    return _stream(model, vocab, list(vocab.encode(prompt)), max_new_tokens, temperature, top_k, seed)


def _stream(model, vocab, ids, max_new_tokens, temperature, top_k, seed):
    T, random = model.config.block_size, np.random.default_rng(seed)
    unread, past = ids[-T:], new_caches(model)
    for _ in range(max_new_tokens):
        if past[0].length + len(unread) > T:
            unread, past = ids, new_caches(model)
        logits, _ = model.forward([unread], past)
        unread = [choose(logits[-1], temperature, top_k, random)]
        ids = (ids + unread)[-max(1, T // 2) :]
        yield vocab.characters[unread[0]]

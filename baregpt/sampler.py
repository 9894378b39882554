"""Sampling text, one character at a time."""

import numpy as np
from threadpoolctl import ThreadpoolController


def choose(logits, temperature, top_k, random):
    """Draw ids (B,) from logits (B, V): the likeliest at temperature 0, else from the softmax of the top_k best."""
    if temperature == 0:
        return logits.argmax(axis=1)
    logits = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64) / temperature
    if 0 < top_k < logits.shape[1]:
        logits[logits < np.partition(logits, -top_k)[:, -top_k, None]] = -np.inf
    cumulative = np.exp(logits).cumsum(axis=1)
    return (cumulative <= random.random((len(logits), 1)) * cumulative[:, -1:]).sum(axis=1)


def generate(model, vocab, prompt, max_new_tokens=512, temperature=0.8, top_k=20, seed=None):
    """Return an iterator over the characters that continue `prompt`, each yielded as soon as it is drawn.

    temperature: 0 always takes the likeliest character; higher is bolder. top_k: only the k likeliest may be
    drawn; 0 for all. seed: the same seed gives the same text; None, another each time.

    The model sees at most block_size characters, T. When they are full, the older half is dropped and the
    newer half read again in one pass, so that speed does not fall with length: every character is drawn
    with the last T/2 to T characters in view, as far as there are any.

    Raises ValueError for an empty prompt, a character outside the vocabulary, or a number out of range.
    """
    return map("".join, generate_batch(model, vocab, prompt, 1, max_new_tokens, temperature, top_k, seed))


def generate_batch(model, vocab, prompt, count, max_new_tokens=512, temperature=0.8, top_k=20, seed=None):
    """Like `generate`, for `count` continuations at once, which is far faster than one after another.

    Yields a list of `count` characters, one for each continuation. `"".join(column) for column in zip(*...)`
    makes them `count` texts.
    """
    if not prompt:
        raise ValueError("the prompt is empty: give at least one character to continue from")
    names = "max_new_tokens", "temperature", "top_k", "seed"
    for name, value in zip(names, (max_new_tokens, temperature, top_k, seed or 0)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}: it must be at least 0")
    ids = np.tile(vocab.encode(prompt), (count, 1))
    return _stream(model, vocab, ids, max_new_tokens, temperature, top_k, np.random.default_rng(seed))


def _stream(model, vocab, ids, max_new_tokens, temperature, top_k, random):
    config, blas = model.config, ThreadpoolController().select(user_api="blas")
    unread, start, T = ids[:, -config.block_size :], 0, config.block_size
    shape = config.n_layers, 2, len(ids), config.n_heads, T, config.d_model // config.n_heads
    past = np.empty(shape, model.flat.dtype)
    for _ in range(max_new_tokens):
        if start + unread.shape[1] > T:
            unread, start = ids, 0
        with blas.limit(limits=1):  # a position alone is too little work to share
            logits, _ = model.forward(unread, past, start)
        start += unread.shape[1]
        unread = choose(logits.reshape(*unread.shape, -1)[:, -1], temperature, top_k, random)[:, None]
        ids = np.hstack([ids, unread])[:, -max(1, T // 2) :]
        yield [vocab.characters[i] for i in unread[:, 0]]

"""Sampling text, one character at a time."""

import numpy as np
from threadpoolctl import ThreadpoolController


def choose(logits, temperature, top_k, random):
    """Draw ids (B,) from the softmax of logits (B, V) / temperature, among the top_k likeliest.

    The largest of logits + temperature · Gumbel noise is such a draw (Maddison et al. 2014, arXiv:1411.0030); at
    temperature 0 it is the likeliest of all.
    """
    if 0 < top_k < logits.shape[1]:
        logits = np.where(logits < np.partition(logits, -top_k)[:, -top_k, None], -np.inf, logits)
    return (logits + temperature * random.gumbel(size=logits.shape)).argmax(axis=1)


def generate(model, vocab, prompt, max_new_tokens=512, temperature=0.8, top_k=20, seed=None):
    """Return an iterator over the characters that continue `prompt`, each yielded as soon as it is drawn.

    temperature: 0 always takes the likeliest character; higher is bolder. top_k: only the k likeliest may be
    drawn; 0 for all. seed: the same seed gives the same text; None, another each time.

    The model sees at most block_size characters, T. When they are full, all but the newest T/4 are dropped and these
    read again in one pass, so that speed does not fall with length: every character is drawn with the last T/4 to T
    characters in view, as far as there are any.

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
    names = "count", "max_new_tokens", "temperature", "top_k", "seed"
    for name, value in zip(names, (count, max_new_tokens, temperature, top_k, seed or 0)):
        if not (name == "count") <= value < 1e300:  # True is 1
            raise ValueError(f"{name} is {value}: it must be at least {int(name == 'count')}")
    ids = np.tile(vocab.encode(prompt), (count, 1))
    return _stream(model, vocab, ids, max_new_tokens, temperature, top_k, np.random.default_rng(seed))


def _stream(model, vocab, ids, max_new_tokens, temperature, top_k, random):
    config, T, blas = model.config, model.config.block_size, ThreadpoolController().select(user_api="blas")
    shape = config.n_layers, 2, len(ids), config.n_heads, T, config.d_model // config.n_heads
    past = np.empty(shape, model.flat.dtype)
    seen, stop, new = np.empty((len(ids), T), int), 0, ids[:, -T:]  # `past` holds the keys and values of seen[:, :stop]
    for _ in range(max_new_tokens):
        if stop + new.shape[1] > T:
            stop, new = 0, np.hstack([seen[:, T - T // 4 + 1 :], new])
        start, stop = stop, stop + new.shape[1]
        seen[:, start:stop] = new
        with blas.limit(limits=1):  # a position alone is too little work to share
            logits, _ = model.forward(new, past, start)
        new = choose(logits.reshape(*new.shape, -1)[:, -1], temperature, top_k, random)[:, None]
        yield [vocab.characters[i] for i in new[:, 0]]

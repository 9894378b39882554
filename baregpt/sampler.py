"""Sampling text, one character at a time."""

import numpy as np
from threadpoolctl import ThreadpoolController

from baregpt.model import Past


def choose(logits, temperature, top_k, random):
    """Draw ids (B,) from the softmax of logits (B, V) / temperature, among the top_k likeliest.

    The largest of logits + temperature · Gumbel noise is such a draw (Maddison et al. 2014,
    arXiv:1411.0030); at temperature 0 it is the likeliest of all.
    """
    if 0 < top_k < logits.shape[1]:
        worst = np.partition(logits, -top_k)[:, -top_k, None]  # (B, 1): of those that may be drawn
        logits = np.where(logits < worst, -np.inf, logits)
    return (logits + temperature * random.gumbel(size=logits.shape)).argmax(axis=1)


def generate(model, vocab, prompt, max_new_tokens=512, temperature=0.8, top_k=20, seed=None):
    """Return an iterator over the characters that continue `prompt`, each yielded as soon as it is
    drawn.

    temperature: 0 always takes the likeliest character; higher is bolder. top_k: only the k
    likeliest may be drawn; 0 for all. seed: the same seed gives the same text; None, another each
    time.

    The model sees at most block_size characters, T. When they are full, all but the newest T/4 are
    dropped and these read again in one pass, so that speed does not fall with length: every
    character is drawn with the last T/4 to T characters in view, as far as there are any.

    Raises ValueError for an empty prompt, a character outside the vocabulary, or a number out of
    range.
    """
    columns = generate_batch(model, vocab, prompt, 1, max_new_tokens, temperature, top_k, seed)
    return map("".join, columns)


def generate_batch(model, vocab, prompt, count, max_new_tokens=512, temperature=0.8, top_k=20,
                   seed=None):  # fmt: skip
    """Like `generate`, for `count` continuations at once, which is far faster than one after
    another.

    Yields a list of `count` characters, one for each continuation. `"".join(column) for column in
    zip(*...)` makes them `count` texts.
    """
    if not prompt:
        raise ValueError("the prompt is empty: give at least one character to continue from")
    numbers = {"count": count, "max_new_tokens": max_new_tokens, "seed": seed or 0}
    numbers |= {"temperature": temperature, "top_k": top_k}
    for name, value in numbers.items():
        least = int(name == "count")
        if not least <= value < 1e300:
            raise ValueError(f"{name} is {value}: it must be at least {least}")
    ids = np.tile(vocab.encode(prompt), (count, 1))
    random = np.random.default_rng(seed)
    return _stream(model, vocab, ids, max_new_tokens, temperature, top_k, random)


def _stream(model, vocab, ids, max_new_tokens, temperature, top_k, random):
    T = model.config.block_size
    past = Past(model.config, len(ids), model.flat.dtype)  # of the characters seen[:, :stop]
    seen = np.empty((len(ids), T), int)
    stop = 0
    new = ids[:, -T:]
    blas = ThreadpoolController().select(user_api="blas")
    for _ in range(max_new_tokens):
        if stop + new.shape[1] > T:
            # What is kept moves to other positions, to which keys and values are bound, so that it
            # has to be read again; + 1, for `new` makes it T/4 characters.
            new = np.hstack([seen[:, T - T // 4 + 1 :], new])
            stop = 0
        start = stop
        stop = start + new.shape[1]
        seen[:, start:stop] = new
        with blas.limit(limits=1):  # a position alone is too little work to share
            logits, _ = model.forward(new, past, start)
        last = logits.reshape(*new.shape, -1)[:, -1]
        new = choose(last, temperature, top_k, random)[:, None]
        yield [vocab.characters[i] for i in new[:, 0]]

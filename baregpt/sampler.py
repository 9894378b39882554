"""Sampling text, one character at a time."""

import numpy as np
from threadpoolctl import ThreadpoolController


def sample(logits, temperature, top_k, rng):
    """Sample ids from softmax(logits / temperature), restricted to the top_k largest logits.

    logits (B, V) -> ids (B,). By the Gumbel-max trick (Maddison et al. 2014, arXiv:1411.0030),
    argmax(logits / temperature + g) with independent Gumbel noise g is such a sample: P(argmax = k)
    = softmax(logits / temperature)[k]. Multiplying the argument by the temperature does not change
    the argmax, and makes temperature 0 greedy decoding.
    """
    if 0 < top_k < logits.shape[1]:
        smallest_kept = np.partition(logits, -top_k)[:, -top_k, None]  # (B, 1)
        logits = np.where(logits < smallest_kept, -np.inf, logits)
    return (logits + temperature * rng.gumbel(size=logits.shape)).argmax(axis=1)


def generate(model, vocab, prompt, max_new_tokens=512, temperature=0.8, top_k=20, seed=None):
    """Return an iterator that yields each character of the continuation as soon as it is sampled.

    Parameters
    ----------
    prompt : text to continue, at least one character
    max_new_tokens : number of characters to generate
    temperature : sampling temperature; 0 is greedy decoding
    top_k : sample from the k most likely characters; 0 means no limit
    seed : random seed; None gives a different text each time

    The context is at most T = block_size characters. When the KV cache is full, only the last T/4
    characters are kept, and their keys and values are recomputed in one pass, because these depend
    on the position. So once the text is longer than T/4, each character is sampled with the last
    T/4 to T characters as context, and the average cost per character does not grow.

    Raises ValueError for an empty prompt, a character outside the vocabulary, or a number out of
    range.
    """
    steps = generate_batch(model, vocab, prompt, 1, max_new_tokens, temperature, top_k, seed)
    return map("".join, steps)


def generate_batch(model, vocab, prompt, count, max_new_tokens=512, temperature=0.8, top_k=20,
                   seed=None):  # fmt: skip
    """Like `generate`, for `count` continuations at once, which is faster than one by one.

    Yields a list of `count` characters per step, one for each continuation. To get the texts, use
    `["".join(text) for text in zip(*generate_batch(...))]`.
    """
    if not prompt:
        raise ValueError("prompt must have at least one character")
    minimums = {"count": 1, "max_new_tokens": 0, "temperature": 0, "top_k": 0, "seed": 0}
    values = count, max_new_tokens, temperature, top_k, seed or 0
    for (name, minimum), value in zip(minimums.items(), values):
        if not minimum <= value < 1e300:  # a larger temperature would give infinite logits
            raise ValueError(f"{name} must be at least {minimum} and finite, got {value}")
    ids = np.tile(vocab.encode(prompt), (count, 1))
    rng = np.random.default_rng(seed)
    return _generate_characters(model, vocab, ids, max_new_tokens, temperature, top_k, rng)


def _generate_characters(model, vocab, ids, max_new_tokens, temperature, top_k, rng):
    T = model.config.block_size
    kv_cache = model.new_kv_cache(len(ids))
    context = np.empty((len(ids), T), int)  # ids of the positions in the cache, [:, :stop]
    stop = 0
    new = ids[:, -T:]  # ids that are not in the cache yet
    blas = ThreadpoolController().select(user_api="blas")
    for _ in range(max_new_tokens):
        if stop + new.shape[1] > T:
            # T/4 - 1 characters from the cache, plus the one in `new`, get new positions.
            new = np.hstack([context[:, T - T // 4 + 1 :], new])
            stop = 0
        start = stop
        stop = start + new.shape[1]
        context[:, start:stop] = new
        with blas.limit(limits=1):  # one position is too little work for several threads
            logits, _ = model.forward(new, kv_cache, start)
        last_logits = logits.reshape(*new.shape, -1)[:, -1]
        new = sample(last_logits, temperature, top_k, rng)[:, None]
        yield [vocab.characters[i] for i in new[:, 0]]

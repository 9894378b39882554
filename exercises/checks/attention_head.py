"""Exercise 7."""

import numpy as np

from baregpt import layers
from exercises.exercise import Exercise

attention = layers.attention  # kept, because training replaces it


def one_head(query, key, value, kv=None):
    """Run baregpt's attention on one sequence and one head with these queries, keys and values.

    The rows of x are query, key and value concatenated, and w_qkv selects one of the three for the
    query, one for the key and one for the value, each padded with zeros to the width of x. As
    `attention` divides the query by √width, w_qkv multiplies it by that.
    """
    x = np.hstack([query, key, value])
    width, d = x.shape[1], query.shape[1]
    select = np.zeros((3, width, width), x.dtype)
    for i, scale in enumerate((width**0.5, 1, 1)):
        select[i, i * d : (i + 1) * d, :d] = scale * np.eye(d)
    y, saved = attention(x, np.hstack(select), np.eye(width, dtype=x.dtype), 1, len(x), kv=kv)
    return y[:, :d], saved


def attention_head(query, key, value):
    head_out, saved = one_head(query, key, value)
    return head_out, layers.attention_map(saved)[0, 0]


def cases():
    for length in (5, 3):
        query, key, value = np.random.default_rng(7).normal(size=(3, length, 4))
        yield (query, key, value), attention_head(query, key, value)


def with_weights(weights):
    """A mistake that computes other weights from the scores and the visible positions."""

    def mistake(query, key, value):
        scores = query @ key.T
        attn = weights(scores, np.tri(len(scores), dtype=bool))
        return attn @ value, attn

    return mistake


def divided(query, key, value):
    return attention_head(query / query.shape[1] ** 0.5, key, value)


def divided_without_mask(query, key, value):
    attn = layers.softmax(query @ key.T / query.shape[1] ** 0.5)
    return attn @ value, attn


def transposed_weights(query, key, value):
    attn = attention_head(query, key, value)[1]
    return attn.T @ value, attn


def softmax_where(visible, scores, axis=1, hidden=-np.inf):
    numbers = np.exp(np.where(visible, scores, hidden))
    return numbers / numbers.sum(axis=axis, keepdims=True)


EXERCISE = Exercise(
    7,
    "attention_head",
    attention_head,
    ("head_out", "attn"),
    cases,
    "baregpt's attention",
    {
        with_weights(lambda scores, seen: layers.softmax(scores)): "The causal mask is missing: "
        "positions attend to later positions.",
        with_weights(
            lambda scores, seen: softmax_where(seen.T, scores)
        ): "The mask is on the wrong "
        "side: it hides the earlier positions and shows the later ones.",
        with_weights(lambda scores, seen: softmax_where(np.tri(len(scores), k=-1) > 0, scores)): (
            "The mask hides too much: a position must attend to itself."
        ),
        with_weights(
            lambda scores, seen: softmax_where(np.tri(len(scores), k=1) > 0, scores)
        ): "The mask shows too much: each position attends to one that is later.",
        with_weights(lambda scores, seen: seen * layers.softmax(scores)): "The mask is applied "
        "after the softmax, so the rows of weights no longer sum to 1.",
        with_weights(lambda scores, seen: softmax_where(seen, scores, hidden=0)): "The masked "
        "scores are 0, but exp(0) is 1, so their weights are not 0.",
        with_weights(lambda scores, seen: softmax_where(seen, scores, axis=0)): "The softmax runs "
        "over the queries: the weights of one query, a row, must sum to 1.",
        with_weights(lambda scores, seen: softmax_where(seen, scores.T)): "The scores are "
        "transposed: their rows belong to the queries and their columns to the keys.",
        divided_without_mask: "The causal mask is missing, and the scores are divided by √d, but "
        "the query has been divided already.",
        divided: "The scores are divided by √d, but the query has been divided already.",
        transposed_weights: "attn is correct, but its transpose is multiplied by the values.",
    },
    (
        "The scores are one matrix product, with the keys transposed. Row i belongs to query i.",
        "exp(-∞) is 0: add -∞ to the scores of later positions, above the diagonal, before the "
        "softmax. The diagonal itself stays.",
        "np.triu with k=1 keeps what is above the diagonal. Then take the softmax of each row, and "
        "multiply the weights by the values.",
    ),
)

"""Exercise 9."""

import numpy as np

from baregpt import layers
from exercises.exercise import Exercise
from exercises.gradients import finite_differences

backward = layers.attention_backward  # kept, because training replaces it


def dqkv_of(dhead_out, query, key, value, attn):
    """The gradient of qkv, by baregpt: if x is the identity, it equals that of w_qkv."""
    rows, width = dhead_out.shape
    saved = layers.Saved(x=np.eye(rows, dtype=dhead_out.dtype), rope_phases=None)
    saved.w_qkv, saved.w_out = np.zeros((rows, 3 * width)), np.eye(width, dtype=dhead_out.dtype)
    saved.query, saved.key, saved.value, saved.head_out = query, key, value, dhead_out
    saved.attn_tiles = [
        attn[:, :, queries, keys] for queries, keys in layers.query_tiles(*attn.shape[2:])
    ]
    return backward(dhead_out, saved)[1]["qkv"]


def heads_backward(dhead_out, query, key, value, attn, head_backward):
    return dqkv_of(dhead_out, query, key, value, attn)


def cases():
    from exercises.checks.attention_head_backward import attention_head_backward

    rng = np.random.default_rng(9)
    batch, length, n_heads, width = 2, 4, 2, 8
    # With an identity for x, qkv is w_qkv itself.
    x, qkv = np.eye(batch * length), rng.normal(size=(batch * length, 3 * width))
    w_out, dhead_out = np.eye(width), rng.normal(size=(batch * length, width))

    def loss():
        return float((layers.attention(x, qkv, w_out, n_heads, length)[0] * dhead_out).sum())

    saved = layers.attention(x, qkv, w_out, n_heads, length)[1]
    attn = layers.attention_map(saved)
    arguments = dhead_out, saved.query, saved.key, saved.value, attn, attention_head_backward
    yield arguments, [finite_differences(loss, qkv)]


def parts(dhead_out, query, *others):
    """The correct result as (B, T, 3, H, d), and √d."""
    batch, n_heads, length, d = query.shape
    dqkv = heads_backward(dhead_out, query, *others)
    return dqkv.reshape(batch, length, 3, n_heads, d), d**0.5


def scaled(factors):
    """A mistake that multiplies the correct dquery, dkey and dvalue by factors of √d and √D."""

    def mistake(dhead_out, query, *others):
        by_part, root = parts(dhead_out, query, *others)
        by = np.array(factors(root, dhead_out.shape[1] ** 0.5))
        return (by_part * by[:, None, None]).reshape(len(dhead_out), -1)

    return mistake


def joined(join, undivided=False):
    """A mistake that brings (B, T, 3, H, d) into another order, and may forget the √d as well."""

    def mistake(dhead_out, *others):
        by_part, root = parts(dhead_out, *others)
        if undivided:
            by_part[:, :, 0] *= root
        return join(by_part).reshape(len(dhead_out), -1)

    return mistake


def heads_not_swapped(by_part):
    rows = by_part.shape[0] * by_part.shape[1]
    return np.hstack([part.reshape(rows, -1) for part in by_part.transpose(2, 0, 3, 1, 4)])


ORDERS = {
    heads_not_swapped: "The axes are not swapped back: each row of dqkv must "
    "have the heads of one position, concatenated.",
    lambda by_part: by_part.transpose(2, 0, 3, 1, 4): "The result is (3, B, H, T, d) in memory: a "
    "row of dqkv belongs to one position, and holds query, key and value of all its heads.",
    lambda by_part: by_part.transpose(2, 0, 1, 3, 4): "The result is (3, B, T, H, d) in memory: "
    "query, key and value lie in columns of the same row, not in successive rows.",
    lambda by_part: by_part.transpose(0, 1, 3, 2, 4): "The columns are sorted by head first: they "
    "must be all queries, then all keys, then all values.",
}


def split_by_reshape_alone(dhead_out, query, *others):
    batch, n_heads, length, d = query.shape
    wrong = dhead_out.reshape(batch, n_heads, length, d).swapaxes(1, 2)
    return heads_backward(np.ascontiguousarray(wrong).reshape(dhead_out.shape), query, *others)


EXERCISE = Exercise(
    9,
    "heads",
    heads_backward,
    ("dqkv",),
    cases,
    "finite differences",
    {
        scaled(lambda d, D: (d, 1, 1)): "The division by √d is missing: dquery is the gradient of "
        "the scaled query, and qkv holds the query before scaling.",
        scaled(lambda d, D: (1 / d, 1, 1)): "The query's part is divided by √d twice.",
        scaled(lambda d, D: (d * d, 1, 1)): "The query's part is multiplied by √d: the backward "
        "pass of a division by √d is also a division by √d.",
        scaled(
            lambda d, D: (1, 1 / d, 1)
        ): "The key's part is divided by √d as well, but the saved query, from which it is "
        "computed, has been divided already.",
        scaled(lambda d, D: (1, 1 / d, 1 / d)): "The parts of key and value are divided by √d, but "
        "only the query was divided in the forward pass.",
        scaled(
            lambda d, D: (d, 1 / d, 1)
        ): "The √d is in the wrong place: the key's part is divided by it, and the query's part "
        "is not.",
        scaled(lambda d, D: (d / D, 1, 1)): "The query's part is divided by √D, but each head has "
        "width d.",
        **{joined(join): sentence for join, sentence in ORDERS.items()},
        **{
            joined(join, undivided=True): f"{sentence} And the division by √d is missing."
            for join, sentence in ORDERS.items()
        },
        scaled(lambda d, D: (1, d, 1)): "The key's part is multiplied by √d: it takes the divided "
        "query as it is saved.",
        split_by_reshape_alone: "dhead_out is split by reshape alone: its rows are the "
        "concatenated heads, so T comes before H in memory.",
    },
    (
        "Bring dhead_out from (N, D) to (B, T, H, d) by reshape, and then to (B, H, T, d) by "
        "swapping two axes. Then dhead_out[b, h] is what head_backward takes.",
        "Collect the three results in one array (3, B, H, T, d). Divide the query's part by √d, "
        "and only that: the saved query is the divided one, so dkey is correct as it is.",
        "A row of dqkv holds one position; its columns are the axes 3, H and d, flattened. So "
        "bring (3, B, H, T, d) to the order (B, T, 3, H, d) with transpose, and reshape it to N "
        "rows.",
    ),
)

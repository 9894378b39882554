"""Exercise 13."""

import numpy as np

from baregpt import layers
from exercises.checks.attention_head import one_head
from exercises.exercise import Exercise


def attention_step(query, key, value, kv, position):
    d = len(query)
    padded = np.zeros((2, 1, 1, position + 1, 3 * d), kv.dtype)  # the width that `one_head` has
    padded[:, 0, 0, :, :d] = kv[:, : position + 1]
    head_out, _ = one_head(query[None], key[None], value[None], padded)
    kv[:, : position + 1] = padded[:, 0, 0, :, :d]
    return head_out[0], kv


def cases():
    rng = np.random.default_rng(13)
    query, key, value = rng.normal(size=(3, 5, 4))
    whole, _ = one_head(query, key, value)  # what the whole sequence gives
    for position in (3, 0):
        kv, after = rng.normal(size=(2, 2, 6, 4))
        kv[:, :position] = key[:position], value[:position]
        after[...] = kv
        after[:, position] = key[position], value[position]
        arguments = query[position], key[position], value[position], kv, position
        yield arguments, (whole[position], after)


def attend(query, keys, values):
    return layers.softmax(query @ keys.T) @ values


def not_stored(query, key, value, kv, position):
    return attend(query, *kv[:, : position + 1]), kv


def not_stored_but_seen(query, key, value, kv, position):
    before = kv.copy()
    return attention_step(query, key, value, kv, position)[0], before


def stored_after(query, key, value, kv, position):
    head_out = attend(query, *kv[:, : position + 1])
    return head_out, attention_step(query, key, value, kv, position)[1]


def seeing(start, stop):
    """A mistake that attends to other positions: from start to stop, relative to the new one."""

    def mistake(query, key, value, kv, position):
        _, kv = attention_step(query, key, value, kv, position)
        seen = kv[:, start(position) : stop(position)]
        return attend(query, *seen), kv

    return mistake


def next_slot(query, key, value, kv, position):
    kv[:, position + 1] = key, value
    return attend(query, *kv[:, : position + 2]), kv


def previous_slot(query, key, value, kv, position):
    kv[:, position - 1] = key, value
    return attend(query, *kv[:, :position]), kv


def swapped(query, key, value, kv, position):
    return attention_step(query, value, key, kv, position)


def divided(query, key, value, kv, position):
    return attention_step(query / len(query) ** 0.5, key, value, kv, position)


def without_softmax(query, key, value, kv, position):
    _, kv = attention_step(query, key, value, kv, position)
    return (query @ kv[0, : position + 1].T) @ kv[1, : position + 1], kv


EXERCISE = Exercise(
    13,
    "kv_cache",
    attention_step,
    ("head_out", "kv"),
    cases,
    "baregpt's attention",
    {
        not_stored: "The new key and value are not written into the cache.",
        not_stored_but_seen: "head_out is correct, but the new key and value are missing from the "
        "returned cache: the next position needs them.",
        stored_after: "The new key and value are written too late: the position must attend to "
        "itself.",
        seeing(lambda i: 0, lambda i: None): "The query attends to the whole cache: what comes "
        "after the new position is uninitialized.",
        seeing(lambda i: 0, lambda i: i): "The new position does not attend to itself.",
        seeing(lambda i: i, lambda i: i + 1): "The new position attends only to itself, not to "
        "the ones before it.",
        seeing(
            lambda i: 0, lambda i: i + 2
        ): "The query attends to one position too many, which is uninitialized.",
        next_slot: "The new key and value are written one position too far.",
        previous_slot: "The new key and value overwrite those of the position before.",
        swapped: "Key and value are swapped in the cache: kv[0] holds the keys.",
        divided: "The scores are divided by √d, but the query has been divided already.",
        without_softmax: "The softmax is missing: the scores are used as weights.",
    },
    (
        "After the new key and value are written, the cache holds position + 1 keys that the "
        "query may attend to. All of them are at or before the new position.",
        "So no mask is needed: only those keys are read. There is one query, so the scores are "
        "one row of position + 1 numbers.",
        "The scores are the query times the keys up to and including the position. Take their "
        "softmax, and weight the values of the same positions with it.",
    ),
    in_place=True,
)

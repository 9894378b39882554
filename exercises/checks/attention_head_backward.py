"""Exercise 8."""

import numpy as np

from baregpt import layers
from exercises.checks.attention_head import attention_head
from exercises.checks.heads import dqkv_of
from exercises.exercise import Exercise
from exercises.gradients import gradients_by_differences

softmax_backward = layers.softmax_backward


def attention_head_backward(dhead_out, query, key, value, attn):
    dqkv = dqkv_of(dhead_out, *(array[None, None] for array in (query, key, value, attn)))
    dquery, dkey, dvalue = np.split(dqkv, 3, axis=1)
    return dquery * query.shape[1] ** 0.5, dkey, dvalue  # of the divided query


def cases():
    query, key, value, dhead_out = np.random.default_rng(8).normal(size=(4, 5, 4))
    attn = attention_head(query, key, value)[1]
    forward = lambda: attention_head(query, key, value)[0]  # noqa: E731
    gradients = gradients_by_differences(forward, dhead_out, query, key, value)
    yield (dhead_out, query, key, value, attn), gradients


def with_dscores(change):
    """A mistake that computes dscores differently, from dattn and attn."""

    def mistake(dhead_out, query, key, value, attn):
        dscores = change(dhead_out @ value.T, attn)
        return dscores @ key, dscores.T @ query, attn.T @ dhead_out

    return mistake


def changed(name, change):
    """A mistake that computes one of the three gradients differently."""

    def mistake(dhead_out, query, key, value, attn):
        correct = attention_head_backward(dhead_out, query, key, value, attn)
        dscores = softmax_backward(dhead_out @ value.T, attn)
        wrong = change(dscores, dhead_out, query, key, attn)
        return [wrong if n == name else a for n, a in zip(("dquery", "dkey", "dvalue"), correct)]

    return mistake


def divided(dhead_out, query, key, value, attn):
    dquery, dkey, dvalue = attention_head_backward(dhead_out, query, key, value, attn)
    return dquery / query.shape[1] ** 0.5, dkey / query.shape[1] ** 0.5, dvalue


EXERCISE = Exercise(
    8,
    "attention_head_backward",
    attention_head_backward,
    ("dquery", "dkey", "dvalue"),
    cases,
    "finite differences",
    {
        with_dscores(lambda dattn, attn: dattn): "The backward pass of the softmax is missing: the "
        "gradient of the weights is used as that of the scores.",
        with_dscores(lambda dattn, attn: dattn * attn * (1 - attn)): "The softmax is treated as if "
        "each weight depended on its own score only.",
        with_dscores(lambda dattn, attn: softmax_backward(dattn.T, attn.T).T): "The backward pass "
        "of the softmax runs over the columns, but each row is a softmax.",
        with_dscores(lambda dattn, attn: softmax_backward(attn, dattn)): "The arguments of the "
        "softmax's backward pass are swapped: the gradient comes first.",
        with_dscores(lambda dattn, attn: dattn * attn): "The backward pass of the softmax "
        "lacks the sum over its row.",
        changed(
            "dvalue", lambda ds, dy, q, k, attn: attn @ dy
        ): "A transpose is missing in dvalue: the gradient of a value is a sum over all positions "
        "that attend to it.",
        changed("dkey", lambda ds, dy, q, k, attn: ds @ q): "A transpose is missing in dkey: the "
        "gradient of a key is a sum over all queries that attend to it.",
        changed("dquery", lambda ds, dy, q, k, attn: ds.T @ k): "There is one transpose too many "
        "in dquery: a row of scores belongs to one query.",
        changed(
            "dquery", lambda ds, dy, q, k, attn: ds @ q
        ): "dquery is computed from the queries, "
        "but a score's derivative with respect to the query is the key.",
        changed("dkey", lambda ds, dy, q, k, attn: ds.T @ k): "dkey is computed from the keys, but "
        "a score's derivative with respect to the key is the query.",
        divided: "dquery and dkey are divided by √d: here the query has already been divided, and "
        "exercise 9 takes care of it.",
        changed("dquery", lambda ds, dy, q, k, attn: ds @ k / q.shape[1] ** 0.5): "dquery is "
        "divided by √d: here the query has already been divided, and exercise 9 takes care of it.",
        changed("dkey", lambda ds, dy, q, k, attn: ds.T @ q / q.shape[1] ** 0.5): "dkey is "
        "divided by √d: the query, by which dscoresᵀ is multiplied, has been divided already.",
    },
    (
        "head_out = attn value is a linear layer without bias: its backward pass gives the "
        "gradient of attn and the gradient of value, as in exercise 2.",
        "Then dscores is the backward pass of the softmax, row by row. The mask added a constant, "
        "and a masked position has a weight of 0, so its dscores is 0 without a separate step.",
        "scores = query keyᵀ is a matrix product: dquery = dscores key and dkey = dscoresᵀ query. "
        "From the first hint, dattn = dhead_out valueᵀ and dvalue = attnᵀ dhead_out.",
    ),
)

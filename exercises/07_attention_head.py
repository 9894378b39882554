"""Exercise 7: one head of causal attention, the forward pass.

For T positions, with a query, a key and a value of d numbers each:

    scores[i, j] = query[i] · key[j]             (T, T), a dot product
    attn[i] = softmax of scores[i] over the positions j that i may attend to
    head_out[i] = Σ_j attn[i, j] value[j]        (T, d)

Causal means that position i attends to itself and to the positions before it, and to none later:
its weights for later positions are 0, and each row of weights sums to 1.

The queries have already been divided by √d (exercise 9), so do not divide here.

Question: what has to be added to a score before the softmax, so that its weight is exactly 0?
"""

import numpy as np


def attention_head(query, key, value):
    """Return head_out (T, d) and attn (T, T), given query, key and value (T, d) each."""
    ...

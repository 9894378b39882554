"""Exercise 8: one head of causal attention, the backward pass.

The forward pass of exercise 7, with matrices:

    scores = query keyᵀ                          (T, T)
    attn = softmax(scores + causal mask)         (T, T)
    head_out = attn value                        (T, d)

Question: go through the three lines in reverse order. Two of them are matrix products as in
exercise 2, one is the softmax of exercise 4. Does the mask need a step of its own?

You may use `layers.softmax_backward(dy, y)` of BareGPT, which you wrote in exercise 4.
"""

import numpy as np

from baregpt import layers


def attention_head_backward(dhead_out, query, key, value, attn):
    """Return dquery, dkey and dvalue (T, d) each.

    dhead_out (T, d), query, key, value (T, d) each, attn (T, T).
    """
    ...

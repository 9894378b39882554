"""Exercise 9: multi-head attention, and the division by √d.

A layer with H heads computes queries, keys and values of all heads in one matrix product, qkv =
x W_qkv, for B sequences of T positions, flattened to N = B·T rows. With d = D / H:

    qkv (N, 3D)         its columns: first D for queries, then D for keys, then D for values;
                        within each group of D columns, d for head 0, then d for head 1, ...
    query, key, value   (B, H, T, d) each: the same elements, rearranged by sequence and head
    query = query / √d  the standard deviation of a dot product of d terms grows like √d;
                        the division keeps it at about 1
    head_out            (B, H, T, d): for each sequence and head, exercise 7
    head_out (N, D)     the heads concatenated: d columns from head 0, then d from head 1, ...

Question: follow these lines in reverse order. `reshape` alone never changes the order of the
elements. To bring the axes B, H, T, d into another order, you need `transpose` or `swapaxes` as
well. Where does the factor √d appear in the backward pass? The saved query is the scaled one,
already divided by √d.

`head_backward` is exercise 8 for one sequence and one head: head_backward(dhead_out, query, key,
value, attn) -> dquery, dkey, dvalue. Its dquery is the gradient with respect to the scaled query.
Loop over the B sequences and H heads.
"""

import numpy as np


def heads_backward(dhead_out, query, key, value, attn, head_backward):
    """Return dqkv (N, 3D).

    dhead_out (N, D), heads concatenated; query, key, value (B, H, T, d) each, the query divided by
    √d; attn (B, H, T, T).
    """
    ...

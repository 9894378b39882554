"""For each exercise: the answer with baregpt's functions, cases to try, common mistakes, hints."""

from exercises.checks import (
    adam,
    attention_head,
    attention_head_backward,
    block,
    cross_entropy,
    embedding,
    gelu,
    heads,
    kv_cache,
    layer_norm,
    linear,
    sample,
    softmax,
)

EXERCISES = [
    cross_entropy.EXERCISE,
    linear.EXERCISE,
    gelu.EXERCISE,
    softmax.EXERCISE,
    layer_norm.EXERCISE,
    embedding.EXERCISE,
    attention_head.EXERCISE,
    attention_head_backward.EXERCISE,
    heads.EXERCISE,
    block.EXERCISE,
    adam.EXERCISE,
    sample.EXERCISE,
    kv_cache.EXERCISE,
]

"""Exercise 6."""

import numpy as np

from baregpt import layers
from exercises.exercise import Exercise
from exercises.gradients import gradients_by_differences

backward = layers.embedding_backward  # kept, because training replaces it


def embedding_backward(dy, ids, vocab_size, block_size):
    positions = np.zeros((block_size, dy.shape[1]), dy.dtype)
    saved = layers.Saved(ids=ids, vocab_size=vocab_size, positions=positions)
    _, gradients = backward(dy, saved)
    return gradients["token_embedding"], gradients["position_embedding"]


def cases():
    rng = np.random.default_rng(6)
    ids = np.array([[3, 1, 3], [0, 3, 1]])  # 3 is used three times, 1 twice, 2 and 4 never
    tokens, positions, dy = (rng.normal(size=shape) for shape in ((5, 2), (4, 2), (6, 2)))
    forward = lambda: layers.embedding(ids, tokens, positions)[0]  # noqa: E731
    yield (dy, ids, 5, 4), gradients_by_differences(forward, dy, tokens, positions)


def overwritten(dy, ids, vocab_size, block_size):
    dtokens, dpositions = embedding_backward(dy, ids, vocab_size, block_size)
    dtokens[ids.ravel()] = dy
    return dtokens, dpositions


def mean_over_uses(dy, ids, vocab_size, block_size):
    dtokens, dpositions = embedding_backward(dy, ids, vocab_size, block_size)
    counts = np.bincount(ids.ravel(), minlength=vocab_size)
    return dtokens / np.maximum(counts, 1)[:, None], dpositions


def first_rows(dy, ids, vocab_size, block_size):
    dtokens, dpositions = embedding_backward(dy, ids, vocab_size, block_size)
    return dtokens[: ids.max() + 1], dpositions


def changed_positions(change):
    """A mistake that computes dpositions differently, from dy as (B, T, D)."""

    def mistake(dy, ids, vocab_size, block_size):
        dtokens, dpositions = embedding_backward(dy, ids, vocab_size, block_size)
        sequences = dy.reshape(*ids.shape, -1)
        return dtokens, change(sequences, dpositions)

    return mistake


def padded(rows, dpositions):
    result = np.zeros_like(dpositions)
    result[: len(rows)] = rows
    return result


EXERCISE = Exercise(
    6,
    "embedding",
    embedding_backward,
    ("dtokens", "dpositions"),
    cases,
    "finite differences",
    {
        overwritten: "A row of tokens that is used twice keeps the gradient of its last use only: "
        "the gradients of all its uses must add up (an indexed assignment writes each row once, "
        "even with +=).",
        mean_over_uses: "The gradient of a row of tokens is the sum over its uses, not their mean.",
        first_rows: "dtokens lacks the rows of the characters with the largest ids: a character "
        "that does not occur has a gradient of 0.",
        changed_positions(
            lambda dy, correct: padded(dy[-1], correct)
        ): "A row of positions is used by "
        "every sequence, but only the gradient of the last one is kept.",
        changed_positions(
            lambda dy, correct: padded(dy[0], correct)
        ): "A row of positions is used by "
        "every sequence, but only the gradient of the first one is kept.",
        changed_positions(lambda dy, correct: padded(dy.mean(axis=0), correct)): "The gradient of "
        "positions is a mean over the sequences, but it must be a sum.",
        changed_positions(
            lambda dy, correct: dy.sum(axis=0)
        ): "dpositions ends at T: the table has block_size rows, and those that are not used have "
        "a gradient of 0.",
        changed_positions(
            lambda dy, correct: padded(
                dy.reshape(dy.shape[1], dy.shape[0], -1).sum(axis=1), correct
            )
        ): "The rows are assigned to the wrong positions: they come one sequence after another.",
    },
    (
        "A row of tokens is copied to every place where its id occurs. A value that is used "
        "several times sums the gradients of its uses.",
        "A loop over the N rows is correct, and a good start: add each row of dy to the row of "
        "its id. NumPy's indexed += adds only once per row, so it is not equivalent to the loop; "
        "np.add.at is, and so is a product with a one-hot matrix.",
        "A row of positions is used once per sequence: bring dy into the shape (B, T, D) and sum "
        "over the sequences. Both results start as arrays of zeros of the shape of the table.",
    ),
)

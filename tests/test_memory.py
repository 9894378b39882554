"""The estimate of a training step's memory."""

import tracemalloc

import numpy as np
import pytest

from baregpt import GPT, Config
from pipeline.training.memory import step_memory

SHAPES = [  # V, T, D, H, L, sequences
    (60, 128, 64, 4, 2, 4),
    (60, 1024, 32, 4, 2, 1),
    (2000, 32, 64, 2, 2, 4),
    (60, 64, 128, 2, 1, 1),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_is_within_a_fifth_of_the_peak(shape):
    *sizes, sequences = shape
    model = GPT(Config(*sizes))
    ids = np.zeros((sequences, sizes[1]), int)
    tracemalloc.start()
    model.loss_and_gradients(ids, ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    peak += 4 * model.flat.nbytes  # parameters, their best values, two moments of Adam
    assert step_memory(*shape, shards=1, threads=1) == pytest.approx(peak, rel=0.2)

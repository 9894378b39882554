import hashlib
from collections import namedtuple

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from baregpt import GPT, Config
from baregpt.optimizer import Optimizer
from baregpt.trainer import TrainConfig, evaluate, pairwise_sum, random_windows, train

SHAPE = Config(vocab_size=11, block_size=16, d_model=16, n_heads=2, n_layers=2)
IDS = np.arange(2000) * np.arange(2000) // 7 % 11  # a text with a pattern to learn
CONFIG = TrainConfig(
    steps=60, batch_size=8, shards=4, warmup_steps=5, learning_rate=0.01, evaluation_interval=25
)

Progress = namedtuple(
    "Progress", ["step", "train_loss", "validation_loss", "learning_rate", "gradient_norm"]
)


def trained(config=CONFIG, threads=None):
    model = GPT(SHAPE, seed=3)
    return model, [
        Progress(*step) for step in train(model, IDS[:1800], IDS[1800:], config, threads)
    ]


def test_training_lowers_both_losses_and_reports_every_step():
    _, progress = trained()
    assert [p.step for p in progress] == list(range(1, 61))
    assert [p.step for p in progress if p.validation_loss is not None] == [25, 50, 60]
    assert progress[-1].train_loss < progress[0].train_loss - 0.3
    assert progress[-1].validation_loss < np.log(11) - 0.3
    assert all(p.gradient_norm > 0 for p in progress)


def test_result_is_bitwise_independent_of_the_number_of_threads():
    """The default model is large enough for BLAS and Adam to use several threads if allowed to."""
    ids = np.resize(IDS, 20_000)
    results = set()
    for threads in (1, 2, 3):
        model = GPT(Config(11), seed=3)
        config = TrainConfig(steps=2, warmup_steps=0, muon_learning_rate=0.02, dropout=0.1)
        list(train(model, ids, ids[:1000], config, threads))
        results.add(hashlib.md5(model.flat).hexdigest())
    assert len(results) == 1


def test_seed_determines_the_batches():
    inputs, targets = random_windows(IDS, 16, 4, (1, 5))
    assert inputs.shape == targets.shape == (4, 16)
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    assert (inputs == random_windows(IDS, 16, 4, (1, 5))[0]).all()
    assert (inputs != random_windows(IDS, 16, 4, (1, 6))[0]).any()
    assert (inputs != random_windows(IDS, 16, 4, (2, 5))[0]).any()


def test_random_windows_cover_both_ends_of_the_text():
    inputs, targets = random_windows(np.arange(20), 16, 500, 0)
    assert inputs.min() == 0
    assert targets.max() == 19


def test_training_with_muon_and_dropout_lowers_the_loss():
    model, progress = trained(
        TrainConfig(**vars(CONFIG) | {"muon_learning_rate": 0.02, "dropout": 0.1})
    )
    assert progress[-1].validation_loss < np.log(11) - 0.3
    without, _ = trained(TrainConfig(**vars(CONFIG) | {"muon_learning_rate": 0.02}))
    assert (model.flat != without.flat).any()


def test_shards_give_the_gradient_of_the_whole_batch():
    whole, _ = trained(TrainConfig(**vars(CONFIG) | {"shards": 1, "steps": 3}))
    parts, _ = trained(TrainConfig(**vars(CONFIG) | {"shards": 8, "steps": 3}))
    assert parts.flat == pytest.approx(whole.flat, abs=1e-4)


@pytest.mark.parametrize("clip_norm", [0.05, 1e9])
def test_a_step_is_adam_on_the_clipped_gradient_of_the_batch(clip_norm):
    config = TrainConfig(**vars(CONFIG) | {"clip_norm": clip_norm, "steps": 3, "shards": 1})
    model, progress = trained(config)
    expected = GPT(SHAPE, seed=3)
    optimizer = Optimizer(expected.parameters, config)
    for p in progress:
        inputs, targets = random_windows(IDS[:1800], 16, 8, (config.seed, p.step))
        loss, gradients = expected.loss_and_gradients(inputs, targets)
        norm = np.linalg.norm([np.linalg.norm(gradient) for gradient in gradients.values()])
        assert (p.train_loss, p.gradient_norm) == pytest.approx((loss, norm), rel=1e-5)
        assert norm > 0.05  # otherwise, nothing would be clipped here
        optimizer.update(
            {name: g * min(1, clip_norm / norm) for name, g in gradients.items()}, p.step
        )
    assert model.flat == pytest.approx(expected.flat, abs=1e-5)


@pytest.mark.filterwarnings("error")
def test_divergence_is_an_error():
    config = TrainConfig(**vars(CONFIG) | {"learning_rate": 1e30, "warmup_steps": 0})
    message = r"training diverged at step 2 \(loss nan, gradient norm nan\): lower the learning"
    with pytest.raises(ValueError, match=message):
        trained(config)


def test_evaluate_scores_every_character_once():
    model = GPT(SHAPE, seed=3)
    ids = IDS[:53]  # three windows and a rest of four targets
    losses = [
        model.loss(ids[None, i : i + 16], ids[None, i + 1 : i + 17]) * 16 for i in (0, 16, 32)
    ]
    losses.append(model.loss(ids[None, 48:52], ids[None, 49:53]) * 4)
    assert evaluate(model, ids) == pytest.approx(sum(losses) / 52)


def test_evaluate_spreads_a_limited_number_of_windows_evenly():
    model = GPT(SHAPE, seed=3)
    ids = IDS[:161]
    expected = [model.loss(ids[None, i : i + 16], ids[None, i + 1 : i + 17]) for i in (0, 80)]
    assert evaluate(model, ids, max_windows=2) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("count", range(1, 9))
def test_pairwise_sum_sums_every_array_once(count):
    assert pairwise_sum([np.array([2.0**i]) for i in range(count)]) == 2**count - 1


def test_number_of_blas_threads_is_restored():
    before = [library["num_threads"] for library in threadpool_info()]
    trained(TrainConfig(**vars(CONFIG) | {"steps": 2}))
    assert [library["num_threads"] for library in threadpool_info()] == before


@pytest.mark.parametrize(
    ("train_ids", "validation_ids", "split"), [(16, 100, "training"), (100, 16, "validation")]
)
def test_a_split_too_short_for_a_window_is_refused(train_ids, validation_ids, split):
    message = rf"{split} split \(16 ids\) must be longer than block_size \(16\)"
    with pytest.raises(ValueError, match=message):
        next(train(GPT(SHAPE), IDS[:train_ids], IDS[:validation_ids], CONFIG))


def test_shards_must_divide_the_batch():
    with pytest.raises(ValueError, match=r"batch_size \(16\) must be a multiple of shards"):
        TrainConfig(shards=3)

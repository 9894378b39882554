"""The whole model: its size, its gradients, what it may see."""

import dataclasses

import numpy as np
import pytest
from test_layers import finite_differences, relative_error

from baregpt import GPT, Config

TINY = Config(vocab_size=5, block_size=6, d_model=8, n_heads=2, n_layers=2)
random = np.random.default_rng(0)


def test_the_default_model_with_65_characters_has_1643585_parameters():
    model = GPT(Config(65))
    assert model.n_parameters == 1_643_585
    assert sum(parameter.size for parameter in model.parameters.values()) == 1_643_585


def test_convolutions_add_eight_rows_a_block_and_change_nothing_at_first():
    without, with_ = GPT(TINY), GPT(dataclasses.replace(TINY, convolution=True))
    assert with_.n_parameters == without.n_parameters + TINY.n_layers * 8 * TINY.d_model
    ids = random.integers(0, 5, (2, 6))
    assert (without.logits(ids) == with_.logits(ids)).all()


@pytest.mark.parametrize(
    ("change", "batch", "length"),
    [
        ({}, 2, 6),
        ({}, 2, 3),  # shorter than block_size
        ({}, 1, 6),
        ({}, 1, 1),
        ({"n_heads": 1}, 2, 6),
        ({"n_layers": 1}, 2, 6),
        ({"n_heads": 8, "n_layers": 3}, 2, 4),
        ({"rotary": True}, 2, 5),
        ({"rotary": True}, 1, 6),
        ({"convolution": True}, 2, 6),
        ({"convolution": True, "rotary": True}, 2, 2),  # shorter than the convolution
    ],
)
def test_gradients_match_finite_differences(change, batch, length):
    model = GPT(dataclasses.replace(TINY, **change), dtype=np.float64)
    model.flat[:] = random.normal(0, 0.4, model.n_parameters)
    ids, targets = random.integers(0, 5, (2, batch, length))
    loss, gradients = model.loss_and_gradients(ids, targets)
    assert loss == model.loss(ids, targets)
    assert gradients.keys() == model.parameters.keys()
    for name, parameter in model.parameters.items():
        assert gradients[name].shape == parameter.shape
        numeric = finite_differences(lambda: model.loss(ids, targets), parameter)
        assert relative_error(gradients[name], numeric) < 1e-6, name


@pytest.mark.parametrize("convolution", [False, True])
def test_gradients_with_dropout_match_finite_differences(convolution):
    model = GPT(dataclasses.replace(TINY, convolution=convolution), dtype=np.float64)
    model.flat[:] = random.normal(0, 0.4, model.n_parameters)
    ids, targets = random.integers(0, 5, (2, 2, 6))
    loss, gradients = model.loss_and_gradients(ids, targets, dropout=0.3, seed=1)
    assert loss != model.loss(ids, targets)
    for name, parameter in model.parameters.items():
        numeric = finite_differences(
            lambda: model.loss_and_gradients(ids, targets, 0.3, 1)[0], parameter
        )
        assert relative_error(gradients[name], numeric) < 1e-6, name


def test_parameters_are_views_of_one_buffer_in_the_documented_order():
    model = GPT(TINY)
    assert model.flat.flags.c_contiguous
    in_order = np.concatenate([p.ravel() for p in model.parameters.values()])
    assert in_order.tolist() == model.flat.tolist()
    model.flat[:] = 7
    assert all((parameter == 7).all() for parameter in model.parameters.values())
    block = [
        "ln1.gain", "ln1.bias", "attention.qkv", "attention.out", "ln2.gain", "ln2.bias",
        "mlp.w1", "mlp.b1", "mlp.w2", "mlp.b2",
    ]  # fmt: skip
    names = ["token_embedding", "position_embedding"]
    names += [f"blocks.{i}.{name}" for i in range(2) for name in block]
    assert list(model.parameters) == [*names, "head.weight", "head.bias"]


def test_all_matrix_products_stay_in_float32():
    model = GPT(TINY)
    _, gradients = model.loss_and_gradients([[0, 1, 2]], [[1, 2, 3]])
    assert {array.dtype for array in [*gradients.values(), model.logits([[0]])]} == {
        np.dtype(np.float32)
    }


def test_a_seed_decides_the_initial_parameters():
    assert (GPT(TINY, seed=1).flat == GPT(TINY, seed=1).flat).all()
    assert (GPT(TINY, seed=1).flat != GPT(TINY, seed=2).flat).any()


def test_an_untrained_model_is_as_good_as_guessing():
    ids, targets = random.integers(0, 65, (2, 4, 128))
    assert GPT(Config(65)).loss(ids, targets) == pytest.approx(np.log(65), abs=0.1)


def test_logits_do_not_see_the_future():
    model = GPT(TINY)
    ids = random.integers(0, 5, (1, 6))
    changed = ids.copy()
    changed[0, 4:] = (changed[0, 4:] + 1) % 5
    before, after = model.logits(ids), model.logits(changed)
    assert before.shape == (1, 6, 5)
    assert np.abs(before - after)[0, :4].max() < 1e-6
    assert np.abs(before - after)[0, 4:].max() > 1e-6


def test_attention_rows_sum_to_one_and_leave_out_the_future():
    maps = GPT(TINY).attention(random.integers(0, 5, (3, 4)))
    assert [weights.shape for weights in maps] == [(3, 2, 4, 4)] * 2
    for weights in maps:
        assert weights.sum(axis=-1) == pytest.approx(1, abs=1e-6)
        assert (weights[..., ~np.tri(4, dtype=bool)] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 3}, "d_model is 8: it must be a multiple of n_heads, 3"),
        ({"n_layers": 0}, "n_layers is 0: it must be a whole number above 0"),
        ({"block_size": 1.5}, r"block_size is 1.5: it must be a whole number"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"rotary": 1}, "rotary is 1: it must be True or False"),
        ({"rotary": True, "n_heads": 8}, "d_model is 8: it must be a multiple of twice n_heads, 8"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0] * 7], "a sequence of 7: it must have 1 to block_size, 6"),
        ([[]], "a sequence of 0"),
        ([[0, 5]], "ids go from 0 to 5: they must be 0 to 4"),
        ([[-1]], "ids go from -1"),
    ],
)
def test_impossible_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        GPT(TINY).logits(ids)

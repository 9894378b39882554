"""The whole model: its size, its gradients, what it may see."""

import dataclasses

import numpy as np
import pytest
from gradients import check_gradients

from baregpt import GPT, Config

TINY = Config(vocab_size=5, block_size=6, d_model=8, n_heads=2, n_layers=2)
rng = np.random.default_rng(0)


def test_the_default_model_with_65_characters_has_1643585_parameters():
    model = GPT(Config(65))
    assert model.n_parameters == 1_643_585
    assert sum(parameter.size for parameter in model.parameters.values()) == 1_643_585


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
    ],
)
def test_gradients_match_finite_differences(change, batch, length):
    model = GPT(dataclasses.replace(TINY, **change), dtype=np.float64)
    model.flat[:] = rng.normal(0, 0.4, model.n_parameters)
    ids, targets = rng.integers(0, 5, (2, batch, length))
    loss, gradients = model.loss_and_gradients(ids, targets)
    assert loss == model.loss(ids, targets)
    check_gradients(lambda: model.loss(ids, targets), model.parameters, gradients)


def test_gradients_with_dropout_match_finite_differences():
    model = GPT(TINY, dtype=np.float64)
    model.flat[:] = rng.normal(0, 0.4, model.n_parameters)
    ids, targets = rng.integers(0, 5, (2, 2, 6))
    loss, gradients = model.loss_and_gradients(ids, targets, dropout=0.3, seed=1)
    assert loss != model.loss(ids, targets)

    def loss_with_the_same_dropout():
        return model.loss_and_gradients(ids, targets, dropout=0.3, seed=1)[0]

    check_gradients(loss_with_the_same_dropout, model.parameters, gradients)


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


def test_gradients_and_logits_stay_in_float32():
    model = GPT(TINY)
    _, gradients = model.loss_and_gradients([[0, 1, 2]], [[1, 2, 3]])
    assert {array.dtype for array in [*gradients.values(), model.logits([[0]])]} == {
        np.dtype(np.float32)
    }


def test_seed_determines_the_initial_parameters():
    assert (GPT(TINY, seed=1).flat == GPT(TINY, seed=1).flat).all()
    assert (GPT(TINY, seed=1).flat != GPT(TINY, seed=2).flat).any()


def test_untrained_loss_is_log_of_the_vocabulary_size():
    ids, targets = rng.integers(0, 65, (2, 4, 128))
    assert GPT(Config(65)).loss(ids, targets) == pytest.approx(np.log(65), abs=0.1)


def test_logits_are_causal():
    model = GPT(TINY)
    ids = rng.integers(0, 5, (1, 6))
    changed = ids.copy()
    changed[0, 4:] = (changed[0, 4:] + 1) % 5
    before, after = model.logits(ids), model.logits(changed)
    assert before.shape == (1, 6, 5)
    assert np.abs(before - after)[0, :4].max() < 1e-6
    assert np.abs(before - after)[0, 4:].max() > 1e-6


def test_attention_rows_sum_to_one_and_are_causal():
    maps = GPT(TINY).attention(rng.integers(0, 5, (3, 4)))
    assert [attn.shape for attn in maps] == [(3, 2, 4, 4)] * 2
    for attn in maps:
        assert attn.sum(axis=-1) == pytest.approx(1, abs=1e-6)
        assert (attn[..., ~np.tri(4, dtype=bool)] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 3}, r"d_model \(8\) must be divisible by n_heads \(3\)"),
        ({"n_layers": 0}, "n_layers must be a positive int, got 0"),
        ({"block_size": 1.5}, "block_size must be a positive int, got 1.5"),
        ({"vocab_size": True}, "vocab_size must be a positive int, got True"),
        ({"rotary": 1}, "rotary must be True or False, got 1"),
        ({"rotary": True, "n_heads": 8}, r"d_model / n_heads \(1\) must be even with rotary"),
    ],
)
def test_invalid_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0] * 7], r"sequence length must be 1 to block_size \(6\), got 7"),
        ([[]], "sequence length must be .* got 0"),
        ([[0, 5]], "token ids must be 0 to 4, got 0 to 5"),
        ([[-1]], "token ids must be 0 to 4, got -1 to -1"),
    ],
)
def test_invalid_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        GPT(TINY).logits(ids)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[-1, 5]], "targets must be 0 to 4, got -1 to 5"),
        ([[1]], r"cannot reshape array of size 1 into shape \(2,\)"),
    ],
)
def test_invalid_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        GPT(TINY).loss([[0, 1]], targets)

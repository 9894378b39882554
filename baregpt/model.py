"""The model: its configuration, its parameters, and the passes through all of its layers."""

import math
from dataclasses import dataclass

import numpy as np

from baregpt import layers


@dataclass(frozen=True)
class Config:
    """The shape of a GPT; ValueError if the numbers do not fit together.

    vocab_size V: characters. block_size T: the longest context. d_model D: width. n_heads H: must divide D.
    n_layers L: blocks.
    """

    vocab_size: int
    block_size: int = 128
    d_model: int = 256
    n_heads: int = 4
    n_layers: int = 2

    def __post_init__(self):
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of at least 1")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model is {self.d_model}: it must be a multiple of n_heads, {self.n_heads}")


def parameter_shapes(config):
    """Name -> shape of every parameter, in the order in which they lie in memory."""
    V, T, D = config.vocab_size, config.block_size, config.d_model
    block = {"ln1.gain": (D,), "ln1.bias": (D,), "attention.qkv": (D, 3 * D), "attention.out": (D, D)}
    block |= {"ln2.gain": (D,), "ln2.bias": (D,)}
    block |= {"mlp.w1": (D, 4 * D), "mlp.b1": (4 * D,), "mlp.w2": (4 * D, D), "mlp.b2": (D,)}
    blocks = {f"blocks.{i}.{name}": shape for i in range(config.n_layers) for name, shape in block.items()}
    first, last = {"token_embedding": (V, D), "position_embedding": (T, D)}, {"head.weight": (D, V), "head.bias": (V,)}
    return first | blocks | last


def named_views(flat, shapes):
    """Cut one flat buffer into named arrays that share its memory."""
    stops = np.cumsum([math.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), np.split(flat, stops))}


class GPT:
    """A decoder-only Transformer (GPT-2 at toy size: Radford et al. 2019) with hand-derived gradients.

    `parameters` maps name -> array, views of the one buffer `flat`; `n_parameters` counts the numbers. The same
    config, seed and dtype give the same initial parameters.
    """

    def __init__(self, config, seed=0, dtype=np.float32):
        self.config = config
        shapes = parameter_shapes(config)
        self.n_parameters = sum(math.prod(shape) for shape in shapes.values())
        self.flat = np.zeros(self.n_parameters, dtype)
        self.parameters = named_views(self.flat, shapes)
        names = [name.removeprefix("blocks.0.") for name in shapes if name.startswith("blocks.0.")]
        self.blocks = [{n: self.parameters[f"blocks.{i}.{n}"] for n in names} for i in range(config.n_layers)]
        random = np.random.default_rng(seed)
        for name, parameter in self.parameters.items():
            if parameter.ndim == 2:  # the biases stay at zero
                parameter[...] = random.normal(0, 0.02, parameter.shape)
            if name.endswith("gain"):
                parameter[...] = 1
            if name.endswith(("attention.out", "mlp.w2")):  # 2L of these add up in x: keep the sum at one scale
                parameter /= math.sqrt(2 * config.n_layers)

    def forward(self, ids, past=None, start=0):
        """ids (B, T) -> logits (N, V), cache; `past` (L, 2, B, H, block_size, d) is as in `layers.attention`."""
        config, p, ids = self.config, self.parameters, np.asarray(ids)
        length = ids.shape[1]
        if not 0 < length <= config.block_size - start:
            raise ValueError(f"a sequence of {start + length}: it must have 1 to block_size, {config.block_size}, ids")
        if ids.min() < 0 or ids.max() >= config.vocab_size:
            raise ValueError(f"ids go from {ids.min()} to {ids.max()}: they must be 0 to {config.vocab_size - 1}")
        x, embed = layers.embedding(ids, p["token_embedding"], p["position_embedding"][start : start + length])
        caches, past = [], past if past is not None else [None] * config.n_layers
        for block, past_of_block in zip(self.blocks, past):
            x, cache = layers.block(x, block, config.n_heads, length, past_of_block, start)
            caches.append(cache)
        return x @ p["head.weight"] + p["head.bias"], (embed, caches, x)

    def backward(self, dlogits, cache):
        """dlogits (N, V) -> name -> gradient: the mirror of `forward`."""
        p, (embed, caches, x) = self.parameters, cache
        gradients = {"head.weight": x.T @ dlogits, "head.bias": dlogits.sum(axis=0)}
        dx = dlogits @ p["head.weight"].T
        for i in reversed(range(self.config.n_layers)):
            dx, dblock = layers.block_backward(dx, caches[i])
            gradients |= {f"blocks.{i}.{name}": gradient for name, gradient in dblock.items()}
        _, dembedding = layers.embedding_backward(dx, embed)
        gradients["token_embedding"] = dembedding["tokens"]
        unused = self.config.block_size - len(dembedding["positions"])
        gradients["position_embedding"] = np.pad(dembedding["positions"], [(0, unused), (0, 0)])
        return gradients

    def logits(self, ids):
        """ids (B, T) -> unnormalized log-probabilities of each next character, (B, T, V)."""
        return self.forward(ids)[0].reshape(*np.shape(ids), -1)

    def loss(self, ids, targets):
        """Mean cross-entropy, nats a character, of `targets` (B, T): the characters that follow `ids` (B, T)."""
        return layers.cross_entropy(self.forward(ids)[0], np.ravel(targets))[0]

    def loss_and_gradients(self, ids, targets):
        """The same loss, and its gradients: name -> array, with the names and shapes of `parameters`."""
        logits, cache = self.forward(ids)
        loss, loss_cache = layers.cross_entropy(logits, np.ravel(targets))
        return loss, self.backward(layers.cross_entropy_backward(loss_cache), cache)

    def attention(self, ids):
        """For each layer the attention weights, (B, H, T, T): row i is what position i attends to, and sums to 1."""
        _, (_, caches, _) = self.forward(ids)
        return [layers.attention_map(attend) for _, attend, _, _ in caches]

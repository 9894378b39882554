"""The model: its configuration, its parameters, and the passes through all of its layers."""

import math
from dataclasses import dataclass, fields

import numpy as np

from baregpt import layers


@dataclass(frozen=True)
class Config:
    """The shape of a GPT; ValueError if the numbers do not fit together.

    vocab_size V: characters. block_size T: the longest context. d_model D: width. n_heads H: must divide D.
    n_layers L: blocks. rotary: queries and keys also turn with their position.
    """

    vocab_size: int
    block_size: int = 128
    d_model: int = 256
    n_heads: int = 4
    n_layers: int = 2
    rotary: bool = False

    def __post_init__(self):
        for field in fields(self):
            value, rule = getattr(self, field.name), "True or False" if field.type is bool else "a whole number above 0"
            if type(value) is not field.type or (value < 1 and field.type is int):
                raise ValueError(f"{field.name} is {value!r}: it must be {rule}")
        if self.d_model % (self.n_heads * (1 + self.rotary)):
            twice = "twice " * self.rotary  # rotary turns pairs
            raise ValueError(f"d_model is {self.d_model}: it must be a multiple of {twice}n_heads, {self.n_heads}")


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
        speeds = 10000.0 ** -np.linspace(0, 1, config.d_model // config.n_heads // 2, endpoint=False)  # of each pair
        angles = np.outer(np.arange(config.block_size), speeds)  # (T, d / 2), in radians
        self.turns = np.exp(1j * angles).astype(np.result_type(dtype, np.complex64))
        random = np.random.default_rng(seed)
        for name, parameter in self.parameters.items():  # what is not set here stays at zero
            if name.endswith("gain"):
                parameter[...] = 1
            elif parameter.ndim == 2 and not name.endswith(("attention.out", "mlp.w2")):  # so blocks add nothing yet
                parameter[...] = random.normal(0, len(parameter) ** -0.5, parameter.shape)

    def forward(self, ids, past=None, start=0, dropout=0.0, random=None):
        """ids (B, T) from position `start` on -> logits (N, V), cache.

        past (L, 2, B, H, block_size, d): keys and values of earlier positions; see `layers.attention`.
        """
        config, p, ids = self.config, self.parameters, np.asarray(ids)
        length = ids.shape[1]
        if not 0 < length <= config.block_size - start:
            raise ValueError(f"a sequence of {start + length}: it must have 1 to block_size, {config.block_size}, ids")
        if ids.min() < 0 or ids.max() >= config.vocab_size:
            raise ValueError(f"ids go from {ids.min()} to {ids.max()}: they must be 0 to {config.vocab_size - 1}")
        x, embed = layers.embedding(ids, p["token_embedding"], p["position_embedding"][start : start + length])
        stop, caches = start + length, []
        for i, block in enumerate(self.blocks):
            past_of_block = None if past is None else past[i, :, :, :, :stop]
            turns = self.turns[start:stop] if config.rotary else None
            x, cache = layers.block(x, block, config.n_heads, length, turns, past_of_block, dropout, random)
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

    def loss_and_gradients(self, ids, targets, dropout=0.0, seed=None):
        """The same loss, and its gradients: name -> array, with the names and shapes of `parameters`.

        dropout: the share of what each layer adds to x that is left out, at random, for this once.
        """
        logits, cache = self.forward(ids, dropout=dropout, random=np.random.default_rng(seed) if dropout else None)
        loss, loss_cache = layers.cross_entropy(logits, np.ravel(targets))
        return loss, self.backward(layers.cross_entropy_backward(loss_cache), cache)

    def attention(self, ids):
        """For each layer the attention weights, (B, H, T, T): row i is what position i attends to, and sums to 1."""
        return [layers.attention_map(attend) for _, attend, *_ in self.forward(ids)[1][1]]

"""nanoGPT's CPU recipe in PyTorch, written from its published hyperparameters.

The hyperparameters are those of the command that nanoGPT's README gives for a CPU
(https://github.com/karpathy/nanoGPT): 4 layers, 4 heads, width 128, context 64, batch 12, 2,000
iterations, no dropout, AdamW with a learning rate of 1e-3 with cosine decay to 1e-4 after 100
warm-up iterations, betas 0.9 and 0.99, weight decay 0.1 on matrices, gradient norm clipped at 1.
The model is GPT-2's without biases; the output head is tied to the token embedding.
"""

import math

import torch
from torch import nn
from torch.nn import functional

BLOCK_SIZE, BATCH_SIZE, ITERATIONS, WARMUP = 64, 12, 2000, 100
N_LAYERS, N_HEADS, D_MODEL = 4, 4, 128
LEARNING_RATE, MIN_LEARNING_RATE = 1e-3, 1e-4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = (nn.LayerNorm(D_MODEL, bias=False) for _ in range(2))
        self.qkv = nn.Linear(D_MODEL, 3 * D_MODEL, bias=False)
        self.out = nn.Linear(D_MODEL, D_MODEL, bias=False)
        self.w1 = nn.Linear(D_MODEL, 4 * D_MODEL, bias=False)
        self.w2 = nn.Linear(4 * D_MODEL, D_MODEL, bias=False)

    def forward(self, x):
        B, T, D = x.shape
        qkv = self.qkv(self.ln1(x)).view(B, T, 3, N_HEADS, D // N_HEADS).permute(2, 0, 3, 1, 4)
        head_out = functional.scaled_dot_product_attention(*qkv, is_causal=True)
        x = x + self.out(head_out.transpose(1, 2).reshape(B, T, D))
        return x + self.w2(functional.gelu(self.w1(self.ln2(x))))


class NanoGPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, D_MODEL)
        self.positions = nn.Embedding(BLOCK_SIZE, D_MODEL)
        self.blocks = nn.Sequential(*(Block() for _ in range(N_LAYERS)))
        self.ln = nn.LayerNorm(D_MODEL, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # smaller where the residual stream sums 2 L outputs
                writes_to_residual = name.endswith(("out.weight", "w2.weight"))
                scale = 1 / math.sqrt(2 * N_LAYERS) if writes_to_residual else 1
                nn.init.normal_(parameter, 0, 0.02 * scale)

    def loss(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        logits = self.ln(self.blocks(x)) @ self.tokens.weight.T
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def learning_rate(iteration):
    if iteration < WARMUP:
        return LEARNING_RATE * (iteration + 1) / (WARMUP + 1)
    progress = (iteration - WARMUP) / (ITERATIONS - WARMUP)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return MIN_LEARNING_RATE + cosine * (LEARNING_RATE - MIN_LEARNING_RATE)


def train(train_ids, vocab_size, seed):
    """Train with the whole schedule; return the model."""
    torch.manual_seed(seed)
    model, ids = NanoGPT(vocab_size), torch.from_numpy(train_ids)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    for iteration in range(ITERATIONS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration)
        starts = torch.randint(len(ids) - BLOCK_SIZE, (BATCH_SIZE, 1))
        windows = ids[starts + torch.arange(BLOCK_SIZE + 1)]
        loss = model.loss(windows[:, :-1], windows[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@torch.inference_mode()
def evaluate(model, ids):
    """Mean loss over consecutive windows of the context length, like baregpt.trainer.evaluate."""
    total = 0.0
    for start in range(0, len(ids) - 1, BLOCK_SIZE):
        window = torch.from_numpy(ids[None, start : start + BLOCK_SIZE + 1])
        total += model.loss(window[:, :-1], window[:, 1:]).item() * (window.shape[1] - 1)
    return total / (len(ids) - 1)

"""plot_attention: plot the attention maps of one layer; write the explorer page."""

import math
import warnings

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from baregpt.files import atomic_write
from baregpt.weights import read_weights
from pipeline.common.fonts import font_families, packages_for
from pipeline.common.inputs import checksum
from pipeline.common.params import load_params
from pipeline.common.paths import ATTENTION_PLOT, EXPLORER_PAGE, SNAPSHOTS, WEIGHTS
from pipeline.common.stage import default_prompt, encode_prompt, run, warn
from pipeline.explorer.page import write_page
from pipeline.tracking.outbox import attach_artifacts

VISIBLE = str.maketrans({"\n": "↵", " ": "␣", "\t": "⇥"})
MAX_INCHES = 60  # maximum width and height of the plot: 6,000 pixels


def plot_attention(path, text, attn, title):
    """Write heat maps of attention weights (H, T, T), one panel per head.

    Rows are queries, columns the keys that they attend to.
    """
    n_heads = len(attn)
    columns = math.ceil(math.sqrt(n_heads))
    rows = math.ceil(n_heads / columns)
    full_size = max(3.0, 0.16 * len(text))
    side = min(full_size, MAX_INCHES / columns)
    label_size = 9 * side / full_size
    figure = Figure(
        figsize=(columns * side + 1, rows * (side + 0.4)), dpi=100, layout="constrained"
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    labels = list(text.translate(VISIBLE))
    families, missing = font_families("".join(labels))
    if missing:
        warn(
            f"no installed font covers {missing!r} in {path}; on Debian, install one with"
            f" `apt-get install {packages_for(missing)}`"
        )
    font = {"fontfamily": families, "fontsize": label_size}
    future = ~np.tri(len(text), dtype=bool)
    for head, panel in enumerate(panels):
        if head >= n_heads:
            panel.set_visible(False)
            continue
        image = panel.imshow(
            np.ma.array(attn[head], mask=future), cmap="viridis", norm=PowerNorm(0.5, 0, 1)
        )
        panel.set_title(f"head {head + 1}", fontsize=12)
        panel.set_xticks(range(len(text)), labels, **font)
        panel.set_yticks(range(len(text)), labels, **font)
        panel.tick_params(length=0, pad=2, labelbottom=True, labelleft=True)
        panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=list(panels), label="attention weight", shrink=0.6)
    figure.suptitle(title)
    figure.supxlabel("key")
    figure.supylabel("query")
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # reported above
        figure.savefig(file, format="png")


def main():
    params = load_params().plot_attention
    md5 = checksum(WEIGHTS)
    model, vocab, metadata = read_weights(WEIGHTS)
    prompt = params.prompt or default_prompt(vocab, metadata)
    n_layers, block_size = model.config.n_layers, model.config.block_size
    if not -n_layers <= params.layer < n_layers or len(prompt) > block_size:
        raise ValueError(
            "plot_attention.layer or plot_attention.prompt in params.yaml does not fit"
            f" {WEIGHTS} ({n_layers} layers, block_size {block_size}); run `dvc repro` to train a"
            " new model"
        )
    ids = encode_prompt(vocab, prompt, "plot_attention.prompt")
    layer = params.layer % n_layers
    attn = model.attention(ids[None])[layer][0]  # (H, T, T)
    plot_attention(ATTENTION_PLOT, prompt, attn, f"Attention, layer {layer + 1} of {n_layers}")
    write_page(EXPLORER_PAGE, WEIGHTS, SNAPSHOTS, prompt)
    attach_artifacts(md5, "plot_attention", params, ATTENTION_PLOT, EXPLORER_PAGE)


if __name__ == "__main__":
    run(main, "plot_attention", __doc__)

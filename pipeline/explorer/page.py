"""Writing the explorer page."""

import base64
import inspect
import json
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from baregpt import layers
from baregpt.files import atomic_write
from baregpt.model import GPT, parameter_shapes
from baregpt.weights import read_weights
from pipeline.common.inputs import checksum
from pipeline.common.stage import default_prompt, warn
from pipeline.explorer.check_js import LOGITS_DIFFER, find_problem

HERE = Path(__file__).parent
PARTS = {
    "/* page.css */": ["page.css"],
    "/* shared */": ["model.js", "analysis.js"],  # used by the page and by its worker
    "/* worker */": ["reader.js", "worker.js"],
    "/* page */": [
        "base.js", "text.js", "writing.js", "prediction.js", "heads.js", "inside.js", "learn.js",
        "state.js", "tour.js", "start.js",
    ],
}  # fmt: skip
SOURCES = "embedding", "layer_norm", "attention", "softmax", "mlp", "block"  # shown in the page
METADATA = "steps", "train_loss", "validation_loss"  # identical whenever training is repeated
FLOAT16_MAX = np.finfo(np.float16).max


def expected_logits(config, weights_f16, ids):
    """Return the logits after `ids`, for the page to compare its own with. They are computed in
    float64 and on one thread, so that the rounded numbers are the same on every machine.
    """
    model = GPT(config, dtype=np.float64)
    model.flat[...] = weights_f16
    with threadpool_limits(1):
        return [round(float(logit), 4) for logit in model.logits(ids[None])[0, -1]]


def sources():
    """Return name -> {source, line} of the forward functions in layers.py."""
    found = {name: inspect.getsourcelines(getattr(layers, name)) for name in SOURCES}
    return {name: {"source": "".join(code), "line": line} for name, (code, line) in found.items()}


def read_snapshots(path, config):
    """Return the snapshots of a training run (see pipeline/training/snapshots.py), or None if there
    are none for a model of this shape.
    """
    if not path.exists():
        return None
    contents = json.loads(path.read_text(encoding="utf-8"))
    n_weights = config.n_layers * config.n_heads * len(contents["text"]) ** 2
    sizes = {len(base64.b64decode(one["attn"])) for one in contents["snapshots"]}
    return contents if sizes == {n_weights} else None


def to_script(data):
    """Return data as JSON, with "<" escaped, so that no text can end the script element."""
    return json.dumps(data).replace("<", "\\u003c")


def write_page(path, weights_path, snapshots_path, text=None):
    """Write one self-contained HTML file: trained weights in half precision, the code that runs
    them, and the snapshots of their training run, if there are any.

    text: the text with which the page starts; by default, that of `default_prompt`. The same files
    and text give the same bytes. If the code of the model has changed and model.js has not, the
    page shows an error instead of the model, and this function prints it as a warning.
    """
    model, vocab, metadata = read_weights(weights_path)
    weights_f16 = np.clip(model.flat, -FLOAT16_MAX, FLOAT16_MAX).astype("<f2")
    text = text or default_prompt(vocab, metadata)
    text = text.lstrip("\n") or text
    ids = vocab.encode(text)[-model.config.block_size :]
    problem = find_problem(model.config)
    if problem:
        warn(problem)
    data = {
        "config": vars(model.config),
        "shapes": list(parameter_shapes(model.config).items()),
        "characters": list(vocab.characters),
        "parameters": model.n_parameters,
        "metadata": {name: metadata[name] for name in METADATA if name in metadata},
        "md5": checksum(weights_path),
        "text": text,
        "check": {"ids": ids.tolist(), "logits": expected_logits(model.config, weights_f16, ids)},
        "mismatch": LOGITS_DIFFER,  # shown if the logits of the page differ from these
        "problem": problem,
        "sources": sources(),
        "snapshots": read_snapshots(snapshots_path, model.config),
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for placeholder, names in PARTS.items():
        parts = [(HERE / name).read_text(encoding="utf-8") for name in names]
        page = page.replace(placeholder, "".join(parts), 1)
    weights = base64.b64encode(weights_f16.tobytes()).decode()
    data["bytes"] = len(page.encode()) + len(weights) + len(to_script(data))
    # the data last, because its text may contain a placeholder
    page = page.replace("/* weights */", weights, 1).replace("/* data */", to_script(data), 1)
    with atomic_write(path) as file:
        file.write(page.encode())

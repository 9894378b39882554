"""Errors that a user can fix are one line: the option, its value, and the rule or the fix."""

import hashlib
import json
import os
import shutil

import pytest

from baregpt import GPT, Config, load_weights, save_weights


def write(name, data):
    def change(checkout):
        (checkout.path / name).write_bytes(data)

    return change


def params(**sections):
    return lambda checkout: checkout.set_params(**sections)


def replace_in_params(old, new):
    def change(checkout):
        text = (checkout.path / "params.yaml").read_text()
        assert old in text
        (checkout.path / "params.yaml").write_text(text.replace(old, new))

    return change


CORPUS, SHA256 = "data/plays.txt", "0" * 64
TOO_DEEP = b"a: " + b"[" * 100_000
YAML_BOMB = b"a0: &a0 [x, x]\n" + b"".join(
    b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 60)
)
YAML_BOMB += b"corpus: *a59\nmodel: {block_size: *a59}\n"
TOO_SHORT = (
    "the {} split of data/plays.txt has {} characters, but must have more than model.block_size"
    " (32); use a longer text, {} corpus.validation_fraction (0.1) or decrease model.block_size"
)
MISMATCH = "data/vocab.json, data/train.npy and data/validation.npy do not match"
NOT_SOUND = "data/weights.pkl is not a valid BareGPT weights file"


def both(first, second):
    return lambda checkout: (first(checkout), second(checkout))


def weights_with(**config):
    """Sound weights, but of another model."""

    def change(checkout):
        vocab = load_weights(checkout.path / "data/weights.pkl")[1]
        model = GPT(Config(len(vocab), **config))
        save_weights(checkout.path / "data/weights.pkl", model, vocab)

    return change


def vocabulary_of_another_corpus(checkout):
    """As large as the right one, so that only its checksums tell."""
    file = checkout.path / "data/vocab.json"
    (checkout.path / CORPUS).write_text((checkout.path / CORPUS).read_text()[::-1])
    ids = {
        name: (checkout.path / "data" / name).read_bytes()
        for name in ("train.npy", "validation.npy")
    }
    checkout.stage("prepare")
    checkout.stage("vocab")
    assert len(json.loads(file.read_text())["characters"]) == 60
    for name, data in ids.items():
        (checkout.path / "data" / name).write_bytes(data)


def missing(name):
    return lambda checkout: (checkout.path / name).unlink()


def truncated(name, length):
    return lambda checkout: os.truncate(checkout.path / name, length)


def corpus(data):
    """A corpus that has gone through `prepare` and `vocab`."""

    def change(checkout):
        checkout.set_params(plot_attention={"prompt": None})
        (checkout.path / CORPUS).write_bytes(data)
        checkout.stage("prepare")
        checkout.stage("vocab")

    return change


def data_is_a_file(checkout):
    shutil.move(checkout.path / CORPUS, checkout.path / "plays.txt")
    shutil.rmtree(checkout.path / "data")
    (checkout.path / "data").write_text("not a folder")
    checkout.set_params(corpus={"path": "plays.txt"})


# name of the case, the stage that fails, what causes it, and part of the message
TABLE = [
    # the corpus
    (
        "no corpus",
        "prepare",
        params(corpus={"path": "data/none.txt"}),
        "corpus data/none.txt does not exist; put a text file there",
    ),
    (
        "empty",
        "prepare",
        write(CORPUS, b""),
        "corpus data/plays.txt is empty; it must contain text",
    ),
    (
        "only white space",
        "prepare",
        write(CORPUS, b" \n\t\r\n "),
        "corpus data/plays.txt is empty; it must contain text",
    ),
    (
        "only a byte-order mark",
        "prepare",
        write(CORPUS, b"\xef\xbb\xbf"),
        "corpus data/plays.txt is empty; it must contain text",
    ),
    (
        "not UTF-8",
        "prepare",
        write(CORPUS, b"abc\xff\xfe"),
        "corpus data/plays.txt is not UTF-8 text (byte 0xff at position 3); save it as UTF-8",
    ),
    (
        "UTF-16",
        "prepare",
        write(CORPUS, "To be".encode("utf-16")),
        "corpus data/plays.txt is not UTF-8 text (byte 0xff at position 0); save it as UTF-8",
    ),
    (
        "NUL bytes",
        "prepare",
        write(CORPUS, "To be".encode("utf-16-le")),
        "corpus data/plays.txt is not UTF-8 text (NUL character at position 1); save it as UTF-8",
    ),
    (
        "a folder",
        "prepare",
        params(corpus={"path": "data"}),
        "corpus data cannot be read (Is a directory)",
    ),
    (
        "another checksum",
        "prepare",
        params(corpus={"sha256": SHA256}),
        f"but corpus.sha256 is {SHA256}",
    ),
    ("data is a file", "prepare", data_is_a_file, "cannot write data/text.txt: Not a directory"),
    ("one character", "train", corpus(b"a"), TOO_SHORT.format("training", 0, "decrease")),
    (
        "too short for the context",
        "train",
        corpus(b"To be, or not to be. " * 9),
        TOO_SHORT.format("validation", 19, "increase"),
    ),
    (
        "held-out part too short",
        "train",
        corpus(b"To be, or not to be. " * 15),
        TOO_SHORT.format("validation", 32, "increase"),
    ),
    # params.yaml
    (
        "heads that do not divide",
        "prepare",
        params(model={"n_heads": 5}),
        "params.yaml: model.d_model (32) must be divisible by model.n_heads (5)",
    ),
    (
        "shards that do not divide",
        "prepare",
        params(train={"shards": 3}),
        "params.yaml: train.batch_size (4) must be divisible by train.shards (3)",
    ),
    (
        "negative",
        "prepare",
        params(train={"steps": -5}),
        "params.yaml: train.steps (-5) must be greater than 0",
    ),
    (
        "zero",
        "prepare",
        params(model={"block_size": 0}),
        "params.yaml: model.block_size (0) must be greater than 0",
    ),
    (
        "text for a whole number",
        "prepare",
        params(train={"steps": "many"}),
        "params.yaml: train.steps ('many') must be a valid integer",
    ),
    (
        "text for a number",
        "prepare",
        params(train={"clip_norm": "1.0"}),
        "params.yaml: train.clip_norm ('1.0') must be a valid number",
    ),
    (
        "a fraction for a whole number",
        "prepare",
        params(train={"seed": 1.5}),
        "params.yaml: train.seed (1.5) must be a valid integer",
    ),
    (
        "true for a number",
        "prepare",
        params(train={"steps": True}),
        "params.yaml: train.steps (True) must be a valid integer",
    ),
    (
        "not a number",
        "prepare",
        params(train={"clip_norm": float("nan")}),
        "params.yaml: train.clip_norm (nan) must be a finite number",
    ),
    (
        "too large a fraction",
        "prepare",
        params(corpus={"validation_fraction": 1.5}),
        "corpus.validation_fraction (1.5) must be less than 1",
    ),
    (
        "a malformed checksum",
        "prepare",
        params(corpus={"sha256": "abc"}),
        "params.yaml: corpus.sha256 ('abc') must match pattern",
    ),
    (
        "an empty prompt",
        "prepare",
        params(sample={"prompt": ""}),
        "params.yaml: sample.prompt ('') must have at least 1 character",
    ),
    (
        "an unknown key",
        "prepare",
        params(train={"stepz": 5}),
        "params.yaml: train.stepz is not a known parameter",
    ),
    (
        "a renamed key",
        "prepare",
        replace_in_params("  validation_fraction:", "  validation_share:"),
        "params.yaml: corpus.validation_share was renamed to corpus.validation_fraction",
    ),
    (
        "a removed key",
        "prepare",
        params(model={"convolution": False}),
        "params.yaml: model.convolution was removed; delete this line",
    ),
    (
        "an odd number of dimensions per head, with RoPE",
        "prepare",
        params(model={"d_model": 6, "n_heads": 2, "rotary": True}),
        "model.d_model (6) must be divisible by twice model.n_heads (2) if model.rotary is true",
    ),
    (
        "more than the sampler accepts",
        "prepare",
        params(sample={"temperature": 1e300}),
        "params.yaml: sample.temperature (1e+300) must be less than 1e+300",
    ),
    (
        "a missing value",
        "prepare",
        replace_in_params("  steps: 20\n", ""),
        "params.yaml: train.steps is missing",
    ),
    (
        "null",
        "prepare",
        replace_in_params("  steps: 20\n", "  steps:\n"),
        "params.yaml: train.steps (None) must be a valid integer",
    ),
    (
        "a section missing",
        "prepare",
        replace_in_params("\nsample:", "\nsampel:"),
        "params.yaml: sample is missing; sampel is not a known parameter",
    ),
    (
        "a key twice",
        "prepare",
        replace_in_params("  steps: 20\n", "  steps: 20\n  steps: 30\n"),
        'params.yaml is not valid YAML (found duplicate key "steps", line ',
    ),
    ("not YAML", "prepare", write("params.yaml", b"a: [1"), "params.yaml is not valid YAML ("),
    ("tabs", "prepare", write("params.yaml", b"a:\n\tb: 1"), "params.yaml is not valid YAML ("),
    (
        "Python tags",
        "prepare",
        write("params.yaml", b"a: !!python/object/apply:os.system [ls]"),
        "params.yaml is not valid YAML (could not determine a constructor for the tag",
    ),
    ("a YAML bomb", "prepare", write("params.yaml", YAML_BOMB), "params.yaml: "),
    (
        "nested too deep",
        "prepare",
        write("params.yaml", TOO_DEEP),
        "params.yaml is not valid YAML (it is nested too deeply)",
    ),
    (
        "a list for a key",
        "prepare",
        write("params.yaml", b"? [a]\n: 1"),
        "params.yaml is not valid YAML (found unhashable key, line 1)",
    ),
    (
        "a layer too many",
        "prepare",
        params(plot_attention={"layer": 2}),
        "params.yaml: plot_attention.layer (2) must be in [-2, 1]",
    ),
    (
        "a layer too few",
        "prepare",
        params(plot_attention={"layer": -3}),
        "params.yaml: plot_attention.layer (-3) must be in [-2, 1]",
    ),
    (
        "a prompt too long to plot",
        "prepare",
        params(plot_attention={"prompt": "a" * 33}),
        "plot_attention.prompt (33 characters) must have at most model.block_size (32) characters",
    ),
    (
        "empty params",
        "prepare",
        write("params.yaml", b""),
        "params.yaml: the file (None) must be a mapping",
    ),
    (
        "params not UTF-8",
        "prepare",
        write("params.yaml", b"a: \xff"),
        "params.yaml must be UTF-8 text (",
    ),
    ("no params", "prepare", missing("params.yaml"), "params.yaml does not exist"),
    (
        "more than memory holds",
        "train",
        params(model={"d_model": 10**7}),
        "GB are available; reduce model.d_model (10000000)",
    ),
    # what stages leave each other
    (
        "vocab too early",
        "vocab",
        missing("data/text.txt"),
        "data/text.txt does not exist; run `dvc repro` to create it",
    ),
    (
        "train too early",
        "train",
        missing("data/vocab.json"),
        "data/vocab.json does not exist; run `dvc repro` to create it",
    ),
    (
        "sample too early",
        "sample",
        missing("data/weights.pkl"),
        "data/weights.pkl does not exist; run `dvc repro` to create it",
    ),
    ("a vocabulary of another corpus", "train", vocabulary_of_another_corpus, MISMATCH),
    ("a damaged vocabulary", "train", truncated("data/vocab.json", 20), MISMATCH),
    ("damaged ids", "train", truncated("data/train.npy", 1000), MISMATCH),
    ("no ids at all", "train", write("data/train.npy", b"nothing of the kind"), MISMATCH),
    ("damaged weights", "sample", truncated("data/weights.pkl", 50_000), NOT_SOUND),
    ("empty weights", "plot_attention", write("data/weights.pkl", b""), NOT_SOUND),
    (
        "weights of fewer layers",
        "plot_attention",
        both(params(plot_attention={"layer": 1}), weights_with(d_model=8, n_heads=2, n_layers=1)),
        "data/weights.pkl has 1 layers and block_size 128, which is too small for plot_attention",
    ),
    (
        "weights of a shorter context",
        "plot_attention",
        weights_with(d_model=8, n_heads=2, block_size=4),
        "data/weights.pkl has 2 layers and block_size 4, which is too small",
    ),
    (
        "an unknown character in the prompt",
        "sample",
        params(sample={"prompt": "naïve"}),
        "params.yaml: sample.prompt: character 'ï' at position 2 is not in the vocabulary",
    ),
    (
        "an unknown character to plot",
        "plot_attention",
        params(plot_attention={"prompt": "naïve"}),
        "params.yaml: plot_attention.prompt: character 'ï' at position 2",
    ),
]


def files_of(checkout):
    return {path: path.read_bytes() for path in checkout.path.glob("data*/**/*") if path.is_file()}


@pytest.mark.parametrize(
    ("stage", "provoke", "message"), [pytest.param(*row[1:], id=row[0]) for row in TABLE]
)
def test_an_error_is_one_line_and_leaves_all_files_as_they_were(finished, stage, provoke, message):
    provoke(finished)
    before = files_of(finished)
    err = finished.stage(stage, code=1).stderr
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 600
    after = files_of(finished)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after.keys() - before.keys() if not path.name.endswith("lock")]


@pytest.mark.parametrize(
    ("stage", "output"), [("prepare", "text.txt"), ("vocab", "train.npy"), ("train", "weights.pkl")]
)
def test_a_full_disk_leaves_the_previous_output(finished, stage, output):
    """A limit on file sizes fails writes as a full disk does."""
    finished.set_params(train={"steps": 3}, model={"d_model": 160})
    before = hashlib.md5((finished.path / "data" / output).read_bytes()).hexdigest()
    limit = 2000 if stage == "train" else 60  # KiB; MLflow's own store takes some 1,000
    command = f"trap '' XFSZ; ulimit -f {limit}; python -m pipeline.{stage}"
    err = finished.run("bash", "-c", command, code=1).stderr
    written = "checkpoints/" if stage == "train" else output
    assert err.startswith(f"error: cannot write data/{written}")
    assert err.count("\n") == 1
    assert hashlib.md5((finished.path / "data" / output).read_bytes()).hexdigest() == before
    assert not list(finished.path.glob("data/*.tmp"))


UNUSUAL = {  # name -> text, prompts for sample and plot_attention, encoding of the terminal
    "one character repeated": ("a" * 2_000, "a" * 19, "a" * 19, "utf-8"),
    "Cyrillic and emoji, on a terminal without them": (
        "Съешь ещё этих мягких французских булок, да выпей чаю 🎭.\n" * 60,
        None,
        None,
        "latin-1",
    ),
    "a byte-order mark, emoji, combining characters, markup, in a single line": (
        100 * "\ufeffThe rain, e\u0301 and 🎭, 👩‍🚀 <b>&amp;</b>. ",
        None,
        "The rain, e\u0301 and 🎭, ",
        "utf-8",
    ),
}


@pytest.mark.parametrize(
    ("text", "prompt", "to_plot", "encoding"), UNUSUAL.values(), ids=UNUSUAL.keys()
)
def test_unusual_corpora_work_from_end_to_end(encoded, text, prompt, to_plot, encoding):
    (encoded.path / CORPUS).write_text(text, encoding="utf-8")
    encoded.set_params(sample={"prompt": prompt}, plot_attention={"prompt": to_plot})
    encoded.environment["PYTHONIOENCODING"] = encoding
    for stage in ("prepare", "vocab", "train", "sample", "plot_attention"):
        process = encoded.start("python", "-m", f"pipeline.{stage}", encoding=encoding)
        _, err = process.communicate()
        assert process.returncode == 0, err
        if stage != "plot_attention":  # without emoji, if no font has them
            assert err == ""
    assert not err or (err.startswith("warning: no installed font covers '🎭'"))
    assert err.count("\n") <= 1
    corpus = (encoded.path / "data/text.txt").read_text(encoding="utf-8")
    held_out = corpus[int(len(corpus) * 0.9) :]
    default = held_out.partition("\n")[2] or held_out  # from the first line start
    samples = (encoded.path / "data/samples.txt").read_text(encoding="utf-8")
    assert samples.count(prompt or default[:12]) >= 2


def test_a_prompt_longer_than_the_context_is_accepted(finished):
    finished.set_params(sample={"prompt": "What news? " * 20})
    assert finished.stage("sample").stderr == ""


def test_a_hundred_megabytes_of_one_line(fresh):
    """Peak memory is bounded by that of Python itself and four times the text."""
    line = b"Now is the winter of our discontent made glorious summer by this sun of York; "
    (fresh.path / CORPUS).write_bytes(line * (100_000_000 // len(line)))
    for stage in ("prepare", "vocab"):
        measure = "import resource, subprocess\n"
        measure += f"subprocess.run(['python', '-m', 'pipeline.{stage}'], check=True)\n"
        measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        assert int(fresh.run("python", "-c", measure).stdout.split()[-1]) < 600 << 10
    assert (fresh.path / "data/train.npy").stat().st_size > 85_000_000


def test_a_read_only_checkout(finished):
    """As root, without the capability to write everywhere."""
    ordinary = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    before = files_of(finished)
    (finished.path / "data").chmod(0o555)
    try:
        for stage, name in {
            "prepare": "text.txt",
            "vocab": "train.npy",
            "sample": "samples.txt",
        }.items():
            err = finished.run(*ordinary, "python", "-m", f"pipeline.{stage}", code=1).stderr
            assert err == f"error: cannot write data/{name}: Permission denied\n"
        err = finished.run(*ordinary, "python", "-m", "pipeline.train", code=1).stderr
        assert err == "error: cannot write data/checkpoints: Permission denied\n"
    finally:
        (finished.path / "data").chmod(0o755)
    assert files_of(finished) == before

"""What a person reads when something is wrong: one line that says what, where, and what would be right."""

import hashlib
import signal

import pytest
from conftest import SMALL


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


BYTES = "data/plays.txt"
SHA256 = "0" * 64
CORPUS = {  # what is wrong: how it comes about, what the person reads
    "missing": (params(corpus={"path": "data/none.txt"}), "corpus data/none.txt does not exist: put a text file there"),
    "empty": (write(BYTES, b""), "corpus data/plays.txt is empty"),
    "only white space": (write(BYTES, b" \n\t\r\n "), "corpus data/plays.txt is empty"),
    "not UTF-8": (write(BYTES, b"abc\xff\xfe"), "corpus data/plays.txt is not UTF-8 text (byte 0xff at position 3)"),
    "a folder": (params(corpus={"path": "data"}), "corpus data cannot be read (Is a directory): change corpus.path"),
    "another checksum": (params(corpus={"sha256": SHA256}), f"but corpus.sha256 is {SHA256}"),
}
PARAMS = {
    "heads that do not divide": (params(model={"n_heads": 5}), "d_model is 32: it should be a multiple of n_heads, 5"),
    "shards that do not divide": (params(train={"shards": 3}), "train: shards is 3: it should divide batch_size, 4"),
    "negative": (params(train={"steps": -5}), "train.steps is -5: it should be greater than 0"),
    "zero": (params(model={"block_size": 0}), "model.block_size is 0: it should be greater than 0"),
    "text for a whole number": (params(train={"steps": "many"}), "train.steps is 'many': it should be a valid integer"),
    "text for a number": (replace_in_params("clip_norm: 1.0", "clip_norm: 1e0"), "write 0.001 or 1.0e-3"),
    "a fraction for a whole number": (params(train={"seed": 1.5}), "train.seed is 1.5: it should be a valid integer"),
    "true for a number": (params(train={"steps": True}), "train.steps is True: it should be a valid integer"),
    "not a number": (params(train={"clip_norm": float("nan")}), "train.clip_norm is nan: it should be a finite number"),
    "too large a share": (
        params(corpus={"validation_share": 1.5}),
        "validation_share is 1.5: it should be less than 1",
    ),
    "a malformed checksum": (params(corpus={"sha256": "abc"}), "corpus.sha256 is 'abc': it should match pattern"),
    "an empty prompt": (params(sample={"prompt": ""}), "sample.prompt is '': it should have at least 1 character"),
    "unknown": (params(train={"stepz": 5}), "train.stepz is unknown"),
    "missing value": (replace_in_params("  steps: 20\n", ""), "train.steps is missing"),
    "null": (replace_in_params("  steps: 20\n", "  steps:\n"), "train.steps is None: it should be a valid integer"),
    "a section missing": (replace_in_params("\nsample:", "\nsampel:"), "sample is missing; sampel is unknown"),
    "not YAML": (write("params.yaml", b"a: [1"), "params.yaml is not valid YAML"),
    "tabs": (write("params.yaml", b"a:\n\tb: 1"), "params.yaml is not valid YAML"),
    "Python tags": (write("params.yaml", b"a: !!python/object/apply:os.system [ls]"), "params.yaml is not valid YAML"),
    "a layer too many": (params(plot_attention={"layer": 2}), "plot_attention.layer is 2: it should be -2 to 1"),
    "a layer too few": (params(plot_attention={"layer": -3}), "plot_attention.layer is -3: it should be -2 to 1"),
    "a prompt too long to draw": (
        params(plot_attention={"prompt": "a" * 33}),
        "plot_attention.prompt has 33 characters: it should have at most model.block_size, 32",
    ),
    "an empty file": (write("params.yaml", b""), "the whole is None: it should be"),
    "not UTF-8": (write("params.yaml", b"a: \xff"), "params.yaml is not UTF-8 text"),
    "no params.yaml": (lambda checkout: (checkout.path / "params.yaml").unlink(), "params.yaml does not exist"),
}


def says(checkout, stage, message, code=1):
    err = checkout.stage(stage, code=code).stderr
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("case", CORPUS)
def test_a_wrong_corpus(fresh, case):
    provoke, message = CORPUS[case]
    provoke(fresh)
    says(fresh, "prepare", message)
    assert not (fresh.path / "data/text.txt").exists()


@pytest.mark.parametrize("case", PARAMS)
def test_wrong_params(fresh, case):
    provoke, message = PARAMS[case]
    provoke(fresh)
    says(fresh, "prepare", message)


@pytest.mark.parametrize("characters", [1, 200, 320])
def test_a_corpus_that_is_too_short_for_the_context(fresh, characters):
    write(BYTES, (b"To be, or not to be. " * 20)[:characters])(fresh)
    fresh.stage("prepare")
    fresh.stage("vocab")
    says(fresh, "train", "must have more than block_size, 32")
    assert not (fresh.path / "mlflow.db").exists()  # it stopped before a run was begun


@pytest.mark.parametrize(("stage", "section"), [("sample", "sample"), ("plot_attention", "plot_attention")])
def test_a_prompt_with_a_character_that_the_corpus_does_not_have(finished, stage, section):
    finished.set_params(**{section: {"prompt": "naïve"}})
    before = (finished.path / "data/samples.txt").read_bytes()
    says(finished, stage, f"params.yaml: {section}.prompt: character 'ï' at position 2 is not in the vocabulary")
    assert (finished.path / "data/samples.txt").read_bytes() == before


def test_damaged_weights(finished):
    weights = finished.path / "data/weights.pkl"
    weights.write_bytes(weights.read_bytes()[:-1000])
    says(finished, "sample", "data/weights.pkl is not a sound BareGPT weights file")


def test_stages_out_of_order(fresh):
    for stage, missing in (("vocab", "data/text.txt"), ("train", "data/vocab.json"), ("sample", "data/weights.pkl")):
        says(fresh, stage, f"{missing} does not exist: `dvc repro` makes it")


@pytest.mark.parametrize(
    ("stage", "output"), [("prepare", "text.txt"), ("vocab", "train.npy"), ("train", "weights.pkl")]
)
def test_a_full_disk_loses_nothing(finished, stage, output):
    """A limit on the size of files says no where a full disk would, without filling one."""
    finished.set_params(train={"steps": 3}, model={"d_model": 160})
    before = hashlib.md5((finished.path / "data" / output).read_bytes()).hexdigest()
    limit = "ulimit -f " + ("2000" if stage == "train" else "600")  # KiB; MLflow's own store takes some 1,000
    err = finished.run("bash", "-c", f"trap '' XFSZ; {limit}; python -m pipeline.{stage}", code=1).stderr
    assert err.startswith(f"error: cannot write data/{output}: ")
    assert err.count("\n") == 1
    assert hashlib.md5((finished.path / "data" / output).read_bytes()).hexdigest() == before
    assert not list(finished.path.glob("data/*.tmp"))


def test_training_that_diverges(encoded):
    encoded.set_params(train={"learning_rate": 1e30, "warmup_steps": 0})
    says(encoded, "train", "training diverged at step 2 (loss nan, gradient norm nan, learning rate 9.048e+29)")
    assert not (encoded.path / "data/weights.pkl").exists()


def test_a_tracking_server_that_is_down(encoded):
    encoded.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    says(encoded, "train", "MLflow cannot reach its store, set by MLFLOW_TRACKING_URI")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_training(encoded, stop):
    encoded.set_params(train=SMALL["train"] | {"steps": 1_000_000})
    process = encoded.start("python", "-m", "pipeline.train")
    while "step 10:" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted\n"

"""Training that starts from a weights file, `train.init`."""

import hashlib
import json

import pytest
import yaml
from conftest import mlflow_runs

from baregpt import GPT, Config, Vocab, load_weights, save_weights

MINE = "What say you?\nNothing, my lord.\n" * 60
CHARACTERS = "".join(sorted({*MINE, "@", "A"}))
OTHER = {"block_size": 16, "d_model": 16, "n_heads": 2, "n_layers": 1}  # than params.yaml has


def write_init(path, seed=5):
    """Write weights of another shape than params.yaml has, with a vocabulary of more characters
    than the text.
    """
    vocab = Vocab(CHARACTERS)
    save_weights(path, GPT(Config(len(vocab), **OTHER), seed), vocab)


@pytest.fixture
def mine(encoded):
    """A checkout whose params name a text of its own and weights to start from."""
    (encoded.path / "mine.txt").write_text(MINE)
    write_init(encoded.path / "init.pkl")
    encoded.set_params(
        corpus={"path": "mine.txt"}, train={"init": "init.pkl"}, plot_attention={"prompt": "A@"}
    )
    return encoded


def test_it_starts_from_the_file_and_dvc_and_mlflow_know(mine):
    out = mine.run("dvc", "repro").stdout
    shape = "block_size 16, d_model 16, n_heads 2, n_layers 1, rotary False"
    assert f"starting from init.pkl: {shape} (model.* in params.yaml is ignored)\n" in out
    model, vocab = load_weights(mine.path / "data/weights.pkl")
    assert vocab.characters == CHARACTERS
    assert {name: getattr(model.config, name) for name in OTHER} == OTHER
    first, _ = load_weights(mine.path / "init.pkl")
    assert 0 < abs(model.flat - first.flat).max() < 0.2  # 20 steps of at most 0.005 each
    assert abs(model.flat - GPT(model.config, 1).flat).max() > 1

    md5 = hashlib.md5((mine.path / "init.pkl").read_bytes()).hexdigest()
    lock = yaml.safe_load((mine.path / "dvc.lock").read_text())["stages"]["train"]
    assert ("./init.pkl", md5) in [(dep["path"], dep["md5"]) for dep in lock["deps"]]
    _, (run,) = mlflow_runs(mine)
    assert run.data.tags["init.md5"] == md5
    assert run.data.params["train.init"] == "init.pkl"
    assert run.data.params["model.d_model"] == "16"

    assert "up to date" in mine.run("dvc", "repro").stdout
    write_init(mine.path / "init.pkl", seed=6)
    status = json.loads(mine.run("dvc", "status", "--json").stdout)
    assert list(status) == ["train"]
    assert {"init.pkl": "modified"} in [c.get("changed deps") for c in status["train"]]


def test_it_resumes_and_runs_on_ranks_with_the_same_result(mine):
    mine.stage("prepare")
    mine.stage("vocab")
    mine.set_params(train={"steps": 50}, checkpoint={"interval": 40})
    weights = mine.path / "data/weights.pkl"
    weights.mkdir()  # cannot be replaced by a file, so only the checkpoint is left
    mine.stage("train", code=1)
    weights.rmdir()
    write_init(mine.path / "init.pkl", seed=6)
    assert "after step 40: ./init.pkl" in mine.stage("train").stdout
    other = weights.read_bytes()
    write_init(mine.path / "init.pkl")
    out = mine.stage("train").stdout
    assert "resuming from data/checkpoints/" in out
    assert "after step 40\n" in out
    resumed = weights.read_bytes()
    assert resumed != other

    mine.set_params(ranks={"launcher": "mpirun -n 2"})
    out = mine.stage("train").stdout
    assert "on 2 ranks" in out
    assert out.count("starting from init.pkl") == 1
    assert weights.read_bytes() == resumed


def test_each_error_is_one_line(mine):
    mine.stage("prepare")
    mine.stage("vocab")

    def message():
        err = mine.stage("train", code=1).stderr
        assert err.count("\n") == 1
        return err.removeprefix("error: ").rstrip()

    def message_with(section, **values):
        before = (mine.path / "params.yaml").read_text()
        mine.set_params(**{section: values})
        said = message()
        (mine.path / "params.yaml").write_text(before)
        return said

    assert message_with("train", init="none.pkl") == "none.pkl does not exist"
    not_weights = "README.md is not a valid BareGPT weights file"
    assert message_with("train", init="README.md").startswith(not_weights)
    for init in ("/init.pkl", "../init.pkl", "data/../../init.pkl"):
        relative = f"train.init ({init!r}) must be a path relative to the checkout, inside it"
        assert message_with("train", init=init) == f"params.yaml: {relative}"
    layer = "params.yaml: plot_attention.layer (1) must be in [-1, 0]"
    assert message_with("plot_attention", layer=1) == layer
    prompt = "params.yaml: sample.prompt: character 'B' at position 0 is not in the vocabulary"
    assert message_with("sample", prompt="B") == prompt

    (mine.path / "mine.txt").write_text(MINE + "“Nay” – 9" + "”" * 2)
    mine.stage("prepare")
    mine.stage("vocab")
    assert message() == (
        "corpus mine.txt has characters outside the vocabulary of train.init (init.pkl):"
        " '”' 3x, '9' 1x, '–' 1x, '“' 1x; replace or remove them, as shown in docs/experiments.md"
    )

"""`python -m baregpt`, as a user types it."""

import shutil
import signal

import pytest
from conftest import ROOT

from baregpt.__main__ import train_from_scratch
from baregpt.trainer import Training

ASK = ("python", "-m", "baregpt")


def test_it_streams_from_the_weights_at_hand(finished_checkout):
    first = finished_checkout.run(*ASK, "--prompt", "KING:", "--length", "50", "--seed", "1")
    assert first.stdout.startswith("KING:")
    assert len(first.stdout) == len("KING:") + 50 + 1
    again = finished_checkout.run(*ASK, "--prompt", "KING:", "--length", "50", "--seed", "1")
    assert again.stdout == first.stdout


def test_options_reach_the_sampler(finished_checkout):
    greedy = finished_checkout.run(
        *ASK, "--prompt", "A", "--length", "40", "--temperature", "0"
    ).stdout
    top_one = finished_checkout.run(*ASK, "--prompt", "A", "--length", "40", "--top-k", "1").stdout
    drawn = finished_checkout.run(
        *ASK, "--prompt", "A", "--length", "40", "--top-k", "0", "--seed", "3"
    ).stdout
    assert greedy == top_one != drawn


def test_it_takes_the_weights_that_are_named(finished, tmp_path):
    shutil.move(finished.path / "data/weights.pkl", tmp_path / "mine.pkl")
    out = finished.run(*ASK, "--weights", str(tmp_path / "mine.pkl"), "--length", "5").stdout
    assert "training" not in out


def test_it_says_which_weights_it_uses(finished):
    assert finished.run(*ASK, "--length", "5").stderr == "weights: data/weights.pkl\n"
    (finished.path / "data/weights.pkl").unlink()  # as DVC does while it trains
    assert finished.run(*ASK, "--length", "5").stderr == "weights: data/pretrained.pkl\n"
    (finished.path / "data/pretrained.pkl").unlink()
    (finished.path / "data/plays.txt").unlink()
    err = finished.run(*ASK, code=1).stderr
    assert err.startswith("error: there are no weights in data/, nor data/plays.txt to train on")


def test_the_help_names_every_option(finished_checkout):
    out = finished_checkout.run(*ASK, "--help").stdout
    for option in ("--prompt", "--length", "--temperature", "--top-k", "--seed", "--weights"):
        assert option in out
    assert "data/weights.pkl" in out


def test_it_trains_first_when_there_are_no_weights(fresh, monkeypatch, capsys):
    monkeypatch.chdir(fresh.path)
    shutil.copy(ROOT / "data/plays.txt", "data")  # all of it
    train_from_scratch(Training(steps=2))
    out = capsys.readouterr().out
    for line in ("training 1,641,533 parameters", "step 1 of 2, loss=4.", "step 2 of 2, loss="):
        assert line in out
    assert "training" not in fresh.run(*ASK, "--length", "20").stdout


def test_ctrl_c_while_training_ends_with_one_line_and_no_weights(fresh):
    (fresh.path / "data/pretrained.pkl").unlink(missing_ok=True)
    process = fresh.start(*ASK)
    while "step 1 of" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "\ninterrupted\n"
    assert not (fresh.path / "data/weights.pkl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "né"), "error: character 'é' at position 1 is not in the vocabulary"),
        (("--prompt", ""), "error: the prompt is empty"),
        (("--temperature", "-1"), "error: temperature is -1.0: it must be at least 0"),
        (("--weights", "none.pkl"), "error: [Errno 2] No such file or directory: 'none.pkl'"),
        (("--weights", "README.md"), "error: README.md is not a sound BareGPT weights file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(finished_checkout, options, message):
    err = finished_checkout.run(*ASK, *options, code=1).stderr
    assert err.startswith(message)
    assert err.count("\n") == 1

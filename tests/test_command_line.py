"""`python -m baregpt`, as a user types it."""

import re
import shutil
import signal

import pytest

from baregpt import GPT, Config, Vocab, save_weights

ASK = ("python", "-m", "baregpt")


def test_streams_from_the_trained_weights(finished_checkout):
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


def test_weights_option_selects_the_file(finished, tmp_path):
    shutil.move(finished.path / "data/weights.pkl", tmp_path / "mine.pkl")
    out = finished.run(*ASK, "--weights", str(tmp_path / "mine.pkl"), "--length", "5").stdout
    assert "training" not in out


def test_prints_the_weights_path_to_stderr(finished):
    assert finished.run(*ASK, "--length", "5").stderr == "weights: data/weights.pkl\n"
    (finished.path / "data/weights.pkl").unlink()  # as DVC does while it trains
    assert finished.run(*ASK, "--length", "5").stderr.endswith("baregpt/pretrained.pkl\n")


def test_the_help_names_every_option(finished_checkout):
    out = finished_checkout.run(*ASK, "--help").stdout
    for option in ("--prompt", "--length", "--temperature", "--top-k", "--seed", "--weights"):
        assert option in out
    assert "data/weights.pkl" in out


def test_prompt_takes_the_usual_escapes(finished_checkout):
    out = finished_checkout.run(*ASK, "--prompt", r"KING:\nI\\", "--length", "0", code=1)
    assert "character '\\\\' at position 7" in out.stderr
    out = finished_checkout.run(*ASK, "--prompt", r"KING:\nI", "--length", "0").stdout
    assert out == "KING:\nI\n"


def test_a_closed_pipe_ends_it_quietly(finished_checkout):
    command = "python -m baregpt --length 20000 | head -c 10"
    result = finished_checkout.run("bash", "-o", "pipefail", "-c", command)
    assert len(result.stdout) == 10
    assert result.stderr.count("\n") == 1  # the weights' path


def test_ctrl_c_ends_with_one_line(finished_checkout):
    process = finished_checkout.start(*ASK, "--length", "10000000")
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("\ninterrupted\n")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "né"), "error: character 'é' at position 1 is not in the vocabulary"),
        (("--prompt", ""), "error: prompt must have at least one character"),
        (("--temperature", "-1"), "error: temperature must be at least 0 and finite, got -1"),
        (("--length", "-1"), "error: --length must be at least 0, got -1"),
        (("--weights", "none.pkl"), "error: [Errno 2] No such file or directory: 'none.pkl'"),
        (("--weights", "README.md"), "error: README.md is not a valid BareGPT weights file"),
    ],
)
def test_invalid_option_gives_a_one_line_error(finished_checkout, options, message):
    err = finished_checkout.run(*ASK, *options, code=1).stderr
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_the_default_prompt_works_for_a_vocabulary_without_a_newline(fresh, tmp_path):
    vocab = Vocab("ab")
    save_weights(tmp_path / "weights.pkl", GPT(Config(2, block_size=8, d_model=8)), vocab)
    out = fresh.run(*ASK, "--weights", tmp_path / "weights.pkl", "--length", "5").stdout
    assert re.fullmatch("a[ab]{5}\n", out)


def test_every_command_of_the_pipeline_has_a_help_and_rejects_unknown_arguments(small_checkout):
    before = small_checkout.run("git", "status", "--short", "--ignored").stdout
    for path in sorted((small_checkout.path / "pipeline").glob("[a-z]*.py")):
        command = ("python", "-m", f"pipeline.{path.stem}")
        assert small_checkout.run(*command, "--help").stdout.startswith(
            f"usage: {' '.join(command)}"
        )
        assert "unrecognized" in small_checkout.run(*command, "--unheard-of", code=2).stderr
    assert small_checkout.run("git", "status", "--short", "--ignored").stdout == before

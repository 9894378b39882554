"""The exercises: what the runner says to correct, wrong, unfinished and broken solutions."""

import html
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from exercises import training
from exercises.__main__ import main
from exercises.checks import EXERCISES
from exercises.exercise import Exercise

ANSWERS = {exercise.function: exercise.answer for exercise in EXERCISES}
MISTAKES = [
    pytest.param(exercise, mistake, sentence, id=f"{exercise.number}-{i}")
    for exercise in EXERCISES
    for i, (mistake, sentence) in enumerate(exercise.mistakes.items())
]
# A wrong solution as a learner may write it, and the line that names the mistake.
ATTEMPTS = {
    "cross_entropy": (
        "p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)",
        "p[:, targets] -= 1",
        "return p / len(targets)",
        "In every row, 1 is subtracted at the targets of all rows",
    ),
    "linear": ("return dy @ w, x.T @ dy, dy.sum(axis=0)", "A transpose is missing in dx"),
    "gelu": (
        "tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))",
        "return (1 + tanh) / 2 + x * (1 - tanh**2) / 2",
        "The chain rule is not finished",
    ),
    "softmax": ("return dy * y * (1 - y)", "Only the case i = j is handled"),
    "layer_norm": (
        "dn = dy * gain",
        "dx = dn - normalized * (dn * normalized).mean(axis=1, keepdims=True)",
        "return dx * inverse_std, (dy * normalized).sum(axis=0), dy.sum(axis=0)",
        "The path through the mean is missing",
    ),
    "embedding": (
        "dtokens, dpositions = np.zeros((vocab_size, 2)), np.zeros((block_size, 2))",
        "dtokens[ids] += dy.reshape(*ids.shape, 2)",
        "dpositions[: ids.shape[1]] = dy.reshape(*ids.shape, 2).sum(axis=0)",
        "return dtokens, dpositions",
        "A row of tokens that is used twice keeps the gradient of its last use only",
    ),
    "attention_head": (
        "scores = np.triu(np.full((len(query),) * 2, -np.inf), 1).T + query @ key.T",
        "attn = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)",
        "return attn @ value, attn",
        "The mask is on the wrong side",
    ),
    "attention_head_backward": (
        "dscores = layers.softmax_backward(dhead_out @ value.T, attn)",
        "return dscores @ key, dscores @ query, attn.T @ dhead_out",
        "A transpose is missing in dkey",
    ),
    "heads": (
        "B, H, T, d = query.shape",
        "dy, dqkv = dhead_out.reshape(B, T, H, d), np.empty((B, T, 3, H, d))",
        "for b, h in np.ndindex(B, H):",
        "    heads = dy[b, :, h], query[b, h], key[b, h], value[b, h], attn[b, h]",
        "    dqkv[b, :, :, h] = np.stack(head_backward(*heads), axis=1)",
        "return dqkv.reshape(B * T, -1)",
        "The division by √d is missing",
    ),
    "block": (
        "dresidual = ln2_backward(mlp_backward(dy)) + dy",
        "return ln1_backward(attention_backward(dresidual)) + dy",
        "Only dy flows around attention",
    ),
    "adam": (
        "m = beta1 * m + (1 - beta1) * gradient",
        "v = beta2 * v + (1 - beta2) * gradient**2",
        "m_hat, v_hat = m / (1 - beta1 ** (step - 1)), v / (1 - beta2 ** (step - 1))",
        "return p - lr * m_hat / (np.sqrt(v_hat) + 1e-8), m, v",
        "The bias correction counts the steps from 0",
    ),
    "sample": (
        "for row in logits:",
        "    row[np.argsort(row)[: -top_k or len(row)]] = -np.inf",
        "return (logits + temperature * gumbel).argmax(axis=1)",
        "Ties are cut",
    ),
    "kv_cache": (
        "kv[:, position] = key, value",
        "weights = np.exp(kv[0] @ query)",
        "return weights / weights.sum() @ kv[1], kv",
        "The query attends to the whole cache",
    ),
}


@pytest.fixture
def checkout(tmp_path):
    """A function that copies an exercise's file, with a solution in it, and returns it."""

    def write(exercise, *lines):
        text = exercise.path.read_text()
        assert text.endswith("    ...\n")
        path = tmp_path / exercise.path.name
        path.write_text(text.removesuffix("...\n") + "\n    ".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def solve(monkeypatch):
    """A function that puts solutions in place of what the files of the exercises hold."""

    def put(functions):
        monkeypatch.setattr(Exercise, "load", lambda self: functions[self.function])

    return put


def by_name(name):
    return next(exercise for exercise in EXERCISES if exercise.name == name)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_each_exercise_is_not_written_yet_as_shipped(exercise):
    assert exercise.check(exercise.load()) == [
        f"Not written yet: complete {exercise.function} in {exercise.file}."
    ]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_functions_of_baregpt_are_correct(exercise):
    assert exercise.check(exercise.answer) is None


@pytest.mark.parametrize(("exercise", "mistake", "sentence"), MISTAKES)
def test_each_known_mistake_is_named_by_its_own_sentence(exercise, mistake, sentence):
    first, named = exercise.check(mistake)
    assert named == sentence
    assert re.match(rf"{exercise.function}( with .*)?(:| raises) ", first)


def test_there_are_at_least_three_mistakes_per_exercise_and_three_hints():
    for exercise in EXERCISES:
        assert len(set(exercise.mistakes.values())) >= 3
        assert len(exercise.hints) == 3
    assert [exercise.number for exercise in EXERCISES] == list(range(1, 14))
    assert [e.path for e in EXERCISES] == sorted((ROOT / "exercises").glob("[0-9]*.py"))


def test_mistakes_and_first_hints_are_plain_sentences_without_code():
    sentences = [s for e in EXERCISES for s in (*e.mistakes.values(), *e.hints[:1])]
    for sentence in sentences:
        assert sentence[-1] in ".?"
        assert not re.search(r"np\.|\.sum\(|\.T\b|keepdims| @ ", sentence), sentence


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_wrong_attempt_of_a_learner_is_understood(name, checkout):
    exercise = by_name(name)
    *lines, sentence = ATTEMPTS[name]
    names = {}
    exec(checkout(exercise, *lines).read_text(), names)
    assert exercise.check(names[exercise.function])[1].startswith(sentence)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("linear", ["return dy @ w.T"], r"must return dx, dw and db, but it returns one value\."),
        ("linear", ["return dy, dy"], r"must return dx, dw and db, but it returns 2 values\."),
        ("linear", ["return dy @ w.T, x.T @ dy, None"], r"db is missing: linear_backward must"),
        (
            "gelu",
            ["return 'x'"],
            r"slope must be an array of real numbers, but it is of type str\.",
        ),
        ("gelu", ["return x[:2]"], r"slope has shape \(2, 5\) instead of \(4, 5\)\."),
        ("gelu", ["return x / 0"], r"gelu_slope: slope contains NaN or infinity\."),
        ("gelu", ["x[0] = 0", "return 0 * x"], r"slope is wrong \(relative error 1 against finite"),
        ("softmax", ["return x"], r"raises NameError on line 19 of exercises/04_softmax\.py: name"),
        ("softmax", ["return (dy * y).sum(axis=-1) - dy"], r"pass `keepdims=True`, so that"),
        (
            "linear",
            ["return w @ dy, dy, dy"],
            r"the first factor has 4 columns and the second .* 6",
        ),
        (
            "softmax",
            ["dy -= (dy * y).sum(axis=-1, keepdims=True)", "return dy * y"],
            r"softmax_backward must not change its argument dy: copy it first\.",
        ),
        ("sample", ["return logits[:, 0]"], r"sample with temperature = 0.7 and top_k = 3: ids is"),
    ],
)
def test_other_mistakes_are_reported_in_a_sentence(name, lines, message, checkout):
    exercise = by_name(name)
    names = {}
    exec(compile(checkout(exercise, *lines).read_text(), exercise.path, "exec"), names)
    assert re.search(message, "\n".join(exercise.check(names[exercise.function])))


def test_a_result_that_is_correct_up_to_a_factor_or_a_transpose_is_named_so():
    exercise = by_name("linear")

    def scaled(dy, x, w):
        dx, dw, db = exercise.answer(dy, x, w)
        return 3 * dx, dw, db

    assert exercise.check(scaled)[1] == "dx is the correct result times 3."

    def transposed(dy, x, w):
        dx, dw, db = exercise.answer(dy, x, w)
        return dx.T, dw, db

    assert exercise.check(transposed)[1] == "dx is the transpose of the correct result."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", r"exercises/03_gelu.py cannot be imported: SyntaxError on line 1 of exercises"),
        ("import nothing_of_this_name", r"cannot be imported: ModuleNotFoundError on line 1 of"),
        ("x = 1", r"exercises/03_gelu.py must define the function gelu_slope\."),
    ],
)
def test_a_file_that_cannot_be_used_is_reported_in_a_sentence(text, message, copy):
    (copy / "exercises/03_gelu.py").write_text(text)
    process = run(copy, "3")
    assert (process.returncode, process.stderr) == (1, "")
    assert re.search(message, process.stdout)


@pytest.fixture
def copy(tmp_path):
    """The folders that a learner needs, with the files of the first two exercises solved."""
    for name in ("exercises/checks", "baregpt", "data"):
        (tmp_path / name).mkdir(parents=True)
    for path in [*ROOT.glob("exercises/**/*.py"), *ROOT.glob("baregpt/*.py")]:
        (tmp_path / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    for exercise in EXERCISES[:4]:
        module, name = exercise.answer.__module__, exercise.function
        line = f"\n\nfrom {module} import {name}  # noqa: E402, F811\n"
        path = tmp_path / exercise.file
        path.write_text(path.read_text() + line)
    return tmp_path


def run(folder, *arguments):
    command = [sys.executable, "-m", "exercises", *arguments]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True)


def test_the_runner_stops_at_the_first_that_is_not_correct_as_in_the_picture(copy):
    *lines, _ = ATTEMPTS["layer_norm"]
    path = copy / "exercises/05_layer_norm.py"
    path.write_text(path.read_text().removesuffix("...\n") + "\n    ".join(lines) + "\n")
    process = run(copy)
    assert (process.returncode, process.stderr) == (1, "")
    assert re.findall(r"^ ?(\d+) \w+ +(.*)$", process.stdout, re.MULTILINE) == [
        ("1", "correct"), ("2", "correct"), ("3", "correct"), ("4", "correct"), ("5", "not yet"),
    ]  # fmt: skip
    picture = (ROOT / "docs/exercises.svg").read_text()
    shown = [re.sub("<[^>]+>", "", line) for line in re.findall("<text.*</text>", picture)]
    session = f"$ python -m exercises\n{process.stdout}"
    session += f"$ python -m exercises 5 --hint\n{run(copy, '5', '--hint').stdout}"
    assert html.unescape("\n".join(shown)) == session.rstrip("\n")


def test_hints_are_given_one_by_one(capsys):
    exercise = by_name("layer_norm")
    for i, hint in enumerate(exercise.hints):
        assert main(["5", "--hint", str(i + 1)]) == 0
        following = f"The next hint: python -m exercises 5 --hint {i + 2}\n" if i < 2 else ""
        assert capsys.readouterr().out == f"{hint}\n{following}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["14"], "argument exercise: must be 1 to 13 or train, got 14"),
        (["tain"], "argument exercise: must be 1 to 13 or train, got tain"),
        (["--hint"], "--hint must follow the number of an exercise, 1 to 13"),
        (["5", "--hint", "4"], "argument --hint: invalid choice: 4"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_training_without_the_plays_or_interrupted_ends_in_a_line(solve, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    solve(ANSWERS)
    monkeypatch.setattr(training, "PLAYS", ROOT / "data/missing.txt")
    assert main(["train"]) == 1
    assert re.fullmatch("error: .*No such file.*missing.txt'\n", capsys.readouterr().err)
    solve(ANSWERS | {"sample": interrupt})
    assert main(["12"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_all_correct_leads_to_the_training(solve, capsys):
    solve(ANSWERS)
    assert main([]) == 0
    assert capsys.readouterr().out.endswith(
        "All solutions are correct. Train the GPT that you wrote: python -m exercises train\n"
    )
    assert main(["7"]) == 0
    assert capsys.readouterr().out == " 7 attention_head           correct\n"


def test_training_with_the_functions_of_baregpt_reaches_a_loss_below_3(capsys, monkeypatch):
    monkeypatch.setattr(training, "PROGRESS_LINES", 2)
    before = training.layers.softmax_backward, training.Optimizer.adam
    called = set()

    def noting(name, function):
        def call(*arguments):
            called.add(name)
            return function(*arguments)

        return call

    functions = {name: noting(name, function) for name, function in ANSWERS.items()}
    assert training.main(functions, steps=16) == 0
    assert called == {*ANSWERS} - {"attention_head_backward"}  # baregpt's heads do without it
    out = capsys.readouterr().out
    assert out.startswith("The gradients of the whole GPT match finite differences.\nstep    0: ")
    assert float(re.search(r"Validation loss: (\S+) nats", out)[1]) < 3 < np.log(61)
    losses = [float(loss) for loss in re.findall(r"^step +\d+: loss (\S+)  ", out, re.MULTILINE)]
    assert len(losses) == 3
    assert losses[0] == pytest.approx(np.log(61), abs=0.1)
    assert len(out.partition("you wrote:\n")[2]) == 401
    assert before == (training.layers.softmax_backward, training.Optimizer.adam)  # restored


def test_training_does_not_start_with_a_wrong_exercise(solve, capsys):
    mistake, sentence = next(iter(by_name("layer_norm").mistakes.items()))
    solve(ANSWERS | {"layer_norm_backward": mistake})
    assert main(["train"]) == 1
    out = capsys.readouterr().out
    assert sentence in out
    assert "step" not in out


def for_six_rows(dy, normalized, inverse_std, gain):
    """Correct in the exercise, whose x is (6, 5), and wrong elsewhere."""
    dx, dgain, dbias = ANSWERS["layer_norm_backward"](dy, normalized, inverse_std, gain)
    return dx if dy.shape == (6, 5) else 1.01 * dx, dgain, dbias


def test_a_gradient_that_is_wrong_in_the_whole_gpt_is_named_before_training(solve, capsys):
    solve(ANSWERS | {"layer_norm_backward": for_six_rows})
    assert main(["train"]) == 1
    wrong, see = capsys.readouterr().out.splitlines()[-2:]
    assert wrong.startswith("Wrong gradients in a whole GPT, closest to the bug first: blocks.0.")
    assert "blocks.0.ln1.gain (relative error " in wrong
    assert "head" not in wrong
    assert see == (
        "With baregpt's layer_norm_backward, they are correct: see exercises/05_layer_norm.py."
    )


def test_a_function_that_fails_in_the_whole_gpt_is_named_before_training(solve, capsys):
    def for_five_columns(dy, normalized, inverse_std, gain):
        return dy.reshape(6, 5), gain, gain

    assert training.main(ANSWERS | {"layer_norm_backward": for_five_columns}) == 1
    raises, see = capsys.readouterr().out.splitlines()
    assert raises == (
        "Computing the gradients of a whole GPT raises ValueError: cannot reshape array of size 24"
        " into shape (6,5)."
    )
    assert see.endswith("see exercises/05_layer_norm.py.")

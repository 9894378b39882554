"""The team's tracking server, the model registry, and the model behind a server, each by the
commands of the documentation.
"""

import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import mlflow
import psutil
import pytest
import servers
from conftest import ROOT, Checkout, commands, copy_of, made_once, mlflow_runs, processes

from baregpt import generate, load_weights

ASK = {
    "inputs": {"prompt": ["KING:", "\n"]},
    "params": {"length": 40, "temperature": 0.9, "top_k": 5, "seed": 3},
}

JSON = {"Content-Type": "application/json"}


def test_two_clones_log_to_one_server_at_once(encoded, tmp_path):
    """PostgreSQL behind it; artifacts pass through it."""
    on_the_server, elsewhere = commands("experiments.md", "A tracking server for a team")
    createdb, store, server = on_the_server.splitlines()
    (options,) = re.findall("--allowed-hosts tracking:5000", server)
    with servers.postgres() as database:
        encoded.environment |= database
        encoded.run(*createdb.split())
        name, uri = store.removeprefix("export ").split("=", 1)
        login = "{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}".format(**database)
        uri = uri.replace("user:password@localhost:5432", login)
        tracking = servers.Tracking(tmp_path, encoded.environment | {name: uri})
        tracking.options = options.replace("tracking:5000", f"127.0.0.1:{tracking.port}").split()
        with tracking:
            export, repro = elsewhere.splitlines()
            encoded.environment["MLFLOW_TRACKING_URI"] = tracking.address
            assert export == "export MLFLOW_TRACKING_URI=http://tracking:5000"
            clones = [encoded, Checkout(shutil.copytree(encoded.path, tmp_path / "another"))]
            clones[1].environment = encoded.environment
            clones[1].set_params(train={"seed": 2})
            at_work = [clone.start(*repro.split()) for clone in clones]
            for process in at_work:
                out, err = process.communicate(timeout=200)
                assert process.returncode == 0, out + err
            client, runs = tracking.runs()
            assert {run.data.params["train.seed"] for run in runs} == {"1", "2"}
            for run in runs:
                assert run.info.status == "FINISHED"
                assert [
                    m.step for m in client.get_metric_history(run.info.run_id, "loss/train")
                ] == [*range(1, 21)]
                assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
                of = clones[run.data.params["train.seed"] == "2"].path / "data"
                for name in ("weights.pkl", "samples.txt", "explore.html"):
                    theirs = client.download_artifacts(run.info.run_id, name, tmp_path)
                    assert Path(theirs).read_bytes() == (of / name).read_bytes()
            assert len(list((tmp_path / "artifacts").rglob("samples.txt"))) == 2
            request = urllib.request.Request(
                f"{tracking.address}/", headers={"Host": "elsewhere.example.org"}
            )
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request)
            assert "registered baregpt version 1" in encoded.stage("register").stdout
    for clone in clones:
        assert not (clone.path / "mlruns").exists()


@pytest.fixture(scope="session")
def registered(finished_checkout, tmp_path_factory):
    """A finished checkout with its weights in the registry, and what that printed. Not to be
    changed.
    """

    def make(checkout):
        copy_of(finished_checkout, checkout.path)
        (checkout.path / "registered.txt").write_text(checkout.stage("register").stdout)

    return made_once(tmp_path_factory, "registered", make)


def expected(checkout):
    model, vocab = load_weights(checkout.path / "data/weights.pkl")
    return [
        "".join(generate(model, vocab, prompt, 40, 0.9, 5, 3)) for prompt in ASK["inputs"]["prompt"]
    ]


def test_register_ties_a_version_to_the_weights(registered):
    client, (run,) = mlflow_runs(registered)
    (version,) = client.search_model_versions("name = 'baregpt'")
    metrics = json.loads((registered.path / "data/metrics.json").read_text())
    assert version.tags == {
        "weights.md5": run.data.tags["weights.md5"],
        "validation_loss": str(metrics["validation_loss"]),
    }
    assert version.run_id == run.info.run_id
    assert version.description == run.data.tags["mlflow.note.content"]
    assert "the alias champion" in client.get_registered_model("baregpt").description
    checksum, loss = version.tags.values()
    printed = (registered.path / "registered.txt").read_text()
    best = "baregpt@champion is version 1\n"
    assert (
        printed == f"registered baregpt version 1: md5 {checksum}, validation loss {loss}\n{best}"
    )
    known = f"baregpt version 1 already has these weights: md5 {checksum}\n{best}"
    assert registered.stage("register").stdout == known
    assert len(client.search_model_versions("name = 'baregpt'")) == 1


def test_weights_that_were_pulled_can_be_registered(registered, tmp_path):
    checkout = copy_of(registered, tmp_path / "checkout")
    (checkout.path / "mlflow.db").unlink()
    assert checkout.stage("register").stdout.startswith("registered baregpt version 1: md5 ")
    client, (run,) = mlflow_runs(checkout)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"weights.pkl"}


def test_an_unreachable_registry_and_missing_weights_give_a_one_line_error(finished):
    finished.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    err = finished.stage("register", code=1).stderr
    assert "error: MLflow cannot use its store http://127.0.0.1:9 (" in err
    (finished.path / "data/weights.pkl").unlink()
    err = finished.stage("register", code=1).stderr
    assert err == "error: data/weights.pkl does not exist; run `dvc repro` to create it\n"


def test_the_model_answers_over_http(registered, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("without curl, which `apt-get install curl` brings")
    serve, ask = commands("experiments.md", "Register and serve")
    export, serve = serve.splitlines()
    checkout, port = copy_of(registered, tmp_path / "checkout"), servers.free_port()
    name, uri = export.split("#")[0].removeprefix("export ").strip().split("=", 1)
    environment = checkout.environment | {name: uri}
    command = serve.replace("5001", str(port)).split()
    options = {"cwd": checkout.path, "env": environment}
    with servers.running(
        command,
        lambda: servers.fetch(f"http://127.0.0.1:{port}/ping") is not None,
        tmp_path / "log",
        **options,
    ):
        ask = ask.replace("5001", str(port))
        (text,) = json.loads(checkout.run("bash", "-euc", ask).stdout)["predictions"]
        assert len(text) == 100

        assert servers.invoke(port, ASK) == {"predictions": expected(registered)}
        assert len(servers.invoke(port, {"inputs": {"prompt": ["K"]}})["predictions"][0]) == 512
        wrong = {
            "character '@' at position 0 is not in the vocabulary": {"inputs": {"prompt": ["@"]}},
            "prompt must have at least one character": {"inputs": {"prompt": [""]}},
            "top_k must be at least 0 and finite, got -1": {
                "inputs": {"prompt": ["K"]},
                "params": {"top_k": -1},
            },
            "length must be at least 0 and at most 10000, got 1000000000000": {
                "inputs": {"prompt": ["K"]},
                "params": {"length": 10**12},
            },
            "'length'": {"inputs": {"prompt": ["K"]}, "params": {"length": "long"}},
        }
        for value in (None, True, 1, 1.5):
            message = f"prompt must be a string, got {value}"
            wrong[message] = {"inputs": {"prompt": [value]}}
            wrong[message + '"'] = {"instances": [{"prompt": value}]}
        for message, question in wrong.items():
            with pytest.raises(urllib.error.HTTPError) as error:
                servers.invoke(port, question)
            answer = error.value.read().decode()
            assert error.value.code == 400
            assert message in answer
            assert str(checkout.path) not in answer

        # minutes of text, for clients that leave, and for one that the server leaves
        long = {"inputs": {"prompt": ["K"] * 1000}, "params": {"length": 10_000}}
        (server,) = [
            psutil.Process(number)
            for number, words in processes(checkout.path).items()
            if "mlflow.pyfunc.scoring_server.app:app" in words and "--port" in words
        ]
        with closing(HTTPConnection("127.0.0.1", port)) as client:
            client.request("POST", "/invocations", json.dumps(long), JSON)
            wait_until(lambda: is_busy(server))
        wait_until(lambda: not is_busy(server))
        with closing(HTTPConnection("127.0.0.1", port)) as client:
            client.request("POST", "/invocations", json.dumps(long), JSON)
            wait_until(lambda: is_busy(server))
            server.terminate()
            server.wait(timeout=30)


def is_busy(process):
    """Return whether a process is using the CPU."""
    before = process.cpu_times()
    time.sleep(1)
    return process.cpu_times().user - before.user > 0.1


def wait_until(condition):
    """Wait half a minute at most, which is less than the time limit of MLflow's server."""
    assert any(condition() for _ in range(30))


def test_the_model_loads_in_python_and_unpickles_through_our_loader_alone(registered, tmp_path):
    """In an empty folder, with nothing from this project except what MLflow stored."""
    page = (ROOT / "docs/experiments.md").read_text()
    (snippet,) = re.findall(r"```python\n(import mlflow\n.*?)```", page, re.DOTALL)
    program = f"""
import pickle, sys
loads = pickle.loads
def ours_alone(data, *_, **__):
    caller = sys._getframe(1).f_code.co_filename
    assert caller.endswith("/code/baregpt/weights.py"), f"{{caller}} has unpickled something"
    return loads(data)
pickle.load = pickle.loads = ours_alone
{snippet}
assert len(text) == 100
prompts = [{{"prompt": prompt}} for prompt in {ASK["inputs"]["prompt"]!r}]
print(model.predict(prompts, params={ASK["params"]!r}))
print(model.predict({ASK["inputs"]!r}, params={ASK["params"]!r}))
import baregpt
print(baregpt.__file__)
"""
    elsewhere = Checkout(tmp_path)
    elsewhere.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{registered.path}/mlflow.db"
    *texts, where = elsewhere.run("python", "-c", program).stdout.splitlines()
    assert texts == [repr(expected(registered))] * 2
    assert re.search("models/m-.*/artifacts/code/baregpt", where)
    files = [path for path in registered.path.glob("mlruns/models/**/*") if path.is_file()]
    assert [path.name for path in files if path.suffix in (".pkl", ".pickle")] == ["weights.pkl"]


def test_a_hostile_model_in_the_registry_is_refused(registered, tmp_path):
    """Weights that were changed where MLflow keeps them."""
    (stored,) = registered.path.glob("mlruns/models/*/artifacts")
    model = shutil.copytree(stored, tmp_path / "model")
    (model / "data/weights.pkl").write_bytes(
        b"cos\nsystem\n(S'touch " + os.fsencode(tmp_path / "harm") + b"'\ntR."
    )
    with pytest.raises(ValueError, match="not a valid BareGPT weights file"):
        mlflow.pyfunc.load_model(str(model))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "value", "rule"), [("length", -1, "at least 0"), ("seed", -2, "-1 (random) or")]
)
def test_an_error_names_the_param_of_the_request(name, value, rule):
    from mlflow.exceptions import MlflowException

    from baregpt.weights import PRETRAINED
    from pipeline.tracking.model import DEFAULTS
    from pipeline.tracking.served_model import TextGenerator

    with pytest.raises(MlflowException, match=f"^{name} must be ") as error:
        TextGenerator(PRETRAINED).predict({"prompt": ["K"]}, DEFAULTS | {name: value})
    assert rule in str(error.value)
    assert str(error.value).endswith(f"got {value}")

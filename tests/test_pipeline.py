"""The whole pipeline as a user runs it: real DVC, a real MLflow store."""

import ast
import csv
import functools
import hashlib
import http.server
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, SMALL, lend_environment, mlflow_runs, samples_by_step

from baregpt import GPT, Config, TrainConfig, load_weights, train
from baregpt.trainer import evaluate
from baregpt.weights import read_weights, save_weights
from pipeline.tracking.new_run import source_tags
from pipeline.tracking.samples import truncate
from pipeline.train import timed

COMMITTED = [".gitignore", "README.md", "metrics.json", "plays.txt"]  # what git has of data/
STAGES = ["prepare", "vocab", "train", "sample", "plot_attention"]


def stages_run(output):
    return [stage for stage in STAGES if f"Running stage '{stage}'" in output]


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_one_command_creates_all_outputs(finished_checkout):
    data = finished_checkout.path / "data"
    assert stages_run((finished_checkout.path / "output.txt").read_text()) == STAGES
    model, vocab = load_weights(data / "weights.pkl")
    others = {"vocab_size": 60, "rotary": False}
    assert vars(model.config) == others | SMALL["model"]
    assert json.loads((data / "vocab.json").read_text())["characters"] == vocab.characters
    corpus = (data / "plays.txt").read_text()
    train_ids, validation_ids = np.load(data / "train.npy"), np.load(data / "validation.npy")
    assert vocab.decode([*train_ids, *validation_ids]) == corpus
    assert len(train_ids) == int(len(corpus) * 0.9)
    samples = (data / "samples.txt").read_text()
    assert samples.count("--- sample") == 2
    assert len(samples) > 2 * 80
    for picture in ("attention.png", "loss.png"):
        assert (data / picture).read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((data / "metrics.json").read_text())
    assert metrics["parameters"] == model.n_parameters
    assert metrics["characters_seen"] == 20 * 4 * 32
    steps = [int(row["step"]) for row in csv.DictReader((data / "train_loss.csv").open())]
    assert steps == list(range(1, 21))
    validation = {
        int(row["step"]): float(row["validation_loss"])
        for row in csv.DictReader((data / "validation_loss.csv").open())
    }
    assert list(validation) == [10, 20]
    assert validation[20] < validation[10] < np.log(60)
    assert metrics["best_step"] == 20
    assert metrics["validation_loss"] == pytest.approx(evaluate(model, validation_ids), abs=1e-6)


def test_a_second_repro_does_nothing(finished):
    assert "Data and pipelines are up to date." in finished.run("dvc", "repro").stdout


def test_changed_params_rerun_only_the_affected_stages(finished):
    before = md5(finished.path / "data/samples.txt")
    finished.set_params(sample={"temperature": 1.5})
    assert stages_run(finished.run("dvc", "repro").stdout) == ["sample"]
    assert md5(finished.path / "data/samples.txt") != before
    _, (run,) = mlflow_runs(finished)  # its samples.txt is of the second sampling
    assert run.data.tags["sample.temperature"] == "1.5"
    assert not [name for name in run.data.params if name.startswith("sample.")]
    finished.set_params(plot_attention={"layer": 0})
    assert stages_run(finished.run("dvc", "repro").stdout) == ["plot_attention"]


@pytest.mark.parametrize(
    ("changed", "rerun"),
    [
        ("baregpt/sampler.py", ["sample"]),
        ("pipeline/plot_attention.py", ["plot_attention"]),
        ("baregpt/layers.py", ["train", "sample", "plot_attention"]),
        ("baregpt/optimizer.py", ["train"]),
        ("data/plays.txt", ["prepare"]),
        ("README.md", []),
    ],
)
def test_changed_files_rerun_only_the_stages_that_use_them(finished, changed, rerun):
    with (finished.path / changed).open("a") as file:
        file.write("\n# a change\n")
    assert list(json.loads(finished.run("dvc", "status", "--json").stdout)) == rerun


WITHOUT_EFFECT = (  # on the outputs: logging, checkpoints, distributing the work, a check
    "pipeline/common/process.py",
    "pipeline/tracking/",
    "pipeline/training/checkpoint.py",
    "pipeline/training/communicator.py",
    "pipeline/training/launcher.py",
    "pipeline/training/memory.py",
)


def imports(path, found=()):
    """Return the files of this project that determine the outputs of a module: itself, and what it
    imports.
    """
    if not (ROOT / path).exists() or path.startswith(WITHOUT_EFFECT) or path in found:
        return {*found}
    found = {*found, path}
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module.replace(".", "/")
            for name in [module, *(f"{module}/{alias.name}" for alias in node.names)]:
                found = imports(f"{name}.py", found)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_depends_on_exactly_the_code_that_determines_its_outputs(stage):
    """The dependencies in dvc.yaml also make the fingerprint of a checkpoint."""
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    assert {dep for dep in deps if dep.endswith(".py")} == imports(f"pipeline/{stage}.py")


def test_metrics_plots_and_graph_show_the_results(finished):
    metrics = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)[""]["data"][
        "data/metrics.json"
    ]["data"]
    assert metrics.keys() == {
        "train_loss",
        "validation_loss",
        "best_step",
        "parameters",
        "characters_seen",
    }
    finished.run("dvc", "plots", "show")
    page = (finished.path / "dvc_plots/index.html").read_text()
    for part in ("train_loss", "validation_loss", "nats per character", "attention.png"):
        assert part in page
    assert "loss.png" in page  # the curves load Vega from the network
    graph = finished.run("dvc", "dag", "--dot").stdout
    arrows = {
        tuple(part.strip(' ";') for part in line.split("->"))
        for line in graph.splitlines()
        if "->" in line
    }
    links = {
        ("prepare", "vocab"),
        ("vocab", "train"),
        ("train", "sample"),
        ("train", "plot_attention"),
    }
    assert arrows == links


def test_the_run_in_mlflow_has_everything(finished_checkout):
    client, runs = mlflow_runs(finished_checkout)
    assert len(runs) == 1
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "20"
    assert run.data.params["model.d_model"] == "32"
    assert run.data.params["corpus.path"] == "data/plays.txt"
    each_step = {"loss/train", "optimizer/learning_rate", "optimizer/gradient_norm"}
    each_evaluation = {
        "loss/validation",
        "speed/characters_per_second",
        "system/process_cpu_percentage",
        "system/process_memory_megabytes",
    }
    steps = {name: [*range(1, 21)] for name in each_step}
    steps |= {name: [10, 20] for name in each_evaluation}
    steps |= {"result/train_loss": [20], "result/validation_loss": [20]}
    histories = {
        name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics
    }
    assert {name: [m.step for m in history] for name, history in histories.items()} == steps
    metrics = json.loads((finished_checkout.path / "data/metrics.json").read_text())
    assert run.data.metrics["result/validation_loss"] == metrics["validation_loss"]
    assert run.data.metrics["result/train_loss"] == metrics["train_loss"]
    counts = {name: int(x) for name, x in run.data.params.items() if name.startswith("parameters.")}
    total = counts.pop("parameters.total")
    assert (
        total
        == sum(counts.values())
        == load_weights(finished_checkout.path / "data/weights.pkl")[0].n_parameters
    )
    assert {"parameters.attention", "parameters.mlp", "parameters.head"} <= counts.keys()
    assert (
        run.data.tags["mlflow.source.git.commit"]
        == finished_checkout.run("git", "rev-parse", "HEAD").stdout.strip()
    )
    lock = yaml.safe_load((finished_checkout.path / "dvc.lock").read_text())["stages"]
    recorded = {
        entry["path"]: entry["md5"]
        for stage in lock.values()
        for entry in [*stage["deps"], *stage["outs"]]
    }
    assert run.data.tags["corpus.md5"] == recorded["data/plays.txt"]
    assert run.data.tags["weights.md5"] == recorded["data/weights.pkl"]
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert artifacts == {
        "weights.pkl",
        "vocab.json",
        "params.yaml",
        "samples.txt",
        "samples_by_step.txt",
        "loss.png",
        "attention.png",
        "explore.html",
    }
    assert run.info.run_name == "plays, 2×32, 20 steps"
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("Layers 2, heads 2, width 32, context 32: ")
    assert note.endswith(f"{metrics['validation_loss']:.4f} nats per character, at step 20.")
    assert "params.uncommitted" not in run.data.tags
    (dataset,) = [logged.dataset for logged in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("plays", recorded["data/plays.txt"])
    assert json.loads(dataset.source) == {"uri": "data/plays.txt"}
    counts = {"training_characters": 90_000, "validation_characters": 10_000}
    assert json.loads(dataset.profile) == counts
    (model,) = client.search_logged_models(["1"])
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert {m.key: m.value for m in model.metrics} == {
        f"result/{name}": metrics[name] for name in ("train_loss", "validation_loss")
    }
    output = (finished_checkout.path / "output.txt").read_text()
    for step, line in zip((10, 20), samples_by_step(client, run), strict=True):
        text = line.removeprefix(f"step {step}: ")
        assert len(text) > 80
        assert re.search(rf"^step {step}: train loss .*\n  {re.escape(text[:78])}\n", output, re.M)
    params = Path(client.download_artifacts(run.info.run_id, "params.yaml"))
    assert params.read_bytes() == (finished_checkout.path / "params.yaml").read_bytes()
    stored = Path(client.download_artifacts(run.info.run_id, "weights.pkl"))
    assert md5(stored) == recorded["data/weights.pkl"]


def test_the_tags_of_the_source_are_those_of_mlflow(monkeypatch):
    from mlflow.tracking.context.registry import resolve_tags

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", [str(ROOT / "pipeline/train.py")])
    ours, theirs = source_tags(), resolve_tags()
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} <= ours.keys()
    assert ours == {name: theirs.get(name) for name in ours}
    assert ("mlflow.source.git.commit" in theirs) == ("mlflow.source.git.commit" in ours)
    monkeypatch.setenv("PATH", "")  # without git
    assert source_tags().keys() == ours.keys() - {"mlflow.source.git.commit"}


def test_training_gives_the_weights_of_the_library(finished_checkout):
    """Bit by bit: logging, text and snapshots do not change them."""
    params = yaml.safe_load((finished_checkout.path / "params.yaml").read_text())
    del params["train"]["init"]
    ids = [np.load(finished_checkout.path / f"data/{name}.npy") for name in ("train", "validation")]
    model = GPT(Config(60, **params["model"]), params["train"]["seed"])
    list(train(model, *ids, TrainConfig(**params["train"])))
    trained, _ = load_weights(finished_checkout.path / "data/weights.pkl")
    assert (model.flat == trained.flat).all()


def test_a_line_of_text_fits_into_the_terminal():
    assert truncate("KING:", 80) == "KING:"
    assert truncate("KING:", 4) == "KING"
    assert truncate("我們來 ok", 5) == "我們"  # two columns each


def test_the_speed_counts_only_the_seconds_of_the_steps(monkeypatch):
    clock = [0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def steps():
        for step in (1, 2):
            clock[0] += 3  # the step itself
            yield step

    seconds = []
    for _, taken in timed(steps()):
        clock[0] += 100  # checkpoints and logging
        seconds.append(taken)
    assert seconds == [3, 3]


def test_samples_land_in_the_run_that_made_the_weights(finished):
    """Two training runs, then DVC restores the weights of the first."""
    _, (first,) = mlflow_runs(finished)
    finished.set_params(train={"seed": 2})
    finished.run("dvc", "repro", "sample")
    finished.set_params(train={"seed": 1}, sample={"length": 33})
    finished.run("dvc", "repro", "sample")
    client, runs = mlflow_runs(finished)
    assert len(runs) == 2  # the first weights came from DVC's cache, not from a third training run
    run_ids = [run.info.run_id for run in runs]
    texts = {
        run_id: Path(client.download_artifacts(run_id, "samples.txt")).read_text()
        for run_id in run_ids
    }
    (second,) = set(run_ids) - {first.info.run_id}
    assert texts[first.info.run_id] == (finished.path / "data/samples.txt").read_text()
    data = client.get_run(first.info.run_id).data  # with the params that made them
    assert (data.tags["sample.length"], "sample.length" in data.params) == ("33", False)
    assert texts[second] != texts[first.info.run_id]


def test_weights_without_a_run_or_loss_get_a_new_run(finished, encoded_checkout):
    """Written by the library, not by a training run."""
    shutil.copy(encoded_checkout.path / "mlflow.db", finished.path)  # without runs
    weights = finished.path / "data/weights.pkl"
    save_weights(weights, *load_weights(weights))
    finished.stage("sample")
    client, (run,) = mlflow_runs(finished)
    assert run.data.tags["weights.md5"] == md5(finished.path / "data/weights.pkl")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "weights.pkl",
        "samples.txt",
    }
    registered = finished.stage("register").stdout
    new = f"registered baregpt version 1: md5 {run.data.tags['weights.md5']}\n"
    assert registered == f"{new}baregpt@champion is version 1\n"
    (version,) = client.search_model_versions()
    assert version.tags == {"weights.md5": run.data.tags["weights.md5"]}


def test_runs_go_where_mlflow_tracking_uri_says(encoded):
    (encoded.path / "mlflow.db").unlink()
    encoded.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{encoded.path}/elsewhere.db"
    encoded.stage("train")
    assert not (encoded.path / "mlflow.db").exists()
    encoded.path.joinpath("elsewhere.db").rename(encoded.path / "mlflow.db")
    (run,) = mlflow_runs(encoded)[1]
    assert run.info.artifact_uri.startswith((encoded.path / "mlruns").as_uri())


def test_a_run_whose_outputs_cannot_be_written_has_the_status_failed(encoded):
    (encoded.path / "data/weights.pkl").mkdir()  # cannot be replaced by a file
    encoded.stage("train", code=1)
    (run,) = mlflow_runs(encoded)[1]
    assert run.info.status == "FAILED"


def test_the_best_weights_are_kept_not_the_last(encoded):
    """A learning rate that soon makes the model worse."""
    encoded.set_params(
        train={"steps": 30, "evaluation_interval": 5, "learning_rate": 0.4, "warmup_steps": 30}
    )
    encoded.stage("train")
    rows = csv.DictReader((encoded.path / "data/validation_loss.csv").open())
    curve = {int(row["step"]): float(row["validation_loss"]) for row in rows}
    metrics = json.loads((encoded.path / "data/metrics.json").read_text())
    best = min(curve, key=curve.get)
    assert metrics["best_step"] == best < 30
    assert metrics["validation_loss"] < curve[30] - 0.1
    model, _, metadata = read_weights(encoded.path / "data/weights.pkl")
    assert metadata["best_step"] == best
    ids = np.load(encoded.path / "data/validation.npy")
    assert evaluate(model, ids) == pytest.approx(metrics["validation_loss"], abs=1e-6)


def test_evaluate_scores_any_weights_on_any_text(finished, tmp_path):
    metrics = json.loads((finished.path / "data/metrics.json").read_text())
    out = finished.stage("evaluate").stdout
    assert f"loss {metrics['validation_loss']:.4f} nats per character" in out
    assert f"= {metrics['validation_loss'] / np.log(2):.4f} bits per character" in out
    (tmp_path / "mine.txt").write_text("What news?\n" * 30)
    ask = (
        "python",
        "-m",
        "pipeline.evaluate",
        str(tmp_path / "mine.txt"),
        "--weights",
        "data/weights.pkl",
        "--fraction",
    )
    assert "on the last 330 of 330 characters" in finished.run(*ask, "1").stdout
    assert "on the last 165 of 330 characters" in finished.run(*ask, "0.5").stdout
    for fraction, message in (
        ("0", "--fraction (0.0) must be greater than 0 and at most 1"),
        ("1.5", "--fraction (1.5) must be greater than 0 and at most 1"),
        ("0.001", "--fraction must leave at least 2 characters of"),
    ):
        assert message in finished.run(*ask, fraction, code=1).stderr
    (tmp_path / "mine.txt").write_text("@@@@")
    err = finished.run(*ask, "1", code=1).stderr
    assert "character '@' at position 0 is not in the vocabulary" in err


def test_evaluate_heads_prints_a_table_and_a_summary(finished_checkout):
    ask = ("python", "-m", "pipeline.evaluate", "--heads", "--windows", "5")
    lines = finished_checkout.run(*ask).stdout.splitlines()
    start = lines.index("attention heads, on 5 windows of 32 characters:")
    rows = [line.split() for line in lines[start + 2 : start + 6]]
    assert [row[:2] for row in rows] == [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"]]
    all_off, low, idle = lines[start + 6 :]
    assert re.fullmatch(r"all heads off: [+-]\d\.\d{3} nats per character", all_off)
    assert re.fullmatch(r"\d of 4 heads have under 85% of the entropy of uniform attention", low)
    count = sum(abs(float(row[2])) < 0.001 for row in rows)
    assert idle == (
        f"{count} of 4 heads are idle: switched off alone, they change the loss by less than 0.001"
    )
    ask = ("python", "-m", "pipeline.evaluate", "--heads", "--windows", "0")
    err = finished_checkout.run(*ask, code=1).stderr
    assert err == "error: --windows (0) must be at least 1\n"


def test_export_puts_half_precision_weights_where_a_clone_finds_them(finished):
    out = finished.stage("export").stdout
    model, vocab = load_weights(finished.path / "data/weights.pkl")
    half, half_vocab, metadata = read_weights(finished.path / "baregpt/pretrained.pkl")
    assert half_vocab.characters == vocab.characters
    assert half.flat == pytest.approx(model.flat, rel=1e-3, abs=1e-6)
    size = (finished.path / "baregpt/pretrained.pkl").stat().st_size
    assert size < 0.6 * (finished.path / "data/weights.pkl").stat().st_size
    assert f"baregpt/pretrained.pkl: {size:,} bytes" in out
    assert metadata["steps"] == 20
    assert json.loads(metadata["recipe"])["train.steps"] == "20"
    assert metadata["seconds"] > 0
    assert {"corpus_sha256", "validation_loss", "train_loss", "python", "numpy"} <= metadata.keys()
    snapshots = (finished.path / "data/snapshots.json").read_bytes()
    exported = finished.path / "pipeline/explorer/pretrained_snapshots.json"
    assert exported.read_bytes() == snapshots
    (finished.path / "data/weights.pkl").unlink()
    assert "Training" not in finished.run("python", "-m", "baregpt", "--length", "20").stdout


def test_export_refuses_weights_that_were_not_trained_here(finished, encoded_checkout):
    before = (finished.path / "baregpt/pretrained.pkl").read_bytes()
    (finished.path / "data/snapshots.json").rename(finished.path / "snapshots.json")
    err = finished.stage("export", code=1).stderr
    assert err == "error: data/snapshots.json does not exist; run `dvc repro` to create it\n"
    assert (finished.path / "baregpt/pretrained.pkl").read_bytes() == before
    (finished.path / "snapshots.json").rename(finished.path / "data/snapshots.json")
    shutil.copy(encoded_checkout.path / "mlflow.db", finished.path)  # without runs
    err = finished.stage("export", code=1).stderr
    assert "MLflow has no finished training run of data/weights.pkl" in err
    assert (finished.path / "baregpt/pretrained.pkl").read_bytes() == before


def test_make_best_runs_the_recipe_as_an_experiment(finished):
    lend_environment(finished)
    small = (
        "model.block_size=32",
        "model.n_layers=2",
        "train.steps=4",
        "model.d_model=32",
        "model.n_heads=2",
    )
    out = finished.run(
        "make", "best", "ARGUMENTS=" + " ".join(f"-S {change}" for change in small)
    ).stdout
    assert stages_run(out) == ["train", "sample", "plot_attention"]
    params = yaml.safe_load((finished.path / "params.yaml").read_text())
    assert params["train"]["muon_learning_rate"] == 0.02
    assert params["model"]["rotary"] is True
    assert load_weights(finished.path / "data/weights.pkl")[0].config.rotary
    rows = list(csv.DictReader(finished.run("dvc", "exp", "show", "--csv").stdout.splitlines()))
    assert "4" in [row["train.steps"] for row in rows if row["Experiment"]]
    _, runs = mlflow_runs(finished)
    assert {run.data.params["train.steps"] for run in runs} == {"4", "20"}


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_endings_do_not_matter(fresh, encoded_checkout, ending):
    corpus = fresh.path / "data/plays.txt"
    corpus.write_bytes(corpus.read_bytes().replace(b"\n", ending.encode()))
    fresh.stage("prepare")
    assert md5(fresh.path / "data/text.txt") == md5(encoded_checkout.path / "data/text.txt")


@pytest.fixture
def web_server(tmp_path):
    """A folder, and the address under which a server on this machine offers it."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_make_repro_checks_first_and_then_repeats_nothing(finished):
    lend_environment(finished)
    assert "Data and pipelines are up to date." in finished.run("make", "repro").stdout
    assert finished.run("make", "sample").stdout.startswith("\n")
    finished.set_params(corpus={"path": "data/none.txt"})
    assert finished.run("make", "repro", code=2).stderr.startswith(
        "error: corpus data/none.txt does not exist"
    )
    (finished.path / "params.yaml").write_text(
        (finished.path / "params.yaml").read_text() + "extra: 1\n"
    )
    assert finished.run("make", "repro", code=2).stderr.startswith(
        "error: params.yaml: extra is not a known parameter"
    )
    finished.run("make", "clean")
    assert sorted(path.name for path in (finished.path / "data").iterdir()) == COMMITTED


def test_shakespeare_is_fetched_and_checked(fresh, web_server):
    folder, address = web_server
    (folder / "input.txt").write_text("O, for a muse of fire!\n")
    checksum = hashlib.sha256((folder / "input.txt").read_bytes()).hexdigest()
    lend_environment(fresh)
    make = ("make", "shakespeare", f"SHAKESPEARE={address}/input.txt")

    fresh.run(*make, f"SHAKESPEARE_SHA256={checksum}")
    assert (fresh.path / "data/shakespeare.txt").read_text() == "O, for a muse of fire!\n"
    assert "shakespeare" not in fresh.run("git", "status", "--short").stdout

    (fresh.path / "data/shakespeare.txt").unlink()
    assert "is not tiny Shakespeare (" in fresh.run(*make, code=2).stdout
    gone = fresh.run("make", "shakespeare", f"SHAKESPEARE={address}/none.txt", code=2)
    advice = "download it on another machine and copy it to data/shakespeare.txt"
    assert f"cannot be downloaded; {advice}" in gone.stdout
    assert not list(fresh.path.glob("data/shakespeare*"))

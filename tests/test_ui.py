"""What a person sees who runs `make ui` and looks at a finished run."""

import socket
import sqlite3
from contextlib import closing

import servers
from conftest import ROOT, lend_environment, mlflow_runs
from playwright.sync_api import expect

expect.set_options(timeout=30_000)


def test_the_page_of_a_run_shows_all_that_belongs_to_it(finished, browser, tmp_path):
    lend_environment(finished)
    _, (run,) = mlflow_runs(finished)
    # a server that is down, and an experiment that is not the first: neither may matter
    finished.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    with closing(sqlite3.connect(finished.path / "mlflow.db")) as store, store:
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master")]
        for table in tables:
            if "experiment_id" in [row[1] for row in store.execute(f"PRAGMA table_info({table})")]:
                store.execute(f"UPDATE {table} SET experiment_id = 7 WHERE experiment_id = 1")
    port, log = servers.free_port(), tmp_path / "log"
    command = ("make", "ui", f"UI_PORT={port}")
    options = {"cwd": finished.path, "env": finished.environment}
    health = f"http://127.0.0.1:{port}/health"
    with servers.running(command, lambda: servers.fetch(health), log, **options):
        all_in_view = {"width": 1440, "height": 2400}  # other charts are not drawn
        page = browser.new_page(viewport=all_in_view)
        address = log.read_text().removeprefix("MLflow UI: ").split()[0]
        page.goto(address)
        open_run = page.get_by_role("link", name=run.info.run_name)
        open_run.click()
        page.get_by_role("button", name="Model training").click()  # remembered
        open_run.click()
        expect(page.get_by_role("link", name="Judges")).not_to_be_visible()

        for text in (
            "Finished",
            "train.py",
            run.data.tags["weights.md5"][:20],
            run.data.tags["corpus.md5"],  # of the dataset
            "10,000 for validation",  # the description
            "parameters.total",
            "train.learning_rate",
        ):
            expect(page.get_by_text(text).first).to_be_visible()
        page.get_by_role("tab", name="Model metrics").click()
        for metric in ("train", "validation", "learning_rate"):
            expect(page.get_by_text(metric, exact=True).first).to_be_visible()
        charts = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(e => e.data)"
        a_point_each_step = f"{charts}.some(line => line.y.length == 20)"
        page.wait_for_function(a_point_each_step)
        page.get_by_role("tab", name="System metrics").click()
        expect(page.get_by_text("process_memory_megabytes").first).to_be_visible()
        page.get_by_role("tab", name="Artifacts").click()
        for name in ("weights.pkl", "vocab.json", "loss.png"):
            expect(page.get_by_text(name, exact=True)).to_be_visible()
        page.get_by_text("attention.png", exact=True).click()
        picture = page.locator("img[src^=blob]").first
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
        page.get_by_text("samples.txt", exact=True).click()
        expect(
            page.get_by_text("--- sample 1 of 2: temperature 0.8, top-k 20, seed 1 ---")
        ).to_be_visible()
        page.get_by_text("explore.html", exact=True).click()
        explorer = page.frame_locator("iframe")
        explorer.locator("#text").fill("KING")
        expect(explorer.locator("#status")).to_contain_text("character 4 of 4")
        explorer.locator("#step").click()
        expect(explorer.locator("#status")).to_contain_text("character 5 of 5")
        page.close()


def test_a_port_that_is_taken_gives_a_one_line_error(fresh):
    lend_environment(fresh)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        err = fresh.run("make", "ui", f"UI_PORT={port}", code=2).stderr
    assert err.startswith(f"error: port {port} cannot be used ([Errno ")
    line = err.splitlines()[0]
    assert line.endswith("`make ui UI_PORT=5001` or `python -m pipeline.ui --port 5001`")
    assert not (fresh.path / "mlflow.db").exists()


def test_the_screenshot_in_the_docs_is_there():
    assert "](mlflow.png)" in (ROOT / "docs/experiments.md").read_text()
    assert (ROOT / "docs/mlflow.png").stat().st_size < 1 << 19

"""README.md and docs/: length, links, and the Python code on their pages."""

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from baregpt import layers

PAGES = [ROOT / "README.md", ROOT / "exercises/README.md", *sorted((ROOT / "docs").glob("*.md"))]
# phrases that used to stand for the field's terms, such as "nats per character" and "evaluation"
REPLACED_PHRASES = [
    "nats a character",
    "goes on from",
    "made anew",
    "its mirror",
    "likely likelier",
    "between looks",
]


def without_code(page):
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def python_code(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_has_at_most_220_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 220


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\(([^)]+)\)", without_code(page))
    relative = [link for link in links if not re.match(r"\w+:", link)]
    assert relative
    for link in relative:
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_every_test_that_a_page_names_exists():
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", without_code(page))}
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert named
    assert named <= set(re.findall(r"def (test_\w+)", tests))


def test_the_examples_of_the_library_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plays = (ROOT / "data/plays.txt").read_text()
    (tmp_path / "my_text.txt").write_text(plays[:30_000])
    generate, train, look_inside, read_weights = python_code("docs/library.md")
    train, count = re.subn(r"steps=\d+", "steps=3", train)
    assert count == 1
    exec(train, {})
    printed = capsys.readouterr().out
    losses, text = printed.split("\n", 1)
    assert re.fullmatch(r"step 3: train loss \d\.\d{3}, validation loss \d\.\d{3}", losses)
    assert len(text) == 201
    values = {}
    exec(read_weights, values)
    assert values["array"].shape == (96, len(set(plays[:30_000])))
    exec(generate, values)
    assert len(capsys.readouterr().out) == 200
    assert [len(text) for text in values["texts"]] == [512] * 16
    exec(look_inside, values)
    H, V = values["model"].config.n_heads, len(values["vocab"])
    assert values["logits"].shape == (1, 5, V)
    assert {attn.shape for attn in values["attention"]} == {(1, H, 5, 5)}


def test_the_naive_attention_of_the_docs_matches_the_layer():
    (code,) = python_code("docs/reading.md")
    values = {}
    exec(code, values)
    rng = np.random.default_rng(1)
    x, w_qkv, w_out = (rng.normal(size=shape) for shape in [(7, 6), (6, 18), (6, 6)])
    y, _ = layers.attention(x, w_qkv, w_out, n_heads=3, length=7)
    assert values["naive_attention"](x, w_qkv, w_out, 3) == pytest.approx(y, rel=1e-12)


def test_the_derivations_end_at_lines_of_the_code():
    text = (ROOT / "docs/derivations.md").read_text()
    quotes = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert len(quotes) > 10
    for quote in quotes:
        path = re.findall(r"\]\(\.\./(baregpt/\w+\.py)\)", text[: quote.start()])[-1]
        lines = {line.strip() for line in (ROOT / path).read_text().splitlines()}
        assert set(quote[1].splitlines()) <= lines, path


@pytest.mark.parametrize("heading", ["Final LayerNorm", "RMSNorm"])
def test_the_worked_changes_of_the_model_apply_and_pass_its_tests(heading, tmp_path):
    page = (ROOT / "docs/change-the-model.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    for path in [
        *ROOT.glob("baregpt/*.py"),
        *ROOT.glob("exercises/*.py"),
        *ROOT.glob("tests/*.py"),
    ]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for diff in re.findall(r"^```diff\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff, text=True, check=True)
    fast = "layers or change3 or not gradients"  # one gradient check of the whole model is enough
    command = [sys.executable, "-m", "pytest", "-q", "-k", fast]
    command += ["tests/test_layers.py", "tests/test_model.py"]
    tests = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    outcome = re.search(r"^(\d+) passed, (\d+) deselected", tests.stdout, re.MULTILINE)
    assert outcome, tests.stdout
    assert f"```\n{int(outcome[1]) + int(outcome[2])} passed\n```" in section


def test_the_drawing_of_a_block_uses_the_names_of_the_code():
    drawing = re.sub(
        "<style>.*</style>", "", (ROOT / "docs/block.svg").read_text(), flags=re.DOTALL
    )
    names = re.findall(r">(.*?)</text>", drawing)
    identifiers = set(re.findall(r"\b[a-z]+_[a-z_]+\b|\bd[a-z]+\b(?=[:( ])", " ".join(names)))
    source = (ROOT / "baregpt/layers.py").read_text()
    assert {"mlp_out", "dresidual", "dnormed", "attention_backward"} <= identifiers
    assert {name for name in identifiers if not re.search(rf"\b{name}\b", source)} == set()


def test_no_file_uses_a_replaced_phrase():
    command = ["git", "grep", "-nIF", *(f"-e{phrase}" for phrase in REPLACED_PHRASES)]
    command += ["--", ".", ":!tests/test_docs.py"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1, found.stdout + found.stderr  # 1: nothing found

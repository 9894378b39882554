"""The README's promise on the size of the code."""

import ast
import os
import subprocess
import sys
import tokenize

import pytest
from conftest import ROOT

MODEL = ("vocab", "layers", "model", "optimizer", "trainer", "sampler")
INTERFACE = ("weights", "files", "__main__")
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
NOT_CODE |= {tokenize.ENCODING, tokenize.ENDMARKER}


def lines_of_code(path):
    """Number of lines of a file that are not blank, comment or docstring."""
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in NOT_CODE]
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            code -= set(range(node.lineno, node.end_lineno + 1))
    return len(code)


def test_lines_of_code_exclude_blanks_comments_and_docstrings(tmp_path):
    text = '"""Two\nlines."""\n\nx = 1  # one\n# a comment\ny = (\n    2\n)\n'
    (tmp_path / "file.py").write_text(text)
    assert lines_of_code(tmp_path / "file.py") == 4


@pytest.mark.parametrize(("names", "limit"), [(MODEL, 499), (INTERFACE, 130)])
def test_model_has_under_500_lines_of_code_and_its_interface_at_most_130(names, limit):
    counts = {name: lines_of_code(ROOT / f"baregpt/{name}.py") for name in names}
    print(counts)
    assert sum(counts.values()) <= limit, counts


def test_no_file_of_the_pipeline_is_over_200_lines():
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 200, path


def test_baregpt_imports_numpy_and_threadpoolctl_only():
    known = {"numpy", "threadpoolctl", "baregpt"}
    for path in (ROOT / "baregpt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                used = {name.split(".")[0] for name in names}
                assert used <= known | sys.stdlib_module_names, path


def test_no_line_is_wider_than_100_columns():
    for path in ROOT.glob("[beptn]*/**/*.py"):
        assert max(map(len, path.read_text().splitlines()), default=0) <= 100, path


def test_the_tests_of_baregpt_need_only_numpy_threadpoolctl_and_pytest():
    blocked = ["dvc", "filelock", "mlflow", "playwright", "psutil", "yaml"]
    tests = ["--collect-only", "tests/test_layers.py", "tests/test_model.py"]
    code = f"import pytest, sys\nsys.modules.update(dict.fromkeys({blocked}))\n"
    code += f"sys.exit(pytest.main(['-p', 'no:cacheprovider', *{tests}]))"
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # pytest-xdist and others
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr

"""The notebook runs from top to bottom, and is stored with what it then shows."""

import copy
import shutil

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NAME = "inference_inspect.ipynb"


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(ROOT / "notebooks" / NAME, as_version=4)


def outputs(notebook):
    """For each cell of code, what kinds of output it has."""
    kinds = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kinds.append([sorted(output.get("data", {"text": 0})) for output in cell.outputs])
            assert not [
                o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
            ]
    return kinds


def test_it_runs_from_top_to_bottom(stored, tmp_path):
    for name in ("baregpt", "data", "notebooks"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "data/pretrained.pkl", tmp_path / "data")
    notebook = copy.deepcopy(stored)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, resources={"metadata": {"path": tmp_path / "notebooks"}}).execute()
    assert outputs(notebook) == outputs(stored)


def test_it_is_stored_with_its_pictures_and_nothing_else(stored):
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    pictures = [kind for kinds in outputs(stored) for kind in kinds if "image/png" in kind]
    assert len(pictures) == 5
    assert "data/pretrained.pkl: 2,747,969 parameters" in code[0].outputs[0].text
    assert not any(cell.metadata for cell in stored.cells)
    assert (ROOT / "notebooks" / NAME).stat().st_size < 1 << 19

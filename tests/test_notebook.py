"""The notebook runs from top to bottom and is stored with its outputs."""

import copy

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

from baregpt import GPT, Config, load_pretrained, save_weights

NAME = "inference_inspect.ipynb"


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(ROOT / "notebooks" / NAME, as_version=4)


def outputs(notebook):
    """Return the kinds of output of each code cell."""
    kinds = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kinds.append([sorted(output.get("data", {"text": 0})) for output in cell.outputs])
            assert not [
                o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
            ]
    return kinds


@pytest.mark.parametrize("block_size", [None, 4], ids=["pretrained weights", "short context"])
def test_it_runs_from_top_to_bottom_in_any_folder(stored, tmp_path, block_size):
    if block_size:  # weights of one's own
        (tmp_path / "data").mkdir()
        vocab = load_pretrained()[1]
        model = GPT(Config(len(vocab), block_size, d_model=8, n_heads=2, n_layers=1))
        save_weights(tmp_path / "data/weights.pkl", model, vocab)
    notebook = copy.deepcopy(stored)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, resources={"metadata": {"path": tmp_path}}).execute()
    assert outputs(notebook) == outputs(stored)


def test_it_is_stored_with_its_outputs_and_no_metadata(stored):
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    pictures = [kind for kinds in outputs(stored) for kind in kinds if "image/png" in kind]
    assert len(pictures) == 5
    parameters = f"{load_pretrained()[0].n_parameters:,} parameters"
    assert f"pretrained weights: {parameters}" in code[0].outputs[0].text
    assert not any(cell.metadata for cell in stored.cells)
    assert (ROOT / "notebooks" / NAME).stat().st_size < 1 << 19

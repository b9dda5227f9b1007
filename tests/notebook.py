"""Run a notebook without Jupyter: its code cells in one namespace, what they print and draw kept.

PYTHONPATH=. python tests/notebook.py examples/layersync.ipynb    # writes its outputs
"""

import base64
import contextlib
import io
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def run_notebook(path: Path) -> tuple[dict, dict]:
    """Return the notebook with the outputs of this run, and the names that its cells made.

    Raises what a cell raises.
    """
    notebook, names = json.loads(path.read_text()), {"__name__": "__main__"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
        text = said.getvalue().splitlines(keepends=True)
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}] * bool(text)
        cell["outputs"] += [picture(figure) for figure in map(plt.figure, plt.get_fignums())]
        cell["execution_count"] = number
        plt.close("all")
    return notebook, names


def picture(figure) -> dict:
    """Return a figure as the output of a cell."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=72, bbox_inches="tight", metadata={"Software": None})
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    return {"output_type": "display_data", "data": data, "metadata": {}}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    ran, _ = run_notebook(place)
    place.write_text(json.dumps(ran, indent=1, ensure_ascii=False) + "\n")

"""scripts/reproduce.py with the recipes of another folder: other_recipes.py FOLDER words..."""

import runpy
import sys
from pathlib import Path

from sweeps import paper_rows

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    paper_rows.RECIPES = Path(sys.argv[1])
    sys.argv = [str(ROOT / "scripts" / "reproduce.py"), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")

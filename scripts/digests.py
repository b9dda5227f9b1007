"""Prove that a refactoring leaves losses and files identical: compare two versions of the project.

    python scripts/digests.py HEAD~1               # that commit and the working tree
    python scripts/digests.py OLD_COMMIT NEW_COMMIT
    python scripts/digests.py --record tests/golden/digests.json    # numbers of the working tree

The same small command lines run in both trees on this machine, on the CPU, and their losses, files
and scores are compared bit by bit: training of every loss type on the digits and on cached latents,
caches, samples, an evaluation, a cell of a sweep. It ends with 1 if anything differs. Only command
lines are used, so that modules may move: nothing of this project is imported here.

Processors and versions of libraries round differently, which is why recorded numbers are tested
with a tolerance (tests/test_digests.py), and bits only between two trees on one machine.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from digest_jobs import jobs, make_inputs

ROOT = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("fork")
LIBRARIES = (
    "accelerate",
    "diffusers.models",
    "timm",
    "torch.utils.tensorboard",
    "torchdiffeq",
    "torchvision",
)


# --- running


def load_libraries() -> None:
    """Import the libraries of all commands once, before this process is forked for each of them."""
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def run_command(tree: Path, words: list[str], log: Path) -> int:
    """Run a command line of a tree in a fork of this process; return its exit code."""
    process = FORK.Process(target=become_command, args=(tree, words, log))
    process.start()
    process.join()
    return process.exitcode or 0


def become_command(tree: Path, words: list[str], log: Path) -> None:
    """Do what `python words...` does, in a process that has already imported its libraries."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    if words[0] == "-m":
        sys.path[0], sys.argv = str(tree), words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        script = tree / words[0]
        sys.path[0], sys.argv = str(script.parent), [str(script), *words[1:]]
        runpy.run_path(str(script), run_name="__main__")


def work_through(tree: Path, inputs: Path, out: Path, quick: bool) -> None:
    """Run every job in a tree, one after the other, and write what is compared to results.json."""
    rows: dict[str, dict] = {}
    quick_rows: list[str] = []
    for number, job in enumerate(jobs(quick)):
        log = out / f"{number:02d}.log"
        words = [word.replace("{inputs}", str(inputs)) for word in job.words]
        words = [word.replace("{out}", str(out)) for word in words]
        code = run_command(tree, words, log)
        try:
            job_rows = {job.name: failure(code, log)} if code else job.read(out)
        except (OSError, KeyError, ValueError) as error:
            job_rows = {job.name: {"failed": f"it ended well, but {error!r}"}}
        rows |= job_rows
        quick_rows += job_rows if job.quick else []
    results = json.dumps({"rows": rows, "quick": quick_rows})
    (out / "results.json").write_text(results.replace(str(inputs), "inputs"))


def failure(code: int, log: Path) -> dict:
    said = log.read_text(errors="replace").strip().splitlines()
    return {"failed": f"exit code {code}: {said[-1] if said else 'nothing printed'}"}


def measure(trees: list[Path], folder: Path, quick: bool = False) -> list[dict]:
    """Return results of each tree: {"rows": {row: value to compare}, "quick": names of quick rows}.

    The trees are worked through at the same time.
    """
    load_libraries()
    make_inputs(folder / "inputs")
    outs = [folder / f"tree{number}" for number in range(len(trees))]
    workers = []
    for tree, out in zip(trees, outs, strict=True):
        out.mkdir()
        workers.append(
            FORK.Process(target=work_through, args=(tree, folder / "inputs", out, quick))
        )
        workers[-1].start()
    for worker in workers:
        worker.join()
    return [json.loads((out / "results.json").read_text()) for out in outs]


def check_out(stack: ExitStack, commit: str, folder: Path) -> Path:
    """Return a folder with the files of a commit, until the stack ends; "." is the working tree."""
    if commit == ".":
        return ROOT
    git = partial(subprocess.run, cwd=ROOT, check=True, capture_output=True, text=True)
    git(["git", "worktree", "add", "--detach", folder, commit])
    stack.callback(git, ["git", "worktree", "remove", "--force", folder])
    return folder


# --- comparing


def difference(old, new, where: str = "") -> str | None:
    """Return the first place in which two results differ, as a text; None if they are the same."""
    for value in (old, new):
        if isinstance(value, dict) and "failed" in value:
            return value["failed"]
    if isinstance(old, dict) and isinstance(new, dict):
        if lone := sorted(old.keys() ^ new.keys()):
            return f"{where} {lone[0]}: only in one tree".strip()
        pairs = [(key, old[key], new[key]) for key in old]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = list(zip(range(len(old)), old, new, strict=True))
    else:
        return None if old == new else f"{where.strip()}: {old} and {new}"[:160]
    return next(filter(None, (difference(a, b, f"{where} {key}") for key, a, b in pairs)), None)


def compare(old: dict, new: dict) -> dict[str, str | None]:
    """Return {row: first difference, or None}; rows that only one tree has differ."""
    table: dict[str, str | None] = {}
    for row in [*old, *(row for row in new if row not in old)]:
        a, b = old.get(row), new.get(row)
        if a is None or b is None:
            table[row] = f"only in the {'old' if b is None else 'new'} tree"
        elif "versions" in a and a["versions"] != b["versions"]:
            continue  # an .npz with other bytes, as its recipe must say so
        else:
            table[row] = difference(a, b)
    return table


def print_table(table: dict[str, str | None]) -> int:
    """Print a line for each row; return the exit code."""
    width = max(map(len, table))
    for row, change in table.items():
        print(f"{row:{width}s}  {'same' if change is None else 'differs  ' + change}")
    differing = sum(change is not None for change in table.values())
    print(f"{len(table)} compared, {differing} differ" if differing else f"all {len(table)} same")
    return int(differing > 0)


def record(path: Path, results: dict) -> int:
    """Write results, a line for each row; return the exit code."""
    rows = results["rows"]
    failed = {row: value["failed"] for row, value in rows.items() if "failed" in value}
    for row, how in failed.items():
        print(f"{row}: {how}", file=sys.stderr)
    if failed:
        return 1
    import torch

    head = {"torch": torch.__version__, "quick": results["quick"]}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    body = ",\n".join(f"    {json.dumps(row)}: {json.dumps(rows[row])}" for row in rows)
    path.write_text("{\n" + ",\n".join([*lines, '  "rows": {\n' + body + "\n  }"]) + "\n}\n")
    return 0


def refuse(why: str) -> int:
    print(f"digests.py: error: {why}", file=sys.stderr)
    return 2


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "commits", nargs="*", metavar="COMMIT", help="OLD and NEW; NEW is . unless given"
    )
    parser.add_argument("--record", metavar="FILE", help="write the working tree's numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="only what takes a few seconds")
    c = parser.parse_args()
    if len(c.commits) not in ((0,) if c.record else (1, 2)):
        return refuse("give OLD_COMMIT [NEW_COMMIT], or --record FILE")
    if c.record and not Path(c.record).resolve().parent.is_dir():
        return refuse(f"--record {c.record}: there is no such folder")
    # before torch is loaded; the same on machines with and without GPUs
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="digests-")))
        if c.record:
            return record(Path(c.record), measure([ROOT], folder, c.quick)[0])
        commits = [*c.commits, "."][:2]
        try:
            trees = [
                check_out(stack, commit, folder / name)
                for commit, name in zip(commits, ("old", "new"), strict=True)
            ]
        except subprocess.CalledProcessError as error:
            return refuse(f"git: {error.stderr.strip().splitlines()[-1]}")
        old, new = measure(trees, folder, c.quick)
        return print_table(compare(old["rows"], new["rows"]))


if __name__ == "__main__":
    sys.exit(main())

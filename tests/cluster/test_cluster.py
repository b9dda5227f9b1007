"""A real SLURM of two nodes: preempted, out of time, a node lost; the results are the same."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cluster.slurm import ROOT, Cluster, missing, wait_for
from launching import save_tiny_vae
from PIL import Image

from models.checkpoint_file import read_checkpoint
from runtime.outcome import read_outcome
from sweeps.cells import results
from sweeps.paper_points import PaperConfig, PaperGrid
from sweeps.paper_study import PaperStudy
from sweeps.pool import PoolConfig, run_cells
from sweeps.slurm import ClusterConfig
from sweeps.slurm_nodes import ways_to_launch
from training.tracking import MEASURED, read_log

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"a SLURM of two nodes {missing()}")
SCRIPT = "scripts/slurm.sbatch"
STEPS = 1000
TRAIN = [
    "train.py", "--model", "SiT-Ti/2", "--dataset-name", "digits", "--image-size", 8,
    "--num-classes", 10, "--vae", "none", "--global-batch-size", 64, "--lr", 1e-3,
    "--max-steps", STEPS, "--log-every", 10, "--ckpt-every", 100, "--num-workers", 1,
    "--sample-every", 0, "--run-name", "run",
]  # fmt: skip
SAMPLE = ["sample_ddp.py", "ODE", "--sampling-method", "euler", "--num-sampling-steps", 100]
SAMPLE += ["--num-fid-samples", 512, "--per-proc-batch-size", 8]


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="sl") as folder, Cluster(Path(folder)) as running:
        yield running


@pytest.fixture
def imitation(tmp_path, monkeypatch):
    """imitation(shell) -> environment under which jobs run this instead of Python."""

    def make(shell: str) -> str:
        program = tmp_path / "python"
        program.write_text(f"#!/usr/bin/env bash\nexport RUNS={tmp_path}/runs\n{shell}\n")
        program.chmod(0o755)
        return f"--export=ALL,PYTHON={program},LAYERSYNC_OUTCOME={tmp_path}/outcome"

    return make


def export(folder: Path) -> str:
    """The outcome file beside the log, not in the project's folder."""
    return f"--export=ALL,LAYERSYNC_OUTCOME={folder}/outcome,PYTHON={ROOT}/.venv/bin/python"


def progress(folder: Path) -> int:
    """The step that a run has logged last."""
    path = folder / "run" / "metrics.jsonl"
    rows = read_log(path) if path.exists() else []
    return rows[-1]["step"] if rows else 0


def logged(folder: Path) -> list[dict]:
    rows = read_log(folder / "run" / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool((a == b).all()) if hasattr(a, "shape") else a == b


def disturb(cluster: Cluster, job, step, act) -> None:
    """Once `step()` is larger than now, do that to the job, and wait until it has started again."""
    before, starts = step(), job.starts
    job.wait_for(lambda: step() > before and job.starts == starts, seconds=240)
    act()
    job.wait_for(lambda: job.starts > starts, seconds=240)


@pytest.fixture(scope="module")
def trained(cluster, tmp_path_factory) -> Path:
    """Results of the run that nothing disturbs, started by srun alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    python = str(ROOT / ".venv" / "bin" / "python")
    cluster.call("srun", "--nodes=2", "--ntasks=2", python, *TRAIN, "--results-dir", folder)
    return folder


@pytest.mark.cluster
def test_a_run_that_is_disturbed_is_the_undisturbed_run(cluster, trained, tmp_path):
    words = [SCRIPT, *TRAIN, "--results-dir", tmp_path]
    options = ["--nodes=2", "--time=1", export(tmp_path)]
    job = cluster.submit(*options, *words, folder=tmp_path)
    job.wait_for(lambda: job.starts == 2, seconds=240)
    assert "by the end of the job's time at" in job.log
    cluster.call("scontrol", "update", f"jobid={job.number}", "TimeLimit=30")

    def step():
        return progress(tmp_path)

    disturb(cluster, job, step, cluster.interrupt)
    disturb(cluster, job, step, cluster.interrupt)
    disturb(cluster, job, step, lambda: job.kill_tasks("n2"))
    assert job.wait(240) == "COMPLETED", job.log
    assert job.starts == 5 and "by SIGTERM" in job.log
    assert read_outcome(tmp_path / "outcome").outcome == "finished"

    assert logged(tmp_path) == logged(trained)
    name = Path("run", "checkpoints", f"{STEPS:07d}.pt")
    ours, theirs = read_checkpoint(tmp_path / name), read_checkpoint(trained / name)
    assert ours["config"].pop("results_dir") != theirs["config"].pop("results_dir")
    assert same(ours, theirs)


@pytest.mark.cluster
def test_samples_and_latents_are_the_same_bytes(cluster, trained, tmp_path, fork_server):
    checkpoint = trained / "run" / "checkpoints" / f"{STEPS:07d}.pt"
    images, draws = tmp_path / "images", np.random.default_rng(0)
    for i in range(256):
        path = images / f"class{i % 4}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(path)
    vae = save_tiny_vae(tmp_path / "vae")
    sample = [*SAMPLE, "--ckpt", checkpoint, "--out"]
    cache = ["scripts/cache_latents.py", "--data-path", images, "--vae", vae, "--image-size", 128]
    cache += ["--shard-size", 8, "--batch-size", 4, "--num-workers", 0, "--out"]

    folders = [tmp_path / "sampling", tmp_path / "caching"]
    jobs = []
    for folder, words, name in zip(folders, (sample, cache), ("a.npz", "a"), strict=True):
        folder.mkdir()
        options = ["--nodes=2", "--time=20", export(folder), SCRIPT]
        jobs.append(cluster.submit(*options, *words, folder / name, folder=folder))
    parts, shards = folders[0] / "a.npz.parts", folders[1] / "a"

    def stored() -> tuple[int, int]:
        return len(list(parts.glob("*.npz"))), len(list(shards.glob("moments-*")))

    wait_for(lambda: min(stored()) > 0 or any(job.shown("JobState") == "COMPLETED" for job in jobs))
    starts = [job.starts for job in jobs]
    cluster.interrupt()
    for job in jobs:
        job.kill_tasks("n2")
    references = fork_server.start([*sample, tmp_path / "b.npz"], folder=ROOT)
    assert references.wait() == 0, references.stderr
    references = fork_server.start([*cache, tmp_path / "b"], folder=ROOT)
    assert references.wait() == 0, references.stderr
    assert [job.wait(300) for job in jobs] == ["COMPLETED"] * 2, [job.log for job in jobs]
    assert [job.starts for job in jobs] != starts

    assert (folders[0] / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    files = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert files == sorted(path.name for path in shards.iterdir())
    for name in files:
        assert (shards / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.slow
def test_a_command_that_fails_for_good_is_not_queued_again(cluster, tmp_path):
    words = [SCRIPT, *TRAIN, "--results-dir", tmp_path, "--global-batch-size", 63]
    job = cluster.submit("--nodes=2", export(tmp_path), *words, folder=tmp_path)
    assert job.wait(120) == "FAILED" and job.starts == 1
    assert job.shown("ExitCode") == "2:0"
    assert "--global-batch-size" in read_outcome(tmp_path / "outcome").reason


@pytest.mark.cluster
def test_without_a_word_it_is_queued_again_three_times(cluster, imitation, tmp_path):
    options = ["--nodes=1", imitation("echo run >>$RUNS; exit 1"), SCRIPT, "train.py", "--lr", 1]
    job = cluster.submit(*options, folder=tmp_path)
    assert job.wait(120) == "FAILED" and job.starts == 4
    assert "without a word and without progress: not queued again" in job.log


@pytest.mark.cluster
def test_progress_makes_it_start_counting_anew(cluster, imitation, tmp_path):
    shell = """echo run >>$RUNS
case $(wc -l <$RUNS) in
  3) touch $LAYERSYNC_OUTCOME.progress; exit 1 ;;
  6) echo '{"outcome": "finished", "exit_code": 0, "reason": "", "command": "x"}' \
     >$LAYERSYNC_OUTCOME ;;
  *) exit 1 ;;
esac"""
    program = imitation(shell + "\n")
    job = cluster.submit("--nodes=1", program, SCRIPT, "sample_ddp.py", "ODE", folder=tmp_path)
    wait_for(lambda: job.hurry() or job.starts == 6, 150)
    assert job.wait(60) == "COMPLETED" and job.starts == 6, job.log


@pytest.mark.slow
def test_one_task_for_each_gpu(cluster, imitation, tmp_path):
    shell = """[ "$1" = -c ] && exec python3 "$@"
echo "$SLURM_PROCID $SLURM_LOCALID $SLURM_NODEID $SLURM_STEP_NUM_TASKS $*" >>$RUNS
echo '{"outcome": "finished", "exit_code": 0, "reason": "", "command": "x"}' >$LAYERSYNC_OUTCOME"""
    options = ["--nodes=2", "--gpus-per-node=2", imitation(shell), SCRIPT, "-m", "evaluation", "x"]
    job = cluster.submit(*options, folder=tmp_path)
    assert job.wait(60) == "COMPLETED", job.log
    words = "-m evaluation x"
    tasks = [f"{rank} {rank % 2} {rank // 2} 4 {words}" for rank in range(4)]
    assert sorted((tmp_path / "runs").read_text().splitlines()) == tasks
    assert json.loads((tmp_path / "outcome").read_text())["outcome"] == "finished"


@pytest.mark.cluster
def test_a_row_of_the_paper_on_two_nodes_is_the_same_as_here(cluster, tmp_path, monkeypatch):
    """Its commands are jobs, one after another."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)
    scores = []
    for name, place in (
        ("here", ClusterConfig()),
        ("nodes", ClusterConfig("slurm", hours=0.5, nodes=2, gpus_per_node=0)),
    ):
        study = PaperStudy(PaperConfig(folder=str(tmp_path / name), miniature=True))
        cells = [study.cell(point) for point in study.points(PaperGrid(("b2-layersync",)))]
        assert run_cells(cells, PoolConfig(), ways_to_launch(PoolConfig(), place)) == 0
        (metrics,) = results(cells[0]).values()
        scores.append(metrics["pixel_frechet"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    logs = list((tmp_path / "nodes").glob("cells/*/slurm-*.log"))
    assert len(logs) == 3 and all("on n[1-2]" in log.read_text() for log in logs)

"""A real SLURM of two nodes: preempted, out of time, a node lost; the results are the same."""

import json
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from cluster.slurm import NODES, ROOT, Cluster, missing, wait_for
from launching import save_tiny_vae
from PIL import Image

from models.checkpoint_file import read_checkpoint
from runtime.outcome import read_outcome
from runtime.signals import MARGIN_SECONDS
from sweeps.cells import results
from sweeps.paper_points import PaperConfig, PaperGrid
from sweeps.paper_study import PaperStudy
from sweeps.pool import PoolConfig, run_cells
from sweeps.slurm import ClusterConfig
from sweeps.slurm_nodes import ways_to_launch
from training.speed import MEASURED
from training.tracking import read_log

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(missing() is not None, reason=f"a SLURM of two nodes {missing()}"),
]
SCRIPT = "scripts/slurm.sbatch"
STEPS = 240
TRAIN = [
    "train.py", "--model", "SiT-Ti/2", "--dataset-name", "digits", "--image-size", 8,
    "--num-classes", 10, "--vae", "none", "--global-batch-size", 8, "--lr", 1e-3,
    "--max-steps", STEPS, "--log-every", 8, "--ckpt-every", 40, "--num-workers", 1,
    "--sample-every", 0, "--run-name", "run",
]  # fmt: skip
SAMPLE = ["sample_ddp.py", "ODE", "--sampling-method", "euler", "--num-sampling-steps", 40]
SAMPLE += ["--num-fid-samples", 256, "--per-proc-batch-size", 8]
FINISHED = """echo '{"outcome": "finished", "exit_code": 0, "reason": "", "command": "x"}' \
>$LAYERSYNC_OUTCOME"""


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="sl") as folder, Cluster(Path(folder)) as running:
        yield running


def imitate(folder: Path, shell: str) -> str:
    """The environment under which jobs run this in place of Python."""
    program = folder / "python"
    program.write_text(
        f"#!/usr/bin/env bash\nexport RUNS={folder}/runs\n"
        f'[ "$1" = -c ] && exec python3 "$@"\n{shell}\n'
    )
    program.chmod(0o755)
    return f"--export=ALL,PYTHON={program},LAYERSYNC_OUTCOME={folder}/outcome"


@pytest.fixture
def imitation(tmp_path):
    """imitation(shell) -> the environment of `imitate`, in the test's own folder."""
    return lambda shell: imitate(tmp_path, shell)


QUIET = {  # jobs that nobody disturbs: what stands for the command, and its words
    "late": ("[ $SLURM_RESTART_COUNT ] || exec sleep 300", "sample_ddp.py", "ODE"),
    "silent": ("exit 1", "train.py", "--lr", 1),
    "advancing": (
        """case $(wc -l <$RUNS) in
  3) touch $LAYERSYNC_OUTCOME.progress; exit 1 ;;
  6) ;;
  *) exit 1 ;;
esac""",
        "sample_ddp.py",
        "ODE",
    ),
    "continuing": ("[ $SLURM_RESTART_COUNT ] || exit 1", "train.py", "--resume", "old.pt", "-x"),
}


@pytest.fixture(scope="module", autouse=True)
def quiet(cluster, tmp_path_factory):
    """quiet[name]: the job; all of them go on while other tests do."""
    jobs = {}
    for name, (shell, *words) in QUIET.items():
        folder = tmp_path_factory.mktemp(name)
        shell = f'echo "$*" >>$RUNS\n{shell}\n{FINISHED}'
        options = "--partition=alone", "--time=1", imitate(folder, shell), SCRIPT
        jobs[name] = cluster.submit(*options, *words, folder=folder)
    return jobs


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


@pytest.fixture(scope="module")
def trained(cluster, tmp_path_factory) -> Path:
    """Results of the run that nothing disturbs, started by srun alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    python = str(ROOT / ".venv" / "bin" / "python")
    cluster.call("srun", "--nodes=2", "--ntasks=2", python, *TRAIN, "--results-dir", folder)
    return folder


def wait_until_time_is_up(job) -> None:
    time.sleep(max(0.0, job.seconds_left() - MARGIN_SECONDS))
    job.signal_tasks(signal.SIGCONT, *NODES)


def test_a_run_that_is_disturbed_is_the_undisturbed_run(cluster, trained, tmp_path):
    """Its processes are stopped as soon as it has come further, or a fast machine is done first."""
    words = [SCRIPT, *TRAIN, "--results-dir", tmp_path]
    job = cluster.submit("--nodes=2", "--time=1", export(tmp_path), *words, folder=tmp_path)
    disturbances = [
        lambda: wait_until_time_is_up(job),
        cluster.interrupt,  # SLURM sends SIGCONT before SIGTERM
        cluster.interrupt,
        lambda: job.signal_tasks(signal.SIGKILL, "n2"),
    ]
    for number, disturb in enumerate(disturbances, start=1):
        before = progress(tmp_path)
        job.wait_for(lambda n=number, b=before: job.starts == n and progress(tmp_path) > b)
        job.signal_tasks(signal.SIGSTOP, *NODES)
        disturb()
        job.signal_tasks(signal.SIGCONT, *NODES)
        job.wait_for(lambda n=number: job.starts == n + 1)
        if number == 1:
            cluster.call("scontrol", "update", f"jobid={job.number}", "TimeLimit=30")
    assert job.wait() == "COMPLETED" and job.starts == 5, job.log
    assert "by the end of the job's time at" in job.log and job.log.count("by SIGTERM") == 2
    assert read_outcome(tmp_path / "outcome").outcome == "finished"

    assert logged(tmp_path) == logged(trained)
    name = Path("run", "checkpoints", f"{STEPS:07d}.pt")
    ours, theirs = read_checkpoint(tmp_path / name), read_checkpoint(trained / name)
    assert ours["config"].pop("results_dir") != theirs["config"].pop("results_dir")
    ours.pop("args"), theirs.pop("args")  # the same in SiT's words
    assert same(ours, theirs)


def test_samples_and_latents_are_the_same_bytes(cluster, trained, tmp_path, fork_server):
    """Preempted once, and a node lost once."""
    checkpoint = trained / "run" / "checkpoints" / f"{STEPS:07d}.pt"
    images, draws = tmp_path / "images", np.random.default_rng(0)
    for i in range(96):
        path = images / f"class{i % 4}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(path)
    vae = save_tiny_vae(tmp_path / "vae")
    sample = [*SAMPLE, "--ckpt", checkpoint, "--out"]
    cache = ["scripts/cache_latents.py", "--data-path", images, "--vae", vae, "--image-size", 128]
    cache += ["--shard-size", 4, "--batch-size", 2, "--num-workers", 1, "--out"]

    folders = [tmp_path / "sampling", tmp_path / "caching"]
    jobs = []
    for folder, words, name in zip(folders, (sample, cache), ("a.npz", "a"), strict=True):
        folder.mkdir()
        options = ["--nodes=2", "--time=20", export(folder), SCRIPT]
        jobs.append(cluster.submit(*options, *words, folder / name, folder=folder))
    parts, shards = folders[0] / "a.npz.parts", folders[1] / "a"

    def stored(job) -> int:
        written = parts.glob("*.npz") if job is jobs[0] else shards.glob("moments-*")
        return len(list(written))

    def freeze_at(start: int) -> None:
        """Stop each job where it has stored more than at its last start."""
        before = {job: stored(job) if start > 1 else 0 for job in jobs}
        waiting = list(jobs)

        def look() -> bool:
            for job in list(waiting):
                assert job.shown("JobState") != "COMPLETED", "it was done before it was disturbed"
                if job.starts == start and stored(job) > before[job]:
                    job.signal_tasks(signal.SIGSTOP, *NODES)
                    waiting.remove(job)
            return not waiting

        wait_for(look, 240, "a job did not come so far")

    freeze_at(1)
    cluster.interrupt()
    freeze_at(2)
    for job in jobs:
        job.signal_tasks(signal.SIGKILL, "n2")
        job.signal_tasks(signal.SIGCONT, "n1")
    for words, name in ((sample, "b.npz"), (cache, "b")):
        reference = fork_server.start([*words, tmp_path / name], folder=ROOT)
        assert reference.wait() == 0, reference.stderr
    assert [job.wait() for job in jobs] == ["COMPLETED"] * 2, [job.log for job in jobs]
    assert [job.starts for job in jobs] == [3, 3]
    for job, said in zip(jobs, ("sample_ddp.py", "cache_latents.py"), strict=True):
        assert f"{said}: stopped by SIGTERM. " in job.log and "Traceback" not in job.log

    assert (folders[0] / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    files = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert files == sorted(path.name for path in shards.iterdir())
    for name in files:
        assert (shards / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("flags", "code", "reason"),
    [
        (["--global-batch-siez", 64], 2, "perhaps you meant --global-batch-size"),
        (["--lr", 1e6], 3, "is not finite"),
    ],
)
def test_what_fails_for_good_is_not_queued_again(cluster, tmp_path, flags, code, reason):
    words = [SCRIPT, *TRAIN, "--results-dir", tmp_path, *flags]
    job = cluster.submit("--nodes=2", export(tmp_path), *words, folder=tmp_path)
    assert job.wait() == "FAILED" and job.starts == 1
    assert job.shown("ExitCode") == f"{code}:0" and "Traceback" not in job.log
    assert reason in read_outcome(tmp_path / "outcome").reason


def test_a_cancelled_job_stays_cancelled(cluster, imitation, tmp_path):
    job = cluster.submit(
        "--nodes=2",
        imitation("echo run >>$RUNS; exec sleep 99"),
        SCRIPT,
        "train.py",
        folder=tmp_path,
    )
    wait_for((tmp_path / "runs").exists)
    cluster.call("scancel", job.number)
    assert job.wait() == "CANCELLED" and job.starts == 1
    assert "cancelled: not queued again" in job.log


def test_a_job_where_preempted_ones_are_cancelled_is_queued_again(cluster, imitation, tmp_path):
    shell = f"echo run >>$RUNS\n[ $SLURM_RESTART_COUNT ] || exec sleep 200\n{FINISHED}"
    words = "--nodes=1", "--partition=scratch", imitation(shell), SCRIPT, "sample_ddp.py", "ODE"
    job = cluster.submit(*words, folder=tmp_path)
    wait_for((tmp_path / "runs").exists)
    cluster.interrupt()
    assert job.wait() == "COMPLETED" and job.starts == 2, job.log


@pytest.mark.parametrize("node", NODES)
def test_a_lost_node(cluster, imitation, tmp_path, node):
    """The one where the job's script runs, or the other one."""
    shell = f"echo run >>$RUNS\n[ $SLURM_RESTART_COUNT ] || exec sleep 200\n{FINISHED}"
    words = "--nodes=2", imitation(shell), SCRIPT, "sample_ddp.py", "ODE"
    job = cluster.submit(*words, folder=tmp_path)
    wait_for((tmp_path / "runs").exists)
    cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
    assert job.wait() == "COMPLETED" and job.starts == 2, job.log
    assert "DUE TO NODE FAILURE" in job.log


def test_one_task_for_each_gpu(cluster, imitation, tmp_path):
    shell = f"""echo "$SLURM_PROCID $SLURM_LOCALID $SLURM_NODEID $SLURM_STEP_NUM_TASKS $*" >>$RUNS
{FINISHED}"""
    options = ["--nodes=2", "--gpus-per-node=2", imitation(shell), SCRIPT, "-m", "evaluation", "x"]
    job = cluster.submit(*options, folder=tmp_path)
    assert job.wait(60) == "COMPLETED", job.log
    words = "-m evaluation x"
    tasks = [f"{rank} {rank % 2} {rank // 2} 4 {words}" for rank in range(4)]
    assert sorted((tmp_path / "runs").read_text().splitlines()) == tasks
    assert json.loads((tmp_path / "outcome").read_text())["outcome"] == "finished"


def test_without_a_word_it_is_queued_again_three_times(quiet):
    job = quiet["silent"]
    assert job.wait() == "FAILED" and job.starts == 4
    assert "without a word and without progress: not queued again" in job.log


def test_progress_makes_it_start_counting_anew(quiet):
    job = quiet["advancing"]
    assert job.wait() == "COMPLETED" and job.starts == 6, job.log


def test_where_a_restarted_run_begins(quiet):
    """At its newest checkpoint, or where the first start began."""
    job = quiet["continuing"]
    assert job.wait() == "COMPLETED", job.log
    assert (job.folder / "runs").read_text().splitlines() == [
        "train.py --resume old.pt -x",
        "train.py --resume old.pt -x",
    ]


def test_a_command_that_does_not_look_at_the_clock_is_queued_again(quiet):
    job = quiet["late"]
    assert job.wait() == "COMPLETED" and job.starts == 2, job.log
    assert "DUE TO TIME LIMIT" in job.log


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

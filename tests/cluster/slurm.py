"""A real SLURM of two nodes on this machine, and a spare one: munged, slurmctld, and their slurmd.

    with Cluster(folder) as cluster:
        job = cluster.submit("--nodes=2", "scripts/slurm.sbatch", "train.py", ...)

Everything it needs lies in its folder, with ports and a cluster name of its own, so that it meets
no other SLURM on the machine. Jobs in the partition `urgent` preempt those in `main`, which are
queued again after some seconds of grace, and those in `scratch`, which are cancelled. A job that is
queued again waits for REQUEUED seconds, by default two minutes, until its old credential is worth
nothing any more on the nodes.

A node answers the order to end a task when that has ended, after KillWait at the latest. An answer
later than MessageTimeout counts as lost, and the order is given again a minute later: by then to
the next start of the job, which has the same number. With SLURM's own two minutes of waiting there
is none yet; here MessageTimeout is the longer one.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from datetime import datetime
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged"
NODES = "n1", "n2"
SPARE = "n3"  # of the partition `alone`, where nothing is preempted
REQUEUED = 5  # not less: SLURM takes its default for what it finds too short
ENDED = "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"
CONFIGURATION = """\
ClusterName={name}
FirstJobId={first}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={requeued}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
KillWait=10
MessageTimeout=60
MinJobAge=7200
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 Gres=gpu:2 State=UNKNOWN
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=16 State=UNKNOWN
PartitionName=alone Nodes=n3 MaxTime=60 State=UP PreemptMode=OFF
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=20
PartitionName=scratch Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=10
"""


def missing() -> str | None:
    """Return what this machine lacks to run it, in a few words; None if nothing."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    return f"needs {', '.join(absent)}: apt-get install slurm-wlm munge" if absent else None


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(condition, seconds: float = 90, what: str = "nothing happened"):
    """Return what `condition()` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} for {seconds} s"
        time.sleep(0.1)
    return value


class Cluster:
    """SLURM as long as the `with` block; `folder` has a short path, for sockets."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, []
        self.configuration = folder / "slurm.conf"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "SBATCH", "LAYERSYNC"))
        } | {"SLURM_CONF": str(self.configuration), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

    def __enter__(self) -> "Cluster":
        for name in (
            "state",
            "spool",
            "log",
            "munge",
            *(f"spool/{node}" for node in (*NODES, SPARE)),
        ):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o711)
        host = socket.gethostname().split(".")[0]
        # ports of runs are derived from the number of the job: another one in each such SLURM
        settings = dict(name=f"t{os.getpid()}", first=1000 + os.getpid(), host=host)
        settings |= dict(folder=self.folder, ports=free_ports(4), requeued=REQUEUED)
        self.configuration.write_text(CONFIGURATION.format(**settings))
        devices = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"  # so far as SLURM can tell
        (self.folder / "gres.conf").write_text(devices)
        try:
            self.start_munge()
            config = ["-f", str(self.configuration)]
            self.daemon(["slurmctld", "-D", *config])
            wait_for(self.answers, what="slurmctld did not answer")
            for node in (*NODES, SPARE):
                self.daemon(["slurmd", "-D", "-N", node, *config])
            wait_for(lambda: self.call("sinfo", "-h", "-o", "%T").split() == ["idle"], what="idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        if self.answers():
            with contextlib.suppress(subprocess.SubprocessError, AssertionError):
                self.call("scancel", "--user=root")
                wait_for(lambda: not self.call("squeue", "-h"), seconds=30)
        for process in reversed(self.daemons):
            process.terminate()
        for process in self.daemons:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start_munge(self) -> None:
        place = self.folder / "munge"
        (place / "key").write_bytes(os.urandom(128))
        (place / "key").chmod(0o400)
        options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        options |= {"log-file": "log"}
        words = [f"--{option}={place / name}" for option, name in options.items()]
        self.daemon(["munged", "--foreground", "--force", *words])
        wait_for((place / "socket").exists, what="munged has no socket")

    def daemon(self, words: list[str]) -> None:
        with open(self.folder / "log" / "daemons", "a") as log:
            self.daemons.append(
                subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)
            )

    def answers(self) -> bool:
        words = ["scontrol", "ping"]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        return "is UP" in done.stdout

    def call(self, *words) -> str:
        """Return what a command of SLURM prints."""
        done = subprocess.run(
            list(map(str, words)),
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *words, folder: Path) -> "Job":
        """Submit a batch job whose log goes to `folder`."""
        number = int(self.call("sbatch", "--parsable", f"--output={folder}/%j.log", *words))
        return Job(self, number, folder)

    def interrupt(self) -> None:
        """Let an urgent job take both nodes for a moment: everything else is preempted."""
        self.call("srun", "--partition=urgent", "--nodes=2", "--ntasks=2", "--exclusive", "true")


class Job:
    """A submitted job."""

    def __init__(self, cluster: Cluster, number: int, folder: Path):
        self.cluster, self.number, self.folder = cluster, number, folder

    @property
    def log(self) -> str:
        path = self.folder / f"{self.number}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def starts(self) -> int:
        """Return how often the job was started so far."""
        return len(re.findall(r"^slurm\.sbatch: start \d+ of", self.log, re.M))

    def shown(self, name: str) -> str:
        """A field of `scontrol show job`."""
        said = self.cluster.call("scontrol", "--oneliner", "show", "job", self.number)
        return re.search(rf"\b{name}=(\S*)", said)[1]

    def wait_for(self, condition, seconds: float = 240) -> None:
        """Wait for `condition()`, which the job brings about before it ends."""

        def look():
            met = condition()
            assert met or self.shown("JobState") not in ENDED, self.log
            return met

        wait_for(look, seconds, f"the job did not come so far\n{self.log[-3000:]}")

    def wait(self, seconds: float = 240) -> str:
        """Wait for the end; returns the state."""
        since: dict[str, float] = {}

        def look():
            state = self.shown("JobState")
            if state not in ENDED:
                since.clear()  # such a state also passes when a job is queued again
                return ""
            return state if time.monotonic() - since.setdefault(state, time.monotonic()) > 3 else ""

        return wait_for(look, seconds, f"the job did not end\n{self.log[-3000:]}")

    def seconds_left(self) -> float:
        """Until the end of the job's time."""
        end = datetime.fromisoformat(self.shown("EndTime"))
        return (end - datetime.now()).total_seconds()

    def tasks(self, node: str) -> list[psutil.Process]:
        """The processes of the command on a node."""
        processes = []
        for process in psutil.process_iter(["environ"]):
            env = process.info["environ"] or {}
            own = env.get("SLURM_CONF") == str(self.cluster.configuration)
            in_job = env.get("SLURM_JOB_ID") == str(self.number) and "SLURM_STEP_ID" in env
            if own and in_job and env.get("SLURMD_NODENAME") == node and env.get("SLURM_PROCID"):
                processes.append(process)
        return processes

    def signal_tasks(self, number: int, *nodes: str) -> None:
        """Send a signal to what the command has running on these nodes."""
        for process in [process for node in nodes for process in self.tasks(node)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

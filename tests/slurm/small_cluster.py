"""A real Slurm on this one machine: munge, a controller and several compute nodes, all in one folder."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "srun")
USUAL = Path("/etc/slurm/slurm.conf")
"""Where Slurm's programs look; Snakemake's plugin takes every variable SLURM_... away, so that no other place would be known."""
CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MinJobAge=300
SchedulerParameters=sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName=n{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory={memory} State=UNKNOWN"


def why_not() -> str:
    """Return why there can be no cluster here; nothing when there can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge"
    return "this machine has a Slurm of its own" if USUAL.exists() else ""


class SmallCluster:
    """A controller and compute nodes n1, n2, ...; use it as a context.

    Args:
        folder: For configuration, state and logs.
        nodes: How many.
        memory: MiB that each node claims to have.
    """

    def __init__(self, folder: Path, nodes: int = 2, memory: int = 8000):
        self.folder = folder
        self.names = [f"n{n + 1}" for n in range(nodes)]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(nodes + 1)
        lines = [
            NODE.format(n=n + 1, host=host, port=port, memory=memory) for n, port in enumerate(ports[1:])
        ]
        self._name = f"small{os.getpid()}"
        text = CONF.format(name=self._name, host=host, port=ports[0], folder=folder, nodes="\n".join(lines))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text(text)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)

    def __enter__(self) -> "SmallCluster":
        USUAL.parent.mkdir(exist_ok=True)
        USUAL.unlink(missing_ok=True)  # of a cluster that was killed: it leads nowhere
        USUAL.symlink_to(self.folder / "slurm.conf")
        try:
            munge = [f"--socket={self.folder}/munge.socket", f"--key-file={self.folder}/munge.key"]
            munge += [f"--pid-file={self.folder}/munge.pid", f"--log-file={self.folder}/munge.log"]
            munge += [f"--seed-file={self.folder}/munge.seed", "--force", "--foreground"]
            self._start("munged", *munge)
            self._until("munge", lambda: (self.folder / "munge.socket").exists())
            self._start("slurmctld", "-D")
            for name in self.names:
                self.start_node(name)
            self._until("the nodes", lambda: self._idle() == len(self.names))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(list(self._running.values())):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in self._steps():
            _kill(pid)
        USUAL.unlink(missing_ok=True)

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self._start("slurmd", "-D", "-N", name, key=name)

    def kill_node(self, name: str) -> None:
        """Kill the daemon of a node, and what it was running, as if its machine had lost power."""
        daemon = self._running.pop(name)
        victims = [pid for pid in self._steps() if f"SLURMD_NODENAME={name}\n" in _environment(pid)]
        daemon.kill()
        daemon.wait()
        for pid in victims:
            _kill(pid)

    def ask(self, *command: str) -> str:
        """Return what a Slurm command prints."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def _idle(self) -> int:
        return self.ask("sinfo", "--noheader", "--Node", "--format=%t").split().count("idle")

    def _start(self, program: str, *arguments: str, key: str = "") -> None:
        with (self.folder / f"{key or program}.out").open("ab") as out:
            self._running[key or program] = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def _until(self, what: str, ready: object, seconds: float = 60) -> None:
        assert callable(ready)
        for _ in range(int(seconds * 5)):
            if ready():
                return
            time.sleep(0.2)
        logs = "\n".join(f"{p.name}: {p.read_text()[-800:]}" for p in self.folder.glob("*.out"))
        raise TimeoutError(f"{what} of the small cluster did not come up: {logs}")

    def _steps(self) -> list[int]:
        """Return the processes that belong to jobs of this cluster."""
        mark = f"SLURM_CLUSTER_NAME={self._name}\n"
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        mine = {process.pid for process in self._running.values()} | {os.getpid()}
        return [pid for pid in pids if pid not in mine and mark in _environment(pid)]


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").replace("\0", "\n")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports

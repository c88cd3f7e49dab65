"""A SLURM of two nodes on this machine, in a scratch directory and on loopback alone: `with Slurm(directory): ...`.

It needs root and Debian's `slurm-wlm` and `munge`. Nothing of the system's own configuration is read or written but munge's key, whose
daemon is started where none runs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

NODES = {"n1": "first", "n2": "second"}  # node to its feature
NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "munged", "runuser")
CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPort={controller}
SlurmctldPidFile={dir}/controller.pid
SlurmdPidFile={dir}/%n.pid
SlurmdSpoolDir={dir}/spool.%n
StateSaveLocation={dir}/state
SlurmctldLogFile={dir}/controller.log
SlurmdLogFile={dir}/%n.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
SlurmdTimeout=5
KillWait=2
OverTimeLimit=0
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
{nodes}
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE OverSubscribe=EXCLUSIVE
"""


def why_not() -> str | None:
    """Return why no SLURM can be started here; `None` where it can."""
    if os.geteuid() != 0:
        return "a SLURM of one's own needs root"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"{', '.join(missing)} not found: apt-get install slurm-wlm munge" if missing else None


class Slurm:
    """The two daemons of the nodes and the controller.

    Args:
        directory: Scratch directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.conf = directory / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Slurm:
        """Start everything, and wait until both nodes are idle."""
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000 Feature={feature}"
            for (name, feature), port in zip(NODES.items(), ports[1:], strict=True)
        )
        (self.directory / "state").mkdir(parents=True)
        self.conf.write_text(CONFIGURATION.format(host=host, dir=self.directory, controller=ports[0], nodes=nodes))
        os.environ["SLURM_CONF"] = str(self.conf)
        _start_munge()
        self._daemons["controller"] = self._spawn("slurmctld", "-D", "-f", str(self.conf))
        for node in NODES:
            self.start(node)
        try:
            self.wait(lambda: self.states() == dict.fromkeys(NODES, "idle"), "both nodes are idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what runs, and end the daemons."""
        subprocess.run(["scancel", "-u", "root"], capture_output=True, check=False)
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        os.environ.pop("SLURM_CONF", None)

    def start(self, node: str) -> None:
        """Start the daemon of a node, or return it to service."""
        self._daemons[node] = self._spawn("slurmd", "-D", "-f", str(self.conf), "-N", node)

    def kill(self, node: str, out: Path) -> None:
        """Let a node fail: its daemon, and what it started for a run."""
        daemon = self._daemons[node]
        daemon.kill()
        daemon.wait()
        subprocess.run(["pkill", "-9", "slurmstepd"], check=False)
        for name in ("submitit.core._submit", "run/blocks"):  # as when the power goes
            subprocess.run(["pkill", "-9", "-f", f"{name}.*{out}"], check=False)

    def states(self) -> dict[str, str]:
        """Return node to state."""
        done = subprocess.run(["sinfo", "-h", "-N", "-o", "%N|%T"], capture_output=True, text=True, check=False)
        return dict(line.split("|") for line in done.stdout.split() if "|" in line)

    def running_on(self, node: str) -> bool:
        """Say whether a job runs on a node."""
        done = subprocess.run(["squeue", "-h", "-t", "R,CG", "-w", node, "-o", "%i"], capture_output=True, text=True, check=False)
        return bool(done.stdout.strip())

    def wait(self, condition, what: str) -> None:
        """Wait for the scheduler. There is no limit that a busy machine could reach: only the end of the controller."""
        while not condition():
            if self._daemons["controller"].poll() is not None:
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.directory.glob("*.log")))
                raise RuntimeError(f"SLURM ended before {what}; the logs end:\n{logs}")
            threading.Event().wait(0.2)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _start_munge() -> None:
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return
    for place in ("/run/munge", "/var/lib/munge", "/var/log/munge"):
        Path(place).mkdir(parents=True, exist_ok=True)
        shutil.chown(place, "munge", "munge")
    if not Path("/etc/munge/munge.key").exists():
        subprocess.run(["/usr/sbin/mungekey", "-f"], check=True)
        shutil.chown("/etc/munge/munge.key", "munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "munged", "--force"], check=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()

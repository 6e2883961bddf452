"""A real Slurm on this machine: a controller and a few nodes from Debian's packages, under one temporary directory.

As root every node is a machine of its own as far as Linux allows: its own network, host name, mounts and processes,
and a cable to a bridge. It can lose its power (every process in it is killed at once) and its cable. Otherwise the
nodes are daemons on localhost that share everything but a port.

No daemon outlives the process that started it: each dies with its parent.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client"
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "setpriv")
NEEDED_FOR_MACHINES = ("unshare", "nsenter", "ip")
SECONDS_ALLOWED = 180
HEAD = "head"

CONFIGURATION = """
ClusterName=test
SlurmctldHost={head}
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
# the wait before a requeued job may start again is cred_expire: 120 s where nothing is said
AuthInfo=cred_expire=5
StateSaveLocation={place}/state
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmdSpoolDir={place}/spool-%n
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
PlugStackConfig={place}/plugstack.conf
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=1
KillWait=10
SlurmdTimeout=10
SlurmctldTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=10
"""


def missing() -> str | None:
    """Why there can be no Slurm here; None when there can."""
    absent = [program for program in NEEDED if shutil.which(program) is None]
    return f"needs {', '.join(absent)} (apt-get install {PACKAGES})" if absent else None


@functools.cache
def machines_possible() -> bool:
    """Whether nodes can have a network and a host name of their own."""
    if any(shutil.which(program) is None for program in NEEDED_FOR_MACHINES):
        return False
    command = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc"]
    bridge = ["ip", "link", "add", "bridge", "type", "bridge"]
    return subprocess.run([*command, *bridge], capture_output=True, check=False).returncode == 0


@dataclasses.dataclass(frozen=True)
class Job:
    """What the controller says of a job."""

    state: str
    restarts: int
    exit_status: int


class Slurm:
    """The cluster; ``nodes`` are named node1, node2 …"""

    def __init__(self, place: Path, nodes: int) -> None:
        self.place = place
        self.nodes = tuple(f"node{number}" for number in range(1, nodes + 1))
        self.machines = machines_possible()
        self._log = (place / "daemons.log").open("wb")
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._inside: tuple[str, ...] = ()  # what runs a command in the controller's namespaces
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "TF_"))},
            "SLURM_CONF": str(place / "slurm.conf"),
        }
        self._configure()
        if self.machines:
            self._make_network()
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in self.nodes:
            self.power_on(node)
        self.wait(lambda: self.idle == set(self.nodes), "all nodes idle")

    @property
    def idle(self) -> set[str]:
        answer = self._try("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N")
        return set(answer.split())

    def submit(self, *arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> int:
        """``sbatch`` of ``arguments``; returns the number of the job."""
        answer = self.client("sbatch", "--parsable", *arguments, cwd=cwd, environment=environment)
        return int(answer.partition(";")[0])

    def client(self, *command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
        """What one of Slurm's commands prints; it must succeed."""
        process = self._client(command, cwd, environment)
        assert process.returncode == 0, f"{command}: {process.stdout}{process.stderr}"
        return process.stdout.strip()

    def spawn(self, *command: str, cwd: Path, log: Path) -> subprocess.Popen[bytes]:
        """Start a process where the clients are; it dies with this one."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [*self._inside, "env", f"--chdir={cwd}", "setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )

    def job(self, number: int) -> Job:
        answer = self.client("scontrol", "--oneliner", "show", "job", str(number))
        facts = dict(fact.partition("=")[::2] for fact in answer.split())
        status, _, by_signal = facts["ExitCode"].partition(":")
        return Job(
            facts["JobState"],
            int(facts["Restarts"]),
            128 + int(by_signal) if int(by_signal) else int(status),
        )

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        seconds: float = SECONDS_ALLOWED,
        printed: Callable[[], str] = lambda: "",
    ) -> None:
        """Return when ``condition`` holds; when it does not come, what was ``printed`` until then may say why."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for: {what}\n{self._state()}\n{printed()}"
            time.sleep(0.05)

    def wait_for_end(self, number: int, printed: Callable[[], str] = lambda: "") -> Job:
        self.wait(lambda: self.job(number).state in ENDED, f"the end of job {number}", printed=printed)
        return self.job(number)

    def nodes_of(self, number: int) -> list[str]:
        """Where a job runs; the first node has its script and its rank 0."""
        names = self.client("squeue", "--noheader", f"--job={number}", "--format=%N")
        return self.client("scontrol", "show", "hostnames", names).splitlines()

    def limit_time(self, number: int, minutes_left: int) -> None:
        """Let a job that runs have between ``minutes_left - 1`` and ``minutes_left`` more minutes."""
        elapsed = self.client("squeue", "--noheader", f"--job={number}", "--format=%M")  # [hours:]minutes:seconds
        minutes = sum(int(part) * 60**place for place, part in enumerate(reversed(elapsed.split(":")[:-1])))
        self.client("scontrol", "update", f"JobId={number}", f"TimeLimit={minutes + minutes_left}")

    def power_on(self, node: str) -> None:
        daemon = ("slurmd", "-D", "-N", node)
        if not self.machines:
            self._start(node, *daemon)
            return
        number = self.nodes.index(node) + 1
        link = "until ip link show eth0 up >/dev/null 2>&1; do sleep 0.02; done"
        # bash stays the first process of the node, and takes in orphans as an init does
        begin = f"hostname {node}; ip link set lo up; {link}; {' '.join(daemon)} & wait"
        process = self._start(
            node,
            "unshare",
            "--net",
            "--uts",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            begin,
        )
        others = {_namespace(os.getpid()), _namespace(self._daemons[HEAD].pid)}
        self.wait(lambda: _namespace(process.pid) not in others, f"{node} to have a network")
        self._run_inside("ip", "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        self._run_inside("ip", "link", "set", node, "master", "bridge", "up")
        within = ("nsenter", "--target", str(process.pid), "--net")
        _run(*within, "ip", "address", "add", f"{_address(number)}/24", "dev", "eth0")
        _run(*within, "ip", "link", "set", "eth0", "up")

    def power_off(self, node: str) -> None:
        """End every process of the node at once. Its cable goes with its network."""
        assert self.machines
        process = self._daemons.pop(node)
        process.kill()
        process.wait()

    def pull_cable(self, node: str) -> None:
        assert self.machines
        self._run_inside("ip", "link", "set", node, "down")

    def plug_cable(self, node: str) -> None:
        self._run_inside("ip", "link", "set", node, "up")

    def cancel_all(self) -> None:
        self._try("scancel", "--full", "--signal=KILL", f"--user={_user()}")
        self._try("scancel", f"--user={_user()}")
        self.wait(lambda: self._try("squeue", "--noheader") == "", "no job left")

    def close(self) -> None:
        for process in reversed(self._daemons.values()):
            process.kill()
        for process in self._daemons.values():
            process.wait()
        self._log.close()

    def _configure(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.place / name).mkdir()
        if self.machines:
            lines = [f"NodeName={node} CPUs=2 RealMemory=4000" for node in self.nodes]
            port = 6817
        else:
            port, *ports = _free_ports(1 + len(self.nodes))
            lines = [
                f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={of_node} CPUs=2 RealMemory=4000"
                for node, of_node in zip(self.nodes, ports, strict=True)
            ]
        text = CONFIGURATION.format(
            place=self.place,
            head=HEAD if self.machines else "localhost",
            port=port,
            user=_user(),
            nodes="\n".join(lines),
        )
        (self.place / "slurm.conf").write_text(text)
        (self.place / "plugstack.conf").write_text("")

    def _make_network(self) -> None:
        """Namespaces for the controller, with the bridge between all nodes; nothing of it is seen outside."""
        names = [f"{_address(254)} {HEAD}", *(f"{_address(n)} {node}" for n, node in enumerate(self.nodes, 1))]
        hosts = self.place / "hosts"
        hosts.write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
        process = self._start(HEAD, "unshare", "--net", "--uts", "--mount", "sleep", "infinity")
        self.wait(lambda: _namespace(process.pid) != _namespace(os.getpid()), "the controller to have a network")
        self._inside = ("nsenter", "--target", str(process.pid), "--net", "--uts", "--mount")
        self._run_inside("hostname", HEAD)
        self._run_inside("mount", "--bind", str(hosts), "/etc/hosts")
        self._run_inside("ip", "link", "set", "lo", "up")
        self._run_inside("ip", "link", "add", "bridge", "type", "bridge")
        self._run_inside("ip", "address", "add", f"{_address(254)}/24", "dev", "bridge")
        self._run_inside("ip", "link", "set", "bridge", "up")

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*self._inside, "setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self._environment,
        )
        self._daemons[name] = process
        return process

    def _run_inside(self, *command: str) -> None:
        _run(*self._inside, *command)

    def _client(
        self, command: Sequence[str], cwd: Path | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        # nsenter leaves the working directory behind
        place = () if cwd is None else ("env", f"--chdir={cwd}")
        return subprocess.run(
            [*self._inside, *place, *command],
            env={**self._environment, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_ALLOWED,
        )

    def _try(self, *command: str) -> str:
        """What a command prints, nothing when it fails."""
        process = self._client(command)
        return process.stdout.strip() if process.returncode == 0 else ""

    def _state(self) -> str:
        return "\n".join([self._try("sinfo", "--Node", "--long"), self._try("scontrol", "show", "job")])


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")


def _address(number: int) -> str:
    return f"10.0.0.{number}"


def _namespace(process: int) -> str:
    return os.readlink(f"/proc/{process}/ns/net")


def _run(*command: str) -> None:
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{command}: {process.stderr}"


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports

"""Random faults on a Slurm of two nodes."""

from __future__ import annotations

import contextlib
import signal

from tests.faults.chaos import TIMEOUT, Chaos, Fault, Mend, survive
from tests.faults.clients import Client
from tests.rows import Stopwatch, row
from tests.slurm_faults.lab import NODES, SlurmLab


class SlurmChaos(Chaos):
    """Breaks nodes and Slurm, too."""

    def __init__(self, lab: SlurmLab, client: Client, seed: int) -> None:
        self.lab = lab
        super().__init__(lab, client, seed)

    def faults(self) -> dict[str, Fault]:
        return {
            "worker suspended": ("process scheduler", self.worker_suspended),
            "worker requeued": ("process scheduler", self.worker_requeued),
            "workers preempted": ("node scheduler", self.workers_preempted),
            "node lost": ("node scheduler", self.node_lost),
            "node down": ("node scheduler", self.node_down),
            "node drained": ("node scheduler", self.node_drained),
            "slurmd killed": ("node scheduler", self.slurmd_killed),
            "slurmctld killed": ("node scheduler", self.slurmctld_killed),
            "slurmctld stopped": ("node scheduler", self.slurmctld_stopped),
            "munged killed": ("node scheduler", self.munged_killed),
            "partition down": ("scheduler", self.partition_down),
        }

    def _node(self) -> str:
        return self.random.choice(NODES)

    def _workers(self) -> list[str]:
        running = [line.split()[0] for line in self.lab.queued() if line.endswith(" RUNNING")]
        return [self.random.choice(running)] if running else []

    # --- workers ----------------------------------------------------------------------------------

    def worker_suspended(self) -> Mend | None:
        for worker in self._workers():
            self.lab.slurm("scontrol", "suspend", worker, check=False)
            return lambda: self.lab.slurm("scontrol", "resume", worker, check=False)
        return None

    def worker_requeued(self) -> None:
        for worker in self._workers():
            self.lab.slurm("scontrol", "update", f"jobid={worker}", "requeue=1", check=False)
            self.lab.slurm("scontrol", "requeue", worker, check=False)

    def workers_preempted(self) -> Mend:
        words = ("--parsable", "--partition=urgent", f"--nodelist={self._node()}", "--exclusive")
        quiet = ("--chdir=/", "--output=/dev/null", "--wrap=sleep 100")
        job = self.lab.slurm("sbatch", *words, *quiet).strip()
        return lambda: self.lab.slurm("scancel", job, check=False)

    # --- nodes ------------------------------------------------------------------------------------

    def node_lost(self) -> Mend:
        node = self._node()
        self.lab.cut_power(node)
        return lambda: self.lab.start_daemon(node)

    def _node_in(self, state: str) -> Mend:
        node = self._node()
        self.lab.node_state(node, state)
        return lambda: self.lab.slurm(
            "scontrol", "update", f"nodename={node}", "state=resume", check=False
        )

    def node_down(self) -> Mend:
        return self._node_in("down")

    def node_drained(self) -> Mend:
        return self._node_in("drain")

    def slurmd_killed(self) -> Mend:
        node = self._node()
        self.lab.kill_daemon(node)
        return lambda: self.lab.start_daemon(node)

    # --- the scheduler ----------------------------------------------------------------------------

    def slurmctld_killed(self) -> Mend:
        self.lab.kill_daemon("slurmctld")
        return lambda: self.lab.start_daemon("slurmctld")

    def slurmctld_stopped(self) -> Mend:
        self.lab.signal_daemon("slurmctld", signal.SIGSTOP)

        def mend() -> None:
            with contextlib.suppress(AssertionError):
                self.lab.signal_daemon("slurmctld", signal.SIGCONT)

        return mend

    def munged_killed(self) -> Mend:
        self.lab.kill_daemon("munged")
        return lambda: self.lab.start_daemon("munged")

    def partition_down(self) -> Mend:
        self.lab.partition("down")
        return lambda: self.lab.partition("up")


@row(
    fault="any of 16 faults at random, two at a time, the client's SIGKILL and attach among them",
    where="anywhere",
    expected="every value, so long after the last fault",
    bound_s=300,
    speed="slow",
)
@TIMEOUT
def test_chaos(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    survive(lab, SlurmChaos, stopwatch)
    lab.nothing_left(within_s=180)  # what was requeued begins two minutes later

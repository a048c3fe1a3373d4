"""Starts a deployment's processes on this machine; attempt.py says in which order."""

import contextlib
from dataclasses import dataclass, field

from ropeway.engines import vllm
from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.errors import HostError, LaunchError, Refused, RopewayError
from ropeway.hosts.base import Host, run_command
from ropeway.hosts.fleet import Hosts, OnProgress
from ropeway.hosts.interrupts import uninterrupted
from ropeway.hosts.processes import find
from ropeway.launch.attempt import Attempt, absence, engine_failure, root_cause, whole_logs
from ropeway.launch.local.running import note_shared_memory, take_down
from ropeway.launch.local.steps import Step, probe_of, ray_address, ray_nodes, steps
from ropeway.phrases import joined, phrase
from ropeway.units import counted

_LOG_TAIL_BYTES = 400_000
_LOG_NAME = "engine.log"


def refuse_second(service: str) -> None:
    """Raise Refused when this service runs already."""
    if processes := find(service):
        raise Refused(
            phrase("`{name}` is already running", name=service),
            evidence=tuple(f"pid {process.pid}: {process.title[:60]}" for process in processes[:3]),
            hint=f"ropeway status --name {service}\nropeway down --name {service}",
        )


@dataclass
class ProcessStart(Attempt):
    """The start of a deployment's processes. Nothing restarts them later."""

    deployment: CpuReplica
    hosts: Hosts
    poll_seconds: float = field(default=0.5, kw_only=True)
    _owns_name: bool = False
    _activity: str = ""

    @property
    def timeout(self) -> float:
        return self.deployment.serve.start_timeout

    def begin(self, on_progress: OnProgress) -> None:
        """See Attempt.begin. Raises Refused when the service runs already, or is being started."""
        refuse_second(self.deployment.service)
        take_name, *others = steps(self.deployment)
        with uninterrupted():  # else we would not know whose the folder is
            self._take_name(take_name)
        for step in others:
            on_progress(step.name)
            result = run_command(self.hosts[step.host], step.command, timeout=step.timeout)
            result.check(phrase("{step} failed", step=step.name), where=step.host)
        if self.deployment.uses_ray:
            self._check_ray()

    def is_ready(self, on_progress: OnProgress) -> bool:
        """See Attempt.is_ready."""
        log = self._log()
        activity = vllm.activity(log)
        on_progress(activity)
        if activity != self._activity:  # an engine makes its shared memory while it starts
            note_shared_memory(self.deployment.service, self.deployment.scratch)
            self._activity = activity
        if not any(process.role == "engine" for process in find(self.deployment.service)):
            where = self.deployment.engine_log
            raise LaunchError(phrase("the engine ended while it was starting"), where=where)
        if vllm.listening(log):
            answer = run_command(self._head, probe_of(self.deployment), timeout=90.0)
            if answer.ok:
                return True
            if root_cause({_LOG_NAME: log}):
                what = phrase("the engine answers, but generates nothing")
                answer.check(what, where=self.deployment.url)
        return False

    def timeout_error(self) -> LaunchError:
        """See Attempt.timeout_error."""
        return LaunchError(
            phrase("the engine was not ready within {seconds:g} s", seconds=self.timeout),
            where=self.deployment.engine_log,
            hint=phrase("raise `serve.start_timeout`, or look into the log"),
        )

    def diagnose(self, error: BaseException) -> LaunchError | None:
        """See Attempt.diagnose."""
        if not isinstance(error, HostError | LaunchError):
            return None
        with contextlib.suppress(HostError):
            log = self._log()
            if cause := root_cause({_LOG_NAME: log}):
                return engine_failure(error, cause, [self.deployment.engine_log], None)
            if log:
                evidence = error.evidence or tuple(log.strip().splitlines()[-6:])
                path = whole_logs([self.deployment.engine_log])
                hint = joined((*((error.hint,) if error.hint else ()), *path), "\n")
                return LaunchError(error.what, where=error.where, evidence=evidence, hint=hint)
        return LaunchError(error.what, where=error.where, evidence=error.evidence, hint=error.hint)

    def undo(self) -> RopewayError | None:
        """See Attempt.undo. What a service of the same name has started is left alone."""
        if self._owns_name:
            try:
                take_down(self.deployment.service, self.deployment.scratch)
            except HostError as error:
                return error
        return None

    @property
    def _head(self) -> Host:
        return self.hosts[self.deployment.head.name]

    def _log(self) -> str:
        """Return the end of the engine's log; empty as long as there is none."""
        tail = ("tail", "-c", str(_LOG_TAIL_BYTES), self.deployment.engine_log)
        result = self._head.run(tail)
        return result.stdout if result.ok else ""

    def _take_name(self, step: Step) -> None:
        result = run_command(self.hosts[step.host], step.command)
        self._owns_name = result.ok
        if not result.ok:
            raise Refused(
                phrase(
                    "`{name}` is being started by somebody else, or was not taken down",
                    name=self.deployment.service,
                ),
                where=self.deployment.scratch,
                evidence=(result.stderr.strip(),),
                hint=f"ropeway down --name {self.deployment.service}",
            )

    def _check_ray(self) -> None:
        """Raise HostError unless every host is in Ray with its NPUs: vLLM will ask for them."""
        nodes = self.deployment.nodes
        result = run_command(self._head, ray_nodes(self.deployment), timeout=60.0)
        if absent := absence(result.stderr, self.deployment):
            raise HostError(
                phrase(
                    "{n} of {hosts} did not join Ray",
                    n=len(absent.nodes), hosts=counted(len(nodes), "host"),
                ),
                where=ray_address(self.deployment),
                evidence=absent.evidence,
            )  # fmt: skip
        result.check(phrase("Ray does not answer"), where=self.deployment.head.name)

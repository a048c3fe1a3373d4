"""What goes wrong while a service starts: the error says what and where, and nothing is left."""

import contextlib
import os
import pty
import shlex
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from rehearsed import Cluster, Make, cluster, fleet_with  # noqa: F401
from ropeway.facts.host import Container
from ropeway.hosts.child import sleep_cancellable
from ropeway.launch.container_start import UNDO
from ropeway.sim.faults import LAUNCH_FAULTS
from ropeway.sim.launching import IssuedCommand, Rehearsal
from ropeway.sim.machine import Fleet, LaunchFaults, Machine
from ropeway.spec.cluster import RemoteHost

HOSTS = ("host1", "host2")
LAST = 9  # commands that a start takes on a worker's host; the audit follows


def changed(fleet: Fleet, index: int, **changes: object) -> Fleet:
    """The fleet with one machine changed."""
    machine: Machine = replace(fleet.machines[index], **changes)  # type: ignore[arg-type]
    return fleet.with_machine(index, machine)


# What the host lacks, or somebody else has: seen before anything is started, exit code 1.

IN_USE = "containers have the NPUs that the service needs"
REFUSALS = {
    # It is the image that needs the room.
    "disk-full:host2,image-missing:host2": (
        "disk is too full", "host2: 3.0 GiB free, and the image takes", "prune",
    ),
    "port-taken": ("port 8000 is in use on host1", "`nginx`", "serve.port"),
    "model-missing:host2": ("directory is missing", "/data/model", "model push"),
    "shard-missing:host2": ("shards of the model are missing", "model-00016-of-00016.safetensors"),
    "container-holds:host2": (IN_USE, "container `old-vllm`", "docker stop"),
    "npu-busy:host2:5": ("NPUs are in use", "host2 NPU 5", "VLLMEngineCor"),
    "npu-busy:host2:5,container-privileged:host2": ("NPUs are in use", "host2 NPU 5"),
    "dead-process:host2:5": ("HBM is held by no living process", "host2 NPU 5"),
    "no-driver:host2": ("host2 has 0 NPUs", "npu-smi: ", "ropeway doctor"),
    "card-dropped:host2": ("host2 has 7 NPUs", "/dev/davinci3", "npu-smi info"),
    "card-alarm:host2": ("the driver reports Alarm", "host2 NPU 3", "--skip-checks"),
    "link-down:host2": ("RoCE links are down", "host2 NPU 3", "link status: DOWN"),
    "hosts-apart:host2": ("pings between host1 and host2 fail", "host1, host2"),
    "clock-off:host2,tls-on:host2": (
        "2 checks of the hosts failed", "clocks differ by more than 5 s: host",
        "NPUs differ in their TLS switch: host2 NPU 3: ", "chronyc", "-tls -s enable 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("faults", REFUSALS)
def test_what_is_in_the_way_is_told_and_nothing_is_started(faults: str, cluster: Make):  # noqa: F811
    two = cluster(fleet_with(*faults.split(",")))
    two.fails(1, *REFUSALS[faults])
    assert not any(command.starts_containers for command in two.virtual.commands)


def test_a_privileged_container_that_uses_no_npu_is_a_warning(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("container-privileged:host2"))
    assert two.run("up") == 0, two.err
    assert "`old-vllm` is privileged and could use every NPU of host2" in two.err


def test_a_privileged_container_with_npus_by_name_holds_them(cluster: Make):  # noqa: F811
    holder = Container("old-vllm", "vllm-ascend:old", (0, 1), privileged=True)
    cluster(changed(fleet_with(), 1, containers=(holder,))).fails(1, "container `old-vllm`")


def test_room_for_the_image_is_asked_only_of_who_lacks_it(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("disk-full:host1", "image-missing:host2"))
    assert two.run("up") == 0, two.err


def test_an_interface_named_wrongly_is_refused_with_those_there_are(cluster: Make):  # noqa: F811
    two = cluster()
    two.change("cluster", nic="eth9")
    two.fails(2, "`eth9` does not exist on host1", "enp189s0f0: 192.168.0.1")


def test_an_image_that_may_not_be_pulled_is_refused(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("image-missing:host2"))
    two.change("runtime", pull="never")
    two.fails(1, "host2 does not have the image", f"docker pull {two.spec.runtime.image}")


def test_a_missing_image_is_pulled_from_the_mirror(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("image-missing:host2"))
    two.change("runtime", mirror="mirror.example.org/hub")
    assert two.run("up") == 0
    pulled = [one for one in two.virtual.commands if one.argv[1] == "pull"]
    wanted = "mirror.example.org/hub/ascend/vllm-ascend:v0.23.0"
    assert pulled == [IssuedCommand("host2", ("docker", "pull", wanted))]
    assert "4 of 4 layers" in two.err


@pytest.mark.parametrize(
    "verb",
    ["up", "bundle -o runs/x.zip", "doctor --rehearse 1x2-910B4 --html runs/x.html"],
)
def test_a_path_that_cannot_be_written_is_refused(verb: str, cluster: Make):  # noqa: F811
    two = cluster()
    (two.folder / "runs").touch()
    assert two.run(*verb.split()) == 2, two.err
    assert "cannot write `runs/" in two.error
    assert two.remains() == []


def test_more_hosts_than_files_may_be_open_are_refused(cluster: Make, monkeypatch):  # noqa: F811
    monkeypatch.setattr("ropeway.hosts.fleet.max_parallel", lambda: 2)
    cluster().fails(2, "the lock of 2 hosts runs at least 3 commands at once", "ulimit -n")


# What breaks on the way: exit code 1, and everything is undone.


@pytest.mark.parametrize(
    ("fault", "where", "words"),
    [
        ("pull-fails:host2", "host2", "i/o timeout"),
        ("disk-fills:host2", "host2", "no space left on device"),
        ("disk-fills:host2", "host2", "df -h /var/"),
        ("engine-fails:host1", "host1", "the engine failed: RuntimeError: NPU out of memory"),
        ("engine-fails:host2", "host2", "the engine failed: RuntimeError: NPU out of memory"),
        ("ssh-blinks:host2", "host2", "the connection was lost"),
        ("host-down:host2", "host2", "there is no route to the host"),
        ("docker-down:host2", "host2", "Cannot connect to the Docker daemon"),
    ],
)
def test_a_start_that_fails_leaves_nothing(fault: str, where: str, words: str, cluster: Make):  # noqa: F811
    two = cluster(fleet_with(fault))
    two.fails(1, words)
    assert f"  at {where}" in two.error or f"{where}-" in two.error
    assert two.run("status") == 1


def test_every_fault_of_a_start_is_tried_here():
    tried = {"ssh-drops", "ssh-blinks", "disk-fills", "pull-fails", "never-joins", "engine-fails"}
    assert set(LAUNCH_FAULTS) == tried


def test_an_engine_that_fails_is_told_with_its_log_and_what_to_do(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("engine-fails:host1"))
    error = two.json("up")["error"]
    assert error["what"].startswith("the engine failed: RuntimeError: NPU out of memory")
    for key in ("`serve.context`", "`serve.memory`", "`serve.engine_args.max-num-batched-tokens`"):
        assert key in error["hint"]
    assert "--gpu-memory-utilization" not in error["hint"]
    assert "vllm-ascend/issues" in error["hint"]
    log = two.logs()[error["where"]]
    assert "NPU out of memory" in log
    assert f"less {error['where']}" in error["hint"]
    assert two.last_audit()["outcome"].startswith("failed: the engine failed")
    assert two.last_audit()["verb"] == "up"


def test_a_worker_that_ends_is_told_of(cluster: Make):  # noqa: F811
    """Of an end that no table knows: its last lines."""
    two = cluster(fleet_with(host2=LaunchFaults(fails=("a line of no meaning",))))
    ended = "the follower on host2 ended while the engine was starting"
    two.fails(1, ended, "ropeway-rehearsal-0-1: exited, exit code 1", "a line of no meaning")


@pytest.mark.parametrize("begin", [0.0, 1.2], ids=["the head gives up", "we give up"])
def test_a_host_that_never_joins_ray_is_named(begin: float, cluster: Make):  # noqa: F811
    """Whoever loses patience first, the head's own program or we."""
    two = cluster(fleet_with("never-joins:host3", size="3x8-910B4"))
    two.pace(begin=begin)
    two.serve(start_timeout=1, backend="ray")
    two.fails(
        1,
        "host3 (192.168.0.3) has not joined Ray",
        "on host3: `nc -zv 192.168.0.1 6379`",
        "the whole log: less runs/",
    )
    assert "host2 (" not in two.error


def test_a_host_that_never_joins_leaves_logs_that_the_error_names(cluster: Make):  # noqa: F811
    """Without Ray, where the head's log does not say who is missing."""
    two = cluster(fleet_with("never-joins:host2"))
    two.serve(start_timeout=1)
    hint = two.json("up")["error"]["hint"].splitlines()
    named = [line.removeprefix("the whole log: less ") for line in hint if "less" in line]
    assert sorted(named) == [path for path in sorted(two.logs()) if path.endswith(".log")]
    assert len(named) == 2


def test_a_connection_that_breaks_leaves_the_other_hosts_log(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("ssh-blinks:host2"))
    two.fails(1, "the whole log: less runs/")


def test_one_cause_of_a_failed_start_and_a_failed_undoing_is_said_once(cluster: Make):  # noqa: F811
    error = cluster(fleet_with("ssh-drops:host2")).json("up")["error"]
    assert error["evidence"] == ["host2: the connection was lost while a command ran"]


OPS = RemoteHost(address="host2", npus=8, user="ops", port=2222)


def test_a_host_that_is_down_can_be_tried_by_hand(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("host-down:host2"))
    two.change("cluster", hosts=(RemoteHost(address="host1", npus=8), OPS))
    two.fails(1, "try: ssh -l ops -p 2222 host2 true")
    two.run("status")
    assert "try: ssh -l ops -p 2222 host2 true" in two.err


def test_what_a_dead_host_leaves_of_a_service_is_taken_down_as_the_spec_logs_in(
    cluster: Make,  # noqa: F811
):
    two = cluster()
    two.change("cluster", hosts=(RemoteHost(address="host1", npus=8), OPS))
    assert two.run("up") == 0, two.err
    state = two.virtual.state("host2")
    state.machine = replace(state.machine, failure="No route to host")
    assert two.run("down", "--ssh-config", "other") == 1
    again = "ropeway down --name rehearsal --host ops@host2:2222 --ssh-config other"
    assert again in two.error


def test_an_engine_that_is_never_ready_is_given_up(cluster: Make):  # noqa: F811
    two = cluster()
    two.pace(start=600)
    two.serve(start_timeout=1)
    two.fails(1, "the engine was not ready within 1 s", "serve.start_timeout")


def test_a_disk_without_a_byte_is_told_at_the_lock(cluster: Make):  # noqa: F811
    two = cluster(changed(fleet_with(), 1, disk_free_bytes=0))
    two.fails(1, "cannot lock the host", "No space left on device")


# SSH that drops, at every command.


def finish(virtual: Rehearsal, error: str) -> None:
    """Carry out the commands that an error tells, host by host, as somebody would paste them."""
    for line in error.splitlines():
        words = shlex.split(line) if line.strip().startswith("ssh ") else []
        if words:
            host = virtual.connect(words[-2])
            host.state.machine = replace(host.state.machine, faults=LaunchFaults())
            for command in words[-1].split("; "):
                assert host.run(tuple(shlex.split(command))).ok


@pytest.mark.parametrize("commands", range(LAST))
def test_ssh_that_drops_for_good(commands: int, cluster: Make):  # noqa: F811
    """Either nothing was started there, or the error has the command that finishes the undoing."""
    two = cluster(fleet_with(host2=LaunchFaults(drops_after=commands)))
    assert two.run("up") == 1
    assert "host2" in two.error
    assert "connection was lost" in two.error
    left = two.remains()
    assert all(line.startswith("host2: ") for line in left)
    finish(two.virtual, two.error)
    assert two.remains() == []


@pytest.mark.parametrize("commands", range(1, LAST))
def test_ssh_that_drops_for_a_moment(commands: int, cluster: Make):  # noqa: F811
    """The undoing reaches the host again, and there is nothing to finish."""
    cluster(fleet_with(host2=LaunchFaults(drops_after=commands, drops_for=1))).fails(1)


def test_the_command_that_finishes_it_logs_in_as_the_spec_says(cluster: Make):  # noqa: F811
    """And the reason of the start's failure is not lost behind that of the undoing's."""
    two = cluster(fleet_with(host2=LaunchFaults(drops_after=6)))
    elsewhere = RemoteHost(address="host2", npus=8, user="ops", port=2222)
    hosts = (RemoteHost(address="host1", npus=8), elsewhere)
    two.change("cluster", hosts=hosts)
    error = two.json("up", "--ssh-config", "other")["error"]
    assert error["hint"].splitlines()[1:] == [
        "ssh -F other -l ops -p 2222 host2 "
        "'docker rm --force ropeway-rehearsal-0-1; rm -rf -- /var/lib/ropeway/rehearsal'"
    ]
    assert error["evidence"][0] == "host2: the connection was lost while a command ran"


def test_a_failed_replacement_leaves_what_was_not_replaced(cluster: Make, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MY_KEY", "of-the-endpoint")
    two = cluster()
    two.serve(layout="TP8", replicas=2, backend=None, api_key_env="MY_KEY", start_timeout=5)
    assert two.run("up") == 0, two.err
    before = two.containers()
    site = two.virtual.state("host2")
    site.engine.machine = replace(
        site.machine, faults=LaunchFaults(fails=("a line of no meaning",))
    )
    two.virtual.connect("host2").run(("docker", "rm", "--force", "ropeway-rehearsal-1-0"))
    assert two.run("up", "--yes") == 1
    assert two.containers() == {
        name: one for name, one in before.items() if name != "ropeway-rehearsal-1-0"
    }
    assert "ropeway-rehearsal-0-0.sh" in str(two.virtual.state("host1").files.keys())


# The undo comes first, whatever else goes wrong here.


def test_a_run_folder_that_is_gone_leaves_nothing(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("engine-fails:host1"))
    two.virtual.on_command = lambda _: shutil.rmtree("runs", ignore_errors=True)
    two.fails(1, "NPU out of memory")
    assert "warning: cannot write `runs/" in " ".join(two.err.split())
    assert "the whole log" not in two.error


def test_a_bug_while_it_is_diagnosed_leaves_nothing(cluster: Make, monkeypatch):  # noqa: F811
    monkeypatch.setattr("ropeway.launch.container_start.read_logs", lambda *_: 1 / 0)
    cluster(fleet_with("engine-fails:host1")).fails(3, "ZeroDivisionError")


def test_a_terminal_that_is_closed_leaves_nothing(cluster: Make, monkeypatch):  # noqa: F811
    two = cluster()
    leader, follower = pty.openpty()
    began: list[IssuedCommand] = []

    def hang_up(command: IssuedCommand) -> None:
        if command.starts_containers and command.host == "host2":
            began.append(command)
            os.close(leader)
            interrupt(signal.SIGHUP)

    two.virtual.on_command = hang_up
    code = 0
    with contextlib.suppress(OSError), os.fdopen(follower, "w") as terminal:  # at its last flush
        monkeypatch.setattr("sys.stderr", terminal)
        code = two.run("up")
    assert (code, len(began), two.remains()) == (130, 1, [])


# Ctrl-C.


def interrupt(number: int = signal.SIGINT) -> None:
    """Do what Ctrl-C does while the thread that calls this carries out a command on a host.

    The main thread waits for it, is interrupted, and cancels the command.
    """
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, number)
    sleep_cancellable(60)
    raise AssertionError("the command was not cancelled")


def interrupt_at(two: Cluster, condition: Callable[[IssuedCommand], bool]) -> list[IssuedCommand]:
    """Interrupt at the first command that meets a condition; it is in the list then."""
    fired: list[IssuedCommand] = []
    lock = threading.Lock()

    def on_command(command: IssuedCommand) -> None:
        with lock:
            now = not fired and condition(command)
            if now:
                fired.append(command)
        if now:
            interrupt()

    two.virtual.on_command = on_command
    return fired


def with_package(cluster: Make) -> Cluster:  # noqa: F811
    """Two hosts, one of which pulls the image, with a package to install into it."""
    two = cluster(fleet_with("image-missing:host2"))
    two.pace(begin=0.1, start=1.6)
    two.change("runtime", pip=("transformers==5.5.4",))
    return two


COMMANDS = 38  # of their start


@pytest.mark.parametrize("number", range(1, COMMANDS + 1))
def test_ctrl_c_at_any_moment_leaves_nothing(number: int, cluster: Make):  # noqa: F811
    """With daemons that start what they were asked for though the client has gone."""
    two = with_package(cluster)
    fired = interrupt_at(two, lambda _: len(two.virtual.commands) >= number)
    two.fails(130)
    assert fired, "the run was over before"
    undone = [command.host for command in two.virtual.commands if command.script == UNDO]
    assert len(undone) == len(set(undone)), "once"


def test_no_moment_is_left_out(cluster: Make):  # noqa: F811
    two = with_package(cluster)
    assert two.run("up") == 0
    assert len(two.virtual.commands) == COMMANDS


def test_ctrl_c_when_it_is_up_already_still_means_no(cluster: Make):  # noqa: F811
    """While it is written down that it is done."""
    two = cluster()
    fired = interrupt_at(two, lambda command: '"outcome": "done"' in command.argv[-1])
    two.fails(130)
    assert fired


def test_what_a_daemon_starts_after_ctrl_c_is_removed(cluster: Make):  # noqa: F811
    """`undo` looks again."""
    two = cluster()
    late: list[object] = []
    interrupt_at(two, lambda command: command.starts_containers)
    interrupted = two.virtual.on_command

    def on_command(command: IssuedCommand) -> None:
        late.extend(one for host in HOSTS for one in two.virtual.state(host).late)
        interrupted(command)

    two.virtual.on_command = on_command
    two.fails(130)
    assert late, "no daemon was late: the test shows nothing"

"""The whole of `up` and the verbs after it, on virtual hosts: what is done, told and kept."""

import json
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO

import pytest

from rehearsed import QUICK, Cluster, Make, cluster, fleet_with  # noqa: F401
from ropeway.errors import CheckFailed
from ropeway.hosts.base import Result
from ropeway.launch.lock import LOCK, Author, locked
from ropeway.launch.logs import POLL
from ropeway.sim.launching import IssuedCommand, LaunchHost, rehearsal_spec
from ropeway.sim.machine import LaunchFaults
from waiting import wait_for


def test_up_status_logs_exec_restart_down(cluster: Make):  # noqa: F811
    """The life of a service, known by its labels alone."""
    two = cluster()
    up = two.json("up")
    assert (up["url"], up["layout"]) == ("http://127.0.0.1:8000/v1", "DP2×TP8+EP")
    assert two.last_audit()["verb"] == two.last_audit("host2")["verb"] == "up"
    assert two.last_audit("host2")["outcome"] == "done"

    status = two.json("status")
    assert status["ok"] is True
    assert [(one["host"], one["role"], one["state"]) for one in status["containers"]] == [
        ("host1", "head", "running"),
        ("host2", "follower", "running"),
    ]
    lines = two.json("logs")["lines"]
    assert [one["time"] for one in lines] == sorted(one["time"] for one in lines)
    assert {one["source"] for one in lines} == {"host1 head", "host2 follower"}
    assert "ropeway: the first token is there" in [one["text"] for one in lines]

    assert two.run("exec", "npu-smi", "info", "-l") == 0
    assert "Total Count" in two.out
    assert "host1 head" not in two.err
    assert two.run("exec", "--all", "no-such-program") == 1
    assert two.run("exec", "no-such-program") == 1
    assert re.search(r"^host1 head → exit \d+$", two.err, re.MULTILINE)
    before = two.containers()
    assert two.json("up")["start_s"] is None, "nothing differs"
    assert two.containers() == before
    assert two.run("restart") == 0
    assert two.containers() == before
    for host, name in (("host2", "ropeway-rehearsal-0-1"), ("host1", "ropeway-rehearsal-0-0")):
        two.virtual.connect(host).run(("docker", "rm", "--force", name))
        assert two.run("status") == 1
        assert f"{name}: its container is gone" in two.out
        assert two.run("up", "--yes") == 0
    assert two.run("down") == 0
    assert two.remains() == []
    assert two.run("status") == 1


def test_a_start_takes_eight_commands_on_each_host(cluster: Make):  # noqa: F811
    """Looks at starting engines are extra: there are as many as the start is long."""
    two = cluster()
    two.pace(start=10.0)
    # A router beside an engine: one host has two containers, and all have secrets.
    two.serve(layout="TP8", replicas=2, backend=None, api_key_env="PATH")
    assert two.run("up") == 0, two.err
    for host in ("host1", "host2"):
        commands = [command for command in two.virtual.commands if command.host == host]
        looks = [one for one in commands if one.script == POLL or one.argv[1] == "exec"]
        assert len(looks) >= 5
        assert len(commands) - len(looks) <= 8, [one.argv[:3] for one in commands]


def test_a_look_at_an_engine_that_writes_much_takes_few_bytes(cluster: Make, monkeypatch):  # noqa: F811
    line = "INFO 11-28 03:00:00 [loader.py:1] " + 100 * "a"
    two = cluster(fleet_with(host1=LaunchFaults(says=(line,) * 3000)))
    two.pace(start=60.0)
    two.serve(start_timeout=600)
    sizes: list[int] = []

    def run(self: LaunchHost, argv: Sequence[str], run=LaunchHost.run, **named: object) -> Result:
        result = run(self, argv, **named)
        sizes.extend([len(result.stdout)] if POLL in argv else [])
        return result

    monkeypatch.setattr(LaunchHost, "run", run)
    assert two.run("up") == 0, two.err
    assert len(sizes) > 60
    assert max(sizes) > 3000 * len(line), "all of the log is read once"
    assert sorted(sizes)[-2] < 1000


def test_a_second_machine_needs_no_spec(cluster: Make):  # noqa: F811
    two = cluster()
    assert two.run("up", "--ssh-config", "other") == 0
    assert "\n      ssh -F other host1 -N -L 8000:127.0.0.1:8000\n" in two.err
    (two.folder / "ropeway.yaml").unlink()
    assert two.run("status", "--host", "192.168.0.2", spec=False) == 0
    assert "host1" in two.out
    assert "host2" in two.out
    assert two.run("logs", "--host", "host2", "-n", "3", spec=False) == 0
    assert len(two.out.splitlines()) == 3
    assert two.run("down", "--host", "root@192.168.0.2", "--name", "rehearsal", spec=False) == 0
    assert two.remains() == []


def test_by_a_host_alone_a_verb_that_acts_takes_no_service_unasked(cluster: Make):  # noqa: F811
    two = cluster()
    assert two.run("up") == 0
    before = two.containers()
    for verb in (("down",), ("restart",), ("exec", "true")):
        assert two.run(verb[0], "--host", "host1", *verb[1:], spec=False) == 2
        assert "\nhint: ropeway " + verb[0] + " --name rehearsal --host host1\n" in two.err
    assert two.containers() == before
    assert two.run("status", "--host", "host1", spec=False) == 0, "it only reads"


def test_a_name_that_is_not_on_the_host_means_no_other_service(cluster: Make):  # noqa: F811
    two = cluster()
    assert two.run("up") == 0
    before = two.containers()
    other = ("--host", "host1", "--name", "other")
    assert two.run("exec", *other, "true", spec=False) == 2
    assert "`other` is not running" in two.error
    assert two.run("restart", *other, spec=False) == 2
    assert two.run("status", *other, spec=False) == 1
    assert two.run("down", *other, spec=False) == 0
    assert "`other` was not running" in two.out
    assert two.containers() == before


@pytest.fixture
def replicas(cluster: Make, monkeypatch) -> Cluster:  # noqa: F811
    """Two replicas, each on a host of its own, and a router before them: they are up."""
    monkeypatch.setenv("MY_KEY", "of-the-endpoint")
    two = cluster()
    two.serve(layout="TP8", replicas=2, backend=None, api_key_env="MY_KEY")
    assert two.run("up") == 0, two.err
    assert sorted(two.containers()) == [
        "ropeway-rehearsal-0-0", "ropeway-rehearsal-1-0", "ropeway-rehearsal-router",
    ]  # fmt: skip
    return two


def test_up_with_another_spec_shows_asks_and_replaces(replicas: Cluster, monkeypatch):
    before = replicas.containers()
    replicas.serve(context=8192, max_sequences=64)
    monkeypatch.setattr("sys.stdin", StringIO())
    assert replicas.run("up") == 2
    assert "nobody answers" in replicas.error
    assert "`--yes`" in replicas.error
    monkeypatch.setattr("click.confirm", lambda text, **_: asked.append(text))
    asked: list[str] = []
    assert replicas.run("up") == 130
    assert "serve.context: not set → 8192" in replicas.err
    assert "serve.max_sequences: not set → 64" in replicas.err
    assert asked == ["replace 2 of 3 containers of `rehearsal`?"]
    assert replicas.containers() == before
    assert replicas.run("up", "--yes") == 0, replicas.err
    after = replicas.containers()
    assert after.keys() == before.keys()
    kept = {name for name in before if after[name] == before[name]}
    assert kept == {"ropeway-rehearsal-router"}


def test_up_waits_for_a_router_that_it_keeps(replicas: Cluster):
    """Its replicas are new: until it has found them there is no endpoint."""
    router = replicas.virtual.state("host1").engine.by_name["ropeway-rehearsal-router"]
    replicas.serve(max_sequences=64)
    clock = replicas.virtual.clock
    router.began = clock.now() + 3
    assert replicas.run("up", "--yes") == 0, replicas.err
    assert clock.now() >= router.began
    assert replicas.containers()[router.name] == router.id


def test_only_the_replica_that_is_gone_is_started(replicas: Cluster):
    before = replicas.containers()
    replicas.virtual.connect("host2").run(("docker", "rm", "--force", "ropeway-rehearsal-1-0"))
    status = replicas.json("status")
    assert (status["ok"], status["missing"]) == (False, ["ropeway-rehearsal-1-0"])
    assert replicas.run("up", "--yes") == 0, replicas.err
    after = replicas.containers()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"ropeway-rehearsal-1-0"}


@pytest.mark.parametrize("number", ["0", "1"])
def test_one_replica_is_restarted_alone(number: str, replicas: Cluster):
    """Also beside the router, and where another replica is gone."""
    other = 1 - int(number)
    gone = ("docker", "rm", "--force", f"ropeway-rehearsal-{other}-0")
    replicas.virtual.connect(f"host{other + 1}").run(gone)
    restarted = replicas.json("restart", "--replica", number)["restarted"]
    assert restarted == [f"ropeway-rehearsal-{number}-0"]
    assert replicas.run("restart", "--replica", "9") == 2
    assert f"replica 9 is not running\n\nhint: those that are: {number}\n" in replicas.err


def test_a_host_that_the_spec_drops_is_not_forgotten(replicas: Cluster):
    before = replicas.containers()
    first, second = replicas.spec.cluster.hosts or ()
    replicas.change("cluster", hosts=(first,))
    replicas.serve(replicas=1)
    assert replicas.run("up", "--yes") == 2
    assert "`rehearsal` runs on host2 too" in replicas.error
    assert replicas.containers() == before
    assert replicas.json("status")["replicas"] == 2
    renamed = first.model_copy(update={"address": "192.168.0.1"})
    replicas.change("cluster", hosts=(renamed, second))
    replicas.serve(replicas=2)
    assert replicas.run("up", "--yes") == 0, "it is there under another name"
    replicas.change("cluster", hosts=(second,))
    assert replicas.run("down") == 0
    assert replicas.remains() == []


def test_a_port_of_ours_excuses_no_stranger_on_another_host(replicas: Cluster):
    state = replicas.virtual.state("host2")
    state.machine = replace(state.machine, ports={8000: "nginx"})
    replicas.change("cluster", hosts=tuple(reversed(replicas.spec.cluster.hosts or ())))
    assert replicas.run("up", "--yes") == 1
    assert "port 8000 is in use on host2" in replicas.error


def test_a_dead_host_keeps_no_other_up(replicas: Cluster):
    state = replicas.virtual.state("host2")
    alive, state.machine = state.machine, replace(state.machine, failure="No route to host")
    assert replicas.run("down") == 1
    assert "host2: there is no route to the host" in replicas.error
    assert replicas.last_audit()["outcome"].startswith("failed: ")
    state.machine = alive
    assert {line.partition(":")[0] for line in replicas.remains()} == {"host2"}
    [command] = [line for line in replicas.error.splitlines() if "ropeway down" in line]
    assert replicas.run(*command.split()[1:], spec=False) == 0
    assert replicas.remains() == []


@pytest.mark.parametrize("verb", [("status",), ("logs",), ("exec", "true")])
def test_what_runs_on_dead_hosts_is_not_known(verb: tuple[str, ...], replicas: Cluster):
    for host in replicas.fleet.machines:
        replicas.virtual.state(host.name).machine = replace(host, failure="No route to host")
    assert replicas.run(*verb) == 1
    assert "is not known: 2 of 2 hosts did not answer" in replicas.out + replicas.err


def test_what_ended_before_the_lock_was_ours_is_not_restarted(replicas: Cluster):
    def end(command: IssuedCommand) -> None:
        if command.script == LOCK and command.host == "host2":
            replicas.virtual.state("host2").engine.answer(
                ("rm", "--force", "ropeway-rehearsal-1-0"), lambda _: None
            )

    replicas.virtual.on_command = end
    assert replicas.run("restart") == 2
    assert "`ropeway-rehearsal-1-0` is gone" in replicas.error


def test_logs_follow_all_hosts_in_the_order_of_time(cluster: Make, monkeypatch):  # noqa: F811
    """Lines that are written while we follow; the head starts anew meanwhile."""
    two = cluster()
    two.pace(start=1.0)
    two.serve(backend="ray")
    assert two.run("up") == 0
    engines = [two.virtual.state(host).engine for host in ("host1", "host2")]
    (head,), (worker,) = (engine.every for engine in engines)
    sleeps: Counter[int] = Counter()
    followers: set[int] = set()

    def sleep(seconds: float, sleep: Callable[[float], None] = two.virtual.clock.sleep) -> None:
        sleeps[threading.get_ident()] += 1
        sleep(seconds)

    def restart_and_end() -> None:
        # A thread has slept on the way to its host, and then once it has read the log so far.
        wait_for(lambda: sum(sleeps[thread] > 1 for thread in followers) == 2, what="followers")
        engines[0].answer(("restart", "--time", "1", head.name), lambda _: None)
        wait_for(lambda: engines[0].log(head)[-1][1] == FIRST_TOKEN, what="a second token")
        for engine, container in zip(engines, (head, worker), strict=True):
            engine.answer(("stop", container.name), lambda _: None)

    def note(command: IssuedCommand) -> None:
        if "--follow" in command.argv:
            followers.add(threading.get_ident())
            if command.host == "host2":
                worker.past.append((two.virtual.clock.now(), "said before we follow"))

    two.virtual.on_command = note
    monkeypatch.setattr(two.virtual.clock, "sleep", sleep)
    thread = threading.Thread(target=restart_and_end)
    thread.start()
    assert two.run("logs", "-n", "0", "--follow") == 0
    thread.join()
    texts = [line.partition(" | ")[2] for line in two.out.splitlines()]
    joined = next(text for text in texts if text.startswith("ropeway: Ray has all hosts"))
    assert texts.index(joined) < texts.index(FIRST_TOKEN)
    assert (texts.count("said before we follow"), texts.count(FIRST_TOKEN)) == (1, 1)


FIRST_TOKEN = "ropeway: the first token is there"
SECRET = "s3cr3t-0f-the-endpoint"
OTHER = "pin-9-of-the-hub"


@pytest.fixture
def guarded(cluster: Make, monkeypatch) -> Cluster:  # noqa: F811
    """Up with secrets: one for the endpoint, one by a name that tells nobody what it is."""
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("HUB_PIN", OTHER)
    line = f"INFO said to the hub: pin {OTHER}, Authorization: Bearer {SECRET}"
    two = cluster(
        fleet_with(host1=LaunchFaults(says=(line, "INFO api_key=sk-0123456789abcdef0123")))
    )
    two.serve(api_key_env="MY_KEY", secret_env=["HUB_PIN"], address="0.0.0.0")
    assert two.run("up", "-vv") == 0, two.err
    return two


def test_a_secret_is_in_files_of_mode_600_and_nowhere_else(guarded: Cluster):
    spoken = guarded.out + guarded.err
    assert SECRET not in spoken
    assert OTHER not in spoken
    for command in guarded.virtual.commands:
        assert not any(SECRET in word or OTHER in word for word in command.argv), command.argv[:3]
    for name, text in guarded.logs().items():
        assert SECRET not in text, name
        assert OTHER not in text, name
    for host in ("host1", "host2"):
        site = guarded.virtual.state(host)
        for one in site.engine.every:
            assert SECRET not in json.dumps(dict(one.labels))
        holding = {path for path, content in site.files.items() if SECRET.encode() in content}
        assert holding == {f"/var/lib/ropeway/rehearsal/ropeway-rehearsal-0-{int(host[-1]) - 1}.secrets"}  # fmt: skip  # noqa: E501
        assert {site.modes[path] for path in holding} == {0o600}
        assert all(OTHER.encode() in site.files[path] for path in holding)
    guarded.json("status")
    assert SECRET not in guarded.out
    assert guarded.run("down") == 0
    assert guarded.remains() == []


def test_a_bundle_has_everything_but_secrets(guarded: Cluster):
    assert guarded.run("bundle", "-o", "help.zip") == 0, guarded.err
    with zipfile.ZipFile(guarded.folder / "help.zip") as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {
        "versions.txt", "spec.yaml", "containers.json", "facts/host1.txt", "host2/audit.log",
        "host1/ropeway-rehearsal-0-0.log",
    } <= parts.keys()  # fmt: skip
    assert "said to the hub" in parts["host1/ropeway-rehearsal-0-0.log"]
    for name, text in parts.items():
        assert SECRET not in text, name
        assert OTHER not in text, name
        assert "sk-0123456789abcdef0123" not in text, name
    # Support from afar: the same cluster, examined from the file alone.
    assert guarded.run("doctor", "--bundle", "help.zip") == 0
    assert "`rehearsal` is up: what its containers hold" in guarded.err
    assert guarded.run("doctor", "--bundle", "help.zip", "--json") == 0
    seen = json.loads(guarded.out)
    assert not {"npu-container", "host-ports"} & {one["check"] for one in seen["findings"]}
    assert (seen["hosts"], seen["answered"], seen["npus"]) == (2, 2, 16)
    assert "model" in seen["passed"] and "network" not in seen["passed"]


@pytest.mark.parametrize("silent", [("host2",), ("host1", "host2")])
def test_a_bundle_without_some_hosts_is_written_and_says_so(silent, cluster: Make):  # noqa: F811
    two = cluster(fleet_with(*(f"host-down:{host}" for host in silent)))
    assert two.run("bundle", "-o", "help.zip") == 1
    assert f"{2 - len(silent)} of 2 hosts answered" in two.err
    for host in silent:
        assert f"warning: {host}: " in two.err
    with zipfile.ZipFile(two.folder / "help.zip") as archive:
        assert {f"facts/{host}.error.txt" for host in silent} <= set(archive.namelist())


@pytest.mark.parametrize("verb", [("exec", "ls"), ("restart",), ("bundle",)])
def test_in_a_folder_without_a_spec_that_is_what_is_said(verb: tuple[str, ...], cluster: Make):  # noqa: F811
    two = cluster()
    assert two.run(*verb, spec=False) == 2
    assert "there is no `ropeway.yaml` here" in two.error
    assert "--host root@" in two.error
    assert two.run(*verb[:1], "--local", *verb[1:], spec=False) == 2
    assert "is for services on real hosts" in two.error


@pytest.mark.parametrize("size", ["1x8-910B4", "2x16-910C", "5x4-910B2"])
def test_every_fleet_has_a_service_of_its_own(size: str, cluster: Make):  # noqa: F811
    fleet = fleet_with(size=size)
    many = cluster(fleet)
    many.write(rehearsal_spec(fleet))
    assert many.run("up") == 0, many.err
    assert len(many.containers()) == len(fleet.machines)


@pytest.mark.parametrize("backend", ["ray", "mp"])
@pytest.mark.parametrize("layout", ["TP16", "TP8×PP2", "DP2×TP8+EP", "DP4×TP4"])
def test_hosts_find_each_other_in_every_way(layout: str, backend: str, cluster: Make):  # noqa: F811
    """The scripts meet where each expects it: an address or port that differs never gets up."""
    two = cluster()
    two.serve(layout=layout, backend=backend, start_timeout=3)
    assert two.run("up") == 0, two.err


def test_while_up_runs_nobody_else_can(cluster: Make):  # noqa: F811
    two = cluster()
    refused: list[str] = []

    def second(command: IssuedCommand) -> None:
        if not command.starts_containers or command.host != "host1":
            return
        try:
            with locked([two.virtual.connect("host1")], Author("li@laptop", "b" * 12, "now")):
                refused.append("it was let in")
        except CheckFailed as error:
            refused.append(str(error))

    two.virtual.on_command = second
    assert two.run("up") == 0
    [words] = refused
    assert "has been changing what runs on this host since 20" in words
    assert "@" in words.split()[0]

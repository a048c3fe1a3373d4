"""A push without hosts: what it does about pieces that arrive, fail, or arrive changed."""

from dataclasses import dataclass, field

import pytest

from ropeway.errors import HostError, Refused
from ropeway.hosts.base import Result
from ropeway.hosts.child import sleep_cancellable
from ropeway.hosts.ssh import SshHost
from ropeway.weights import scripts, transfers
from ropeway.weights.plan import plan_push
from ropeway.weights.push import Progress, push
from ropeway.weights.survey import Peer
from test_weights import GIB, LINE, MODEL
from test_weights import peer as any_peer

NAMES = {
    getattr(scripts, name).strip(): name.lower()
    for name in ("AUTHORIZE", "DISCARD", "GENERATE_KEY", "HASH", "HOLD", "PUBLISH", "REVOKE")
}
KEY = "ssh-ed25519 AAAA ropeway-push-12"


@dataclass(frozen=True)
class Scripted(SshHost):
    """A host that answers at once, and writes down what it was asked.

    fails        script, or "rsync" → its exit code and output
    unreachable  part of the address to which alone rsync fails
    content      name → sha256 of the files there, where it is not that of everyone else
    """

    fails: dict[str, tuple[int, str]] = field(default_factory=dict)
    unreachable: str = ""
    content: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def run(self, argv, *, stdin=b"", on_line=None, **_):
        words = argv[2:] if argv[:2] == ("env", "LC_ALL=C") else argv
        name = NAMES[words[2].strip()] if words[0] == "sh" else words[0]
        self.calls.append(" ".join([name, *stdin.decode().split("\0")]).strip())
        if name in self.fails and self.unreachable in (*argv, ""):
            code, output = self.fails[name]
            return Result(argv, code, output, output, 0.1)
        if name == "hold":
            on_line("ready")
            while True:
                sleep_cancellable(60)
        output = ""
        if name == "generate_key":
            output = f"public {KEY}\0line {LINE}\0keys ssh-ed25519 BBBB\0"
        if name == "hash":
            files = [path.rpartition("/")[2] for path in words[4:]]
            output = "".join(f"{self.content.get(file, f'sha-{file}')}\n" for file in files)
        return Result(argv, 0, output, "", 0.1)

    def put(self, _content, path, **_):
        self.calls.append(f"put {path.rpartition('/')[2]}")


def peer(number: int, *, files=None, **other) -> Peer:
    name = f"npu{number}"
    host = Scripted(name, name, f"/nowhere/{name}", **other)
    return any_peer(name, host=host, files=files or {})


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(transfers, "_PAUSE", 0.0)


def calls(peer: Peer, word: str) -> list[str]:
    return [line for line in peer.host.calls if line.split()[0] == word]


def test_everything_arrives_and_every_key_is_revoked():
    plan = plan_push(peer(0, files=MODEL), [peer(1), peer(2)])
    progress: list[Progress] = []
    result = push(plan, who="me", on_progress=progress.append)
    assert result.errors == ()
    assert result.sha256 == {name: f"sha-{name}" for name in MODEL}
    assert [one.received_bytes for one in result.deliveries] == [plan.size, plan.size]
    sends = sum(len(calls(one, "rsync")) for one in plan.peers)
    assert sends == 2 * len(plan.pieces)
    for one in plan.receivers:
        assert calls(one, "publish") == ["publish a.safetensors b.safetensors config.json"]
    assert calls(plan.source, "publish") == []
    assert all(one.host.calls[-1] == "revoke" for one in plan.peers)
    assert {step.total for step in progress} == {2 * plan.size}


def test_what_is_there_already_is_hashed_and_not_sent():
    plan = plan_push(peer(0, files=MODEL), [peer(1, files=MODEL), peer(2)])
    assert push(plan, who="me").deliveries[0].received_bytes == 0
    assert calls(plan.receivers[0], "publish") == ["publish"]


def test_a_file_that_differs_is_sent_again_into_the_stage():
    wrong = peer(1, files=MODEL, content={"a.safetensors": "other"})
    plan = plan_push(peer(0, files=MODEL), [wrong])
    faults = []

    def mend(fault: str) -> None:
        faults.append(fault)
        wrong.host.content.clear()

    result = push(plan, who="me", on_fault=mend)
    assert result.errors == ()
    assert result.deliveries[0].received_bytes == 4 * GIB
    assert len(faults) == 1
    assert "a.safetensors" in faults[0]
    assert calls(wrong, "discard") == []  # it was in the folder, which stays until all is verified
    assert calls(wrong, "publish") == ["publish a.safetensors"]


def test_a_file_that_always_arrives_changed_ends_that_host_alone():
    broken = peer(1, content={"a.safetensors": "other"})
    plan = plan_push(peer(0, files=MODEL), [broken, peer(2)])
    faults = []
    result = push(plan, who="me", on_fault=faults.append)
    assert [one.error is None for one in result.deliveries] == [False, True]
    assert "npu1" in result.deliveries[0].error.hint
    assert len(faults) == 3
    assert calls(broken, "discard") == ["discard a.safetensors"] * 4
    assert calls(broken, "publish") == []


def test_a_transfer_that_fails_twice_goes_another_way():
    source = peer(0, files=MODEL, fails={"rsync": (12, "no")}, unreachable="ropeway-1:.")
    plan = plan_push(source, [peer(1), peer(2)])
    faults = []
    result = push(plan, who="me", on_fault=faults.append)
    assert result.errors == ()
    assert result.deliveries[0].received_bytes == plan.size
    assert len([fault for fault in faults if "npu1" in fault]) == 2


@pytest.mark.parametrize(
    ("ends", "tries"), [((12, "no"), 2), ((11, "write failed: No space left on device"), 1)]
)
def test_a_receiver_that_nobody_reaches_is_dropped_and_one_whose_disk_is_full_at_once(ends, tries):
    plan = plan_push(peer(0, files=MODEL, fails={"rsync": ends}), [peer(1)])
    result = push(plan, who="me")
    assert len(calls(plan.source, "rsync")) == tries
    assert result.errors
    assert result.deliveries[0].error.where == "npu0"


@pytest.mark.parametrize(
    ("fails", "word"),
    [
        ({"hold": (75, "held somebody, since 2030")}, "another push"),
        ({"hold": (1, "mkdir: no")}, "prepare"),
        ({"hold": (0, "")}, "too early"),
        ({"generate_key": (1, "no")}, "key"),
        ({"authorize": (1, "no")}, "let the other"),
        ({"hash": (1, "no")}, "hash"),
        ({"publish": (1, "no")}, "into place"),
    ],
)
def test_a_host_on_which_a_step_fails_is_named_and_the_other_goes_on(fails, word):
    plan = plan_push(peer(0, files=MODEL), [peer(1, fails=fails), peer(2)])
    result = push(plan, who="me")
    assert [one.error is None for one in result.deliveries] == [False, True]
    assert word in result.deliveries[0].error.what
    assert result.deliveries[0].error.where.startswith("npu1")


@pytest.mark.parametrize("script", ["hold", "hash", "generate_key"])
def test_a_source_that_fails_ends_the_push_and_the_keys_are_revoked(script):
    plan = plan_push(peer(0, files=MODEL, fails={script: (1, "no")}), [peer(1), peer(2)])
    with pytest.raises(HostError) as caught:
        push(plan, who="me")
    assert caught.value.where == "npu0"
    assert all(one.host.calls[-1] == "revoke" for one in plan.peers)


def test_a_file_that_the_source_cannot_read_is_named():
    plan = plan_push(peer(0, files=MODEL, content={"b.safetensors": "-"}), [peer(1)])
    with pytest.raises(HostError, match=r"b\.safetensors"):
        push(plan, who="me")


def test_a_key_that_cannot_be_revoked_is_reported_with_the_command_that_does_it():
    plan = plan_push(peer(0, files=MODEL), [peer(1, fails={"revoke": (1, "no")}), peer(2)])
    leftovers = []
    assert push(plan, who="me", on_leftover=leftovers.append).errors == ()
    assert [one.host for one in leftovers] == ["npu1"]
    assert leftovers[0].command.startswith("ssh npu1 ")
    assert "authorized_keys" in leftovers[0].command


def test_more_hosts_than_this_machine_can_hold_are_refused_before_anything_is_touched(monkeypatch):
    monkeypatch.setattr("ropeway.hosts.fleet.max_parallel", lambda: 4)
    plan = plan_push(peer(0, files=MODEL), [peer(1), peer(2)])
    with pytest.raises(Refused, match="limit of open files"):
        push(plan, who="me")
    assert [one.host.calls for one in plan.peers] == [[], [], []]


def test_progress_in_words():
    half = Progress(GIB // 2, GIB, GIB / 4, 1)
    assert str(half) == "512.0 MiB of 1.0 GiB, 256.0 MiB/s, 2.0 s left, 1 sending"
    assert str(Progress(0, GIB, 0.0, 2)) == "0 B of 1.0 GiB, 2 sending"
    whole = Progress(GIB, GIB, GIB / 4, 0)
    assert str(whole) == "1.0 GiB of 1.0 GiB, 256.0 MiB/s, comparing hashes"

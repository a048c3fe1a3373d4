"""Distribution, the pure part: who sends what to whom, and which commands do it."""

import math
import random
import shlex
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from children import FILE_NAME
from ropeway.cli.main import exit_code
from ropeway.errors import HostError, Refused
from ropeway.facts.host import HostFacts, ModelFiles, Nic
from ropeway.hosts.base import Command, shell_line
from ropeway.hosts.local import LocalHost
from ropeway.hosts.ssh import SshHost
from ropeway.weights.commands import Destination, send_argv, send_from_here_argv
from ropeway.weights.dry_run import forecast, steps
from ropeway.weights.plan import File, in_publishing_order, obstacle, plan_push, split
from ropeway.weights.schedule import Faults, SwarmState, Transfer, choose_transfers, simulate
from ropeway.weights.scripts import HASH, SURVEY, TOOLS
from ropeway.weights.source import choose_source, folders
from ropeway.weights.survey import Peer, check_tools, parse_peer
from ropeway.weights.trust import authorized_line, known_hosts_lines, parse_server, receive_script

GIB = 2**30


def fresh(hosts: int, sizes: tuple[int, ...]) -> SwarmState:
    """The first host has everything, the others nothing."""
    names = [f"npu{number}" for number in range(hosts)]
    every = frozenset(range(len(sizes)))
    has = {name: every if name == "npu0" else frozenset() for name in names}
    return SwarmState(sizes, has, dict.fromkeys(names[1:], every))


def peer(name: str, **other: object) -> Peer:
    """A host with a place for the model."""
    fields = {
        "host": SshHost(name, name, f"/nowhere/{name}"),
        "root": "/data/m",
        "address": f"10.0.0.{int(name[-1]) + 1}",
        "port": 22,
        "user": "root",
        "openssh": (9, 2),
        "tools": {tool: f"/usr/bin/{tool}" for tool in TOOLS},
        "free": 1000 * GIB,
        "writable": True,
    }
    return Peer(**{**fields, **other})


MODEL = {"config.json": 900, "a.safetensors": 4 * GIB, "b.safetensors": 3 * GIB}


@st.composite
def states(draw: st.DrawFn) -> SwarmState:
    """Any cluster, of which some have something already, with some ways barred but the source's."""
    count = draw(st.integers(2, 12))
    sizes = tuple(draw(st.lists(st.integers(1, 50), min_size=1, max_size=20)))
    state = fresh(count, sizes)
    names = list(state.has)
    for name in names[1:]:
        for piece in draw(st.sets(st.sampled_from(range(len(sizes))))):
            state = state.gain(name, piece)
    ways = st.tuples(st.sampled_from(names[1:] or names), st.sampled_from(names[1:] or names))
    for sender, receiver in draw(st.sets(ways)):
        state = state.bar(sender, receiver)
    return state


@given(state=states(), seed=st.integers(0, 10))
def test_everybody_gets_all_once_and_never_two_at_a_time(state, seed):
    chance = random.Random(seed)
    done = list(simulate(state, lambda one: state.sizes[one.piece] * chance.uniform(0.5, 2)))
    got = {name: [one.piece for *_, one in done if one.receiver == name] for name in state.wants}
    assert {name: sorted(pieces) for name, pieces in got.items()} == {
        name: sorted(missing) for name, missing in state.wants.items()
    }
    arrived = {(name, piece): 0.0 for name, held in state.has.items() for piece in held}
    arrived.update({(one.receiver, one.piece): end for _, end, one in done})
    for begin, end, one in done:
        assert (one.sender, one.receiver) not in state.barred
        assert arrived[one.sender, one.piece] <= begin
        for other_begin, other_end, other in done:
            if other != one and other_begin < end and begin < other_end:
                assert one.sender != other.sender
                assert one.receiver != other.receiver


@given(state=states(), chance=st.randoms(use_true_random=False))
def test_ends_foreseen_or_failures_change_nothing_of_that(state, chance):
    """Transfers end in any order, some are said to end soon, some fail."""
    while any(state.wants.values()):
        for one in choose_transfers(state):
            assert one not in state.running
            assert one.piece in state.has[one.sender]
            assert one.piece in state.wants[one.receiver]
            state = state.begin(one)
        assert state.running
        for side in ("sender", "receiver"):
            busy = Counter(getattr(one, side) for one in state.running - state.ending)
            assert max(busy.values(), default=0) <= 1
        coming = Counter((one.receiver, one.piece) for one in state.running)
        assert max(coming.values()) == 1
        if chance.random() < 0.5:
            state = state.mark_ending(chance.choice(sorted(state.wants)))
        over = chance.choice(sorted(state.running))
        state = state.end(over, arrived=chance.random() < 0.8)


@given(hosts=st.integers(2, 24), count=st.integers(1, 40))
def test_all_copies_take_little_more_than_one(hosts, count):
    optimum = count + math.ceil(math.log2(hosts)) - 1
    rounds = max(end for _, end, _ in simulate(fresh(hosts, (1,) * count), lambda _: 1.0))
    # A quarter more, and of very few files one round more: 2 files to 4 hosts take 4 rounds, not 3.
    assert optimum <= rounds <= max(optimum + 1, 1.25 * optimum)


@pytest.mark.parametrize(
    ("hosts", "count", "most"),
    [
        (2, 16, 16),
        (8, 24, 28),
        (64, 16, 24),
        pytest.param(64, 163, 185, marks=pytest.mark.slow),
    ],
)
def test_rounds_of_real_clusters(hosts, count, most):
    """163 shards are DeepSeek-V3's, 16 Qwen3-30B-A3B's."""
    state = fresh(hosts, (1,) * count)
    assert max(end for _, end, _ in simulate(state, lambda _: 1.0)) <= most


def test_one_slow_host_does_not_make_all_slow():
    state = fresh(6, (10,) * 20)
    done = list(
        simulate(state, lambda one: 100.0 if "npu3" in (one.receiver, one.sender) else 10.0)
    )
    others = max(end for _, end, one in done if one.receiver != "npu3")
    assert others <= 1.8 * 20 * 10  # it takes 2000 itself


def test_a_failed_host_is_done_without():
    state = fresh(4, (1, 1, 1)).without("npu2")
    assert {one.receiver for *_, one in simulate(state, lambda _: 1.0)} == {"npu1", "npu3"}
    late = state.end(Transfer("npu0", "npu2", 0), arrived=True)
    assert "npu2" not in late.has


def test_the_source_sends_every_piece_before_any_twice():
    state = fresh(8, (1,) * 30)
    sent = [one.piece for *_, one in simulate(state, lambda _: 1.0) if one.sender == "npu0"]
    assert len(set(sent[:30])) == 30


def test_a_failing_pair_is_barred_and_a_dead_host_given_up():
    one, faults = Transfer("a", "b", 0), Faults()
    faults = faults.after(one, arrived=False)
    assert not faults.bars(one)
    assert not faults.after(one, arrived=True).after(one, arrived=False).bars(one)
    assert faults.after(one, arrived=False).bars(one)
    for sender in "acdef":
        assert not faults.gives_up("b")
        faults = faults.after(Transfer(sender, "b", 0), arrived=False)
    assert faults.gives_up("b")


def test_the_next_begins_when_one_is_about_to_end_and_no_third():
    state = fresh(2, (9, 8, 7))
    assert choose_transfers(state) == (Transfer("npu0", "npu1", 0),)
    state = state.begin(Transfer("npu0", "npu1", 0))
    assert choose_transfers(state) == ()
    state = state.mark_ending("npu1")
    assert choose_transfers(state) == (Transfer("npu0", "npu1", 1),)
    state = state.begin(Transfer("npu0", "npu1", 1))
    assert choose_transfers(state.mark_ending("npu1")) == ()
    state = state.end(Transfer("npu0", "npu1", 0), arrived=True)
    assert choose_transfers(state) == ()
    state = state.mark_ending("npu1")
    assert choose_transfers(state) == (Transfer("npu0", "npu1", 2),)
    state = state.begin(Transfer("npu0", "npu1", 2))
    state = state.end(Transfer("npu0", "npu1", 1), arrived=True).mark_ending("npu1")
    assert choose_transfers(state) == ()  # the last one is on its way, and not sent twice
    assert choose_transfers(fresh(2, (1,)).bar("npu0", "npu1")) == ()  # nothing can go


@given(st.lists(st.integers(0, 40 * 2**20), max_size=60))
def test_every_file_is_in_one_piece(sizes):
    files = [File(f"{number}", size) for number, size in enumerate(sizes)]
    pieces = split(files)
    assert sorted(file.name for piece in pieces for file in piece.files) == sorted(
        file.name for file in files
    )
    for piece in pieces:
        assert len(piece.files) == 1 or piece.size <= 64 * 2**20


def test_small_files_go_together_and_long_names_apart():
    files = [File("a.safetensors", GIB), *(File(f"{n}.json", 9) for n in range(20))]
    assert [len(piece.files) for piece in split(files)] == [1, 20]
    long = [File(f"{number:03}{'x' * 4000}", 1) for number in range(9)]
    assert [len(piece.files) for piece in split(long)] == [4, 4, 1]


def test_config_json_takes_its_place_last():
    assert in_publishing_order({"config.json", "a", "z"}) == ("a", "z", "config.json")


def test_what_lies_there_in_its_size_is_not_sent_but_hashed():
    half = {"a.safetensors": 4 * GIB, "b.safetensors": GIB}
    plan = plan_push(peer("npu0", files=MODEL), [peer("npu1", staged=half), peer("npu2")])
    claimed = {one.name: plan.claimed(one) for one in plan.receivers}
    names = [piece.files[0].name for piece in plan.pieces]
    assert [names[number] for number in claimed["npu1"]] == ["a.safetensors"]
    assert claimed["npu2"] == frozenset()
    assert plan.bytes_to_get(plan.receivers[0]) == 2 * GIB + 900
    state = plan.initial_state()
    assert state.has["npu1"] == frozenset()
    assert len(state.wants["npu1"]) == 2


def test_longer_than_the_file_is_no_beginning_of_it_and_other_weights_are_named():
    staged = {"b.safetensors": 5 * GIB, "old": 1, "config.json": 900}
    receiver = peer("npu1", staged=staged, files={"c.safetensors": 1, "notes.txt": 1})
    plan = plan_push(peer("npu0", files=MODEL), [receiver])
    assert plan.stale(receiver) == ("b.safetensors", "old")
    assert plan.bytes_to_get(receiver) == 7 * GIB
    assert plan.extra(receiver) == ("c.safetensors",)


def test_a_host_with_too_little_room_or_no_leave_to_write_is_named():
    plan = plan_push(peer("npu0", files=MODEL), [peer("npu1"), peer("npu2", free=7 * GIB + 2**20)])
    assert obstacle(plan, plan.receivers[0]) is None
    assert obstacle(plan, plan.receivers[1]).what == (
        "needs 7.0 GiB for the model and has 7.0 GiB free"
    )
    closed = obstacle(plan, peer("npu3", writable=False))
    assert (closed.what, closed.where) == ("`root` may not write there", "npu3:/data/m")


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (ModelFiles("/m", there=True, sizes=MODEL), None),
        (ModelFiles("/m", there=False), "is not there"),
        (ModelFiles("/m", there=True), "has no weights"),
        (ModelFiles("/m", there=True, sizes=MODEL, missing=("x", "y")), "lacks x and 1 more"),
        (ModelFiles("/m", there=True, sizes=MODEL, short={"x": (1000, 2000)}),
         "has 1,000 of the 2,000 bytes of x"),
        (ModelFiles("/m", there=True, sizes={"config.json": 1}), "has no weights"),
        (ModelFiles("/m", there=True, sizes={"a.safetensors": 1}), "has no config.json"),
    ],
)  # fmt: skip
def test_only_a_whole_checkpoint_has_no_fault(model, fault):
    assert model.fault == fault
    facts = HostFacts("npu0", "npu0", model=model)
    assert parse_peer(LocalHost("npu0"), "/m", "", facts, None).fault == fault


def test_the_first_host_that_has_it_whole_is_the_source(tmp_path):
    peers = [peer("npu0", fault="is not there"), peer("npu1"), peer("npu2")]
    assert choose_source(None, peers, tmp_path, "/m") == (peers[1], (peers[0], peers[2]))
    assert choose_source("npu2", peers, tmp_path, "/m") == (peers[2], (peers[0], peers[1]))


@pytest.mark.parametrize(
    ("source", "where", "word"),
    [(None, "/m", "npu0: is not there"), ("npu0", "npu0:/m", "is not there"),
     ("npu7", None, "npu0"), ("here", "HERE", "is not there")],
)  # fmt: skip
def test_a_source_without_the_model_is_refused(tmp_path, source, where, word):
    here = tmp_path / "none"
    with pytest.raises(Refused) as caught:
        choose_source(source, [peer("npu0", fault="is not there")], here, "/m")
    error = caught.value
    assert error.where == (str(here) if where == "HERE" else where)
    assert word in " ".join((error.what, *error.evidence, error.hint or ""))


def test_this_machine_is_the_source_when_only_it_has_the_model_under_this_path(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_text("x")
    peers = [peer("npu0", fault="is not there")]
    source, receivers = choose_source(None, peers, tmp_path, str(tmp_path))
    assert (source.host, receivers) == (LocalHost("this machine"), tuple(peers))
    assert source.files == {"config.json": 2, "model.bin": 1}


@pytest.mark.parametrize(
    ("path", "source", "to", "root"),
    [("/a/../b//c", None, None, "/b/c"), ("/a", "here", "//b/", "/b")],
)
def test_the_folder_on_the_hosts(path, source, to, root):
    assert folders(path, source, to) == (Path(path), root)


@pytest.mark.parametrize(
    ("path", "source", "to"),
    [("/", None, None), ("/a\0b", None, None), ("/a", "here", "b"), ("/a", "npu0", "/b"),
     ("/a", None, "/b")],
)  # fmt: skip
def test_what_cannot_be_a_models_folder_is_refused(path, source, to):
    with pytest.raises(Refused):
        folders(path, source, to)


def test_hosts_without_a_tool_are_named_in_one_error():
    bare = {tool: "" if tool == "rsync" else "/bin/x" for tool in TOOLS}
    with pytest.raises(Refused) as caught:
        check_tools([peer("npu0"), peer("npu1", tools=bare), peer("npu2", tools=bare)])
    assert caught.value.what == "2 hosts lack `rsync`"
    assert caught.value.evidence == ("npu1: no rsync", "npu2: no rsync")
    assert "rsync: the package rsync" in caught.value.hint


def test_the_address_between_hosts():
    nics = (Nic("eth0", ("10.0.0.1",), 1500, True), Nic("bond0", ("172.16.0.1",), 9000, True))
    facts = HostFacts("npu0", "npu0.lan", nics=nics, default_nic="eth0")
    host = LocalHost("npu0")
    assert parse_peer(host, "/m", "", facts, None).address == "10.0.0.1"
    assert parse_peer(host, "/m", "", facts, "bond0").address == "172.16.0.1"
    with pytest.raises(Refused) as caught:
        parse_peer(host, "/m", "", facts, "bond1")
    assert caught.value.what == "`bond1` does not exist on npu0"
    assert caught.value.evidence == ("eth0: 10.0.0.1", "bond0: 172.16.0.1")
    alone = HostFacts("npu0", "npu0.lan")
    assert parse_peer(host, "/m", "", alone, None).address == "npu0.lan"
    two = (Nic("eth0", ("10.0.0.1", "10.0.0.2"), 1500, True),)
    several = replace(facts, address="10.0.0.2", nics=two)
    assert parse_peer(host, "/m", "", several, "eth0").address == "10.0.0.2"


@given(name=FILE_NAME, folder=FILE_NAME)
def test_the_survey_reads_any_name_and_leaves_dots_out(tmp_path_factory, name, folder):
    root = tmp_path_factory.mktemp("model") / f"r{folder}"
    staging = root / ".ropeway-push"
    staging.mkdir(parents=True)
    (root / ".git").mkdir()
    for place in (root / f"x{name}", root / ".git/x", staging / f"-{name}", staging / ".lock"):
        place.write_text("four")
    result = LocalHost().run(("sh", "-c", SURVEY, "sh", str(root), *TOOLS))
    parsed = parse_peer(LocalHost(), str(root), result.stdout, HostFacts("x", "127.0.0.1"), None)
    assert parsed.files == {f"x{name}": 4}
    assert parsed.staged == {f"-{name}": 4}
    assert parsed.writable
    assert parsed.free > 0


@given(root=FILE_NAME, rsync=FILE_NAME)
def test_a_lent_key_runs_rsync_in_the_stage_and_nothing_else(tmp_path_factory, root, rsync):
    """Through a real shell: `rsync` is a program that says where it is and what it was given."""
    base = tmp_path_factory.mktemp("staging")
    staging = base / f"r{root}" / ".ropeway-push"
    staging.mkdir(parents=True)
    program = base / f"b{rsync}"
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$PWD" "$@"\n')
    program.chmod(0o755)
    script = base / "receive"
    script.write_text(receive_script(f"{base}/r{root}", str(program)))
    output = subprocess.run(
        ("sh", str(script), "tR", "LsfxCIvu", "--timeout=60", "--append"),
        capture_output=True, check=True, cwd="/",
    ).stdout.decode()  # fmt: skip
    assert output.split("\0")[:-1] == [
        str(staging), "--server", "-tRe.LsfxCIvu", "--timeout=60", "--append", ".", ".",
    ]  # fmt: skip


LINE = "peer rsync --server -tRe.LsfxCIvu --timeout=60 --append . ."


@pytest.mark.parametrize(
    "line",
    [
        "",
        LINE.replace("--append", "--append --remove-source-files"),
        LINE.replace("-tRe", "-ltRe"),  # links would let a sender write anywhere
        LINE.replace("-tRe", "-stRe"),  # the sender would choose_transfers the options
        LINE.replace("--server", "--server --sender"),
        LINE.replace(" . .", " . /etc"),
        LINE + "; id",
        LINE.replace("LsfxCIvu", 'x" ssh-rsa AAAA'),
        LINE + "\nssh-ed25519 AAAA evil",
    ],
)
def test_nothing_else_becomes_a_command_on_other_hosts(line):
    with pytest.raises(HostError) as caught:
        parse_server(line, "npu7")
    assert caught.value.where == "npu7"


def test_the_line_in_the_file_of_keys():
    server, public = parse_server(LINE, "a"), "ssh-ed25519 AAAAC3+/= ropeway-push-12ab"
    assert authorized_line("12ab", public, server, expires=True, where="a") == (
        'restrict,command="exec sh /tmp/ropeway-push.12ab/receive tR LsfxCIvu --timeout=60'
        ' --append",expiry-time="EXPIRY" ssh-ed25519 AAAAC3+/= ropeway-push-12ab\n'
    )
    assert "expiry" not in authorized_line("12ab", public, server, expires=False, where="a")
    for wrong in ("", f"{public}\n{public}", f'command="id" {public}'):
        with pytest.raises(HostError):
            authorized_line("12ab", wrong, server, expires=True, where="a")


def test_host_keys_are_known_by_the_name_of_this_push():
    peer = Destination(3, "10.0.0.4", 2222, "root")
    text = known_hosts_lines(peer, "ssh-ed25519 AAAA root@npu3\necdsa-sha2-nistp256 BBBB", "npu3")
    assert text == "ropeway-3 ssh-ed25519 AAAA\nropeway-3 ecdsa-sha2-nistp256 BBBB\n"
    with pytest.raises(HostError) as caught:
        known_hosts_lines(peer, "", "npu3")
    assert "ssh-keyscan -p 2222 10.0.0.4" in caught.value.hint


@given(source=FILE_NAME, address=st.sampled_from(["10.0.0.2", "fe80::1%eth0"]))
def test_rsync_takes_no_source_for_an_option_or_a_host(source, address):
    path = f"/data/{source}/./{source}"
    argv = send_argv("12ab", [path], Destination(1, address, 22, "root"))
    assert argv[-3:] == ("--", path, "ropeway-1:.")
    assert shlex.split(shell_line(Command(argv))) == list(argv)
    assert not any("secret" in word.lower() or "PRIVATE KEY" in word for word in argv)


def test_from_here_the_way_is_our_own():
    host = SshHost("npu1", "fe80::1", "/tmp/it's/0", port=2222)
    argv = send_from_here_argv(["/m/./a"], host, "/data/it's")
    assert argv[1] == """--rsync-path=cd '/data/it'"'"'s/.ropeway-push' && exec rsync"""
    assert argv[-1] == "[fe80::1]:."
    way = argv[argv.index("-e") + 1]
    assert way.startswith("ssh -S '/tmp/it''s/0' -o ControlMaster=auto")
    assert way.endswith("-p 2222")


def test_hashes_are_those_of_sha256(tmp_path):
    (tmp_path / "-a b").write_bytes(b"abc")
    paths = [f"{tmp_path}/-a b", f"{tmp_path}/none"]
    digests = LocalHost().run(("sh", "-c", HASH, "sh", *paths)).stdout.split()
    assert digests == ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "-"]


def test_a_dry_run_has_every_transfer_and_says_how_long_it_takes():
    receivers = [peer(f"npu{number}") for number in (1, 2, 3)]
    plan = plan_push(peer("npu0", files=MODEL), receivers)
    shown = steps(plan)
    sends = [step for step in shown if step.argv[0] == "rsync"]
    assert len(sends) == 3 * len(plan.pieces)
    assert {step.argv[-1] for step in sends} == {"ropeway-1:.", "ropeway-2:.", "ropeway-3:."}
    moves = [step.argv[-1] for step in shown if step.host == "npu2" and step.argv[0] == "mv"]
    assert moves[-1] == "/data/m/config.json"
    assert 1 <= forecast(plan) <= 2
    there = replace(receivers[0], files=MODEL)
    assert forecast(plan_push(plan.source, [there])) == 0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("path: /", "`/` cannot be a model's directory"),
        ("name: smollm2", "the spec has no `model.path`"),
    ],
)
def test_the_directory_is_the_specs_unless_one_is_named(
    model: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    hosts = "cluster: {hosts: [{address: 192.168.0.1, npus: 8}]}"
    Path("ropeway.yaml").write_text(f"model: {{{model}}}\n{hosts}\n", encoding="utf-8")
    assert exit_code(["model", "push"]) == 2
    assert said in capsys.readouterr().err

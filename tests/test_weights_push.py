"""`ropeway model push` for real: hosts with sshds of their own, rsync between them."""

import hashlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import two_hosts_files
from children import FILE_NAME, INTERRUPTIBLE
from json_documents import read_document
from local_cluster import ROPEWAY
from ropeway.weights import push as push_module
from ropeway.weights.commands import key_folder, send_argv
from ropeway.weights.plan import plan_push
from ropeway.weights.push import push
from ropeway.weights.survey import survey_host
from ropeway.weights.trust import authorize, generate_key, revoke
from two_hosts import Node, TwoHosts, why_not
from waiting import wait_for

pytestmark = pytest.mark.slow

MIB = 2**20
HOSTS = 3
MODEL = "/data/a model"
STAGING = f"{MODEL}/.ropeway-push"
KEYS = "/root/.ssh/authorized_keys"
OWNER = "ssh-ed25519 AAAA owner"
SHOWN = FILE_NAME.filter(lambda name: not name.startswith("."))

_MAKE = """
rm -rf "$1" && mkdir -p "$1/tokenizer" && cd "$1" || exit
for shard in 1 2 3; do head -c "$2" /dev/urandom >model-0000$shard.safetensors; done
echo "{}" >config.json; echo "{}" >tokenizer/vocab.json
ln -s model-00001.safetensors model-00004.safetensors
mkdir .cache && echo half >.cache/x.incomplete
"""
_LIST = 'cd "$1" 2>/dev/null && find . -type f -exec sha256sum {} + | sort -k 2'


def rsync() -> Path | None:
    """A program that hosts can run."""
    path = two_hosts_files.tool("rsync")
    return Path(path) if path else None


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    """Three hosts that do not trust each other; 200 Mbit/s between any two."""
    if reason := why_not(docker=False):
        pytest.skip(reason)
    program = rsync()
    if program is None:
        pytest.skip("no rsync: install it, or `scripts/get-docker .venv/docker`")
    with TwoHosts(HOSTS, npus=0, docker=False, bandwidth=25_000_000) as running:
        for node in running:
            furnish(node, program)
        yield running


def furnish(node: Node, program: Path) -> None:
    """rsync, and a file of keys in which somebody stands already."""
    node.run("mkdir", "-p", "/usr/local/bin")
    node.run("ln", "-sf", str(program), "/usr/local/bin/rsync")
    node.run("sh", "-c", f"mkdir -p /root/.ssh; printf '{OWNER}' >$1", "sh", KEYS)


@pytest.fixture
def model(hosts) -> Iterator[str]:
    """A small model on the first host: three shards, and one that is a link."""
    make(hosts, 2 * MIB)
    yield MODEL
    for node in hosts:
        node.run("rm", "-rf", MODEL)
        assert leftovers(node) == []


def make(hosts: TwoHosts, shard: int) -> None:
    """A model of other shards, of so many bytes."""
    hosts[0].run("sh", "-c", _MAKE, "sh", MODEL, str(shard))


def in_stage(node: Node) -> int:
    """The bytes in a host's staging folder; 0 as long as there is none."""
    script = 'du -sb "$1" 2>/dev/null | cut -f 1'
    return int(node.run("sh", "-c", script, "sh", STAGING).strip() or 0)


def is_held(node: Node) -> bool:
    """Whether a push has written down that it holds the staging folder."""
    return node.run("sh", "-c", '[ ! -s "$1" ] || echo held', "sh", f"{STAGING}/.lock") != ""


def leftovers(node: Node) -> list[str]:
    """What a push has left on a host: keys, files, processes."""
    keys = node.run("cat", KEYS).splitlines()
    assert OWNER in keys
    names = node.run("sh", "-c", "ls -d /tmp/ropeway-push* 2>/dev/null; ls -A /root/.ssh").split()
    processes = node.run("sh", "-c", "ps -eo args= | grep '[r]opeway-push' || true").splitlines()
    return [
        *(key for key in keys if key != OWNER),
        *(name for name in names if name != "authorized_keys"),
        *processes,
    ]


def in_tmp(node: Node) -> set[str]:
    """What there is in /tmp, but for a checkout there, which the hosts see in its place."""
    place = Path(__file__).parent.parent
    checkout = place.relative_to("/tmp").parts[0] if place.is_relative_to("/tmp") else ""
    return set(node.run("ls", "-A", "/tmp").split("\n")) - {"", checkout}


def content(node: Node, root: str = MODEL) -> str:
    """Every file and its hash."""
    return node.run("sh", "-c", f"({_LIST}) || true", "sh", root)


def expected(node: Node) -> str:
    """What a copy of the first host's model looks like: links are files, dots are left out."""
    lines = [line for line in content(node).splitlines() if "/.cache" not in line]
    first = next(line.split()[0] for line in lines if "00001" in line)
    lines.append(f"{first}  ./model-00004.safetensors")
    return "".join(f"{line}\n" for line in sorted(lines, key=lambda line: line[66:]))


def cli(hosts: TwoHosts, folder: Path, *words: str) -> "subprocess.Popen[str]":
    """The program itself, with a spec of these hosts."""
    spec = folder / "ropeway.yaml"
    lines = "".join(f"    - {{address: {node.name}, npus: 1}}\n" for node in hosts)
    spec.write_text(
        f"name: test\ncluster:\n  hosts:\n{lines}model:\n  path: {MODEL}\nserve: {{}}\n"
    )
    return subprocess.Popen(
        (*INTERRUPTIBLE, ROPEWAY, "model", "push", "-c", str(spec), *words),
        env=hosts.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def done(process: "subprocess.Popen[str]", code: int = 0) -> dict:
    """Its JSON document."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return read_document(out) if out else {}


def test_every_host_gets_the_same_and_nothing_else_stays(hosts, model, tmp_path):
    document = done(cli(hosts, tmp_path, model, "--json"))
    assert document["source"] == {"host": "npu0", "path": model}
    assert [one["whole"] for one in document["deliveries"]] == [True, True]
    assert document["files"] == 6
    for node in (hosts[1], hosts[2]):
        assert content(node) == expected(hosts[0])
        assert leftovers(node) == []
    again = done(cli(hosts, tmp_path, model, "--json"))
    assert [one["received_bytes"] for one in again["deliveries"]] == [0, 0]


def test_what_is_damaged_or_missing_is_replaced_and_the_rest_stays(hosts, model, tmp_path):
    make(hosts, 17 * MIB)  # larger than what is sent together with others
    done(cli(hosts, tmp_path, model, "--json"))
    damage = "printf x | dd of=model-00002.safetensors bs=1 seek=4096 conv=notrunc 2>&1"
    hosts[1].run("sh", "-c", f'cd "$1" && {damage} && rm config.json', "sh", model)
    before = hosts[1].run("stat", "-c", "%i", f"{model}/model-00003.safetensors")
    document = done(cli(hosts, tmp_path, model, "--json"))
    assert content(hosts[1]) == content(hosts[2]) == expected(hosts[0])
    assert hosts[1].run("stat", "-c", "%i", f"{model}/model-00003.safetensors") == before
    received = [one["received_bytes"] for one in document["deliveries"]]
    assert 17 * MIB <= received[0] <= 18 * MIB
    assert received[1] == 0


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_cut_off_it_leaves_no_model_and_goes_on_where_it_stopped(hosts, model, tmp_path, blow):
    """After SIGKILL, too: the hosts take everything back themselves."""
    make(hosts, 24 * MIB)
    process = cli(hosts, tmp_path, model)

    wait_for(lambda: in_stage(hosts[1]) > 30 * MIB)
    process.send_signal(blow)
    process.communicate(timeout=120)
    assert process.returncode == (-blow if blow == signal.SIGKILL else 130)
    for node in (hosts[0], hosts[1], hosts[2]):
        wait_for(lambda node=node: leftovers(node) == [])
    shown = hosts[1].run("ls", model)
    assert shown == ""
    kept = in_stage(hosts[1])
    assert kept > 30 * MIB
    document = done(cli(hosts, tmp_path, model, "--json"))
    assert document["hosts"][0]["missing_bytes"] <= document["size_bytes"] - kept + MIB
    assert content(hosts[1]) == content(hosts[2]) == expected(hosts[0])


def test_it_may_come_from_this_machine_to_another_folder(hosts, tmp_path, monkeypatch):
    own = tmp_path / "it's mine"
    own.mkdir()
    (own / "a.safetensors").write_bytes(os.urandom(20 * MIB))
    (own / "config.json").write_text("{}")
    words = (str(own), "--from", "here", "--to", f"{MODEL}/b c", "--json")
    monkeypatch.setenv("PATH", str(rsync().parent), prepend=os.pathsep)
    document = done(cli(hosts, tmp_path, *words))
    assert [one["whole"] for one in document["deliveries"]] == [True] * HOSTS
    digest = hashlib.sha256((own / "a.safetensors").read_bytes()).hexdigest()
    for number in range(HOSTS):
        assert digest in content(hosts[number], f"{MODEL}/b c")
        assert leftovers(hosts[number]) == []
        hosts[number].run("rm", "-rf", MODEL)


def test_a_host_that_fails_is_named_and_the_others_go_on(hosts, model, tmp_path):
    hosts[1].run("sh", "-c", 'mkdir -p "$1" && mount -t tmpfs -o size=16m full "$1"', "sh", model)
    try:
        full = done(cli(hosts, tmp_path, model, "--json"), 1)
    finally:
        hosts[1].run("umount", model)
    error, none = (one["error"] for one in full["deliveries"])
    assert error["what"].startswith("needs 8.0 MiB for the model and has ")
    assert none is None
    assert content(hosts[2]) == expected(hosts[0])


def test_a_host_that_goes_away_meanwhile_is_named_and_the_others_go_on(hosts, model, tmp_path):
    make(hosts, 24 * MIB)
    process = cli(hosts, tmp_path, model, "--json")
    wait_for(lambda: in_stage(hosts[1]) > 8 * MIB)
    hosts[1].run("sh", "-c", "kill -KILL $(pgrep sshd | grep -vx $(pgrep -o sshd))")
    document = done(process, 1)
    assert [one["whole"] for one in document["deliveries"]] == [False, True]
    assert document["deliveries"][0]["error"]["where"].startswith("npu1")
    assert content(hosts[2]) == expected(hosts[0])


def test_two_at_once_the_second_is_told_who_is_first(hosts, model, tmp_path):
    make(hosts, 24 * MIB)
    first = cli(hosts, tmp_path, model, "--json")
    wait_for(lambda: is_held(hosts[1]) and is_held(hosts[2]))
    first.send_signal(signal.SIGSTOP)  # it cannot end now; what it has begun on the hosts goes on
    second = done(cli(hosts, tmp_path, model, "--json"), 1)
    for one in second["deliveries"]:
        assert one["error"]["what"] == "another push is bringing files here"
        assert ", since 20" in one["error"]["evidence"][0]
    first.send_signal(signal.SIGCONT)
    done(first)
    assert content(hosts[1]) == expected(hosts[0])


def test_hosts_without_rsync_are_named_and_nothing_is_touched(hosts, model, tmp_path):
    hosts[1].run("rm", "/usr/local/bin/rsync")
    try:
        document = done(cli(hosts, tmp_path, model, "--json"), 2)
    finally:
        hosts[1].run("ln", "-sf", str(rsync()), "/usr/local/bin/rsync")
    assert document["error"]["what"] == "a host lacks `rsync`"
    assert document["error"]["where"] == "npu1"
    assert content(hosts[1]) == ""


def test_a_dry_run_changes_nothing_and_shows_the_commands(hosts, model, tmp_path):
    document = done(cli(hosts, tmp_path, model, "--json", "--dry-run"))
    sends = [one for one in document["commands"] if one["argv"][0] == "rsync"]
    assert {one["what"].rpartition(" to ")[2] for one in sends} == {"npu1", "npu2"}
    assert document["copies"] == 2  # all of it is one piece
    assert content(hosts[1]) == ""


def test_a_push_key_opens_nothing_else(hosts, model):
    """Whoever has the key of a sender can write into the staging folder, and do nothing else."""
    plan = plan_push(survey_host(hosts[0].ssh, model), [survey_host(hosts[1].ssh, model)])
    number = "0123456789abcdef"
    keys = {peer.name: generate_key(number, peer) for peer in plan.peers}
    try:
        hosts[1].run("mkdir", "-p", f"{model}/.ropeway-push")
        for peer in plan.peers:
            authorize(number, plan, peer, keys)
        argv = send_argv(number, [f"{model}/./config.json"], plan.destination("npu1"))
        ssh = shlex.split(argv[argv.index("-e") + 1])

        def attempt(*words: str) -> str:
            """With the key, on the sender; it must not come to anything."""
            result = hosts[0].ssh.run(("timeout", "5", *ssh, *words), timeout=30)
            return result.stdout + result.stderr

        assert "uid=" not in attempt("ropeway-1", "id")
        attempt("ropeway-1", "touch /tmp/pwned")
        attempt("ropeway-1", "rsync --server --sender -e.LsfxCIvu . /etc/passwd")
        attempt("-s", "ropeway-1", "sftp")
        attempt("-tt", "ropeway-1", "bash")
        assert "administratively prohibited" in attempt("-W", "127.0.0.1:22", "ropeway-1")
        # The sender's rsync chooses another folder: it makes no difference.
        elsewhere = (*argv[:-1], "ropeway-1:/tmp/elsewhere")
        assert hosts[0].ssh.run(elsewhere).ok
        upwards = argv[: argv.index("--")]
        hosts[0].ssh.run(("sh", "-c", "mkdir -p /tmp/x/../y; echo 1 >/tmp/up"))
        hosts[0].ssh.run((*upwards, "--", "/tmp/./up", "ropeway-1:../../../tmp/"))
        assert in_tmp(hosts[1]) == {f"ropeway-push.{number}"}
        assert "config.json" in hosts[1].run("ls", f"{model}/.ropeway-push")
        assert hosts[1].run("stat", "-c", "%a", key_folder(number)).strip() == "700"
        key = hosts[0].run("stat", "-c", "%a", f"{key_folder(number)}/key")
        assert key.strip() == "600"
        line = hosts[1].run("cat", KEYS).splitlines()[1]
        assert line.startswith('restrict,command="exec sh /tmp/ropeway-push.')
        assert ',expiry-time="20' in line
    finally:
        assert revoke(number, plan.remote) == ()
        hosts[0].run("rm", "-rf", "/tmp/x", "/tmp/y", "/tmp/up")


def test_a_stranger_in_the_receivers_place_gets_nothing(hosts, model, monkeypatch):
    """Another host key than the one that we read: the sender does not speak to it."""
    made = "cd $(mktemp -d) && ssh-keygen -qt ed25519 -N '' -f key && cat key.pub && rm -r $PWD"
    wrong = hosts[0].run("sh", "-c", made)

    def with_wrong_host_key(number, peer):
        made = generate_key(number, peer)
        return replace(made, host_keys=wrong) if peer.name == "npu1" else made

    monkeypatch.setattr(push_module, "generate_key", with_wrong_host_key)
    plan = plan_push(
        survey_host(hosts[0].ssh, model),
        [survey_host(hosts[1].ssh, model), survey_host(hosts[2].ssh, model)],
    )
    pushed = push(plan, who="test")
    assert [one.error is None for one in pushed.deliveries] == [False, True]
    assert "npu1" in pushed.deliveries[0].error.hint
    assert "answers in its place" in pushed.deliveries[0].error.hint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folder=SHOWN, names=st.sets(SHOWN, min_size=1, max_size=6))
def test_no_name_can_do_anything_but_name_a_file(hosts, folder, names):
    root = f"/data/hostile/{folder}"
    files = {name.encode()[:200].decode(errors="ignore") for name in names}
    for name in files:
        hosts[0].run("mkdir", "-p", f"{root}/d{name}")
        for path in (f"{root}/d{name}/{name}", f"{root}/{name}"):
            hosts[0].run("sh", "-c", 'printf %s "$2" >"$1"', "sh", path, name)
    hosts[0].run("sh", "-c", 'cd "$1" && : >config.json && echo 1 >a.safetensors', "sh", root)
    try:
        plan = plan_push(survey_host(hosts[0].ssh, root), [survey_host(hosts[1].ssh, root)])
        assert push(plan, who="$(touch /tmp/pwned)").errors == ()
        show = 'cd "$1" && find . -type f ! -path "*/.*/*" -exec sha256sum -z {} + | sort -z'
        theirs = hosts[1].run("sh", "-c", show, "sh", root)
        assert theirs == hosts[0].run("sh", "-c", show, "sh", root)
        assert len(theirs.split("\0")) == 2 * len(files) + 2 + 1
        for node in (hosts[0], hosts[1]):
            assert in_tmp(node) == set()
    finally:
        for node in (hosts[0], hosts[1]):
            node.run("rm", "-rf", "/data/hostile")

"""Nothing that doctor runs changes anything on a host: the list of its commands, held by hand."""

import re
import shlex

import pytest

from ropeway.facts.gather import Answers, facts_from, gather
from ropeway.facts.question import Question
from ropeway.facts.questions import ALL, pings, questions
from ropeway.facts.script import START, Pings, script
from ropeway.sim.faults import faulty_fleet
from ropeway.sim.hosts import virtual_hosts

# Programs that only read, with any arguments.
READERS = {
    "cat", "df", "getent", "grep", "id", "lscpu", "lspci", "ls", "ping", "ps", "ss",
    "stat", "uname", "date", "head", "tail", "od", "sort", "uniq", "tr", "sed", "awk", "wc",
    "sha256sum", "echo", "printf", "cd", "test", "true", "command", "exit", "set", "[", "split",
    "continue",
}  # fmt: skip
# Of the others, exactly these.
COMMANDS = {
    ("ip", "addr"), ("ip", "route"), ("docker", "version"), ("docker", "info"),
    ("docker", "image", "ls"), ("docker", "ps"), ("docker", "inspect"), ("npu-smi", "info"),
}  # fmt: skip
# Words with which these tools change something.
CHANGING = {"set", "-s", "-cfg", "clear", "upgrade", "reset", "-roce_test", "rm", "kill", "start"}
WRITING = re.compile(r"(?<![0-9])>(?!/dev/null|&)|\btee\b|\bmv\b|\bcp\b|\brm\b|\bdd\b|\bmkdir\b")


def all_questions() -> list[Question[object] | Pings]:
    return [
        *questions(model_path="/data/model", deep=True),
        *pings([(0, ["10.0.0.1"])], ["192.168.0.2"]),
    ]


def only_reads(argv: tuple[str, ...]) -> bool:
    if argv[:2] == ("sh", "-c"):
        return not WRITING.search(without_quoted(argv[2])) and all(
            only_reads(words) for words in commands_of(argv[2])
        )
    if argv[0] == "hccn_tool":
        return argv[-1] == "-g" or (argv[3:5] == ("-ping", "-g") and argv[5] == "address")
    if argv[0] in READERS:
        return True
    return any(argv[: len(known)] == known for known in COMMANDS) and not CHANGING & set(argv)


def without_quoted(text: str) -> str:
    return re.sub(r"'[^']*'|\"(?:\\.|[^\"\\])*\"", "quoted", text.replace("\\\n", " "))


def commands_of(text: str) -> list[tuple[str, ...]]:
    """The commands of a snippet, roughly: each word that begins one, with what follows it."""
    plain = re.sub(r"\$\(\(.*?\)\)", "number", without_quoted(text))
    commands = []
    for piece in re.split(r"[;\n|&(){}]|\bdo\b|\bthen\b|\belse\b|\bif\b", plain):
        words = tuple(shlex.split(piece, comments=False))
        while words and re.fullmatch(r"[a-z]\w*=.*|!|done|fi|for|in|\$|2>&1|esac", words[0]):
            words = () if words[0] == "for" else words[1:]
        if words and re.match(r"[a-z\[]", words[0]):
            commands.append(words)
    return commands


@pytest.mark.parametrize("ask", all_questions(), ids=lambda ask: ask.line()[:60])
def test_every_question_only_reads(ask):
    argv = (
        ("hccn_tool", "-i", "0", "-ping", "-g", "address", "x")
        if isinstance(ask, Pings)
        else ask.argv
    )
    assert only_reads(argv), argv


@pytest.mark.parametrize(
    "argv",
    [
        ("hccn_tool", "-i", "0", "-tls", "-s", "enable", "0"),
        ("npu-smi", "set", "-t", "reset", "-i", "0"),
        ("docker", "rm", "x"),
        ("sh", "-c", "echo 1 > /proc/sys/kernel/numa_balancing"),
        ("sh", "-c", "cat x; rm x"),
        ("sh", "-c", "a=$(docker ps -q); docker stop $a"),
        ("sysctl", "-w", "kernel.numa_balancing=0"),
    ],
)
def test_a_command_that_changes_something_would_be_found(argv):
    assert not only_reads(argv)


def test_the_prelude_writes_nothing():
    head = script([], "R0").partition(START)[0]
    assert not WRITING.search(re.sub(r"'[^']*'", "quoted", head))


def test_every_question_that_there_is_is_asked():
    keys = {ask.key.partition(":")[0] for ask in all_questions() if isinstance(ask, Question)}
    assert keys | {"hccn-ping"} == {question.key for question in ALL}


def test_every_answer_is_read(monkeypatch):
    read, parsed = set(), Answers.parsed
    monkeypatch.setattr(Answers, "parsed", lambda *args: (read.add(args[1].key), parsed(*args))[1])
    fleet = faulty_fleet("1x8-910B4", ())
    (host,) = virtual_hosts(fleet)
    facts = gather(host, asked := questions(model_path=fleet.model.path, deep=True), timeout=9)
    assert facts.model and facts.npus
    facts_from("h", "10.0.0.1", Answers([]))  # what is asked where others do not answer
    assert {one.key for one in asked} - read == set()


def test_a_question_comes_after_those_that_it_depends_on():
    keys = [question.key for question in questions()]
    for question in questions():
        for other in filter(None, (question.after, question.unless)):
            assert keys.index(other) < keys.index(question.key)


def test_a_path_with_anything_in_it_stays_one_argument():
    path = "/data/it's $(rm -rf /)\nmodel"
    ask = next(one for one in questions(model_path=path) if one.key == "model-directory")
    assert ask.argv[-1] == path
    assert shlex.split(ask.line())[-1] == path

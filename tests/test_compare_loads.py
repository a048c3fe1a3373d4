"""`ropeway compare` with loads of every kind, from the flags that `bench` has."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

from json_documents import read_document
from ropeway.bench.asked import LoadFlags, load_of, over_load, over_spec
from ropeway.bench.load_test import LoadTest, going_on
from ropeway.cli.bench import bench
from ropeway.cli.compare import compare
from ropeway.cli.main import exit_code
from ropeway.errors import Refused
from ropeway.spec.model import Workload

FAST = Behaviour(ttft_s=0.005, tpot_s=0.001)
SMALL = ("--clients", "2", "--output-tokens", "4", "--warmup", "1", "--rounds", "2")
# What `bench` alone can: several loads, and goals for each request.
_OF_BENCH = {"--slo", "--find-max", "--slo-share"}

Captured = pytest.CaptureFixture[str]
Run = Callable[..., tuple[Any, list[FakeEndpoint]]]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Run:
    """Compare two endpoints in an empty folder; return the document, and the endpoints."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0) -> tuple[Any, list[FakeEndpoint]]:
        with running(FAST) as one, running(FAST) as two:
            urls = ("--url", one.url, "--url", two.url)
            assert exit_code(["compare", *urls, *SMALL, *args, "--json"]) == code
        return read_document(capsys.readouterr().out), [one, two]

    return run


def texts(fake: FakeEndpoint) -> list[str]:
    """What was sent of the load, the warm-up included, without the question of `prepare`."""
    sent = [body["messages"][0]["content"] for body in fake.requests]
    return [text for text in sent if text != "Hello"]


def write(path: Path, rows: int) -> None:
    path.write_text("".join(json.dumps({"prompt": f"p{n}"}) + "\n" for n in range(rows)))


def load_flags(verb: click.Command) -> dict[str, Any]:
    """Return the flags between the first and the last of a load, with their defaults."""
    names = [option.opts[0] for option in verb.params]
    begin, end = names.index("--clients"), names.index("--set")
    return {option.opts[0]: option.default for option in verb.params[begin : end + 1]}


def test_both_verbs_have_the_same_flags_of_a_load() -> None:
    of_bench, of_compare = load_flags(bench), load_flags(compare)
    assert of_bench.keys() - of_compare.keys() == _OF_BENCH & of_bench.keys() == {"--slo"}
    assert of_compare.items() <= of_bench.items()


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (("--input-tokens", "20-40"), "input_range", [20, 40]),
        (("--prefixes", "2", "--prefix-tokens", "30"), "prefixes", 2),
        (("--turns", "2"), "turns", 2),
        (("--images", "1", "--image-size", "8x8"), "image_size", [8, 8]),
        (("--rate", "100", "--arrivals", "burst:2"), "arrivals", "burst:2"),
        (("--duration", "0.2"), "duration_s", 0.2),
        (("--arrivals", "trace:times"), "requests", 3),
    ],
)
def test_endpoints_are_compared_under_a_load_of_any_kind(
    measured: Run, tmp_path: Path, flags: tuple[str, ...], key: str, value: object
) -> None:
    (tmp_path / "times").write_text("0\n0\n0.1\n")
    document, fakes = measured(*flags)
    assert document["load"][key] == value
    assert [len(side["rounds"]) for side in document["sides"]] == [2, 2]
    assert all(len(fake.requests) > 2 for fake in fakes)
    if "--duration" not in flags:
        first, second = ([body["messages"] for body in fake.requests[1:]] for fake in fakes)
        assert sorted(map(json.dumps, first)) == sorted(map(json.dumps, second))


def test_rounds_go_on_in_a_file_as_long_as_it_has_rows(measured: Run, tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", 12)
    document, fakes = measured("--prompts", "p.jsonl", "--requests", "5")
    for fake in fakes:
        assert sorted(texts(fake)) == sorted(f"p{n}" for n in range(12)), "two rounds of 1 + 5"
    told = "12 rows of p.jsonl, in a random order"
    assert document["load"]["prompts"] == told
    assert "All got the same prompts in a round." in document["notes"]


def test_it_is_said_where_rounds_repeat_rows(
    measured: Run, tmp_path: Path, capsys: Captured
) -> None:
    write(tmp_path / "p.jsonl", 6)
    document, fakes = measured("--prompts", "p.jsonl", "--requests", "5")
    assert sorted(texts(fakes[0])) == sorted([f"p{n}" for n in range(6)] * 2)
    assert "each is sent 2.0 times: the server's prefix cache" in document["load"]["prompts"]
    timed, _ = measured("--prompts", "p.jsonl", "--duration", "0.1")
    assert "each measurement draws from all" in timed["load"]["prompts"]
    with running(FAST) as fake:
        args = ["compare", *("--url", fake.url) * 2, *SMALL, "--prompts", "p.jsonl"]
        assert exit_code([*args, "--requests", "2"]) == 0
    assert sorted(texts(fake)) == sorted([f"p{n}" for n in range(6)] * 2), "one server, four lots"
    assert "each is sent 2.0 times" in " ".join(capsys.readouterr().out.split())


def test_the_prompts_are_those_that_every_model_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    talks = [
        [{"from": "human", "value": "word " * count}, {"from": "gpt", "value": "yes"}]
        for count in (1, 2, 3, 90)
    ]
    share = json.dumps([{"conversations": talk} for talk in talks])
    os.mkfifo(tmp_path / "pipe")
    once = threading.Thread(target=(tmp_path / "pipe").write_text, args=(share,))
    once.start()
    with running(FAST) as wide, running(replace(FAST, context=50)) as narrow:
        urls = ("--url", wide.url, "--url", narrow.url, "--prompts", "pipe", "--requests", "2")
        assert exit_code(["compare", *urls, *SMALL, "--rounds", "1", "--json"]) == 0
    once.join()
    document = read_document(capsys.readouterr().out)
    assert "3 rows of pipe" in document["load"]["prompts"]
    assert "1 conversation left out" in document["load"]["prompts"]
    assert sorted(texts(wide)) == sorted(texts(narrow)) == ["word " * n for n in (1, 2, 3)]


def test_a_run_with_prompts_of_a_file_is_compared_with_and_its_rows_are_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", 160)
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "long", "max_tokens": 9}) + "\n")
    small = ("--clients", "2", "--requests", "80", "--warmup", "0", "--output-tokens", "4")
    with running(FAST) as fake:
        args = ["bench", "--url", fake.url, *small, "--prompts", "p.jsonl", "-q", "--out", "before"]
        assert exit_code(args) == 0
        against = ["compare", "--url", fake.url, "--against", "before", "--json"]
        capsys.readouterr()
        assert exit_code(against) == 0
        document = read_document(capsys.readouterr().out)
        assert len(texts(fake)) == len(set(texts(fake))) == 160
        assert {body["max_tokens"] for body in fake.requests[1:]} <= {1, 4, 9}
        assert document["load"]["fresh"] == 1
        assert "161 rows of p.jsonl" in document["load"]["prompts"]
        asked = len(fake.requests)
        for flags, what in (
            (("--output-tokens", "5"), "`output_tokens` is 5 in this measurement and 4 in before"),
            (("--prompts", "other.jsonl"), "`files` is other.jsonl in this"),
            (("--input-tokens", "9"), "`--input-tokens` is for random prompts"),
        ):
            assert exit_code([*against, *flags]) == 2
            error = read_document(capsys.readouterr().out)["error"]
            assert what in " ".join([error["what"], *error["evidence"]])
        assert len(fake.requests) == asked, "refused before anything is sent"
        write(tmp_path / "p.jsonl", 161)
        assert exit_code(against) == 2
        error = read_document(capsys.readouterr().out)["error"]
        assert any("`files_sha256` is" in line for line in error["evidence"])


def test_what_a_recorded_run_sent_to_another_server_is_in_no_cache_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", 8)
    small = ("--clients", "2", "--requests", "80", "--warmup", "0", "--output-tokens", "4")
    with running(FAST) as fake, running(FAST) as other:
        args = ["bench", "--url", fake.url, *small, "--prompts", "p.jsonl", "-q", "--out", "before"]
        assert exit_code(args) == 0
        for url, times in ((other.url, "10.0"), (fake.url, "20.0")):
            capsys.readouterr()
            assert exit_code(["compare", "--url", url, "--against", "before", "--json"]) == 0
            prompts = read_document(capsys.readouterr().out)["load"]["prompts"]
            assert f"each is sent {times} times" in prompts


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--arrivals", "burst:2"), "needs `--rate`"),
        (("--template", "{a}"), "is for prompts of your own"),
        (("--duration", "3", "--requests", "4"), "contradict each other"),
        (("--prefixes", "2"), "shared beginnings need"),
    ],
)
def test_flags_that_contradict_each_other_are_refused_as_bench_refuses_them(
    measured: Run, flags: tuple[str, ...], what: str
) -> None:
    document, fakes = measured(*flags, code=2)
    assert what in document["error"]["what"]
    assert [fake.requests for fake in fakes] == [[], []]


def test_what_is_for_bench_alone_is_no_flag_of_compare(capsys: Captured) -> None:
    for flag in sorted(_OF_BENCH):
        assert exit_code(["compare", flag, "1"]) == 2
        assert f"no such option `{flag}`" in capsys.readouterr().err
    assert exit_code(["compare", "--clients", "1,8"]) == 2
    assert "invalid value for `--clients`" in capsys.readouterr().err


FLAGS = LoadFlags(
    clients=256, requests=None, duration_s=None, rate=None, arrivals="poisson",
    input_tokens=(128, 128), output_tokens=(128, 128), prefixes=0, prefix_tokens=0, turns=1,
    images=0, image_size=(640, 480), files=(), template=None, settings=(), seed=0, temperature=0.0,
    warmup=4, ignore_eos=True, time_limit_s=None,
)  # fmt: skip


def typed(**values: Any) -> LoadFlags:
    return replace(FLAGS, **values, typed=frozenset(values))


def test_a_spec_goes_before_defaults_and_its_requests_are_those_of_its_clients() -> None:
    work = Workload(clients=8, requests=100, input_tokens=64)
    assert load_of(over_spec(FLAGS, work)) == LoadTest(
        clients=8, requests=100, input_tokens=64, output_tokens=128
    )
    assert load_of(over_spec(typed(input_tokens=(5, 7)), work)).input_range == (5, 7)
    assert load_of(over_spec(typed(clients=4), work)).requests == 8
    assert load_of(over_spec(typed(clients=4, turns=3), work)).requests == 24
    assert load_of(over_spec(typed(clients=4, requests=9), work)).requests == 9


RANDOM = LoadTest(
    clients=8, requests=100, input_tokens=21, input_range=(1, 40), output_tokens=4, rate=3.0,
    prefixes=2, prefix_tokens=9, fresh=5, prompts="random words, exactly 5 to 40 tokens",
)  # fmt: skip
TIMED = replace(RANDOM, requests=0, duration_s=9.0)
FILES = LoadTest(
    clients=8, requests=100, input_tokens=21, output_tokens=4, output_range=(7, 7), files=("a",),
    files_sha256=("b",), template="{c}", settings=("d=1",), prompts="9 rows of a",
)  # fmt: skip


@pytest.mark.parametrize("load", [RANDOM, TIMED, FILES])
def test_a_measured_load_is_kept_but_for_what_was_typed(load: LoadTest) -> None:
    assert over_load(FLAGS, load) == load
    assert over_load(typed(seed=7), load) == replace(load, seed=7)
    assert over_load(typed(requests=9), load) == replace(load, requests=9, duration_s=None)
    assert over_load(typed(duration_s=2.0), load) == replace(load, requests=0, duration_s=2.0)


def test_what_is_typed_over_a_measured_load_counts() -> None:
    assert over_load(typed(input_tokens=(1, 40)), RANDOM) == RANDOM
    other = over_load(typed(input_tokens=(1, 9)), RANDOM)
    assert (other.input_tokens, other.input_range) == (5, (1, 9))
    assert over_load(typed(arrivals="constant"), RANDOM).arrivals == "constant"
    assert over_load(typed(files=("b",)), FILES).files_sha256 == ()
    with pytest.raises(Refused, match="shared beginnings need"):
        over_load(typed(prefixes=0), RANDOM)


def test_a_load_goes_on_where_others_of_its_files_have_ended() -> None:
    load = replace(FILES, warmup=0, requests=30)
    before = [replace(load, requests=40, fresh=1), replace(load, requests=10)]
    assert going_on(load, before).fresh == 3, "80 were sent, and 90 is the next multiple"
    assert going_on(load, [replace(load, seed=1)]) == load
    assert going_on(load, [replace(load, files=("other",))]) == load
    assert going_on(RANDOM, [RANDOM]) == RANDOM
    assert going_on(replace(load, requests=0), before).fresh == 2

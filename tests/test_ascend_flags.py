"""Rendered lines and users' flags against the recorded parsers of `vllm serve`, every release.

The recordings come from `scripts/parse-serve-lines`, which gave the same lines to the parsers
themselves; a line that changed since asks to run it again.
"""

import json
from pathlib import Path

import pytest

from ropeway.engines import ascend_flags
from ropeway.engines.ascend_flags import exists, flags, notes, of_server
from ropeway.engines.ascend_releases import RELEASES, in_runs
from ropeway.errors import Refused
from ropeway.spec.engine_args import OWN_KEY
from serve_lines import digest, lines, make_replica, release

RECORDINGS = Path(__file__).parent / "recordings" / "vllm_parsers"
RECORDED = json.loads((RECORDINGS / "options.json").read_text("utf-8"))
PARSED = json.loads((RECORDINGS / "lines.json").read_text("utf-8"))
VERSIONS = RECORDED["versions"]


def recorded(vllm):
    """Return what each flag of a vLLM takes."""
    place = VERSIONS.index(vllm)
    return {
        flag: run["option"]
        for flag, runs in RECORDED["options"].items()
        for run in runs
        if VERSIONS.index(run["since"]) <= place <= VERSIONS.index(run["until"])
    }


OPTIONS = {vllm: recorded(vllm) for vllm in VERSIONS}
LINES = list(lines())


def faults(argv, options):
    """What a parser with these options would say against `vllm serve MODEL …`."""
    assert argv[:2] == ("vllm", "serve") and not argv[2].startswith("-")
    complaints, words = [], list(argv[3:])
    while words:
        flag = words.pop(0)
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        option = options.get(flag)
        if option is None:
            complaints.append(f"no {flag}")
            continue
        least, most = {0: (0, 0), "?": (0, 1), "+": (1, 99), "*": (0, 99)}.get(
            option.get("nargs"), (1, 1)
        )
        if not least <= len(values) <= most:
            complaints.append(f"{flag} takes {least} to {most}, not {values}")
        choices = option.get("choices")
        complaints += [f"{flag} {value}" for value in values if choices and value not in choices]
        if option.get("type") == "int":
            complaints += [f"{flag} {value}" for value in values if not value.isdigit()]
    return complaints


@pytest.mark.parametrize("row", RELEASES, ids=lambda row: row.version)
def test_every_rendered_line_is_one_that_the_parser_takes(row):
    batch = [line for line in LINES if line.release == row]
    assert len(batch) > 20
    for line in batch:
        assert faults(line.argv, OPTIONS[row.vllm]) == [], line.name
    assert {line.name: digest(line.argv) for line in batch} == PARSED[row.version], (
        "rendering changed: run scripts/parse-serve-lines"
    )


def test_a_fault_is_seen():
    options = OPTIONS["0.18.0"]
    line = ("vllm", "serve", "/m")
    assert faults((*line, "--no-such"), options)
    assert faults((*line, "--tensor-parallel-size"), options)
    assert faults((*line, "--enable-expert-parallel", "1"), options)
    assert faults((*line, "--dtype", "float7"), options)
    assert not faults((*line, "--dtype", "float16", "--enable-expert-parallel"), options)


def test_the_table_is_what_was_recorded():
    assert {row.vllm for row in RELEASES} == set(VERSIONS)
    for vllm, options in OPTIONS.items():
        assert flags(vllm) == options.keys()
        assert len(options) > 150
        for flag, option in options.items():
            kinds = ascend_flags._data()["takes"].get(flag, {})
            kind = [one for one, runs in kinds.items() if in_runs(vllm, runs, VERSIONS)]
            if "nargs" in option or option.get("type") in ("int", "human_readable_int", "float"):
                assert kind == [str(option.get("nargs", option.get("type")))]
            else:
                assert not kind


def refusal(version, engine_args):
    with pytest.raises(Refused) as error:
        ascend_flags.check(engine_args, release(version))
    return error.value


@pytest.mark.parametrize(
    ("version", "engine_args", "word", "hint"),
    [
        ("0.18.0", {"disable-log-requests": True}, "this release", "remove it"),
        ("0.18.0", {"swap_space": 4}, "this release", "remove it"),
        ("0.13.0", {"task": "generate"}, "this release", "`runner`"),
        ("0.12.0rc1", {"guided-decoding-backend": "x"}, "this release", "structured-outputs"),
        ("0.11.0rc0", {"attention-backend": "x"}, "this release", "0.13.0rc1 or"),
        ("0.18.0", {"max-num-batchd-tokens": 1}, "`vllm serve`", "`max-num-batched-tokens`"),
        ("0.18.0", {"max_num_sequences": 1}, "`vllm serve`", "`max-num-seqs`"),
        ("0.18.0", {"seed": False}, "false", "give a value"),
        ("0.18.0", {"headless": True}, "each host", "serve.backend"),
        ("0.18.0", {"node_rank": 1}, "each host", "serve.layout"),
        # The parser of 0.30 would take it for the beginning of `--device-ids`.
        ("0.30.0rc2", {"device": "npu"}, "this release", "plug-in"),
    ],
)
def test_a_users_flag_that_is_not_there(version, engine_args, word, hint):
    error = refusal(version, engine_args)
    assert word in error.what and version in str(error.where)
    assert error.hint is not None and hint in error.hint


@pytest.mark.parametrize("row", RELEASES, ids=lambda row: row.version)
def test_no_flag_that_a_parser_has_is_refused_but_those_of_the_layout(row):
    refused = set()
    for flag, option in OPTIONS[row.vllm].items():
        value = True if option.get("nargs") == 0 else option.get("choices", ["1"])[0]
        try:
            ascend_flags.check({flag.removeprefix("--"): value}, row)
        except Refused:
            refused.add(flag)
    long = {flag for flag in refused if flag.startswith("--")}
    assert {flag.removeprefix("--").removeprefix("no-") for flag in long} <= ascend_flags._OURS
    for flag in refused - long:
        assert "short form" in refusal(row.version, {flag[1:]: "1"}).what, flag


@pytest.mark.parametrize(
    ("version", "engine_args", "word", "hint"),
    [
        ("0.23.0", {"runner": "poling"}, "cannot be `poling`", "`pooling`"),
        ("0.23.0", {"convert": "reward"}, "cannot be `reward`", "one of these"),
        ("0.23.0", {"scheduling_policy": "prio"}, "cannot be `prio`", "`priority`"),
        ("0.23.0", {"max-lora-rank": 63}, "cannot be `63`", "one of these"),
        ("0.23.0", {"collect-detailed-traces": ["model", "wrker"]}, "`wrker`", "`worker`"),
    ],
)
def test_a_value_that_the_parser_does_not_take(version, engine_args, word, hint):
    error = refusal(version, engine_args)
    assert word in error.what and hint in (error.hint or "")


@pytest.mark.parametrize(
    ("engine_args", "what"),
    [
        ({"enforce-eager": "maybe"}, 'is true or false, not `"maybe"`'),
        ({"no-enable-prefix-caching": 1}, "is true or false, not `1`"),
        ({"trust_remote_code": []}, "is true or false, not a list"),
        *(({"tokenizer": value}, "`tokenizer` needs a value") for value in (None, True, "", [])),
        ({"lora-modules": None}, "needs a value"),
        ({"reasoning-parser": ["qwen3"]}, "takes one value, not a list"),
        ({"runner": ["pooling"]}, "takes one value, not a list"),
        ({"block-size": 0}, "must be a whole number above 0, not `0`"),
        *(
            ({"max-num-batched-tokens": value}, f'above 0, not `"{value}"`')
            for value in ("8kb", "1.5K", "0k")
        ),
        *(
            ({name: value}, f"`{name}` must be a whole number above 0, not")
            for name in ("api-server-count", "num-gpu-blocks-override")
            for value in (0, -1)
        ),
        ({"max-cpu-loras": "x"}, "must be a whole number, not"),
        ({"cpu-offload-gb": -1}, "must be a number from 0 on, not `-1`"),
        *(({"seed": value}, "must be a whole number, not") for value in ("x", 1.5, 10**60, {})),
        *(
            ({"kv-cache-metrics-sample": value}, "must be a number, not")
            for value in ("x", "inf", {})
        ),
    ],
)
def test_a_value_of_another_kind_than_the_parser_takes(engine_args, what):
    assert what in refusal("0.23.0", engine_args).what


def test_values_that_the_parser_or_a_plug_in_takes():
    for given in (
        {"max-num-batched-tokens": "8k", "seed": "-1", "max-logprobs": -1, "cpu-offload-gb": "0.5"},
        {"num-gpu-blocks-override": "None", "max-cpu-loras": 4, "api-server-count": 2},
        {"enforce-eager": None, "enable-prefix-caching": False, "lora-modules": {"name": "a"}},
        {"runner": "pooling", "max-lora-rank": 64, "scheduling-policy": "fcfs"},
        {"quantization": "ascend", "kv-cache-dtype": "int8", "tool-call-parser": "mine"},
        {"convert": "embed", "mm-encoder-tp-mode": "data", "uvicorn-log-level": "info"},
    ):
        ascend_flags.check(given, release("0.23.0"))
    ascend_flags.check({"convert": "reward"}, release("0.13.0"))


def test_every_short_form_of_the_newest_parser_is_known_by_its_long_one():
    short = {flag[1:] for flag in OPTIONS["0.32.0"] if not flag.startswith("--")}
    ours = OWN_KEY.keys() | {"dpa", "dpb", "dpe", "dph", "dpl", "dpm", "dpn", "dpp", "dpr"}
    assert short - ours - {"h", "n", "r"} == set(ascend_flags._LONG)
    assert {f"--{long}" for long in ascend_flags._LONG.values()} <= OPTIONS["0.32.0"].keys()


def test_users_flags_that_are_there():
    engine_args = {
        "enable-prefix-caching": False,
        "max_num_batched_tokens": 4096,
        "trust-remote-code": None,
        "compilation-config.cudagraph_mode": "PIECEWISE",
        "max-num-batched": 4096,
    }
    ascend_flags.check(engine_args, release("0.18.0"))


def test_advice_is_for_flags_that_are_gone():
    newest = RELEASES[-1]
    for name in ascend_flags._INSTEAD:
        assert not exists(f"--{name}", newest)
        assert any(exists(f"--{name}", row) for row in RELEASES), name


def test_what_a_later_release_drops_is_noted():
    (note,) = notes({"swap-space": 4, "seed": 1}, release("0.11.0rc0"))
    assert "`swap-space`" in note and "0.18.0rc1" in note
    assert notes({"seed": 1}, release("0.11.0rc0")) == ()


def test_a_flag_is_given():
    for engine_args in ({"enforce-eager": True}, {"enforce_eager": None}):
        assert ascend_flags.is_given(engine_args, "enforce-eager")
    for engine_args in ({"enforce-eager": False}, {}):
        assert not ascend_flags.is_given(engine_args, "enforce-eager")


OF_THE_SERVER = {
    "api-server-count": 4, "grpc": True, "middleware": "a.b", "uvicorn-log-level": "info",
    "ssl-keyfile": "/k", "lora-modules": ["a=/l"], "chat_template": "/t", "chat-temp": "/t",
    "tool-call-parser": "hermes", "enable-auto-tool-choice": True, "allowed-origins": ["*"],
    "root-path": "/v", "enable-request-id-headers": False, "uvicorn": "info",
}  # fmt: skip
OF_THE_ENGINE = {
    "seed": 1, "enable-lora": True, "reasoning-parser": "qwen3", "trust-remote-code": True,
    "speculative-config": {}, "tokenizer": "/t", "max-num-batched": 4096, "e": 1,
}  # fmt: skip


@pytest.mark.parametrize("version", ["0.9.1", "0.13.0", "0.23.0", "0.30.0", "0.32.0rc1"])
@pytest.mark.parametrize("layout", ["TP16", "DP2×TP8"])
def test_flags_of_the_http_server_are_for_the_head_alone(version, layout):
    if layout == "TP16" and version == "0.9.1":
        layout = "DP4×TP4"  # joined by Ray there, which has no followers
    replica = make_replica(
        release(version), layout, 2, serve={"engine_args": {**OF_THE_SERVER, **OF_THE_ENGINE}}
    )
    head, follower = (replica.serve_argv(node) for node in replica.nodes)
    for name, value in OF_THE_SERVER.items():
        if of_server(name, release(version)):  # an old one may not have it
            flag = f"--no-{name}" if value is False else f"--{name}"
            assert flag in head and flag not in follower
    assert of_server("chat-template", release(version))
    for name in OF_THE_ENGINE:
        assert f"--{name}" in head and f"--{name}" in follower


def test_every_flag_of_the_server_is_known_for_the_newest_release():
    newest = RELEASES[-1]
    assert all(of_server(name, newest) for name in OF_THE_SERVER)
    assert not any(of_server(name, newest) for name in OF_THE_ENGINE)

"""Values put into the text of a spec: all else stays, however it is written."""

import re

import pytest

from plan_requests import SPEC
from ropeway.spec.editing import Edit, apply_edits, planned_keys
from ropeway.spec.model import parse_spec, sample_text

EDITS = (
    Edit(("serve", "layout"), "DP2×TP8", "two hosts " * 20),
    Edit(("serve", "memory"), 0.9, "the engine's own"),
    Edit(("serve", "kv_cache"), None),
    Edit(("serve", "context"), 4096),
)
HOSTS = "cluster: {local: {hosts: 2, npus: 2}}\nmodel: {name: smollm2}\n"


@pytest.mark.parametrize(
    "text",
    [
        sample_text(),
        SPEC,
        HOSTS,
        HOSTS.rstrip("\n"),
        SPEC.replace("\n", "\r\n"),
        HOSTS + "serve: {kv_cache: 1GiB, layout: TP2}\n",
        HOSTS + "serve: {layout: TP2, kv_cache: 1GiB}",
        HOSTS + "serve: {}\n",
        HOSTS + "serve:\n  # all of it blank\nworkload:\n  clients: 3\n",
        HOSTS + "serve:\n  kv_cache: 1GiB\n",
        HOSTS + "serve:\n    layout:\n        tensor: 2   # two\n        # more\n\n    port: 1\n",
        HOSTS + "serve:\n  port: 1\n  context:\n  kv_cache: >\n    1GiB\n",
        '{"cluster": {"local": {"hosts": 2, "npus": 2}}, "model": {"name": "smollm2"}}',
        "serve: &here\n  'layout': \"TP2\"\n" + HOSTS,
    ],
)
def test_values_can_be_put_into_a_spec_however_it_is_written(text):
    before, after = parse_spec(text, "before"), apply_edits(text, EDITS)
    serve = parse_spec(after, "after").serve
    assert (str(serve.layout), serve.memory, serve.context) == ("DP2×TP8", 0.9, 4096)
    assert serve.kv_cache is None
    others = {"layout", "memory", "context", "kv_cache"}
    assert serve.model_dump(exclude=others) == before.serve.model_dump(exclude=others)
    assert apply_edits(after, EDITS) == after
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in comments if line.strip() not in after] == []
    assert all(len(line) <= 100 for line in after.splitlines() if "{" not in line)


def test_keys_that_a_plan_wrote_are_known_by_the_reason_above_them():
    text = apply_edits(SPEC, EDITS)
    # `context` was given no reason, so it counts as written by hand
    assert planned_keys(text) == {("serve", "layout"), ("serve", "memory")}
    assert planned_keys(SPEC) == set()
    assert planned_keys(text.replace("  # plan: the engine's own\n", "")) == {("serve", "layout")}


def test_a_new_reason_takes_the_place_of_the_old_one():
    text = apply_edits(SPEC, [Edit(("serve", "layout"), "TP8", "faster")])
    again = apply_edits(text, [Edit(("serve", "layout"), "TP2", "cheaper")])
    assert "  # plan: cheaper\n  layout: TP2          # what we had\n" in again
    assert "faster" not in again
    assert all(line in again for line in re.findall(r"#.*|x-note: .*", SPEC))

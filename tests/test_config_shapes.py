"""No config.json, however it is made, ends a verb with exit code 3."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from model_files import LLAMA, MOE
from ropeway.cli.main import exit_code
from ropeway.errors import Exit
from ropeway.models.known import entry_of, published_files

CONFIGS = [entry_of(name).config for name in sorted(published_files())]
# Numbers that are too large, too small, or none; names of kinds; and what stands where they should.
LEAVES = (
    st.none() | st.booleans() | st.integers(-2, 130) | st.floats() | st.text(max_size=3)
    | st.sampled_from([10**5, 10**15, 10**39, 10**400, "full_attention", "fp8", "1,2", "\ud800"])
)  # fmt: skip
KEYS = st.sampled_from(["x", "weights", "targets", "factor", "type"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
MARKS = st.dictionaries(
    st.sampled_from(["bits", "config_groups", "format", "group_size", "ignore", "quant_algo"]),
    JSON,
    max_size=3,
)
METHOD = st.sampled_from(["compressed-tensors", "fp8", "gptq", "modelopt", "mxfp4", "ascend", "?"])


def places(config: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a config, and of keys that none has."""
    if path:
        yield path
    if isinstance(config, dict):
        for key, value in config.items():
            yield from places(value, (*path, key))
    elif isinstance(config, list) and config:
        yield from places(config[0], (*path, 0))


@st.composite
def broken_configs(draw: st.DrawFn) -> dict[str, Any]:
    """A published config with other JSON in a few places."""
    config: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(CONFIGS))))
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(list(places(config))))
        place: Any = config
        for key in above:
            place = place[key]
        place[last] = draw(JSON)
    if draw(st.booleans()):
        config["quantization_config"] = {"quant_method": draw(METHOD), **draw(MARKS)}
    return config


def answers(config: object, *verb: str) -> int:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(config))
        return exit_code([*verb, str(file), "--json"])


@given(broken_configs() | JSON)
@example(LLAMA | {"layer_types": [[1]]})
@example(MOE | {"moe_layers": ["a"]})
@example(LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 10**400}})
@example(LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 1e-320}})
def test_model_show_answers_or_refuses(config: object) -> None:
    assert answers(config, "model", "show") in (Exit.OK, Exit.REFUSED)


@given(broken_configs())
def test_plan_answers_or_refuses(config: object) -> None:
    code = answers(config, "plan", "--chip", "910B4", "--hosts", "1", "--npus", "2", "--model")
    assert code in (Exit.OK, Exit.NO, Exit.REFUSED)

"""A model's directory as a host's shell shows it."""

import hashlib
import json
from pathlib import Path

import pytest

from model_files import write_weights
from recorded import ANSWERS
from ropeway.facts.host import ModelFiles
from ropeway.facts.model_directory import HASHES, MODEL, parse_hashes, parse_model
from ropeway.facts.question import Parsed
from ropeway.hosts.local import LocalHost


def shard(number: int, of: int = 4) -> str:
    return f"model-{number:05}-of-{of:05}.safetensors"


def write_tensors(path: Path, **sizes: int) -> int:
    return write_weights(path, {name: ("I8", [size], size) for name, size in sizes.items()})


def parsed(path: Path | str) -> Parsed[ModelFiles]:
    """The directory as this machine's shell shows it."""
    return parse_model(LocalHost().run(MODEL.about(str(path)).argv).stdout)


def listed(path: Path) -> ModelFiles:
    reading = parsed(path)
    assert (reading.state, reading.unparsed) == ("ok", ())
    assert reading.value is not None
    return reading.value


def test_a_listing_cut_off_is_partial():
    text = ANSWERS.text_of("model_directory_faults")
    reading = parse_model(text[: text.index("== headers")])
    assert reading.state == "partial" and reading.value is not None
    assert reading.value.missing == (shard(4),)


def test_the_shell_lists_what_is_there(tmp_path):
    size = write_tensors(tmp_path / shard(1, 2), a=64, b=32)
    index = {"metadata": {"total_size": 96}, "weight_map": {"a": shard(1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"model_type": 'a"b', "transformers_version": "4.51.0", "text": "# $ % …"}
    (tmp_path / "config.json").write_text(json.dumps(config, indent=2))
    (tmp_path / "a folder").mkdir()
    (tmp_path / "# a file").write_text("x")
    model = listed(tmp_path)
    assert (model.path, model.there, model.config) == (str(tmp_path), True, config)
    assert (model.model_type, model.transformers) == ('a"b', "4.51.0")
    assert model.sizes.keys() == {
        "# a file", "config.json", "model.safetensors.index.json", shard(1, 2),
    }  # fmt: skip
    assert model.sizes[shard(1, 2)] == size
    assert (model.missing, model.short) == ((), {})


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.5, 0.1, 0.01])
def test_a_shard_that_ends_too_early_is_short(tmp_path, keep):
    whole = write_tensors(tmp_path / "model.safetensors", a=10_000, b=5_000)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: int(whole * keep)])
    short = listed(tmp_path).short
    assert list(short) == ([] if keep == 1 else ["model.safetensors"])
    if 0.1 <= keep < 1:  # the header itself is whole
        assert short["model.safetensors"] == (int(whole * keep), whole)


def test_links_into_a_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    size = write_tensors(blobs / "0a1b", a=16)
    (snapshot / "model.safetensors").symlink_to("../blobs/0a1b")
    (snapshot / "tokenizer.model").symlink_to("../blobs/gone")
    assert listed(snapshot).sizes == {"model.safetensors": size}


def test_an_empty_directory_has_nothing(tmp_path):
    model = listed(tmp_path)
    assert (model.sizes, model.config, model.there) == ({}, None, True)


def test_without_an_index_the_names_tell_what_is_missing(tmp_path):
    for number in (1, 3):
        write_tensors(tmp_path / shard(number, 3), a=1)
    assert listed(tmp_path).missing == (shard(2, 3),)


def test_the_index_that_vllm_goes_by_wins(tmp_path):
    for name, file in (("model", "a"), ("consolidated", "b")):
        table = {"weight_map": {"x": f"{file}.safetensors"}}
        (tmp_path / f"{name}.safetensors.index.json").write_text(json.dumps(table))
    assert listed(tmp_path).missing == ("a.safetensors",)


def test_a_config_that_is_not_json_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": ')
    reading = parsed(tmp_path)
    assert reading.state == "partial" and reading.value is not None
    assert (reading.value.config, reading.unparsed) == (None, ("config.json is not JSON",))


def test_a_directory_that_is_not_there_is_absent(tmp_path):
    assert parsed(tmp_path / "it's; echo $(no)").state == "absent"


def test_contents_are_hashed(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "b c").write_bytes(b"")
    reading = parse_hashes(LocalHost().run(HASHES.about(str(tmp_path)).argv).stdout)
    assert reading.state == "ok"
    assert reading.value == {
        "b c": hashlib.sha256(b"").hexdigest(),
        "config.json": hashlib.sha256(b"{}").hexdigest(),
    }


def test_a_folder_of_sentence_transformers_is_known_by_its_names(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "modules.json").write_text("[]")
    assert not listed(tmp_path).pools
    (tmp_path / "1_Pooling").mkdir()
    assert listed(tmp_path).pools

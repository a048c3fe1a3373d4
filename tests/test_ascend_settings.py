"""What a release reads of variables and `--additional-config`, and what becomes of the rest."""

import pytest

from ropeway.engines.ascend_releases import RELEASES
from ropeway.engines.ascend_settings import (
    network_variables,
    reads_key,
    reads_variable,
    resolve_settings,
)
from ropeway.engines.base import Node
from ropeway.errors import Refused

NZ = "VLLM_ASCEND_ENABLE_NZ"


@pytest.mark.parametrize(
    ("reads", "name", "version", "expected"),
    # Looked up by hand in vllm_ascend/envs.py, the configuration and their readers, at these tags.
    [
        (reads_variable, "VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE", "0.10.1rc1", False),
        (reads_variable, "VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE", "0.11.0rc0", True),
        (reads_variable, "VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE", "0.13.0", False),
        (reads_variable, NZ, "0.11.0", True),
        (reads_variable, NZ, "0.26.0rc1", True),
        (reads_variable, "VLLM_ASCEND_ENABLE_CONTEXT_PARALLEL", "0.12.0rc1", True),
        (reads_variable, "VLLM_ASCEND_ENABLE_FLASHCOMM1", "0.11.0rc0", False),
        (reads_variable, "VLLM_ASCEND_ENABLE_FLASHCOMM1", "0.30.0rc2", True),
        (reads_variable, "VLLM_ASCEND_TRACE_RECOMPILES", "0.11.0", True),
        (reads_variable, "VLLM_ASCEND_TRACE_RECOMPILES", "0.12.0rc1", False),
        (reads_variable, "VLLM_ASCEND_ENABLE_BATCH_MEMCPY", "0.30.0rc2", True),
        # Came to the branch of 0.9.1 after 0.9.2rc1 had left without it.
        (reads_variable, "VLLM_ASCEND_MLA_PA", "0.9.1", True),
        (reads_variable, "VLLM_ASCEND_MLA_PA", "0.9.2rc1", False),
        (reads_variable, "VLLM_ASCEND_MLA_PA", "0.10.0rc1", True),
        (reads_key, "enable_cpu_binding", "0.30.0rc2", True),
        (reads_key, "scheduler_config", "0.30.0rc2", True),
        (reads_key, "enable_mc2_hierarchy_comm", "0.18.0", True),
        # Only on the branch of 0.13.0, after 0.13.0.
        (reads_key, "enable_kv_tnd", "0.13.0", False),
        (reads_key, "enable_kv_tnd", "0.13.0rc3", True),
        (reads_key, "enable_kv_tnd", "0.14.0rc1", False),
    ],
)
def test_variables_and_keys_of_releases(reads, name, version, expected):
    assert reads(name, version) == expected


def test_every_release_was_read():
    """The switch that all of them know is in each; a release without sources would have none."""
    for release in RELEASES:
        assert reads_key("refresh", release.version), release.version


def test_what_a_release_reads_stays_as_it_is():
    given = {NZ: "0", "HCCL_BUFFSIZE": "512"}
    settings = resolve_settings(given, {}, "0.18.0")
    assert (settings.env, settings.config, settings.notes) == (given, {}, ())


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        (NZ, "2", "weight_nz_mode", 2),
        ("VLLM_ASCEND_ENABLE_MLAPO", "1", "enable_mlapo", True),
        ("VLLM_ASCEND_ENABLE_FUSED_MC2", "1", "enable_fused_mc2", 1),
        ("MSMONITOR_USE_DAEMON", "0", "msmonitor_use_daemon", False),
    ],
)
def test_a_variable_that_became_a_key(name, text, key, value):
    settings = resolve_settings({name: text, "OTHER": "x"}, {"block-size": 64}, "0.30.0rc2")
    assert settings.env == {"OTHER": "x"}
    assert settings.config == {key: value}
    assert type(settings.config[key]) is type(value)
    assert name in settings.notes[0] and key in settings.notes[0]


@pytest.mark.parametrize("config", [{"weight_nz_mode": 1}, '{"weight_nz_mode": 1}'])
def test_a_variable_against_its_own_key(config):
    with pytest.raises(Refused, match="contradict"):
        resolve_settings({NZ: "2"}, {"additional-config": config}, "0.30.0rc2")
    settings = resolve_settings({NZ: "1"}, {"additional_config": config}, "0.30.0rc2")
    assert settings.config == {"weight_nz_mode": 1}


@pytest.mark.parametrize(
    ("env", "config", "version", "evidence", "hint"),
    [
        ({"VLLM_ASCEND_ENABLE_DBO": "1"}, {}, "0.13.0", "0.9.0rc1 to 0.11.0", "remove it"),
        ({"VLLM_ASCEND_ENABLE_NX": "1"}, {}, "0.18.0", "no release", f"did you mean `{NZ}`?"),
        ({"VLLM_ASCEND_ENABLE_CONTEXT_PARALLEL": "1"}, {}, "0.23.0", "to 0.20.2rc1", "flags"),
        ({}, {"torchair_graph_config": {}}, "0.13.0", "to 0.11.0", "ACL graphs"),
        ({}, {"ascend_scheduler_config": {}}, "0.12.0rc1", "to 0.11.0", "scheduler"),
        ({}, {"dynamic_eplb": True}, "0.18.0", "0.11.0rc0 to 0.13.0rc3", "eplb_config"),
        ({}, {"weight_nz_mod": 1}, "0.23.0", "no release", "did you mean `weight_nz_mode`?"),
        ({}, {"weight_nz_mode": 1}, "0.18.0", "0.20.2rc1 to 0.30.0rc2", f"`{NZ}` in"),
    ],
)
def test_names_that_would_be_ignored(env, config, version, evidence, hint):
    with pytest.raises(Refused, match="would be ignored") as error:
        resolve_settings(env, {"additional-config": config} if config else {}, version)
    assert evidence in error.value.evidence[0]
    assert error.value.hint is not None and hint in error.value.hint


@pytest.mark.parametrize("config", ["{", "[1]", 7, ["a"]])
def test_a_config_that_is_not_a_mapping(config):
    with pytest.raises(Refused, match="additional-config"):
        resolve_settings({}, {"additional-config": config}, "0.18.0")


def test_a_switch_must_be_a_number_to_become_a_key():
    with pytest.raises(Refused, match="must be a number"):
        resolve_settings({NZ: "yes"}, {}, "0.30.0rc2")


@pytest.mark.parametrize(("patience", "seconds"), [(10, "120"), (900, "900"), (86_400, "7200")])
def test_hccl_waits_within_its_limits(patience, seconds):
    variables = network_variables(Node("a", "10.0.0.1", 8, "eth0"), patience)
    assert variables["HCCL_CONNECT_TIMEOUT"] == seconds

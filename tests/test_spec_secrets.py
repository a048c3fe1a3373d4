"""Secrets in a spec: refused where they would be seen, with the way to give them."""

import pytest

from ropeway.cli.main import exit_code
from ropeway.errors import Refused
from ropeway.launch.checks import check_secrets
from ropeway.report.chinese import error_in_chinese
from ropeway.spec.model import parse_spec

S = "abcdefSECRET99"
SPEC = "cluster: {hosts: [{address: 192.168.0.1, npus: 8}]}\nmodel: {path: /m}\nserve: "


@pytest.mark.parametrize(
    "serve",
    [
        "{env: {OPENAI_KEY: x}}", "{env: {DB_PASS: x}}", "{env: {WANDB_KEY: x}}",
        "{env: {AWS_ACCESS_KEY_ID: x}}", "{env: {HTTPS_PROXY: 'http://me:pw@proxy:3128'}}",
        "{env: {OTHER: hf_0123456789abcdefgh}}", "{env: {OTHER: 'Bearer 0123456789'}}",
        "{env: {MY_API_KEYS: x}}", "{env: {OBS_SK: x}}", "{env: {OBS_AK: x}}",
        "{env: {ROOT_PW: x}}", "{env: {AZURE_SAS: x}}", "{env: {BLOB_SAS: x}}",
        "{env: {TOKENPW: x}}", "{env: {SIGNING_SALT: x}}", "{env: {AWS_SESSION: x}}",
        "{env: {AWS_SESSION_TOKEN: x}}", "{env: {PAT: a1b2c3d4}}", "{env: {PWD: hunter2}}",
        "{env: {HF_TOKEN: '123456789'}}", "{env: {OPTIONS: '--x 1 --db-password hunter2'}}",
        "{env: {STORE: 'Protocol=https;AccountKey=abcdef'}}", "{env: {DB: 'root:abcdef@db'}}",
        r'{engine_args: {hf-overrides: "{\"access_token\": \"abcdef\"}"}}',
        r'{engine_args: {x: "[{\"a\": {\"db_password\": \"abcdef\"}}]"}}',
        r'{engine_args: {x: "{\"broken_password\": \"abcdef"}}',
        "{engine_args: {hf-overrides.access_token: abcdef}}",
        "{engine_args: {db-password: 123456}}",
        "{engine_args: {hf-token: abcdef}}", "{engine_args: {hf_token: abcdef}}",
        "{engine_args: {kv-config: {redis: {password: abcdef}}}}",
        "{env: {SSHPASS: Zq8RkT3vLmXw71}}", "{engine_args: {x: {token: letmein}}}",
        "{engine_args: {x: {headers: [{name: X-Api-Key, value: abcdef}]}}}",
        "{engine_args: {x: {headers: [{Value: abcdef, Key: db_password}]}}}",
        r'{engine_args: {x: "[{\"name\": \"HF_TOKEN\", \"value\": [\"abcdef\"]}]"}}',
        "{engine_args: {x: [--db-password, y]}}",
        "{engine_args: {x: 'redis://:pw@host:6379'}}",
    ],
)  # fmt: skip
def test_a_secret_in_a_spec_is_refused_with_the_way_to_give_it(serve: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_spec(SPEC + serve, "f.yaml")
    assert refused.value.where == "f.yaml:3"
    assert "secret_env: [" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("serve", "reason", "hint"),
    [
        ("{engine_args: {model-loader-extra-config: {aws_secret_access_key: abcdef}}}",
         "the name of `aws_secret_access_key` in it", "`secret_env: [AWS_SECRET_ACCESS_KEY]`"),
        ("{engine_args: {additional-config: {store: {db_password: abcdef}}}}",
         "the name of `db_password` in it", "a file that the engine reads"),
        (r'{engine_args: {x: "{\"hf_token\": \"abcdef\"}"}}',
         "the name of `hf_token` in it", "`secret_env: [HF_TOKEN]`"),
        ("{engine_args: {x.aws_access_key_id: abcdef}}",
         "its name says", "`secret_env: [AWS_ACCESS_KEY_ID]`"),
        ("{engine_args: {hf-token: abcdef}}", "its name says", "`secret_env: [HF_TOKEN]`"),
        ("{engine_args: {db-password: abcdef}}", "its name says", "`secret_env: [NAME]`"),
        ("{engine_args: {x: {y: hf_0123456789abcdefgh}}}",
         "the value of `y` in it looks like one", "`secret_env: [NAME]`"),
        ("{engine_args: {x: {env: [{name: HF_TOKEN, value: abcdef}]}}}",
         "the name of `HF_TOKEN` in it", "`secret_env: [HF_TOKEN]`"),
        ("{env: {OTHER: hf_0123456789abcdefgh}}",
         "its value looks like one", "`secret_env: [OTHER]`"),
        ("{env: {MY_TOKEN: x}}", "its name says", "`secret_env: [MY_TOKEN]`"),
    ],
)  # fmt: skip
def test_a_refused_secret_is_named_with_a_variable_only_where_one_is_read(serve, reason, hint):
    with pytest.raises(Refused) as refused:
        parse_spec(SPEC + serve, "f.yaml")
    assert f"holds a secret ({reason}" in refused.value.what
    assert hint in (refused.value.hint or "")
    assert error_in_chinese(refused.value) is not None


@pytest.mark.parametrize(
    ("language", "serve", "hint"),
    [
        (
            "en",
            "{env: {HF_TOKEN: x}}",
            "as `export HF_TOKEN=…`, and write `secret_env: [HF_TOKEN]`",
        ),
        (
            "zh",
            "{env: {HF_TOKEN: x}}",
            "用 `export HF_TOKEN=…` 设置，并写 `secret_env: [HF_TOKEN]`",
        ),
        ("en", "{api_key: x}", "as `export ROPEWAY_API_KEY=…`, and write `serve.api_key_env: R"),
        ("zh", "{api_key: x}", "用 `export ROPEWAY_API_KEY=…` 设置，并写 `serve.api_key_env: R"),
    ],
)
def test_the_way_to_give_a_secret_is_not_hidden_with_it(language, serve, hint, tmp_path, capsys):
    spec = tmp_path / "s.yaml"
    spec.write_text(SPEC + serve)
    assert exit_code(["plan", "-c", str(spec), "--lang", language]) == 2
    err = capsys.readouterr().err
    assert hint in err
    assert ("error: " in err) == (language == "en")


@pytest.mark.parametrize(
    "serve",
    [
        "{env: {LICENSE: apache-2.0}}",
        "{env: {TOKENIZERS_PARALLELISM: 'false', HTTPS_PROXY: 'http://proxy:3128'}}",
        "{engine_args: {hf-token: true, max-num-batched-tokens: 8192, ssl-keyfile: /k.pem}}",
        "{engine_args: {hf-overrides: {image_token: 151655, pad_token: '<pad>'}}}",
        "{env: {RAY_AUTH_MODE: token, VLLM_USE_V1: '1', HF_TOKEN_PATH: /root/token}}",
        "{env: {PWD: /root, PAT: '*.py', SIG: TERM, NUM_SPECULATIVE_TOKEN: '3', MONKEY: abc}}",
        "{engine_args: {x: {pad_token_id: 0, max_tokens: 4096, prefix_cache_key: abcdef0}}}",
        r'{engine_args: {hf-overrides: "{\"image_token\": 151655, \"bos_token\": \"<begin>\"}"}}',
        r'{engine_args: {hf-overrides: "{\"classifier_from_token\": [\"no\", \"yes\"]}"}}',
        "{env: {HF_HOME: /data/hf_home_of_the_team, CHECKPOINT: /data/hf_checkpoints_qwen3}}",
        "{engine_args: {x: [{name: X-Trace, value: abcdef}, {name: token}, {value: abcdef}]}}",
        "{engine_args: {x: {name: HF_TOKEN, value: $HF_TOKEN}}, env: {BYPASS: abcdef}}",
        "{engine_args: {download-dir: /data/hf_download_cache_dir}}",
        "{engine_args: {chat-template: /data/npm_packages_and_models_1/t.jinja}}",
        "{engine_args: {lora-modules: a=/data/sk-finetuned-qwen3-32b-v2/pypi-mirror-2024-11-02}}",
    ],
)
def test_what_only_sounds_like_a_secret_is_accepted(serve: str) -> None:
    parse_spec(SPEC + serve, "f.yaml")


@pytest.mark.parametrize(
    "text",
    [
        f"serve: {{api_key_env: {S}-1}}", f"serve: {{secret_env: [{S}-1]}}",
        f"serve: {{secret_env: {S}}}",
        f"serve: {{api_key_env: hf_{S}abc}}", f"serve: {{address: 'https://me:{S}@host'}}",
        f"serve: {{port: 'Bearer {S}'}}", f"runtime: {{index: 'https://x/y?token={S}'}}",
        f"workload: {{clients: sk-{S}abcdefg}}",
    ],
)  # fmt: skip
def test_no_complaint_about_a_spec_shows_a_secret(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_spec(SPEC.replace("serve: ", "") + text, "f.yaml")
    assert "SECRET99" not in str(refused.value.as_json())


@pytest.mark.parametrize("key", ["with space", "with\nline", "with\x1bescape", "schlüssel"])
def test_up_refuses_a_key_that_no_request_can_carry(key: str) -> None:
    spec = parse_spec(SPEC + "{api_key_env: MINE}", "f.yaml")
    with pytest.raises(Refused) as refused:
        check_secrets(spec, {"MINE": key})
    assert "`MINE`" in refused.value.what
    assert key not in str(refused.value.as_json())

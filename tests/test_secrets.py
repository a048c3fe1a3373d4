"""Secrets: refused where they would be seen, and hidden in what is handed on."""

import base64
import json
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.errors import Refused
from ropeway.facts.redaction import redact, secret_values
from ropeway.launch.checks import check_secrets
from ropeway.spec.model import parse_spec

S = "abcdefSECRET99"
SPEC = "cluster: {hosts: [{address: 192.168.0.1, npus: 8}]}\nmodel: {path: /m}\nserve: "
# As they were found in logs, commands, environments and configurations.
WRITTEN = [
    f"--hf-token {S}", f"--hf-token={S}", f'"--hf-token", "{S}"', f"['--hf-token', '{S}']",
    f"AWS_SECRET_ACCESS_KEY={S}", f"AWS_ACCESS_KEY_ID={S}", f"OPENAI_KEY: {S}", f"DB_PASS={S}",
    f'"DB_PASS": "{S}"', f'\\"password\\": \\"{S}\\"', f"export WANDB_KEY='{S}'",
    f"--env OPENAI_KEY={S}", f"registry_password {S}", f"password={S}", f'password = "{S} {S}"',
    f"passwd: '{S}'", f"passphrase={S}", f"client_secret={S}", f"apiKey: {S}", f"api_key={S}",
    f'{{"token":"{S}"}}', f"{{'hf_token': '{S}'}}", f'token="{S}"', f"TOKEN_2={S}",
    f"dbpassword={S}",    f"https://x/y?Signature={S}&a=b", f"https://x/y?X-Amz-Signature={S}", f"https://x/y?sig={S}",
    f"DefaultEndpointsProtocol=https;AccountKey={S};x", f"https://user:{S}@host/x",
    f"mysql://root:{S}@db/x", f"https://{S}@host", f"curl -u me:{S} http://x",
    f"Authorization: Bearer {S}", f"Authorization: Basic {S}", f'"Authorization": "Bearer {S}"',
    f"Proxy-Authorization: {S}", f"x-api-key: {S}", f"Cookie: session={S}; b=c",
    f"set-cookie: a={S}",
    f"ghp_abcdefgh{S}", f"github_pat_{S}abcdef", f"glpat-{S}abcdef", "AKIAABCDSECRET99ABCD",
    f"xoxb-12345678-{S}", f"sk-proj-{S}abcdefg", f"hf_{S}abcdef", f"npm_{S}abcdefg",
    f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOi{S}.{S}", f"https://x/?jwt=eyJhbGciOiJIUz.{S}.{S}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{S}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n2026 npu0 | {S}\n2026 npu0 | {S}",
    f"'api_key': ['{S}', '{S}']", f"--api-key {S} {S} --port 1", f"--api-key=a1b2c3,{S}",
    f"curl -u bob:{S} http://x", f"curl --user bob:{S} http://x", f'{{"password": "a\\"b {S}"}}',
    f"api_keys: [{S}]", f"passwords={S}", f"private_keys = '{S}'", f"--token '{S} {S}'",
    f"-----BEGIN RSA PRIVATE KEY-----\n{'a' * 30_000}{S}", f"AUTH={S}",
    f"-----BEGIN PRIVATE KEY-----\\n{S}\\n-----END PRIVATE KEY-----",
]  # fmt: skip
HARMLESS = [
    "--max-num-batched-tokens 8192 --tokenizer /data/x", "TOKENIZERS_PARALLELISM=false",
    '{"image_token": 151655, "bos_token": "<s>", "pad_token": 143.5}', "api_key_env: MY_KEY",
    "image_token_id=3", "cache_key=abcdefgh", "auth: none", "Basic training of models",
    "public_key: abc", "sk-learn-is-a-python-library", "key: serve.context",
    "ropeway: the first token is there", "KeyError: 'layers.0'",
    '"secret_env": ["HUB_PIN"]', "tokens: 512, prompt_tokens=7", "RAY_AUTH_MODE=token",
    "/root/.ssh/authorized_keys: 3 keys", "ssl-keyfile=/etc/key.pem", "PATH=/usr/bin:/bin",
    "task-0123456789abcdef0123", "git@github.com:vllm-project/vllm", "path=/data/model",
]  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_called_or_looks_like_a_secret_is_hidden(text: str) -> None:
    for line in (text, f"2026-01-01 INFO {text}", json.dumps({"line": text}), f"{text}\n{text}"):
        assert "SECRET99" not in redact(line), redact(line)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_none_is_left(text: str) -> None:
    assert redact(text) == text


def test_numbers_are_secrets_unless_they_are_tokens() -> None:
    for text in ('{"api_key": 12345678}', '{"pwd":"123456"}'):
        assert "123456" not in redact(text)


def test_a_hostile_text_takes_no_longer_than_its_length() -> None:
    """Each of these took seconds or hours where a part was read again for every place."""
    for text in ("-----BEGIN PRIVATE KEY-----\n", "eyJ", "key=", "://a", '"', "\\", "a-", "token "):
        redact(text * (400_000 // len(text)))


@given(st.text(min_size=6), st.text(max_size=8), st.text(max_size=8))
def test_a_known_value_is_hidden_however_it_is_written(value: str, before: str, after: str) -> None:
    data = value.encode(errors="surrogatepass")
    for text in (
        value, quote(value, errors="replace"), quote_plus(value, errors="replace"),
        json.dumps(value), json.dumps(json.dumps(value)), shlex.quote(value),
    ):  # fmt: skip
        assert text.strip("\"'") not in redact(f"{before}{text}{after}", [value]) or text in "*"
    for begin in (b"", b"u", b"u:"):
        for end in (b"", b"x", b"xy"):
            text = base64.b64encode(begin + data + end).decode()
            assert text[4:-4] not in redact(text, [value]) or len(text) < 12


def test_known_are_variables_that_are_named_as_keys_or_called_so() -> None:
    environ = {
        "HF_TOKEN": "123456789",
        "HUB_PIN": "4711",
        "MINE": "the-endpoints",
        "HOME": "/root",
    }
    assert secret_values(["--key-env", "MINE"], environ, ["HUB_PIN"]) == {
        "123456789", "4711", "the-endpoints",
    }  # fmt: skip


@pytest.mark.parametrize(
    "serve",
    [
        "{env: {OPENAI_KEY: x}}", "{env: {DB_PASS: x}}", "{env: {WANDB_KEY: x}}",
        "{env: {AWS_ACCESS_KEY_ID: x}}", "{env: {HTTPS_PROXY: 'http://me:pw@proxy:3128'}}",
        "{env: {OTHER: hf_0123456789abcdefgh}}", "{env: {OTHER: 'Bearer 0123456789'}}",
        "{env: {MY_API_KEYS: x}}",
        "{engine_args: {hf-token: abcdef}}", "{engine_args: {hf_token: abcdef}}",
        "{engine_args: {kv-config: {redis: {password: abcdef}}}}",
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
    "serve",
    [
        "{env: {TOKENIZERS_PARALLELISM: 'false', HTTPS_PROXY: 'http://proxy:3128'}}",
        "{engine_args: {hf-token: true, max-num-batched-tokens: 8192, ssl-keyfile: /k.pem}}",
        "{engine_args: {hf-overrides: {image_token: 151655, pad_token: '<pad>'}}}",
        "{env: {RAY_AUTH_MODE: token, VLLM_USE_V1: '1', HF_TOKEN_PATH: /root/token}}",
    ],
)
def test_what_only_sounds_like_a_secret_is_accepted(serve: str) -> None:
    parse_spec(SPEC + serve, "f.yaml")


@pytest.mark.parametrize("key", ["with space", "with\nline", "with\x1bescape", "schlüssel"])
def test_up_refuses_a_key_that_no_request_can_carry(key: str) -> None:
    spec = parse_spec(SPEC + "{api_key_env: MINE}", "f.yaml")
    with pytest.raises(Refused) as refused:
        check_secrets(spec, {"MINE": key})
    assert "`MINE`" in refused.value.what
    assert key not in str(refused.value.as_json())

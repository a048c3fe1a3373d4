"""Secrets: hidden in what is handed on."""

import base64
import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, quote_plus

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear import assert_linear
from ropeway import report
from ropeway.cli.main import exit_code
from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.shell import read_shown
from ropeway.errors import LaunchError
from ropeway.facts.redaction import redact, secret_values

S = "abcdefSECRET99"
# As they were found in logs, commands, environments and configurations.
WRITTEN = [
    f"--hf-token {S}", f"--hf-token={S}", f'"--hf-token", "{S}"', f"['--hf-token', '{S}']",
    f"AWS_SECRET_ACCESS_KEY={S}", f"AWS_ACCESS_KEY_ID={S}", f"OPENAI_KEY: {S}", f"DB_PASS={S}",
    f'"DB_PASS": "{S}"', f'\\"password\\": \\"{S}\\"', f"export WANDB_KEY='{S}'",
    f"--env OPENAI_KEY={S}", f"registry_password {S}", f"password={S}", f'password = "{S} {S}"',
    f"passwd: '{S}'", f"passphrase={S}", f"client_secret={S}", f"apiKey: {S}", f"api_key={S}",
    f'{{"token":"{S}"}}', f"{{'hf_token': '{S}'}}", f'token="{S}"', f"TOKEN_2={S}",
    f"dbpassword={S}",    f"https://x/y?Signature={S}&a=b", f"https://x/y?X-Amz-Signature={S}",
    f"https://x/y?sig={S}", "https://x/y?a=b&sig=SECRET99",
    f"DefaultEndpointsProtocol=https;AccountKey={S};x", f"https://user:{S}@host/x",
    f"mysql://root:{S}@db/x", f"https://{S}@host", f"curl -u me:{S} http://x",
    f"s3://AK:SEC/{S}@b/x", f"s3://{S}:a/b/c@b/x",
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
    # By what joins name and value.
    f"api_key -> {S}", f"api_key => {S}", f"api_key := {S}", f"api_key→{S}", f"api_key\t{S}",
    f"| api_key | {S} |", f"│ api_key │ {S} │", f"token%3D{S}", f"password：{S}",
    f"**Password**: {S}",
    f"`api_key`: `{S}`", f"os.environ['API_KEY'] = '{S}'", f"API key: {S}", f"secret key = {S}",
    f"%22api_key%22%3A%22{S}%22", f"%2522api_key%2522%253A%2522{S}%2522",
    f"&quot;api_key&quot;:&quot;{S}&quot;", f"\\u0022api_key\\u0022:\\u0022{S}\\u0022",
    f"<password>{S}</password>", f"<db.password>{S} {S}</db.password>", f"line\\napi_key={S}",
    f'{{"name": "API_KEY", "value": "{S}"}}', f'<env name="API_KEY" value="{S}"/>',
    f"- name: API_KEY\n  value: {S}", f"API_KEY={S}\0B=1", f"args: [--api-key, {S}]",
    # On the lines below.
    f'"--api-key",\n "{S}"', f"- --api-key\n- {S}", f"serve \\\n  --api-key \\\n  {S}",
    f"--api-key\0{S}\0--port", f"--api-key\n{S}\n--port\n1", f'"api_key":\n    "{S}"',
    f"api_key:\n  {S}", f"api_key: |\n  {S}", f"api_key: # mine\n  {S}", f"api_keys:\n- {S}\n- {S}",
    f"2026-01-01T00:00:00.1Z api_key:\n2026-01-01T00:00:00.1Z   {S}",
    f'2026-01-01T00:00:00.1Z "--api-key",\n2026-01-01T00:00:00.1Z  "{S}"',
    # By the form of the value.
    f'"secrets": {{"a": "{S}"}}', f'"secrets": {{\n  "a": "x",\n  "b": ["{S}"]\n}}',
    f"secrets:\n  a: x\n  b:\n    - {S}\n", f'"api_key":\n    {{"a": "{S}"}}', f"token=('{S}')",
    f"api_key=(\n  '{S}'\n)", f"auth: {{user: x, pass: {S}}}", f'api_key="""{S}"""',
    f"password=abc'{S}", f'password=abc"{S}', f"password='abc'{S}", f"password: 'it''s {S}'",
    f"--password='abc'\"'\"'c {S}'", f"--password='abc'\\''{S}'", f"password=abc,{S}",
    f"password=abc;{S}", f"password=abc&{S}", f"password=abc){S}", f"password: correct horse {S}",
    f"api_key=SecretStr('{S}')", f"(b'authorization', b'Bearer {S}')", f"token=<{S}",
    f"api_key=none{S}", f"api_key=***{S}", f"cookie=a=b; sid={S}", f'Set-Cookie: a="b"; sid={S}',
    f'Authorization: Digest username="u", response="{S}"', f"-H 'Cookie: a=b; sid={S}' http://x",
    # By a name in Chinese, or one of a few letters.
    f"密码: {S}", f"口令：{S}", f"密钥：{S}", f"用户密码为 {S}", f'api密钥 = "{S}"',
    f"设置password={S}",
    f"OBS_SK={S}", f"OBS_AK: {S}", f"ak={S}, sk={S}", f'"sk": "{S}"', f"ROOT_PW={S}",
    f"TOKENPW={S}",
    f"SIGNING_SALT={S}", f'"cache_salt": "{S}"', f"AWS_SESSION={S}", f"ACCESS_TOKENS=[{S}]",
    f"DB_CREDS={S}", f"PWD={S}", f"PAT={S}", f"SIG={S}", f"pass={S}", f"SECRET_SANTA={S}",
    # By the program, and by what services give.
    f"sshpass -p {S} ssh -p 22 host", f"sshpass -p'{S}' ssh h", f"docker login -u me -p {S} host",
    f'["docker", "login", "-p", "{S}"]', f"redis-cli -h x -a {S} ping", f"mysql -uroot -p{S} db",
    f"machine h login u password {S}", f"machine h\n  login u\n  password {S}", f"requirepass {S}",
    f"https://x/y?sv=2022&sig=a%2Bb%2F{S}%3D&se=1", f"https://hooks.slack.com/services/T0/B0/{S}",
    f"https://open.feishu.cn/open-apis/bot/v2/hook/{S}", f"https://w/webhook/send?key={S}",
    f"root:{S}@10.0.0.1", f"mysql://root:p@{S}@db/x", f"LTAI5t{S}ab",
    f"aws configure set aws_access_key_id {S}", f"aws configure set aws_secret_access_key '{S}'",
    f"git clone https://oauth2:{S}@h/x", f"pip install --index-url https://u:{S}@h/simple x",
    f"echo '{S} {S}' | docker login --password-stdin", f"echo 'root:{S}' | chpasswd",
    "sshpass -p '$SECRET99' ssh h", f"obsutil config -i=a\\;b -k={S}", f"api_key=\\{S}",
    # In one word, of services, on two lines of a shell, in sentences.
    f"SSHPASS={S}", f"userpass: {S}", f"SECRETID={S}", f"accesskeyid={S}", f"TOTP_SEED={S}",
    f"token_value={S}", f"api_key_value: {S}", f"SENTRY_DSN=https://{S}@o1.ingest.sentry.io/2",
    f"DATA_SOURCE_NAME=exporter:{S}@(db:3306)/", f"DSN=me:{S}@tcp(db:3306)/x", f"DSN=me:{S}@/x",
    f"SG.abcdefghijklmnopqrstuv.{S * 3}x", *(f"{begin}abcdefgh{S}ijkl" for begin in (
        "sk_live_", "rk_live_", "gsk_", "r8_", "xai-", "pplx-", "tvly-", "wandb_v1_", "dop_v1_",
    )), "AGE-SECRET-KEY-1ABCDEFGHSECRET99ABCDEFGH", f"x\\ngsk_abcdefgh{S}", f"x%3Dhf_abcdefgh{S}",
    f"HF_TOKEN=abc\\\n{S}", f'HF_TOKEN="abc\\\n  {S}"', f"--api-key abc\\\n{S} --port 1",
    f"the password is {S}", f"password is '{S}'", "api_key is 0123456789abcdef0SECRET99",
    f"HF_TOKEN is {S}", f"访问密钥 {S}", f"密码 `{S}`",
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
    "PWD=/root/x", 'PWD: "/work"', "OLDPWD=/root", "PAT=*.py", "PAT: linear", "SIG=TERM", "sig=9",
    "NUM_SPECULATIVE_TOKEN=3", "NUM_SPECULATIVE_TOKENS=3", "num_speculative_token: five",
    "time per output token: 31 ms", "first token: 0.3 s", "first token: 0.31s", "one pass: 5 s",
    "forward_pass: abc.def", "pad_token_id=0", "pad_token_id: [0, 1]", "prefix_cache_key: abcdef01",
    "max_tokens: 4096", "tokenizer: x", "bos_token: <s>", "bos_token: x", "monkey=abc",
    "keyboard: us", "the token, which is late", "invalid token, got 5", "Token expired",
    "def token(x) -> str:", "Token::foo()", "docker run -u 1000:1000 -p 8000:8000 x",
    "quay.io/ascend/vllm-ascend:v0.11.0@sha256:0123456789abcdef", "mailto:bob@example.com",
    "cat token | wc -l", "mkdir -p /x", "ssh -p 22 host", "mysql -u root -p", "image:8000@x",
    "api_key: ${API_KEY}", "api_key: $(cat /f)", "api_key: {{ .Values.apiKey }}", "HF_TOKEN=",
    "HF_TOKEN=\nHOME=/root", "hf_token:\nport: 8000", "api_key: ''",
    '"api_key": null, "port": 8000',
    "api_key=None, port=8000", "密码：无", "令牌数：512", "密钥文件：/x", "auth: none.",
    '"signature": "hccl-notify-timeout"', '"key_env": "API_KEY",\n"backends": []',
    "an environment variable with the API key that clients send", "a key: `OWN_KEY` of x",
    "invalid credentials: access denied", "auth: failed for user", "hccl_token: timeout",
    'MountVolume.SetUp failed for volume "creds" : secret "creds" not found',
    "bypass=1", "compass: north", "prepass: abc", "NUM_SUBPASS=abc", "past_key_value: abc",
    "SEED=abcdef", "random_seed: abc", "key_value: abc", "xai-grok-2-vision-latest", "gsk_scatter",
    "r8_quantized_weights_of_experts_2", "Unexpected token: x at 5",
    "MSG.abcdefghijklmnopqrst.abcdefghijklmnopqrstuvwxyzabcdef", "compile pass: fuse",
    "token: hello", '{"token": " hello", "id": 5}',
    "the password is required here", "the token is base64-encoded", "the token is Qwen3-32B",
    "password is provided/by/X1", "密钥 文件", "访问密钥 AccessKey", "sum: f@(x)",
]  # fmt: skip


# What messages say of secrets that they name, and what stands there instead of words.
SAID = [
    "ValueError: HF_TOKEN is not set", "HF_TOKEN was not found", "HF_TOKEN has expired",
    "HF_TOKEN must be set to download gated models", "HF_TOKEN isn't set", "HF_TOKEN doesn't exist",
    "HF_TOKEN missing from the environment", "HF_TOKEN or --token must be given",
    "Please set HF_TOKEN in the environment", "environment variable HF_TOKEN is empty",
    "The token from HF_TOKEN environment variable is invalid. Note that HF_TOKEN takes precedence.",
    "Environment variable `HF_TOKEN` is set and is the current active token independently",
    "Token is required (`token=True`), but no token found. Log in with `hf auth login`.",
    "Missing token: please log in", "Invalid token: it has expired", "token: is invalid or expired",
    "MODELSCOPE_API_TOKEN is invalid, please login first", "token: unauthorized", "api_key=unset",
    "The api_key client option must be set either by passing api_key to the client or by …",
    "No api-key provided", "Invalid API key: check that it is right", "secrets: forbidden",
    "vllm serve: error: argument --api-key: expected at least one argument",
    "--api-key requires a value", "bash: line 3: HF_TOKEN: unbound variable",
    "HF_TOKEN: parameter null or not set", "couldn't find key HF_TOKEN in Secret default/hf",
    "WARNING! Using --password via the CLI is insecure. Use --password-stdin.",
    "docker login --password-stdin quay.io", "Error saving credentials: error storing credentials",
    "fatal: could not read Password for 'https://github.com': terminal prompts disabled",
    "NoCredentialsError: Unable to locate credentials", "password: incorrect for user root",
    "PartialCredentialsError: Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId: The OSS Access Key Id you provided does not exist in our records",
    "credentials: could not be loaded", "token: see https://huggingface.co/settings/tokens",
    "HF_TOKEN 为空", "HF_TOKEN 无效", "HF_TOKEN 环境变量未设置", "api_key：请先设置",
    "token: 已过期",
    "docker run --name mysql -p3306:3306 mysql", "docker login -u me -p $PASS", "curl -XPUT a:b",
    'echo "$PASS" | docker login --password-stdin', "wandb login to continue", "obsutil is in PATH",
    '{"Key": "Name", "Value": "abc"}', '{"value": "abc", "name": "MODEL"}', "value: a, name: b",
    '{"value": "$X", "name": "HF_TOKEN"}', "- value: a\n  name: MODEL\n- name: b\n  value: c",
]  # fmt: skip
# And what stays hidden beside such words.
NOT_SAID = [
    f"HF_TOKEN {S} is not valid", f"HF_TOKEN: {S} is not valid", f"HF_TOKEN={S} has expired",
    f"api_key {S}", f"api_key in{S}", f"api_key is={S}", f"api_key not-{S}",
    f"password: correct horse {S}", f"password: please {S}", f"password: not 1 {S}",
    f'password: "please log in {S}"', f"password = 'is {S}'", f'{{"password": "must be {S}"}}',
    f"password: in god we trust {S}", f"password: the quick {S}",
    f"- name: API_KEY\n  value: is {S}",
    f"- name: API_KEY\n  value: not a good {S}", f"--api-key {S} is", f"--api-key={S} must be",
    f"--api-key: {S}", f"token: `{S}`", f"Missing token: {S}", f"Invalid token: {S}, please log in",
    f"api key: {S} was rejected", f"INVALID_TOKEN={S}", f"invalid_api_key: {S}", f"KEY={S}",
    f"密码 为 {S}", f"api_key：{S}", f"api_key: 请{S}", f"token -> {S}", f"HF_TOKEN=请设置{S}",
]  # fmt: skip
# Entries of an environment in two keys, whichever comes first.
TWO_KEYS = [
    f'{{"Name":"HF_TOKEN","Value":"{S}"}}', f'{{"Value":"{S}","Name":"HF_TOKEN"}}',
    f'{{"value":"{S}","name":"HF_TOKEN"}}', f"{{'value': 'a {S}', 'name': 'HF_TOKEN'}}",
    f'{{"Key":"HF_TOKEN","Value":"{S}"}}', f'{{"value": "{S}", "key": "HF_TOKEN"}}',
    f'{{"key":"HF_TOKEN","type":"env","masked":true,"value":"{S}"}}',
    f'{{"value":"{S}","note":"of the team","name":"HF_TOKEN"}}', f"value={S} name=HF_TOKEN",
    f'{{\n  "Value": "{S}",\n  "Name": "HF_TOKEN"\n}}', f"Name: HF_TOKEN, Value: {S}",
    f'<env value="{S}" name="HF_TOKEN"/>', f"EnvVar(value='{S}', name='HF_TOKEN')",
    f"- value: {S}\n  name: HF_TOKEN", f"- value: correct horse {S}\n  name: HF_TOKEN",
    f'- value: "{S}"\n  name: "HF_TOKEN"', f"- name: HF_TOKEN\n  # mine\n  value: {S}",
    f"- name: HF_TOKEN # mine\n  value: {S}", f"- name: HF_TOKEN\n  value: correct horse {S}",
    f"- name: HF_TOKEN\n  value: |\n    {S}", f"- value: >-\n    {S}\n  name: HF_TOKEN",
    f"- key: HF_TOKEN\n  value: {S}", f'[[env]]\nvalue = "{S}"\nname = "HF_TOKEN"',
    f"2026-01-01T00:00:00Z - name: HF_TOKEN\n2026-01-01T00:00:00Z   value: {S}",
    f"2026-01-01T00:00:00Z - value: {S}\n2026-01-01T00:00:00Z   name: HF_TOKEN",
    f'{{"env": {{"value": [{{"value": "{S}", "name": "HF_TOKEN"}}]}}}}',
    f"HF_TOKEN=a\\ {S}", f"export HF_TOKEN=a\\ b\\;c\\&{S}", f"HF_TOKEN=\\'a\\ {S}",
]  # fmt: skip
T = "hunterSECRET98"
# Commands with a secret for each `{}`, which a shell reads as one word.
COMMANDS = [
    "obsutil config -i={} -k={} -e=obs.example", "obsutil config -e obs.example -k {} -i {} -t={}",
    "obsutil cp -k={} a b && obsutil cp -i={} a b", "./ossutil64 -k {} -i {} ls", "coscli ls -k {}",
    "ossutil config -i {} -k {}", "coscmd config -a {} -s {} -b x", "coscli config set -i {} -k {}",
    "coscli config set --secret_id {} --secret_key {}", "mc alias set m http://x:9000 {} {}",
    "mc config host add m http://x {} {} --api S3v4", "mcli admin user add m {} {}",
    "rclone config create x s3 access_key_id={} secret_access_key={}", "rclone obscure {}",
    "rclone config create w webdav user me pass {}", "curl -su {} -U {} http://x", "curl -u{} x",
    "curl --proxy-user {} x", "wget --user=me --password={} x", "wget --http-password {} x",
    "mysql -uroot -p{} db", "mysqldump --password={} db", "redis-cli -a {} -a {}",
    "redis-cli --pass {}", "sshpass -v -p {} ssh a; sshpass -p{} ssh b", "docker login -p={} h",
    "docker login -u me -p {} a && docker login -p {} b", "docker login --password {} h",
    "helm registry login -u me -p {} h", "helm repo add x http://x --password {}",
    "helm install x y --set hf.token={},apiKey={}", "az login -p {}", "swanlab login -k {}",
    "kubectl create secret generic hf --from-literal=a={} --from-literal b={}",
    "kubectl create secret docker-registry r --docker-password={}", "unzip -P {} x",
    "modelscope login --token {}", "huggingface-cli login --token={}", "hf auth login --token {}",
    "ray start --redis-password {}", "ipmitool -U a -P {} -H h", "ldapsearch -x -w {} -D cn",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("quoted", ["{}", "'{}'", '"{}"', "'{}'\"{}\""])
def test_each_secret_of_a_command_is_hidden(command: str, quoted: str) -> None:
    count = command.count("{}")
    given = [quoted.replace("{}", f"me:{value}") for value in (S, T, S)[:count]]
    line = command.format(*given)
    broken = line.replace(" ", " \\\n  ") if ' "' not in quoted else line
    for text in (line, broken, f"ERROR: command failed: {line}", json.dumps({"cmd": broken})):
        assert "SECRET9" not in redact(f"{text}\n{text}"), redact(text)
    words = shlex.split(line)
    assert "SECRET9" not in redact(json.dumps(words)), redact(json.dumps(words))
    assert "SECRET9" not in redact(repr(words)), redact(repr(words))


@pytest.mark.parametrize("text", SAID)
def test_what_a_message_says_of_a_secret_is_left(text: str) -> None:
    for line in (text, f"2026-01-01 ERROR {text}", json.dumps({"line": text}, ensure_ascii=False)):
        assert redact(line) == line


@pytest.mark.parametrize("text", [*NOT_SAID, *TWO_KEYS])
def test_what_is_none_of_its_words_is_hidden(text: str) -> None:
    for line in (text, f"2026-01-01 INFO {text}", json.dumps({"line": text}), f"{text}\n{text}"):
        assert "SECRET99" not in redact(line), redact(line)


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_called_or_looks_like_a_secret_is_hidden(text: str) -> None:
    for line in (text, f"2026-01-01 INFO {text}", json.dumps({"line": text}), f"{text}\n{text}"):
        assert "SECRET99" not in redact(line), redact(line)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_none_is_left(text: str) -> None:
    assert redact(text) == text


def test_no_sentence_of_ours_is_taken_for_a_secret() -> None:
    texts: list[str] = []
    for table in (Path(report.__file__).parent / "chinese").glob("*.json"):
        for english, chinese in json.loads(table.read_text()).items():
            for text in (english, chinese):
                numbers = re.sub(r"\{[^{}:]*:[^{}]*\}", "7", text)
                texts.append(re.sub(r"\{[^{}]*\}", "`a 7`", numbers))
    assert [text for text in texts if redact(text) != text] == []
    assert len(texts) > 1000


def test_numbers_are_secrets_unless_they_are_tokens() -> None:
    for text in ('{"api_key": 12345678}', '{"pwd":"123456"}'):
        assert "123456" not in redact(text)


# Each of these took seconds or hours where a part was read again for every place.
HOSTILE = [
    "-----BEGIN PRIVATE KEY-----\n", "eyJ", "key=", "://a", '"', "\\", "a-", "token ",
    "pad_token=<", "api_key=<", "api_key={", "token: [", "auth:\n", "- auth:\n", "a_key:\n ",
    "PWD=/a&", "api_key=,", "password='\"'\"'", "--api-key\n", "cookie=a=\"", "<password>",
    "%22token%22%3A", "%25", "\\u0022", "密码:", "| api_key | ", "sshpass -", "a:b@", ":@",
    "login u password ", "name: API_KEY, value:", '"token","', "token=$(", "a.", " ",
    "value='", 'value:"', "- value: |\n ", "API_KEY a=b ", "API_KEY #", "obsutil -i ",
    "curl -u", 'docker login "', "mc alias set ", "echo a|", "api_key: please ", "api_key=a\\ ",
    "SG.", "SG.abcdefghijklmnopq", "api_key=\\\n", "a=\"\\\n", "password is A1", "密码 a1",
    "tvly-", "token: a ", "compass",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_text_is_read_in_linear_time(piece: str) -> None:
    assert_linear(redact, piece, small=25_000)


# What texts about secrets are made of.
_PIECES = st.sampled_from([
    "api_key", "--api-key", "token", "PWD", "密码", "Cookie", "a", "x1y2z3", "%22", "%3A", "&quot;",
    "->", "：", "${", "BEGIN", "value", "name", "obsutil -i",
    "mc alias set", "  ", *"\0\n \\\"'{}[]()<>|&;,:=#$*%@/.-",
])  # fmt: skip


@given(st.lists(_PIECES, max_size=30).map("".join), st.sampled_from(["", "\n", " "]))
def test_whatever_stands_before_a_secret_it_is_hidden(before: str, between: str) -> None:
    """What has no end (quotes, brackets, blocks) takes the pair behind it along, or ends before."""
    assert "SECRET99" not in redact(f"{before}{between}\nTHE_PASSWORD={S}\n")


@given(st.text(min_size=6), st.text(max_size=8), st.text(max_size=8))
def test_a_known_value_is_hidden_however_it_is_written(value: str, before: str, after: str) -> None:
    data = value.encode(errors="surrogatepass")
    for text in (
        value, quote(value, errors="replace"), quote_plus(value, errors="replace"),
        json.dumps(value), json.dumps(json.dumps(value)), shlex.quote(value),
    ):  # fmt: skip
        assert text.strip("\"'") not in redact(f"{before}{text}{after}", [value]) or text in "*"
    for begin in (b"", b"u", b"u:"):
        assert data.hex() not in redact(f"{before}{begin.hex()}{data.hex()}{after}", [value])
        for end in (b"", b"x", b"xy"):
            text = base64.b64encode(begin + data + end).decode()
            assert text[4:-4] not in redact(text, [value]) or len(text) < 12


def test_a_known_value_that_is_not_utf8_is_hidden() -> None:
    for text in ("pw\udcff1234", "pw%FF1234"):
        assert redact(f"x {text} y", ["pw\udcff1234"]) == "x *** y"


def test_known_are_variables_that_are_named_as_keys_or_called_so() -> None:
    environ = {
        "HF_TOKEN": "123456789",
        "HUB_PIN": "4711",
        "MINE": "the-endpoints",
        "HOME": "/root",
        "PWD": "/root/work",  # a directory, which would be hidden all over a bundle
    }
    assert secret_values(["--key-env", "MINE"], environ, ["HUB_PIN"]) == {
        "123456789", "4711", "the-endpoints",
    }  # fmt: skip


def test_an_error_shows_no_secret_that_a_log_or_a_server_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def verb() -> None:
        raise LaunchError(
            f"the server says: bad key {S}",
            where=f"http://me:{S}@host/v1",
            evidence=(f"api_key='x{S}'", "port 8000"),
            hint=f"with api_key={S}",
        )

    monkeypatch.setenv("MY_API_KEY", S)
    assert exit_code([], verb) == 1
    said = capsys.readouterr().err
    assert "SECRET99" not in said
    assert "bad key ***" in said
    assert "port 8000" in said


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("RuntimeError: obsutil config -i=ABCD -k=hunter2xyz -e=obs.example",
         "obsutil config -i=*** -k=*** -e=obs.example"),
        ('RuntimeError: no env {"Name":"HF_TOKEN","Value":"hunter2xyz"}', '"Value":"***"'),
        ("ValueError: HF_TOKEN is not set", "HF_TOKEN is not set"),
    ],
)  # fmt: skip
def test_a_diagnosis_shows_what_is_no_secret(line: str, shown: str) -> None:
    told = str(asdict(diagnose({"engine.log": f"ERROR {line}\n"})))
    assert shown in told and "hunter2xyz" not in told


def test_a_diagnosis_shows_no_secret() -> None:
    shown: dict[str, str] = {}
    for name in ("VLLM_DB_PW", "RAY_OBS_SK", "VLLM_API_KEY", "RAY_AUTH_MODE"):
        read_shown(f"export {name}=abcdef", shown)
    assert shown == {"RAY_AUTH_MODE": "abcdef"}
    diagnosis = diagnose({"engine.log": f"ERROR ValueError: cannot log in with api_key='{S}'\n"})
    assert diagnosis.verdict != "healthy"
    assert "SECRET99" not in json.dumps(asdict(diagnosis), default=str)


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (f"vllm serve: error: unrecognized arguments: --hf-token {S}", "--hf-token ***"),
        (f"FileNotFoundError: [Errno 2] No such file or directory: 'https://u:{S}@h/x?Signature=SG'",
         "https://***@h/x?Signature=***"),
        (f"Error response from daemon: manifest for https://u:{S}@quay.io/x not found",
         "https://***@quay.io/x"),
        (f"zmq.error.ZMQError: Cannot assign requested address (addr='tcp://u:{S}@h:1')",
         "tcp://***@h:1"),
        (f"Failed to connect to GCS at address user:{S}@10.0.0.1:6379",
         "tried user:***@10.0.0.1:6379"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", ["{}", "INFO:     well\n{}\nRAY_ADDRESS=http://u:SECRET99@h\n"])
def test_what_a_diagnosis_extracts_from_a_line_shows_no_secret_of_it(
    line: str, detail: str, shape: str
) -> None:
    diagnosis = diagnose({"engine.log": shape.format(line)})
    told = json.dumps(asdict(diagnosis), default=str)
    assert "SECRET99" not in told and "=SG" not in told
    assert detail in [each.en for each in diagnosis.details]
    assert detail.removeprefix("tried ") in diagnosis.headline

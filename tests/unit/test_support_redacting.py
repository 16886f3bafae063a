"""Secrets that were planted for the test are found, and what looks a little like one stays."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.doctor.support.redacting import MARK, Redactor, is_secret, secrets_in

PLANTED = "pl4nted-s3cret"


@pytest.mark.parametrize(
    "text",
    [
        f"HF_TOKEN={PLANTED}",
        f'Environment="APPLIANCE_PASS={PLANTED}" LANG=C',
        f"Environment=UPSTREAM_KEY={PLANTED} LANG=C",
        f'password = "{PLANTED} with spaces"',
        f"api_key: '{PLANTED}'",
        f'"hub_token": "{PLANTED}"',
        f"SetCredential=hub:{PLANTED}",
        f"SetCredentialEncrypted=hub: \\\n        {PLANTED} \\\n        {PLANTED}\nUser=x",
        f"--hub-token {PLANTED} --port 8080",
        f"--sign-key={PLANTED}",
        f"GET https://operator:{PLANTED}@mirror.example/simple",
        f"https://mirror.example/file?sig={PLANTED}&x=1",
        f"Authorization: Bearer {PLANTED}",
        f"Cookie: session={PLANTED}; other={PLANTED}",
        "hf_" + "a1B2" * 6,
        "sk-" + "a1B2" * 6,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{PLANTED}\nabc\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{PLANTED}",
    ],
)
def test_secrets_go_by_what_they_look_like(text: str) -> None:
    redactor = Redactor()
    redacted = redactor.text(text)
    assert PLANTED not in redacted
    assert MARK in redacted
    assert redactor.count > 0
    assert "a1B2" not in redacted
    assert Redactor().text(redacted) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "request ended request_id=r1 prompt_tokens=12 completion_tokens=58 ttft_ms=118.0",
        "engine.kv_cache_tokens = 32768: serving takes 836 MiB",
        "first token 118 ms, tokens/s 20.1",
        "openvino-tokenizers: 2026.4.1.0, openvino_tokenizer.xml: 17 kB",
        '"default_max_tokens": 512, "eos_token_ids": [2, 7]',
        "LoadCredential=hub-token:/etc/appliance/hub-token",
        "appliance_generation_tokens_total 4711.0",
        "http://127.0.0.1:8080/v1/status?verbose=1",
        "slot tiny@0123456789abcdef is bad",
        "the CPU has no bypass; passive cooling: 85 °C",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_settings_go_by_name_whatever_their_section() -> None:
    tree = {
        "auth": {"keys": [PLANTED, {"name": "kiosk", "value": "x", "secret": PLANTED}], "header": "X-Key"},
        "hub": {"token": PLANTED, "accessKey": PLANTED, "timeout_s": 5.0, "max_tokens": 512},
        "tls": {"credentials": {"main": PLANTED}, "private_key": PLANTED},
        "models": {"trusted_keys": ["A" * 43 + "="], "canary_prompt": "Tell me of Paris.", "canary_expect": "Paris"},
        "personas": {"x": {"system_prompt": "You are a pirate."}},
        "engine": {"prompt_lookup": "auto"},
    }
    shown = Redactor().tree(tree)
    assert PLANTED not in json.dumps(shown)
    assert shown["models"] == {
        "trusted_keys": ["A" * 43 + "="], "canary_prompt": "[17 characters]", "canary_expect": "[5 characters]",
    }  # fmt: skip
    assert shown["personas"]["x"]["system_prompt"] == "[17 characters]"
    assert shown["engine"] == {"prompt_lookup": "auto"}
    assert shown["hub"]["max_tokens"] == 512
    assert shown["auth"]["header"] == "X-Key"


def test_a_secret_that_is_known_is_found_in_whatever_form() -> None:
    planted = 'p/ss "w0rd"'
    (known,) = secrets_in({"auth": {"password": planted}})
    texts = [f"tried {planted} twice", json.dumps({"x": planted}), "GET /?p=p%2Fss%20%22w0rd%22"]
    for text in texts:
        assert "w0rd" not in Redactor([known]).text(text)


def test_passwords_of_urls_are_known_wherever_the_url_is() -> None:
    assert list(secrets_in({"proxy": f"http://operator:{PLANTED}@proxy:3128"})) == [PLANTED]


def test_short_values_do_not_tear_holes_into_everything() -> None:
    assert Redactor(["on", "x"]).text("on and on") == "on and on"


def test_names() -> None:
    assert all(
        map(is_secret, ["HF_TOKEN", "hubToken", "auth", "keys", "client_secret", "PGPASSWORD_PASSWD", "api-key"])
    )
    assert not any(map(is_secret, ["trusted_keys", "prompt_lookup", "keyboard", "monkey", "host", "tokenizer"]))


def test_where_the_key_of_tls_is_may_be_known() -> None:
    unit = "Environment=APPLIANCE__SERVER__TLS_KEY_FILE=/run/credentials/appliance.service/tls-key.pem\n"
    assert Redactor().text(unit) == unit
    tree = {"server": {"tls_key_file": "/etc/appliance/tls/key.pem"}}
    assert Redactor().tree(tree) == tree
    assert list(secrets_in(tree)) == []


@pytest.mark.parametrize(
    "piece",
    ["x", "a.", "-", "--", "a=", 'a="', "eyJ-", "://", "a://", "?token", "key", "bearer ", "-----BEGIN ", "\\\n"],
)
def test_time_grows_with_the_text_and_no_faster(piece: str) -> None:
    Redactor([PLANTED]).text(piece * (300_000 // len(piece)))  # the test's own time limit is what would end it


@given(st.text(max_size=200))
def test_any_text_can_be_redacted(text: str) -> None:
    Redactor([PLANTED]).text(text)

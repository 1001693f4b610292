"""Passwords in URIs are redacted, secrets are known by their names; other text is unchanged."""

import time

import pytest

from hptransfer.core.command_templates import fill_template, names_in
from hptransfer.core.errors import ConfigError
from hptransfer.core.redaction import (
    hidden_stream,
    holds_secret,
    is_secret,
    is_secret_name,
    passwords,
    read_references,
    redacted,
    with_password,
    without_literals,
    without_secrets,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@db/x", "postgresql://me:***@db/x"),
        ("postgresql+psycopg2://me:hunter/2?@db/x", "postgresql+psycopg2://me:***@db/x"),
        ("http://me:hunter2@host:5000/a", "http://me:***@host:5000/a"),
        ("http://:hunter2@host", "http://:***@host"),
        ("https://me:hun@ter2@host/a", "https://me:***@host/a"),
        ("mysql://me@db/x?password=hunter2&ssl=1", "mysql://me@db/x?password=***&ssl=1"),
        ("two: http://a:hunter2@b and 'redis://c:hunter2@d'", "two: http://a:***@b and 'redis://c:***@d'"),
    ],
)
def test_a_password_is_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/user@example",
        "postgresql://me@db/x",
        "mail me@example.org: see http://host",
        "width=32 lr=0.1",
        '{"a": "http://host:80", "b": "x@y"}',
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_uri_is_whole_again_from_the_variable_that_differs_in_the_password_alone() -> None:
    full = "postgresql://me:hunter2@db/x"
    assert with_password("postgresql://me:***@db/x", {"A": full}, "A") == full
    assert with_password("postgresql://me:***@other/x", {"A": full}, "A") == "postgresql://me:***@other/x"
    assert with_password("", {"A": full}, "A") == ""


def test_places_of_passwords_are_named() -> None:
    tree = {"run": {"command": ["a", "http://u:p@h"], "n": 1}, "b": "http://h"}
    assert list(passwords(tree, "")) == ["run.command[1]"]


@pytest.mark.parametrize(
    "name",
    [
        *("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PGPASSWORD", "BASIC_AUTH"),
        *(
            "GOOGLE_APPLICATION_CREDENTIALS",
            "--api-key",
            "hfToken",
            "run.names.hub_token",
            "Authorization",
            "MYSQL_PWD",
        ),
    ],
)
def test_a_name_with_a_word_for_secrets_marks_one(name: str) -> None:
    assert is_secret_name(name)
    assert is_secret(name, "abcdef0123456789")


@pytest.mark.parametrize(
    "name", ["monkey", "keyboard", "tokens", "data.tokens", "author", "NUM_TOKENS", "TOKENIZER", "PWD", "keys", "lr"]
)
def test_a_name_that_only_contains_such_letters_marks_none(name: str) -> None:
    assert not is_secret_name(name)
    assert not is_secret(name, "abcdef0123456789")


def test_secrets_in_a_line_are_hidden() -> None:
    line = """run --api-key=abc lr=0.1 "password": "hunter2", 'Authorization: Bearer xyz' n=3 {token: hf_0123456789}"""
    assert without_secrets(line) == (
        """run --api-key=*** lr=0.1 "password": "***", 'Authorization: Bearer ***' n=3 {token: ***}"""
    )


def test_references_are_read_where_they_stand() -> None:
    text = "postgresql://me:${oc.env:PASSWORD}@db/${oc.env:NAME}"
    assert redacted(text) == text
    assert read_references(text, "place", {"PASSWORD": "a{b}$", "NAME": "x"}) == "postgresql://me:a{b}$@db/x"
    with pytest.raises(ConfigError, match=r"^place reads the variable NAME, which is not set on .*export it"):
        read_references(text, "place", {"PASSWORD": "abc"})


def test_templates_keep_references() -> None:
    template = "{{${oc.env:A_KEY}}}{lr}"
    assert names_in(template, "key") == {"lr"}
    assert fill_template(template, {"lr": 0.5}) == "{${oc.env:A_KEY}}0.5"


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_a_stream_is_hidden_across_its_chunks_and_nothing_else_is_lost(size: int) -> None:
    text = b"a hunter-of-x hunter-of-xy hunter-of- seven77 end hunter"
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    hidden_text = b"".join(hidden_stream(chunks, {"hunter-of-x", "hunter-of-xy", "seven77"}))
    assert hidden_text == b"a *** *** hunter-of- seven77 end hunter"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HFTOKEN", "hf_abc123def456"),
        ("OPENAIKEY", "abc123def456"),
        ("ACCESS_KEYS", "abc123def456"),
        ("SECRETKEY", "abc123def456"),
        ("oauth", "abcdefghijklmnopqrstuvwx"),
        ("X_AUTHENTICATION", "abc123def456"),
        ("", "python t.py --api-key clearKEYabc123def456"),
        ("", "python t.py --password hunter2"),
        ("", "git clone https://ghp_abc123def456ghi789@github.com/x"),
    ],
)
def test_secrets_in_joined_names_and_in_one_string_are_seen(name: str, text: str) -> None:
    assert holds_secret(name, text)
    assert "abc123def456" not in without_secrets(f"{name}={text}" if name else text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MONKEY", "abc123def456ghi789"),
        ("TURKEY", "abc123def456ghi789"),
        ("HOCKEYSTICK", "abc123def456ghi789"),
        ("KEYBOARD", "abc123def456ghi789"),
        ("TOKENS", "1000000"),
        ("tokens", "1000000000000000000"),
        ("", "python t.py --tokens 100000 --token-mixer conv"),
        ("", "https://example.org/a_long_path_1234567890@2x.png"),
    ],
)
def test_other_names_are_no_secrets(name: str, text: str) -> None:
    assert not holds_secret(name, text)


def test_code_keeps_its_variables_and_loses_its_keys() -> None:
    code = "-  environment: {HF_TOKEN: hf_LITERALSECRET9999}\n+token = tokenizer.encode(prompt_of_a_long_name2)\n"
    assert without_literals(code) == code.replace("hf_LITERALSECRET9999", "***")


@pytest.mark.parametrize("text", ["q", "q=q", "a://", "key="])
def test_the_search_takes_time_in_proportion_to_the_text(text: str) -> None:
    """Eight times the text takes at most sixteen times the time; squared, it would be sixty-four."""

    def seconds(times: int) -> float:
        began = time.process_time()
        without_secrets(text * times)
        redacted(text * times)
        return time.process_time() - began

    assert min(seconds(16_000) for _ in range(3)) < 16 * min(seconds(2000) for _ in range(3)) + 0.01

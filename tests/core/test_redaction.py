"""Passwords in URIs are redacted; other text is unchanged."""

import pytest

from hptransfer.core.redaction import passwords, redacted, with_password


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

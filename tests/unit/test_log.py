"""No secret reaches a log line, whatever it hides in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from worker import settings as settings_module
from worker.log import configure_logging, redact

TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"


@pytest.fixture(autouse=True)
def configured(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", TOKEN)
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN_SECOND", TOKEN[:-7])
    _forget()
    yield
    structlog.reset_defaults()
    _forget()


def _forget() -> None:
    settings_module.settings.cache_clear()
    settings_module._environment.cache_clear()


def test_a_secret_that_begins_like_another_leaves_nothing_of_the_other() -> None:
    hidden = {TOKEN[:-7], TOKEN, TOKEN[:9]}
    assert redact(f"/bot{TOKEN}/sendMessage", hidden) == "/bot***/sendMessage"


def test_a_text_without_a_secret_stays_as_it_is() -> None:
    assert redact("nothing here", {TOKEN}) == "nothing here"


@pytest.mark.parametrize(
    "value",
    [
        TOKEN,
        f"https://api.telegram.org/bot{TOKEN}/sendMessage",
        [TOKEN],
        {"deep": {"token": TOKEN}},
        ValueError(f"bad url {TOKEN}"),
        TOKEN.encode(),
    ],
)
def test_no_field_of_an_event_shows_a_secret(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    structlog.get_logger().warning("send_failed", value=value, delivery="d1")
    printed = capsys.readouterr().err
    assert "send_failed" in printed
    assert "d1" in printed
    assert "***" in printed
    assert TOKEN not in printed
    assert TOKEN[-7:] not in printed


def test_no_traceback_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    try:
        raise ValueError(f"bad url {TOKEN}")
    except ValueError:
        structlog.get_logger().exception("send_failed")
    printed = capsys.readouterr().err
    assert "ValueError" in printed
    assert TOKEN[-7:] not in printed


def test_only_events_of_the_level_or_above_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIRRORPOST_LOG_LEVEL", "warning")
    _forget()
    configure_logging()
    structlog.get_logger().info("whispered")
    structlog.get_logger().warning("said")
    printed = capsys.readouterr().err
    assert "said" in printed
    assert "whispered" not in printed


def test_a_level_that_is_none_prints_as_usual(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("loud")
    structlog.get_logger().info("said")
    structlog.get_logger().debug("whispered")
    assert "said" in (printed := capsys.readouterr().err)
    assert "whispered" not in printed

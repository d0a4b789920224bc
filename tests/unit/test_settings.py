"""Settings: read once, refused by name when they cannot be, and never shown with a secret."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import settings as module
from worker.errors import Misconfigured
from worker.platforms import platform, platforms
from worker.settings import (
    Settings,
    accounts_in_environment,
    credential_print,
    credentials,
    missing_variables,
    secrets,
    settings,
)

TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
TELEGRAM = platform("telegram")
MATRIX = platform("matrix")


@pytest.fixture(autouse=True)
def fresh(home: Path) -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    settings.cache_clear()
    module._environment.cache_clear()


def with_env(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget()
    return settings()


def test_nothing_configured_is_an_embedded_site_in_the_data_directory(home: Path) -> None:
    config = settings()
    assert config.database == f"sqlite:///{home / 'mirrorpost.db'}"
    assert config.redis == f"unix://{home / 'redis.sock'}"
    assert config.broker == f"redis+socket://{home / 'redis.sock'}"
    assert config.resolver == "sql"


def test_the_data_directory_is_made_for_its_owner_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_env(monkeypatch, MIRRORPOST_HOME=str(home / "deep" / "er"))
    assert config.data_dir == home / "deep" / "er"
    assert config.data_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("sqlite:////data/x.db", "sqlite:////data/x.db"),
    ],
)
def test_the_forms_of_hosting_platforms_are_taken(
    monkeypatch: pytest.MonkeyPatch, given: str, used: str
) -> None:
    assert with_env(monkeypatch, DATABASE_URL=given).database == used


@pytest.mark.parametrize("given", ["mysql://u:hunter2@h/d", "hunter2", "://hunter2"])
def test_another_database_is_refused_without_showing_its_address(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL must read sqlite:///path") as refused:
        _ = with_env(monkeypatch, DATABASE_URL=given).database
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "redis", "broker"),
    [
        ({"REDIS_URL": "redis://h/3"}, "redis://h/3", "redis://h/3"),
        ({"REDIS_URL": "unix:///r.sock"}, "unix:///r.sock", "redis+socket:///r.sock"),
        (
            {"REDIS_URL": "redis://h/3", "CELERY_BROKER_URL": "amqp://h//"},
            "redis://h/3",
            "amqp://h//",
        ),
    ],
)
def test_the_broker_is_redis_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], redis: str, broker: str
) -> None:
    config = with_env(monkeypatch, **variables)
    assert (config.redis, config.broker) == (redis, broker)


def test_a_deep_home_still_has_a_socket_that_can_be_bound(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_env(monkeypatch, MIRRORPOST_HOME=str(home / ("x" * 120)))
    assert len(str(config.redis_socket)) <= 100
    other = with_env(monkeypatch, MIRRORPOST_HOME=str(home / ("y" * 120)))
    assert other.redis_socket != config.redis_socket


def test_an_empty_variable_is_one_that_is_not_set(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_env(monkeypatch, DATABASE_URL="", REDIS_URL="", MIRRORPOST_RESOLVER="")
    assert config.database.startswith("sqlite:")
    assert config.resolver == "sql"
    assert missing_variables(TELEGRAM) == ["TELEGRAM_BOT_TOKEN"]


def test_a_value_that_cannot_be_is_refused_with_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Misconfigured, match="MIRRORPOST_WEBHOOK_ALLOW_PRIVATE") as refused:
        with_env(monkeypatch, MIRRORPOST_WEBHOOK_ALLOW_PRIVATE="perhaps")
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_beside_the_process_is_read_and_the_environment_goes_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text(f"REDIS_URL=redis://file/1\nTELEGRAM_BOT_TOKEN={TOKEN}\n")
    forget()
    assert settings().redis == "redis://file/1"
    assert missing_variables(TELEGRAM) == []
    assert with_env(monkeypatch, REDIS_URL="redis://env/1").redis == "redis://env/1"


def test_no_password_or_token_shows_in_a_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_env(
        monkeypatch,
        DATABASE_URL="postgresql://u:hunter2@h/d",
        REDIS_URL="redis://:hunter2@h/0",
        CELERY_BROKER_URL="amqp://u:hunter2@h//",
        TELEGRAM_BOT_TOKEN=TOKEN,
    )
    bot = credentials(TELEGRAM)
    assert bot is not None
    assert "hunter2" not in f"{config!r} {config}"
    assert TOKEN not in f"{bot!r} {bot}"


def test_a_bot_has_its_token_and_the_address_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with_env(monkeypatch, TELEGRAM_BOT_TOKEN=f" {TOKEN}\n")
    bot = credentials(TELEGRAM)
    assert bot is not None
    assert bot.values == {
        "TELEGRAM_BOT_TOKEN": TOKEN,
        "TELEGRAM_API_BASE": "https://api.telegram.org",
    }


def test_a_bot_without_its_token_is_none_and_the_variable_is_named() -> None:
    assert credentials(TELEGRAM) is None
    assert missing_variables(TELEGRAM) == ["TELEGRAM_BOT_TOKEN"]
    assert missing_variables(TELEGRAM, "on-call") == ["TELEGRAM_BOT_TOKEN_ON_CALL"]
    assert missing_variables(MATRIX) == ["MATRIX_HOMESERVER", "MATRIX_ACCESS_TOKEN"]


def test_a_further_account_has_its_own_token_and_shares_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_env(
        monkeypatch,
        MATRIX_HOMESERVER="https://example.org",
        MATRIX_ACCESS_TOKEN="first",
        MATRIX_ACCESS_TOKEN_SECOND="second",
    )
    bot = credentials(MATRIX, "second")
    assert bot is not None
    assert bot.values == {
        "MATRIX_HOMESERVER": "https://example.org",
        "MATRIX_ACCESS_TOKEN": "second",
    }
    assert accounts_in_environment(MATRIX) == ["second"]
    # Never the first one's token for want of an own.
    assert credentials(MATRIX, "third") is None


def test_a_fingerprint_changes_with_the_credential_and_tells_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert credential_print(None) == ""
    with_env(monkeypatch, TELEGRAM_BOT_TOKEN=TOKEN)
    first = credential_print(credentials(TELEGRAM))
    with_env(monkeypatch, TELEGRAM_BOT_TOKEN=TOKEN + "x")
    second = credential_print(credentials(TELEGRAM))
    assert first != second
    assert len(first) == 12
    assert first not in TOKEN


def test_the_secrets_are_those_of_every_account_and_no_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_env(
        monkeypatch,
        MATRIX_HOMESERVER="https://example.org",
        MATRIX_ACCESS_TOKEN="first",
        MATRIX_ACCESS_TOKEN_SECOND="second",
        TELEGRAM_BOT_TOKEN=TOKEN,
        TELEGRAM_BOT_TOKEN_OLD="",
    )
    assert secrets(platforms()) == {"first", "second", TOKEN}


def test_nobody_is_spared_unless_that_is_configured() -> None:
    config = settings()
    assert (config.quiet_hours, config.frequency_cap) == (None, None)
    assert str(config.default_timezone) == "UTC"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("MIRRORPOST_QUIET_HOURS", "22-8", "such as 22:00-08:00"),
        ("MIRRORPOST_QUIET_HOURS", "08:00-08:00", "such as 22:00-08:00"),
        ("MIRRORPOST_QUIET", "loud", "'hold' or 'silent'"),
        ("MIRRORPOST_DEFAULT_TIMEZONE", "Berlin", "such as Europe/Berlin"),
        ("MIRRORPOST_FREQUENCY_CAP", "0/1d", "lets nothing through"),
        ("MIRRORPOST_FREQUENCY_CAP", "often", "such as 3/1d"),
        ("MIRRORPOST_FREQUENCY_CAP_ACTION", "drop", "'suppress' or 'digest'"),
    ],
)
def test_etiquette_that_cannot_be_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, right: str
) -> None:
    with pytest.raises(Misconfigured) as refused:
        with_env(monkeypatch, **{name: value})
    assert str(refused.value).startswith(f"{name}: ")
    assert right in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1

"""Settings: the environment and `.env`, read once, in one place.

Credentials are read by `credentials`, under their usual names; they stay in memory and
appear in no repr.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from worker.errors import Misconfigured, Refused
from worker.people.cap import Cap, OverCap, parse_cap
from worker.people.quiet import Quiet, QuietHours, parse_window
from worker.platforms.base import Bot, Platform, Variable
from worker.zones import parse_zone

#: How often an answer's time must fit into a lease: once for the request that is under way
#: and once as the margin in which its lease is renewed.
_TIMEOUTS_A_LEASE = 2
_LIMIT = "MIRRORPOST_LIMIT_"
_SHARE = re.compile(r"share:([1-9][0-9]{0,3})")
#: Bytes that a Unix socket's address may have on the strictest system.
_SOCKET_PATH_LIMIT = 100


def _zone(name: str) -> ZoneInfo:
    try:
        return parse_zone(name)
    except Refused as refused:
        raise ValueError(str(refused)) from None


class Settings(BaseSettings):
    """What the environment says; a value that cannot be is refused with its name."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    database_url: SecretStr | None = Field(default=None, alias="DATABASE_URL")
    redis_url: SecretStr | None = Field(default=None, alias="REDIS_URL")
    celery_broker_url: SecretStr | None = Field(default=None, alias="CELERY_BROKER_URL")
    home: Path = Field(default=Path("~/.mirrorpost"), alias="MIRRORPOST_HOME")
    resolver: str = Field(default="sql", alias="MIRRORPOST_RESOLVER")
    identity_path: Path | None = Field(default=None, alias="MIRRORPOST_IDENTITY_PATH")
    webhook_allow_private: bool = Field(default=False, alias="MIRRORPOST_WEBHOOK_ALLOW_PRIVATE")
    log_level: str = Field(default="INFO", alias="MIRRORPOST_LOG_LEVEL")
    #: Seconds that a platform has to answer.
    http_timeout_s: float = Field(default=10.0, gt=0, alias="MIRRORPOST_HTTP_TIMEOUT_S")
    #: Seconds for which a claim holds a row, renewed while its worker lives; afterwards the
    #: relay takes the row up again.
    lease_s: float = Field(default=30.0, gt=0, alias="MIRRORPOST_LEASE_S")
    #: Hours that a delivery is tried at least before it ends failed for want of success.
    dead_letter_age_h: float = Field(default=6.0, ge=0, alias="MIRRORPOST_DEAD_LETTER_AGE_H")
    #: Days for which ended deliveries, and attempts, are kept.
    retention_days: float = Field(default=90.0, gt=0, alias="MIRRORPOST_RETENTION_DAYS")
    attempt_retention_days: float = Field(
        default=30.0, gt=0, alias="MIRRORPOST_ATTEMPT_RETENTION_DAYS"
    )
    #: `share:N`: while Redis is away each of N processes sends at an Nth of every pace; without
    #: it nothing that is under a limit is sent then.
    limiter_fallback: str = Field(default="", alias="MIRRORPOST_LIMITER_FALLBACK")
    #: A line under a message that may have arrived before; none by default.
    duplicate_line: str = Field(default="", alias="MIRRORPOST_DUPLICATE_LINE")
    #: When nobody is written to but in reply, by each person's own clock: `22:00-08:00`.
    quiet_hours: Annotated[QuietHours | None, NoDecode, BeforeValidator(parse_window)] = Field(
        default=None, validate_default=False, alias="MIRRORPOST_QUIET_HOURS"
    )
    quiet: Quiet = Field(default=Quiet.HOLD, alias="MIRRORPOST_QUIET")
    #: The clock of whoever has no zone of their own.
    default_timezone: Annotated[ZoneInfo, NoDecode, BeforeValidator(_zone)] = Field(
        default=ZoneInfo("UTC"), validate_default=False, alias="MIRRORPOST_DEFAULT_TIMEZONE"
    )
    #: Messages to one person, replies apart, in any window of a time: `3/1d`.
    frequency_cap: Annotated[Cap | None, NoDecode, BeforeValidator(parse_cap)] = Field(
        default=None, validate_default=False, alias="MIRRORPOST_FREQUENCY_CAP"
    )
    frequency_cap_action: OverCap = Field(
        default=OverCap.SUPPRESS, alias="MIRRORPOST_FREQUENCY_CAP_ACTION"
    )

    @model_validator(mode="after")
    def _lease_holds_an_answer(self) -> Self:
        if self.lease_s < _TIMEOUTS_A_LEASE * self.http_timeout_s:
            raise ValueError(
                f"MIRRORPOST_LEASE_S ({self.lease_s:g}) must be at least "
                f"{_TIMEOUTS_A_LEASE} times MIRRORPOST_HTTP_TIMEOUT_S ({self.http_timeout_s:g})"
            )
        return self

    @model_validator(mode="after")
    def _fallback_is_a_share(self) -> Self:
        if self.limiter_fallback and not _SHARE.fullmatch(self.limiter_fallback):
            raise ValueError(
                "MIRRORPOST_LIMITER_FALLBACK must read share:N, N being the number of worker "
                f"processes, not {self.limiter_fallback!r}"
            )
        return self

    @property
    def limiter_share(self) -> int | None:
        """Give of how many processes this one is while Redis is away; `None` to wait for it."""
        found = _SHARE.fullmatch(self.limiter_fallback)
        return int(found[1]) if found else None

    @property
    def data_dir(self) -> Path:
        """Give the data directory, made on first use, readable by its owner only."""
        path = self.home.expanduser().absolute()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    @property
    def database(self) -> str:
        """Give the SQLAlchemy URL of the database."""
        if self.database_url is None:
            return f"sqlite:///{self.data_dir / 'mirrorpost.db'}"
        url = self.database_url.get_secret_value()
        # The forms that hosting platforms put into the environment name no driver.
        for plain in ("postgres://", "postgresql://"):
            if url.startswith(plain):
                url = "postgresql+psycopg://" + url.removeprefix(plain)
        try:
            backend = make_url(url).get_backend_name()
        except ArgumentError:
            backend = ""
        if backend not in {"sqlite", "postgresql"}:
            raise Misconfigured(
                "DATABASE_URL must read sqlite:///path or postgresql+psycopg://user@host/name"
            )
        return url

    @property
    def redis_socket(self) -> Path:
        """Give the Unix socket of the Redis that `mirrorpost up` starts."""
        path = self.data_dir / "redis.sock"
        if len(str(path)) <= _SOCKET_PATH_LIMIT:
            return path
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        return Path(os.environ.get("TMPDIR", "/tmp")) / f"mirrorpost-{digest}.sock"  # noqa: S108 - the name is unguessable and the socket is mode 0700

    @property
    def redis(self) -> str:
        """Give the URL of Redis as redis-py reads it."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        return f"unix://{self.redis_socket}"

    @property
    def broker(self) -> str:
        """Give the URL of the broker as Celery reads it."""
        if self.celery_broker_url is not None:
            return self.celery_broker_url.get_secret_value()
        if self.redis_url is not None:
            url = self.redis_url.get_secret_value()
            return url.replace("unix://", "redis+socket://", 1)
        return f"redis+socket://{self.redis_socket}"


@cache
def settings() -> Settings:
    """Read the settings once for this process.

    Raises:
        Misconfigured: A variable has a value that cannot be.

    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{first['loc'][0]}: " if first["loc"] else ""
        raise Misconfigured(where + first["msg"].removeprefix("Value error, ")) from None


@cache
def _environment() -> Mapping[str, str]:
    """Merge `.env` under the process environment."""
    from_file = {k: v for k, v in dotenv_values(".env").items() if v is not None}
    return {**from_file, **os.environ}


def variable_name(variable: Variable, account: str) -> str:
    """Give the environment variable that one account of a platform reads."""
    return f"{variable.name}_{account.upper().replace('-', '_')}" if account else variable.name


def missing_variables(platform: Platform, account: str = "") -> list[str]:
    """Name the environment variables that must be set before anything can be sent."""
    return [
        variable_name(v, account)
        for v in platform.variables
        if v.default is None and not _value(v, account)
    ]


def accounts_in_environment(platform: Platform) -> list[str]:
    """Name the further accounts of a platform for which a secret is set."""
    starts = tuple(f"{v.name}_" for v in platform.variables if v.secret)
    found = {
        name.removeprefix(start).lower()
        for name, value in _environment().items()
        for start in starts
        if value and name.startswith(start) and name != start
    }
    return sorted(found)


def _value(variable: Variable, account: str) -> str:
    environment = _environment()
    value = environment.get(variable_name(variable, account), "")
    if not value and not variable.secret:
        # An account without an address of its own shares the platform's.
        value = environment.get(variable.name, "")
    return (value or variable.default or "").strip()


def limits_set() -> dict[str, str]:
    """Give the variables that set a bot's pace, with their values."""
    return {
        name: value.strip()
        for name, value in _environment().items()
        if name.startswith(_LIMIT) and value.strip()
    }


def limit_of(platform: str, account: str = "") -> tuple[str, str]:
    """Give the variable that sets a bot's pace, and its value; empty when none is set."""
    plain = f"{_LIMIT}{platform.upper().replace('-', '_')}"
    own = f"{plain}_{account.upper().replace('-', '_')}" if account else plain
    for name in (own, plain):
        value = _environment().get(name, "").strip()
        if value:
            return name, value
    return own, ""


def credentials(platform: Platform, account: str = "") -> Bot | None:
    """Give the bot of an account, or `None` while a variable is missing."""
    if missing_variables(platform, account):
        return None
    return Bot(
        platform=platform.name,
        account=account,
        values={v.name: _value(v, account) for v in platform.variables},
    )


def credential_print(bot: Bot | None) -> str:
    """Give a short fingerprint of a credential, to see that it changed; `""` for none."""
    if bot is None:
        return ""
    joined = "\0".join(f"{name}={bot.values[name]}" for name in sorted(bot.values))
    return hashlib.sha256(joined.encode()).hexdigest()[:12]


def secrets(platforms: Mapping[str, Platform]) -> frozenset[str]:
    """Give every secret value in the environment, for the redaction of what leaves."""
    names = {v.name for p in platforms.values() for v in p.variables if v.secret}
    return frozenset(
        value
        for name, value in _environment().items()
        if value and any(name == n or name.startswith(f"{n}_") for n in names)
    )

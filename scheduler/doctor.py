"""The doctor: whether a delivery could go out now, and what is stuck.

Called by the command line. Reads only, changes nothing, and shows no secret: addresses are
masked, credentials are only named.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kombu.connection import Connection as Broker
from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from scheduler import stuck
from worker.database import check_schema, engine, masked, now_ms, reading
from worker.errors import MirrorpostError
from worker.outbox import held_accounts
from worker.platforms import platforms
from worker.settings import (
    Settings,
    accounts_in_environment,
    credential_print,
    credentials,
    missing_variables,
)
from worker.tables import HELD_OTHERWISE

#: Seconds that a server has to answer.
_WITHIN_S = 3.0
#: The versions of SQLite in which several writers can damage a WAL, https://sqlite.org/wal.html.
_WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))
#: Milliseconds after which something due that nobody published means that no scheduler runs.
_OVERDUE_MS = 10_000
#: Seconds after which a worker's last sign of life is old; it gives one every 15.
_BEAT_OLD_S = 60.0

_OVERDUE = text(
    "SELECT (SELECT min(due_ms) FROM delivery WHERE state IN ('scheduled', 'retrying')), "
    "(SELECT min(next_fire_ms) FROM schedule WHERE state = 'active')"
)
_HELD = text(
    "SELECT count(*), max(error_text), (SELECT credential_print FROM dead_credential "
    "WHERE platform = :platform AND account = :account) FROM delivery "
    f"WHERE {HELD_OTHERWISE} AND platform = :platform AND account = :account "
    "AND error_kind <> 'order'"
)


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        problems: What was configured and cannot be used; with none, deliveries can go out.
        notes: What is worth knowing.
        platforms: By `platform` or `platform@account`.
    """

    home: str
    database: str
    redis: str
    broker: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)
    platforms: dict[str, dict[str, object]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    unknown_answers: list[stuck.UnknownAnswer] = field(default_factory=list)

    def as_object(self) -> dict[str, object]:
        """Give it as JSON shows it."""
        return {
            "ok": not self.problems,
            "home": self.home,
            "database": self.database,
            "redis": self.redis,
            "broker": self.broker,
            "checks": self.checks,
            "platforms": self.platforms,
            "counts": self.counts,
            "unknown_answers": [asdict(each) for each in self.unknown_answers],
            "problems": self.problems,
            "notes": self.notes,
        }

    def lines(self) -> Iterator[str]:
        """Give it for a person."""
        yield f"{'home':<12}{self.home}"
        for name, address in (
            ("database", self.database),
            ("redis", self.redis),
            ("broker", self.broker),
        ):
            yield f"{name:<12}{address}  {self.checks[name]}"
        for name in ("sqlite", "worker", "scheduler"):
            if name in self.checks:
                yield f"{name:<12}{self.checks[name]}"
        yield ""
        for name, state in self.platforms.items():
            yield f"{name:<12}{state['state']}{_detail(state)}"
        some = {name: count for name, count in self.counts.items() if count}
        if some:
            yield ""
        for name, count in some.items():
            yield f"{count} {name.replace('_', ' ')}: {stuck.SEE[name]}"
        for each in self.unknown_answers:
            yield f"  {each.platform}: {each.said()}, {each.count} times lately"
        yield ""
        yield from (f"note: {each}" for each in self.notes)
        yield from (f"problem: {each}" for each in self.problems)
        yield "No problem was found." if not self.problems else "Deliveries cannot go out."


def _detail(state: Mapping[str, object]) -> str:
    missing = state["missing"]
    parts = []
    if isinstance(missing, list) and missing:
        parts.append(f"set {' and '.join(missing)}")
    if state["held"]:
        parts.append(f"{state['held']} held")
    if state["error"]:
        parts.append(str(state["error"]))
    return f"  ({'; '.join(parts)})" if parts else ""


def examine(config: Settings) -> Findings:
    """Look at everything that a delivery needs."""
    found = Findings(
        home=str(config.data_dir),
        database=masked(config.database),
        redis=masked(config.redis),
        broker=masked(config.broker),
    )
    database = _database(config, found)
    _redis(config, found)
    _broker(config, found)
    _worker(config, found)
    try:
        if database is None:
            _platforms(found, None)
            return found
        with reading(database) as connection:
            _platforms(found, connection)
            _scheduler(found, connection)
            refused = [p for p in found.platforms.values() if p["state"] == "refused"]
            found.counts["dead_credentials"] = len(refused)
            found.counts |= stuck.counts(connection)
            found.unknown_answers = stuck.unknown_answers(connection)
    finally:
        if database is not None:
            database.dispose()
    return found


def _database(config: Settings, found: Findings) -> Engine | None:
    made = engine(config.database)
    if made.dialect.name == "sqlite":
        _sqlite(found)
        path = made.url.database
        if path and not Path(path).exists():
            found.checks["database"] = "not made yet"
            found.notes.append("the database is made by the first command that needs it")
            return None
    try:
        check_schema(made)
        with reading(made) as connection:
            revision = connection.execute(
                text("SELECT version_num FROM alembic_version")
            ).scalar_one()
    except (MirrorpostError, SQLAlchemyError) as error:
        found.checks["database"] = "unusable"
        found.problems.append(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
        made.dispose()
        return None
    found.checks["database"] = f"ok, revision {revision}"
    return made


def _sqlite(found: Findings) -> None:
    version = sqlite3.sqlite_version_info
    found.checks["sqlite"] = sqlite3.sqlite_version
    if _WAL_RESET_BUG[0] <= version <= _WAL_RESET_BUG[1]:
        found.notes.append(
            f"SQLite {sqlite3.sqlite_version} can damage the database in a rare race of several "
            "writers; 3.51.3 mends that, and PostgreSQL does not have it"
        )


def _redis(config: Settings, found: Findings) -> None:
    if config.redis_url is None and not config.redis_socket.exists():
        found.checks["redis"] = "not running"
        found.notes.append("Redis is not running; it starts with mirrorpost up")
        return
    client = Redis.from_url(
        config.redis, socket_timeout=_WITHIN_S, socket_connect_timeout=_WITHIN_S
    )
    try:
        client.ping()
        found.checks["redis"] = "ok"
        _eviction(client, found)
    except (RedisError, OSError, ValueError) as error:
        _unreachable("redis", found.redis, error, found, embedded=config.redis_url is None)
    finally:
        client.close()


def _eviction(client: Redis, found: Findings) -> None:
    try:
        answer = client.config_get("maxmemory-policy")
    except ResponseError:
        found.notes.append("Redis does not tell its maxmemory-policy; it must be noeviction")
        return
    policy = answer.get("maxmemory-policy") if isinstance(answer, dict) else None
    if policy not in {"noeviction", b"noeviction"}:
        found.notes.append(f"Redis has maxmemory-policy {policy!r}: set noeviction")


def _broker(config: Settings, found: Findings) -> None:
    if config.celery_broker_url is None:
        found.checks["broker"] = found.checks["redis"]
        return
    with Broker(config.broker, connect_timeout=_WITHIN_S) as broker:  # type: ignore[no-untyped-call]  # kombu has no types
        try:
            broker.ensure_connection(max_retries=1, timeout=_WITHIN_S)
            found.checks["broker"] = "ok"
        except (KombuError, OSError, RedisError, ValueError) as error:
            _unreachable("broker", found.broker, error, found, embedded=False)


def _unreachable(
    name: str, address: str, error: Exception, found: Findings, *, embedded: bool
) -> None:
    found.checks[name] = "not reachable"
    said = f"{name} {address} cannot be reached ({type(error).__name__})"
    if embedded:
        found.notes.append(f"{said}; mirrorpost up starts it anew")
    else:
        found.problems.append(said)


def _worker(config: Settings, found: Findings) -> None:
    try:
        pid, _, seconds = (config.data_dir / "worker.heartbeat").read_text().partition(" ")
        age_s = time.time() - float(seconds)
    except (OSError, ValueError):
        found.checks["worker"] = "none has run from this data directory"
        return
    recent = "" if age_s < _BEAT_OLD_S else ", it does not run any more or takes no tasks"
    found.checks["worker"] = f"process {pid} answered {max(0.0, age_s):.0f} s ago{recent}"


def _scheduler(found: Findings, connection: Connection) -> None:
    now = now_ms(connection)
    due = [at for at in connection.execute(_OVERDUE).one() if at is not None]
    late = now - min(due, default=now)
    if late > _OVERDUE_MS:
        found.checks["scheduler"] = f"something has been due for {late // 1000} s"
        found.notes.append("no scheduler seems to run: what is due later waits for one")
    else:
        found.checks["scheduler"] = "nothing is overdue"


def _platforms(found: Findings, connection: Connection | None) -> None:
    held = held_accounts(connection) if connection is not None else []
    for name, adapter in sorted(platforms().items()):
        accounts = {"", *accounts_in_environment(adapter), *(a for p, a in held if p == name)}
        for account in sorted(accounts):
            missing = missing_variables(adapter, account)
            count, error, refused = 0, None, None
            if connection is not None:
                place = {"platform": name, "account": account}
                count, error, refused = connection.execute(_HELD, place).one()
            state = "missing" if missing else "ready"
            if refused and refused == credential_print(credentials(adapter, account)):
                state = "refused"
            found.platforms[f"{name}@{account}" if account else name] = {
                "state": state,
                "missing": missing,
                "held": count,
                "error": error,
            }

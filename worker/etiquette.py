"""Etiquette: who opted out gets nothing, who sleeps is let sleep, nobody gets too much.

Decided at send time, for a claimed chunk: what its person should not get now is held or ends,
and the rest goes on. A reply is what somebody waits for: it always goes. `people_of` asks the
resolver, outside of any transaction; `spare` decides inside of one. Called by `worker.turn`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection

from resolvers import IdentityResolverProtocol
from resolvers.protocol import links_for_many, unlinked
from worker import order
from worker.cap import Capped, decide
from worker.database import now_ms
from worker.lanes import Lane
from worker.outbox import spare as outbox
from worker.outbox.spare import OPTED_OUT, QUIET_HOURS, Let, Stopped
from worker.people.cap import Cap, OverCap
from worker.people.lookup import Topics, is_any_opted_out, opt_outs, time_zones
from worker.people.quiet import Quiet, QuietHours
from worker.platforms import platform
from worker.resolve import Resolved
from worker.settings import Settings
from worker.states import State
from worker.targets import parse_target
from worker.taxonomy import ErrorKind, Failure

_log = structlog.get_logger(__name__)

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is configured; `None` where nothing is."""

    quiet_hours: QuietHours | None
    quiet: Quiet
    default_zone: ZoneInfo
    cap: Cap | None
    over_cap: OverCap

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """Read the settings."""
        return cls(
            settings.quiet_hours,
            settings.quiet,
            settings.default_timezone,
            settings.frequency_cap,
            settings.frequency_cap_action,
        )


@dataclass(frozen=True, slots=True)
class Person:
    """By which names somebody may be known, the unified user first.

    Attributes:
        known: Whether these are all; without, the resolver failed.
    """

    names: tuple[str, ...]
    known: bool = True


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is stored of the people of a chunk, and the time by the database's clock.

    Attributes:
        sure: Nobody of them can have opted out under a name that is not known.
    """

    topics: Topics
    zones: Mapping[str, str]
    now_ms: int
    sure: bool


@dataclass(frozen=True, slots=True)
class Spared:
    """What goes on, and what stays back; `freed` says that something else can be claimed."""

    going: Sequence[Resolved]
    back: Sequence[Resolved]
    freed: bool


def is_needed(connection: Connection, rules: Rules) -> bool:
    """Tell whether there is anything to ask about a chunk."""
    if rules.quiet_hours is not None or rules.cap is not None:
        return True
    # Mostly nobody has opted out, and asking for each person would cost a turn a tenth.
    return is_any_opted_out(connection)


def people_of(
    resolved: Sequence[Resolved], resolver: IdentityResolverProtocol
) -> dict[str, Person]:
    """Give whom deliveries are for, by delivery id; not of those that always go."""
    subject = {each.claim.id: each for each in resolved if _is_subject(each)}
    accounts = {id_: _accounts(each) for id_, each in subject.items()}
    users = {id_: each.place.unified_user for id_, each in subject.items()}
    linked = {user for id_, user in users.items() if user and user not in accounts[id_]}
    names = {user: [user] for user in linked}
    known = True
    try:
        for link in links_for_many(resolver, sorted(linked)) if linked else ():
            names[link.unified_user_id].append(unlinked(link.platform, link.platform_user_id))
    except Exception as error:  # noqa: BLE001 - a resolver may be anybody's; it never stops a delivery
        _log.warning("resolver_failed", error=type(error).__name__, deliveries=len(subject))
        known = False
    people = {}
    for id_, user in users.items():
        theirs = [*([user] if user else ()), *names.get(user or "", ()), *accounts[id_]]
        people[id_] = Person(tuple(dict.fromkeys(theirs)), known and user is not None)
    return people


def _is_subject(resolved: Resolved) -> bool:
    """Tell whether a person may be spared this: what was begun is brought to its end."""
    claim = resolved.claim
    return (
        claim.lane != Lane.REPLY
        and claim.action == "send"
        and not claim.receipt
        and resolved.stop is None
        and resolved.failure is None
    )


def _accounts(resolved: Resolved) -> list[str]:
    """Give the account's own names; of a chat that has moved, the old one too."""
    place, target = resolved.place, resolved.claim.target
    own = [unlinked(place.platform or "", resolved.opens or place.chat_id or "")]
    asked = parse_target(target)
    if not asked.is_person:
        own.append(unlinked(asked.platform, asked.chat_id))
    return own


def spare(
    connection: Connection,
    resolved: Sequence[Resolved],
    people: Mapping[str, Person],
    rules: Rules,
) -> Spared:
    """Hold or end what its person should not get now."""
    names = {name for person in people.values() for name in person.names}
    asked = _Asked(
        opt_outs(connection, names),
        time_zones(connection, names) if rules.quiet_hours is not None else {},
        now_ms(connection),
        all(p.known for p in people.values()) or not is_any_opted_out(connection),
    )
    going: list[Resolved] = []
    stops: list[Stopped] = []
    for each in resolved:
        person = people.get(each.claim.id)
        decided = each if person is None else _decide(each, person, asked, rules)
        if isinstance(decided, Stopped):
            stops.append(decided)
        else:
            going.append(decided)
    capped = Capped(going)
    if rules.cap is not None:
        who = {
            each.claim.id: people[each.claim.id].names
            for each in going
            if each.claim.id in people and each.failure is None and _can_wait(each)
        }
        capped = decide(
            connection,
            going,
            who,
            asked.topics,
            cap=rules.cap,
            over=rules.over_cap,
            now=asked.now_ms,
        )
    return _write(connection, resolved, capped, [*stops, *capped.stops])


def _write(
    connection: Connection, resolved: Sequence[Resolved], capped: Capped, stops: Sequence[Stopped]
) -> Spared:
    lets = [*capped.lets, *_made_silent(resolved, capped)]
    lost = {let.id for let in lets} - outbox.let(connection, lets)
    keys = {*outbox.stop(connection, stops), *outbox.fold(connection, capped.folded)}
    freed = order.release(connection, keys)
    going = [each for each in capped.going if each.claim.id not in lost]
    ids = {each.claim.id for each in going}
    return Spared(going, [each for each in resolved if each.claim.id not in ids], bool(freed))


def _decide(resolved: Resolved, person: Person, asked: _Asked, rules: Rules) -> Resolved | Stopped:
    """Decide by opt-outs and quiet hours."""
    claim = resolved.claim
    out = {topic for name in person.names for topic in asked.topics.get(name, ())}
    if "" in out or claim.topic in out:
        what = "everything" if "" in out else repr(claim.topic)
        return _stopped(resolved, State.SUPPRESSED, OPTED_OUT, f"opted out of {what}")
    if not person.known and not asked.sure:
        why = "the resolver failed, so nobody can tell whether its person opted out"
        return replace(resolved, failure=Failure(ErrorKind.TRANSIENT, why))
    if rules.quiet_hours is None or not _can_wait(resolved):
        return resolved
    zone, whose = _zone(person, asked.zones, rules.default_zone)
    until = rules.quiet_hours.until(_EPOCH + timedelta(milliseconds=asked.now_ms), zone)
    if until is None:
        return resolved
    if rules.quiet is Quiet.SILENT and platform(resolved.place.platform or "").capability.silent:
        return replace(resolved, claim=replace(claim, silent=True))
    why = f"quiet hours until {until.astimezone(zone):%H:%M} in {zone.key}{whose}"
    due_ms = (until - _EPOCH) // timedelta(milliseconds=1)
    return _stopped(resolved, State.HELD, QUIET_HOURS, why, due_ms)


def _can_wait(resolved: Resolved) -> bool:
    """Tell whether it may be held: not what may have arrived, nor what no person reads."""
    return resolved.claim.doubt_ms is None and resolved.place.platform != "webhook"


def _zone(person: Person, zones: Mapping[str, str], default: ZoneInfo) -> tuple[ZoneInfo, str]:
    """Give whose clock counts, and in words that it is the default."""
    for name in person.names:
        if name in zones:
            try:
                return ZoneInfo(zones[name]), ""
            except (ValueError, OSError, KeyError):
                _log.warning("time_zone_unknown", person=name, zone=zones[name])
    return default, ", the default time zone"


def _stopped(
    resolved: Resolved, state: State, kind: str, why: str, due_ms: int | None = None
) -> Stopped:
    claim, user = resolved.claim, resolved.place.unified_user
    return Stopped(claim.id, claim.attempt, state, kind, why, user, due_ms)


def _made_silent(before: Sequence[Resolved], capped: Capped) -> list[Let]:
    """Give what has to be noted of what became silent, where the cap notes nothing of it."""
    loud = {each.claim.id for each in before if not each.claim.silent}
    loud -= {let.id for let in capped.lets}
    return [
        Let(r.claim.id, r.claim.attempt, r.place.unified_user, silent=True)
        for r in capped.going
        if r.claim.silent and r.claim.id in loud
    ]

"""Resolve: where each claimed delivery goes and whose conversation it belongs to.

Called by the pipeline on its database thread with a chunk at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Engine, text

from resolvers import (
    IdentityResolverProtocol,
    SessionContext,
    clear_session_context,
    set_session_context,
)
from resolvers.protocol import IdentityLink, ResolvesMany, resolve_many
from resolvers.routes import rank_routes
from worker import dead
from worker.database import reading
from worker.dead import Dead
from worker.outbox import Claimed
from worker.platforms import platforms
from worker.states import State
from worker.targets import USER, parse_target
from worker.taxonomy import ErrorKind, Failure
from worker.verdict import Place

_log = structlog.get_logger(__name__)

_LAST_HEARD = text(
    "SELECT platform FROM message WHERE session_key = :key AND role = 'user' "
    "AND platform IS NOT NULL ORDER BY timestamp_ms DESC, id DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Stop:
    """What becomes of a delivery without asking its platform."""

    state: State
    failure: Failure
    credential_print: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A claimed delivery with its place.

    Attributes:
        opens: The user id by which a direct chat has to be opened first.
        failure: Why there is no place.
        stop: Why it is not sent to its place, and what it becomes.
        probes: The note about a dead chat which it tries.
        read_s: When the notes about its place were read, in seconds of the monotonic clock.

    """

    claim: Claimed
    place: Place
    context: SessionContext
    opens: str | None = None
    failure: Failure | None = None
    stop: Stop | None = None
    probes: Dead | None = None
    read_s: float = 0.0


def resolve(
    claims: Sequence[Claimed],
    *,
    engine: Engine,
    resolver: IdentityResolverProtocol,
    print_of: Callable[[str, str], str],
    read_s: float = 0.0,
) -> list[Resolved]:
    """Give each claim its place; a resolver that fails leaves the unified user open.

    Args:
        print_of: Gives the fingerprint of a bot's credential by platform and account; `""`
            for none.
        read_s: When the notes about the places were read.
    """
    direct = [c for c in claims if c.platform is not None and not c.target.startswith(f"{USER}:")]
    users = dict(zip((c.id for c in direct), _unified_users(direct, resolver), strict=True))
    return [
        _direct(c, users[c.id], read_s)
        if c.id in users
        else replace(_person(c, engine, resolver, print_of), read_s=read_s)
        for c in claims
    ]


def _context(place: Place, user_id: str) -> SessionContext:
    return SessionContext(
        platform=place.platform or "",
        chat_id=place.chat_id or "",
        thread_id=place.thread_id or "",
        user_id=user_id,
        unified_user_id=place.unified_user or "",
    )


def _direct(claim: Claimed, unified_user: str | None, read_s: float) -> Resolved:
    place = Place(claim.platform, claim.account, claim.chat_id, claim.thread_id, unified_user)
    return Resolved(claim, place, _context(place, claim.chat_id or ""), read_s=read_s)


def _unified_users(
    claims: Sequence[Claimed], resolver: IdentityResolverProtocol
) -> list[str | None]:
    accounts = [(c.platform or "", _asked_for(c)) for c in claims]
    if isinstance(resolver, ResolvesMany):
        try:
            return list(resolve_many(resolver, accounts))
        except Exception as error:  # noqa: BLE001 - a resolver may be anybody's; it never stops a delivery
            _log.warning("resolver_failed", error=type(error).__name__, deliveries=len(claims))
            return [None] * len(claims)
    return [_unified_user(claim, resolver) for claim in claims]


def _asked_for(claim: Claimed) -> str:
    """Give the chat that was asked for: of one that has moved, the old id is known first."""
    chat = claim.chat_id or ""
    return chat if f":{chat}" in claim.target else parse_target(claim.target).chat_id


def _unified_user(claim: Claimed, resolver: IdentityResolverProtocol) -> str | None:
    place = Place(claim.platform, claim.account, claim.chat_id, claim.thread_id, None)
    token = set_session_context(_context(place, claim.chat_id or ""))
    try:
        return resolver.resolve(claim.platform or "", _asked_for(claim))
    except Exception as error:  # noqa: BLE001 - a resolver may be anybody's; it never stops a delivery
        _log.warning("resolver_failed", error=type(error).__name__, delivery=claim.id)
        return None
    finally:
        clear_session_context(token)


def _person(
    claim: Claimed,
    engine: Engine,
    resolver: IdentityResolverProtocol,
    print_of: Callable[[str, str], str],
) -> Resolved:
    user = claim.target.partition(":")[2]
    if claim.platform is not None and claim.chat_id is not None:
        whose = _whose(claim, user, resolver)
        place = Place(claim.platform, claim.account, claim.chat_id, claim.thread_id, whose)
        return Resolved(claim, place, _context(place, ""))
    nowhere = Place(None, "", None, None, user)
    token = set_session_context(_context(nowhere, ""))
    try:
        account = _best_account(user, engine, resolver, print_of)
        whose = _whose(claim, user, resolver)
    except Exception as error:  # noqa: BLE001 - a resolver may be anybody's; it never stops a delivery
        _log.warning("resolver_failed", error=type(error).__name__, delivery=claim.id)
        failure = Failure(ErrorKind.TRANSIENT, f"the resolver failed ({type(error).__name__})")
        return Resolved(claim, nowhere, _context(nowhere, ""), failure=failure)
    finally:
        clear_session_context(token)
    if account is None:
        failure = Failure(
            ErrorKind.INVALID,
            f"{user} has no route: link an account of a platform that has a token, "
            f"mirrorpost identity link telegram ID {user}",
        )
        return Resolved(claim, nowhere, _context(nowhere, ""), failure=failure)
    name, user_id = account
    place = Place(name, "", user_id, None, whose)
    return Resolved(claim, place, _context(place, user_id), opens=user_id)


def _best_account(
    user: str,
    engine: Engine,
    resolver: IdentityResolverProtocol,
    print_of: Callable[[str, str], str],
) -> tuple[str, str] | None:
    by_id = [name for name, p in platforms().items() if p.capability.dm_by_user_id]
    with reading(engine) as connection:
        last_heard = connection.execute(_LAST_HEARD, {"key": user}).scalar_one_or_none()
    links = resolver.links_for(user)
    # A platform without its token is still a route when it is the only one: the delivery is
    # then held and says which variable is missing.
    for reachable in ([name for name in by_id if print_of(name, "")], by_id):
        ranked = rank_routes(links, reachable=reachable, last_heard=last_heard)
        if ranked:
            best = _first_alive(ranked, engine, print_of)
            return best.platform, best.platform_user_id
    # An account under its own name is written to, whatever else is linked to whoever has it.
    name, user_id = _account_named(user) or ("", "")
    return (name, user_id) if name in by_id else None


def _account_named(user: str) -> tuple[str, str] | None:
    """Give the account that a person's name is, as of somebody whom nobody linked."""
    name, _, user_id = user.partition(":")
    return (name, user_id) if user_id and name in platforms() else None


def _whose(claim: Claimed, user: str, resolver: IdentityResolverProtocol) -> str | None:
    """Give whose history it is: of an account under its own name, that of whoever has it."""
    account = _account_named(user)
    if account is None:
        return user
    try:
        return user if resolver.links_for(user) else resolver.resolve(*account)
    except Exception as error:  # noqa: BLE001 - a resolver may be anybody's; it never stops a delivery
        _log.warning("resolver_failed", error=type(error).__name__, delivery=claim.id)
        return None


def _first_alive(
    ranked: Sequence[IdentityLink], engine: Engine, print_of: Callable[[str, str], str]
) -> IdentityLink:
    """Give the best route of which no chat and no credential is noted as dead, else the best."""
    if len(ranked) == 1:
        return ranked[0]
    places = [
        dead.Place(r.platform, "", r.platform_user_id, "", print_of(r.platform, "")) for r in ranked
    ]
    with reading(engine) as connection:
        noted = dead.look_up(connection, places)
    alive = (r for r, p in zip(ranked, places, strict=True) if p not in noted or noted[p].is_alive)
    return next(alive, ranked[0])

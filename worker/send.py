"""Send: one resolved delivery, once, to its platform.

Check, render, send; the outcome is a value. Called by the pipeline on its loop, after the
chunk's permits.
"""

import time
from dataclasses import replace

from resolvers import clear_session_context, set_session_context
from worker.errors import Misconfigured
from worker.http import Client
from worker.log import redact
from worker.platforms import platform, platforms
from worker.platforms.base import Bot, Message, OpensChats, Platform, Response
from worker.resolve import Resolved
from worker.settings import credential_print, credentials, missing_variables, secrets
from worker.states import State
from worker.taxonomy import ErrorKind, Failure, Outcome
from worker.verdict import Place, Settlement, judge


class Bots:
    """The credentials of this process, read once."""

    def __init__(self) -> None:
        self._bots: dict[tuple[str, str], tuple[Bot | None, str]] = {}
        self._secrets = secrets(platforms())

    def get(self, name: str, account: str = "") -> tuple[Bot | None, str]:
        """Give a bot and its credential's fingerprint; `None` while a variable is missing."""
        found = self._bots.get((name, account))
        if found is None:
            bot = credentials(platform(name), account)
            found = self._bots[name, account] = (bot, credential_print(bot))
        return found

    def hide(self, failure: Failure) -> Failure:
        """Give a failure whose words have no secret in them and fit a column."""
        text = redact(failure.text, self._secrets).replace("\0", "")[:500]
        # Some platforms' codes are words, which may repeat what they were told.
        code = failure.code and redact(failure.code, self._secrets).replace("\0", "")[:500]
        if (text, code) == (failure.text, failure.code):
            return failure
        return replace(failure, text=text, code=code)


async def send(resolved: Resolved, *, client: Client, bots: Bots) -> Settlement:
    """Try one delivery and decide what follows."""
    claim, place = resolved.claim, resolved.place
    if claim.expires_ms is not None and claim.expires_ms <= time.time_ns() // 1_000_000:
        return Settlement(claim.id, claim.attempt, State.EXPIRED, place)
    if resolved.failure is not None:
        return _not_asked(resolved, bots.hide(resolved.failure), place)
    name = place.platform or ""
    adapter = platform(name)
    bot, fingerprint = bots.get(name, place.account)
    if bot is None:
        missing = " and ".join(missing_variables(adapter, place.account))
        where = Place(None, "", None, None, place.unified_user) if resolved.opens else place
        return replace(
            _not_asked(resolved, Failure(ErrorKind.AUTH, f"{missing} is not set"), where),
            # Kept although a route is chosen anew: it says whose credential is awaited.
            place=replace(where, platform=name, account=place.account),
        )
    if adapter.capability.measure(claim.text) > adapter.capability.max_length:
        limit = adapter.capability.max_length
        return _not_asked(
            resolved, Failure(ErrorKind.TOO_LONG, f"over {name}'s limit of {limit}"), place
        )
    token = set_session_context(resolved.context)
    started_ms, begun = time.time_ns() // 1_000_000, time.monotonic()
    try:
        outcome, place = await _ask(resolved, adapter, bot, client)
    except Misconfigured as error:
        # The adapter cannot make a request of this credential: what waits for another one
        # is held, as if the platform had refused it.
        outcome = Failure(ErrorKind.AUTH, str(error))
    finally:
        clear_session_context(token)
    return judge(
        claim,
        bots.hide(outcome) if isinstance(outcome, Failure) else outcome,
        place,
        dedup=adapter.capability.dedup,
        credential_print=fingerprint,
        started_ms=started_ms,
        took_ms=int((time.monotonic() - begun) * 1000),
    )


async def _ask(
    resolved: Resolved, adapter: Platform, bot: Bot, client: Client
) -> tuple[Outcome, Place]:
    """Open the direct chat where that is needed, then send."""
    claim, place = resolved.claim, resolved.place
    chat_id = place.chat_id or ""
    if resolved.opens is not None and isinstance(adapter, OpensChats):
        answer = await client.send(adapter.opening(resolved.opens, bot))
        opened = adapter.opened(answer) if isinstance(answer, Response) else answer
        if isinstance(opened, Failure):
            # Nothing was sent yet, so a broken connection is no ambiguity here.
            if opened.kind is ErrorKind.AMBIGUOUS:
                opened = replace(opened, kind=ErrorKind.TRANSIENT)
            return opened, Place(None, "", None, None, place.unified_user)
        chat_id = opened
        place = replace(place, chat_id=opened)
    answer = await client.send(
        adapter.request(
            Message(
                delivery_id=claim.id,
                chat_id=chat_id,
                text=claim.text,
                created_s=claim.created_ms // 1000,
                thread_id=place.thread_id,
                reply_to=claim.reply_to,
                silent=claim.silent,
                extra=claim.metadata or {},
            ),
            bot,
        )
    )
    return (adapter.outcome(answer) if isinstance(answer, Response) else answer), place


def _not_asked(resolved: Resolved, failure: Failure, place: Place) -> Settlement:
    """Decide about a delivery for which the platform was not asked: no attempt is recorded."""
    claim = resolved.claim
    capability = platforms()[place.platform].capability if place.platform else None
    settled = judge(
        claim,
        failure,
        place,
        dedup=capability.dedup if capability else platform("console").capability.dedup,
        credential_print="",
        started_ms=0,
        took_ms=0,
    )
    return replace(settled, outcome=None)

"""What an identity resolver is: the protocol, its one record, and the rules for ids.

Every store in this room satisfies `IdentityResolverProtocol`, and so may any class of a
user's own. Nothing here guesses that two accounts are one person: only `link` says so.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

from resolvers.errors import InvalidIdentity

#: Characters. With four bytes each, a platform and an account id still fit PostgreSQL's
#: limit of 2,704 bytes for one index entry.
MAX_PLATFORM_LENGTH = 64
MAX_ID_LENGTH = 512

#: (platform, platform user id): one account.
Account = tuple[str, str]

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class IdentityLink:
    """One account of one person.

    `created_at` is UTC with milliseconds, or None where a resolver does not keep it; two
    links are equal whenever they were made.
    """

    platform: str
    platform_user_id: str
    unified_user_id: str
    created_at: datetime | None = field(default=None, compare=False)


@runtime_checkable
class IdentityResolverProtocol(Protocol):
    """Map accounts to unified users.

    Implementations are safe to call from several threads. The methods are plain functions,
    not coroutines.
    """

    def resolve(self, platform: str, platform_user_id: str) -> str:
        """Return the unified user of an account, `platform:platform_user_id` when unlinked."""
        ...

    def link(self, platform: str, platform_user_id: str, unified_user_id: str) -> None:
        """Make an account one of a unified user's, taking it from whoever had it before."""
        ...

    def unlink(self, platform: str, platform_user_id: str) -> None:
        """Forget an account's link; without one, do nothing."""
        ...

    def links_for(self, unified_user_id: str) -> list[IdentityLink]:
        """Return every link of a unified user; an empty list when there is none."""
        ...


@runtime_checkable
class ResolvesMany(Protocol):
    """A resolver that can answer for many accounts in one round trip."""

    def resolve_many(self, accounts: Sequence[Account]) -> list[str]:
        """Return one unified user per account, in the same order."""
        ...


@runtime_checkable
class ListsMany(Protocol):
    """A resolver that can give the links of many unified users in one round trip."""

    def links_for_many(self, unified_user_ids: Sequence[str]) -> list[IdentityLink]:
        """Return every link of these unified users, in no particular order."""
        ...


def links_for_many(
    resolver: IdentityResolverProtocol, unified_user_ids: Sequence[str]
) -> list[IdentityLink]:
    """Return every link of these unified users, in as few round trips as can be."""
    if isinstance(resolver, ListsMany):
        return resolver.links_for_many(unified_user_ids)
    return [link for user in unified_user_ids for link in resolver.links_for(user)]


def resolve_many(resolver: IdentityResolverProtocol, accounts: Sequence[Account]) -> list[str]:
    """Return one unified user per account, in the same order, in as few round trips as can be."""
    if isinstance(resolver, ResolvesMany):
        return resolver.resolve_many(accounts)
    return [resolver.resolve(platform, user_id) for platform, user_id in accounts]


def unlinked(platform: str, platform_user_id: str) -> str:
    """Return the unified user of an account that nobody linked."""
    return f"{platform}:{platform_user_id}"


def check_account(platform: str, platform_user_id: str) -> None:
    """Raise `InvalidIdentity` for an account that can never be linked."""
    _check("platform", platform, MAX_PLATFORM_LENGTH)
    _check("platform user id", platform_user_id, MAX_ID_LENGTH)


def check_link(platform: str, platform_user_id: str, unified_user_id: str) -> None:
    """Raise `InvalidIdentity` for a link that can never be stored."""
    check_account(platform, platform_user_id)
    _check("unified user id", unified_user_id, MAX_ID_LENGTH)


def is_linkable(platform: str, platform_user_id: str) -> bool:
    """Tell whether an account could be linked at all; raise `InvalidIdentity` unless text.

    A number in place of its text would never match its link and make the person a stranger,
    so that is an error of the caller and not merely an account without a link.
    """
    _check_text("platform", platform)
    _check_text("platform user id", platform_user_id)
    return (
        _defect(platform, MAX_PLATFORM_LENGTH) is None
        and _defect(platform_user_id, MAX_ID_LENGTH) is None
    )


def now_ms() -> int:
    """Return the current time in epoch milliseconds UTC."""
    return time.time_ns() // 1_000_000


def link_at(
    platform: str, platform_user_id: str, unified_user_id: str, created_ms: int
) -> IdentityLink:
    """Return the link with its time given in epoch milliseconds UTC."""
    created_at = _EPOCH + timedelta(milliseconds=created_ms)
    return IdentityLink(platform, platform_user_id, unified_user_id, created_at)


def created_ms(link: IdentityLink) -> int:
    """Return when a link was made in epoch milliseconds UTC, 0 when that is not known."""
    if link.created_at is None:
        return 0
    return (link.created_at - _EPOCH) // timedelta(milliseconds=1)


def by_account(link: IdentityLink) -> Account:
    """Return the account of a link: the order in which every store lists."""
    return (link.platform, link.platform_user_id)


def _check(name: str, value: str, max_length: int) -> None:
    _check_text(name, value)
    if (defect := _defect(value, max_length)) is not None:
        raise InvalidIdentity(f"the {name} {defect}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidIdentity(f"the {name} is {type(value).__name__}: give it as text")


def _defect(value: str, max_length: int) -> str | None:
    """Return why no store could keep `value`, None when all could."""
    if not value.strip():
        return "is empty: give the id as the platform writes it"
    if len(value) > max_length:
        return f"has {len(value)} characters: at most {max_length} are kept"
    if "\x00" in value:
        # PostgreSQL cannot store it in text.
        return "contains a NUL character: give the id as the platform writes it"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode: give the id as the platform writes it"
    return None

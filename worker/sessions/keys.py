"""Whose conversation an id means: pure decisions on top of an identity resolver.

Two readings of one id, because two callers differ. A bot's turn gives the raw id of whoever
wrote, which must never be guessed to be somebody's unified id: a stranger may be called
`alice` too. Whoever mirrors gives a unified id first of all.
"""

import re

from resolvers.protocol import IdentityResolverProtocol, unlinked

#: What account ids look like where the platform gives them out itself. An id of another form
#: cannot be an account there, so it can only be a unified id. Platforms on which people choose
#: their ids have no line here.
_ACCOUNT_FORMS = {
    "telegram": re.compile(r"-?\d+"),
    "discord": re.compile(r"\d+"),
    "slack": re.compile(r"[A-Z0-9]+"),
    "matrix": re.compile(r"[@!#].*"),
}

#: `platform:id`, the unified id of an account that nobody linked. Matrix and WhatsApp ids
#: contain `:` as well but begin otherwise; in `https://...` it is part of a webhook's address.
_QUALIFIED = re.compile(r"([a-z][a-z0-9_-]*):(?!//)(.+)", re.DOTALL)


def account_key(resolver: IdentityResolverProtocol | None, platform: str, user_id: str) -> str:
    """Return the key of whoever has this account: what a bot knows of the one who writes."""
    if resolver is None:
        return f"bot_{platform}_{user_id}" if platform else f"bot_{user_id}"
    return resolver.resolve(platform, user_id)


def reader_key(resolver: IdentityResolverProtocol | None, platform: str, user_id: str) -> str:
    """Return the key under which a manager of `platform` reads `user_id`: an account first.

    A unified id is taken for one only where it cannot be an account of the platform.
    """
    account = _own_account(platform, user_id)
    if resolver is None:
        return account_key(None, platform, account)
    if not platform:
        return _unified_key(resolver, user_id)
    key = resolver.resolve(platform, account)
    form = _ACCOUNT_FORMS.get(platform)
    if key != unlinked(platform, account) or form is None or form.fullmatch(account):
        return key
    return user_id if resolver.links_for(user_id) else key


def mirror_key(resolver: IdentityResolverProtocol | None, platform: str, user_id: str) -> str:
    """Return the key to which a mirror for `user_id` goes: a unified id first.

    An id that is nobody's unified id is an account of `platform`, or of the platform that it
    names itself (`slack:U1`).
    """
    if resolver is None or not platform:
        return reader_key(resolver, platform, user_id)
    if resolver.links_for(user_id):
        return user_id
    account = _own_account(platform, user_id)
    key = resolver.resolve(platform, account)
    if key == unlinked(platform, account) and account == user_id:
        return _qualified_key(resolver, user_id) or key
    return key


def account_on(
    resolver: IdentityResolverProtocol | None, platform: str, user_id: str
) -> str | None:
    """Return the account on `platform` that leads a manager which knows only accounts to a person.

    `None` when the person has none there: whatever was written would be read by nobody.
    """
    account = _own_account(platform, user_id)
    if resolver is None or not platform:
        return account
    links = resolver.links_for(user_id)
    if not links and account == user_id and (key := _qualified_key(resolver, user_id)):
        links = resolver.links_for(key)
    for link in links:
        if link.platform == platform:
            return link.platform_user_id
    return None if links else account


def _own_account(platform: str, user_id: str) -> str:
    # `telegram:123` at Telegram's manager is account 123, never `telegram:telegram:123`.
    return user_id.removeprefix(f"{platform}:") if platform else user_id


def _unified_key(resolver: IdentityResolverProtocol, user_id: str) -> str:
    if resolver.links_for(user_id):
        return user_id
    return _qualified_key(resolver, user_id) or user_id


def _qualified_key(resolver: IdentityResolverProtocol, user_id: str) -> str | None:
    """Return the unified user of `platform:id`, `None` for an id that is not of this form."""
    match = _QUALIFIED.fullmatch(user_id)
    return resolver.resolve(match[1], match[2]) if match else None

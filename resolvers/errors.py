"""Every error that a resolver raises; each message is one line that says what would be right.

ResolverError
├── InvalidIdentity      an id that can never be linked; nothing was stored (a ValueError)
├── StoreUnavailable     the links could not be read or written (an OSError)
└── ResolverNotLoadable  MIRRORPOST_RESOLVER names something that cannot be a resolver
"""


class ResolverError(Exception):
    """Something about identities that the caller can act on."""


class InvalidIdentity(ResolverError, ValueError):
    """The id is not one that can be linked; nothing was stored."""


class StoreUnavailable(ResolverError, OSError):
    """The links could not be read or written; what was stored before still is."""


class ResolverNotLoadable(ResolverError):
    """The name does not lead to a class that satisfies the protocol."""

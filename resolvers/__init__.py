"""WHO a message is for: identity links, their stores, and the context of a session.

Read `protocol` first, then the stores (`memory`, `file`, `sql`, `redis`), of which `load`
picks one. Imports nothing of the worker or the scheduler.
"""

from resolvers.context import (
    SessionContext,
    clear_session_context,
    get_session_context,
    set_session_context,
)
from resolvers.errors import (
    InvalidIdentity,
    ResolverError,
    ResolverNotLoadable,
    StoreUnavailable,
)
from resolvers.file import FileIdentityResolver
from resolvers.load import load_resolver
from resolvers.memory import InMemoryIdentityResolver
from resolvers.protocol import (
    IdentityLink,
    IdentityResolverProtocol,
    resolve_many,
    unlinked,
)
from resolvers.redis import RedisIdentityResolver
from resolvers.sql import IdentityLinkRow, SqlIdentityResolver

__all__ = [
    "FileIdentityResolver",
    "IdentityLink",
    "IdentityLinkRow",
    "IdentityResolverProtocol",
    "InMemoryIdentityResolver",
    "InvalidIdentity",
    "RedisIdentityResolver",
    "ResolverError",
    "ResolverNotLoadable",
    "SessionContext",
    "SqlIdentityResolver",
    "StoreUnavailable",
    "clear_session_context",
    "get_session_context",
    "load_resolver",
    "resolve_many",
    "set_session_context",
    "unlinked",
]

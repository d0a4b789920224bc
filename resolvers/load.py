"""Which resolver the environment asks for.

Called once by each process that delivers or links, with the value of `MIRRORPOST_RESOLVER`.
"""

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from sqlalchemy import Engine

from resolvers.errors import ResolverNotLoadable
from resolvers.file import FileIdentityResolver
from resolvers.memory import InMemoryIdentityResolver
from resolvers.protocol import IdentityResolverProtocol
from resolvers.redis import RedisIdentityResolver
from resolvers.sql import SqlIdentityResolver

_METHODS = ("resolve", "link", "unlink", "links_for")
_CHOICES = "sql, file, redis, memory or package.module:Class"


def load_resolver(
    kind: str,
    *,
    engine_factory: Callable[[], Engine],
    redis_url: str | None,
    identity_path: str | os.PathLike[str] | None,
) -> IdentityResolverProtocol:
    """Build the resolver of a kind: `sql`, `file`, `redis`, `memory`, `package.module:Class`.

    `engine_factory` is called for `sql` only. `identity_path` None is the environment's. A
    class is constructed without arguments, from the working directory if it is not installed.

    Raises `ResolverNotLoadable`: no such kind, no Redis, no such class, or not a resolver.
    """
    match kind:
        case "sql":
            return SqlIdentityResolver(engine_factory())
        case "file":
            return FileIdentityResolver(identity_path)
        case "redis":
            if not redis_url:
                raise ResolverNotLoadable(
                    "the resolver redis needs a server: set REDIS_URL=redis://host:6379/0"
                )
            return RedisIdentityResolver(redis_url)
        case "memory":
            return InMemoryIdentityResolver()
    return _load_class(kind)


def _load_class(kind: str) -> IdentityResolverProtocol:
    module_name, colon, class_name = kind.partition(":")
    if not (colon and module_name and class_name):
        raise ResolverNotLoadable(f"there is no resolver {kind!r}: give {_CHOICES}")
    if (directory := str(Path.cwd())) not in sys.path:
        # Last, so that it hides nothing. A console script does not have it, the worker does,
        # and both must find the same class.
        sys.path.append(directory)
    try:
        found = getattr(import_module(module_name), class_name)
        resolver = found()
    # A user's module may raise anything while it is imported or constructed.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ResolverNotLoadable(f"the resolver {kind} cannot be made: {reason}") from error
    defects = [defect for name in _METHODS if (defect := _defect(resolver, name)) is not None]
    if defects or not isinstance(resolver, IdentityResolverProtocol):
        raise ResolverNotLoadable(f"{kind} is not an identity resolver: {', '.join(defects)}")
    return resolver


def _defect(resolver: object, name: str) -> str | None:
    """Return what is wrong with a method of a resolver, None when nothing is."""
    method = getattr(resolver, name, None)
    if method is None:
        return f"{name}() is missing"
    if not callable(method):
        return f"{name} is not a method"
    if inspect.iscoroutinefunction(method):
        return f"{name}() is a coroutine function, it must be a plain one"
    return None

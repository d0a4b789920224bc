"""Who and where the current delivery is for, readable by anything that it calls.

The worker sets it round each delivery; hooks and resolvers read it. It is task-local and
thread-local: what runs beside never sees it.
"""

from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True)
class SessionContext:
    """One delivery's surroundings; an empty string is what is not known or does not apply."""

    platform: str = ""
    chat_id: str = ""
    chat_name: str = ""
    thread_id: str = ""
    user_id: str = ""
    user_name: str = ""
    unified_user_id: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return all fields by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "SessionContext":
        """Build a context from what `to_dict` gave, ignoring keys that it does not know.

        Missing and null fields are empty; numbers, as some platforms give ids, become text.
        """
        known = {item.name: data.get(item.name) for item in fields(cls)}
        return cls(**{name: str(value) for name, value in known.items() if value is not None})


_EMPTY = SessionContext()

_current: ContextVar[SessionContext] = ContextVar("mirrorpost_session_context", default=_EMPTY)


def set_session_context(  # noqa: PLR0917 - callable as other session contexts are
    platform: str | SessionContext = "",
    chat_id: str = "",
    chat_name: str = "",
    thread_id: str = "",
    user_id: str = "",
    user_name: str = "",
    unified_user_id: str = "",
    *,
    context: SessionContext | None = None,
) -> Token[SessionContext]:
    """Set the context of the current task or thread; return the token that clears it.

    Give either a whole `SessionContext`, first or as `context`, or its fields.

    Raises `TypeError`: both a context and fields were given.
    """
    if isinstance(platform, SessionContext):
        context, platform = platform, ""
    given = SessionContext(
        platform, chat_id, chat_name, thread_id, user_id, user_name, unified_user_id
    )
    if context is None:
        return _current.set(given)
    if given != _EMPTY:
        raise TypeError("give a SessionContext or its fields, not both")
    return _current.set(context)


def get_session_context() -> SessionContext:
    """Return the current task's or thread's context, an empty one when none is set."""
    return _current.get()


def clear_session_context(token: object) -> None:
    """Put back what was current before the `set_session_context` that gave `token`.

    Never raises. A token used before changes nothing. One that is not of this task or thread,
    or no token at all, leaves an empty context: better nobody than somebody else.
    """
    if not isinstance(token, Token):
        _current.set(_EMPTY)
        return
    try:
        _current.reset(token)
    except ValueError:
        _current.set(_EMPTY)
    except RuntimeError:
        # Used before: what it put back then may rightly have changed since.
        return

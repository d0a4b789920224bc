"""Read a platform's answer without ever raising: called by every adapter's `outcome`.

Here is what all platforms share (`by_status`, `failure`); what one platform means by its
own codes stands in that platform's table.
"""

import re
from http import HTTPStatus
from typing import cast

import orjson

from worker.platforms.base import Response
from worker.platforms.retry_after import header_s
from worker.taxonomy import ErrorKind, Failure, Scope

#: Longest `Failure.text`, in characters.
_LONGEST_TEXT = 500
#: Shapes of credentials. An answer should hold none, but a proxy in between may echo the
#: address that it was asked for, and Telegram's token is in the address.
_CREDENTIAL = re.compile(
    r"\d{3,}:[\w-]{8,}"
    r"|xox[a-z]\.?[\w.-]{4,}"
    r"|whsec_[\w+/=-]+"
    r"|syt_\w+"
    r"|[\w-]{20,}\.[\w-]{5,8}\.[\w-]{20,}"
    r"|\b(?:Bot|Bearer) [\w.~+/=-]{12,}",
    re.IGNORECASE,
)
#: What a status means when the platform's own table says nothing. A 403 or 404 is not
#: here: without the platform's own code it may come from a proxy, and a target is not
#: declared dead on a proxy's word.
_BY_STATUS: dict[int, ErrorKind] = {
    HTTPStatus.UNAUTHORIZED: ErrorKind.AUTH,
    HTTPStatus.REQUEST_TIMEOUT: ErrorKind.TRANSIENT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ErrorKind.TOO_LONG,
    HTTPStatus.TOO_MANY_REQUESTS: ErrorKind.RATE_LIMITED,
}


def json_object(content: bytes) -> dict[str, object]:
    """Read a JSON object; an edge proxy's HTML, or anything else, is an empty one."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def child(parent: dict[str, object], key: str) -> dict[str, object]:
    """Give the object under `key`; an empty one when there is none."""
    value = parent.get(key)
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def message_id(value: object) -> str | None:
    """Read a platform's message id: text or a whole number, `None` for anything else."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def succeeded(response: Response) -> bool:
    """Say whether the status is one of the 2xx."""
    return HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES


def by_status(response: Response) -> ErrorKind:
    """Classify by the HTTP status alone.

    5xx is ambiguous, the message may have been taken before it broke; only a 503 that says
    when to come again is a refusal. A 2xx lands here when it proves nothing.
    """
    status = response.status
    if status == HTTPStatus.SERVICE_UNAVAILABLE and header_s(response.headers) is not None:
        return ErrorKind.TRANSIENT
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or succeeded(response):
        return ErrorKind.AMBIGUOUS
    return _BY_STATUS.get(status, ErrorKind.UNKNOWN_ERROR)


def failure(
    response: Response,
    kind: ErrorKind,
    text: object = None,
    *,
    code: object = None,
    retry_after_s: float | None = None,
    scope: Scope = Scope.CHAT,
    moved_to: str | None = None,
) -> Failure:
    """Make a failure out of an answer.

    Without a text of the platform's own the status speaks; the body is never quoted.
    `retry_after_s` is the platform's own, else what the header says.
    """
    words = " ".join(text.split()) if isinstance(text, str) else ""
    if not words:
        words = (
            f"HTTP {response.status} without a message id"
            if succeeded(response)
            else (f"HTTP {response.status}")
        )
    return Failure(
        kind=kind,
        text=_CREDENTIAL.sub("[redacted]", words)[:_LONGEST_TEXT],
        code=message_id(code),
        http_status=response.status,
        retry_after_s=header_s(response.headers) if retry_after_s is None else retry_after_s,
        scope=scope,
        moved_to=moved_to,
    )

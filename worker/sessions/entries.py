"""The shape of a history: plain dicts, ready for a language model, and what is new in one.

An entry has `role`, `content` and `timestamp` (ISO 8601, UTC), a mirror also `mirror: True` and
`mirror_source`; every other key is metadata. Pure.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher

from worker.errors import Refused

Entry = dict[str, object]

#: Keys of an entry that metadata cannot override.
RESERVED = frozenset({"role", "content", "timestamp", "mirror", "mirror_source"})

#: Under this metadata key a row keeps a content that is not text (parts of a multimodal turn,
#: the null beside tool calls).
_STRUCTURED = "$content"

_EPOCH = datetime.fromtimestamp(0, UTC)


def now_ms() -> int:
    """Return the current time in epoch milliseconds UTC."""
    return epoch_ms(datetime.now(UTC))


def epoch_ms(moment: datetime) -> int:
    """Return an aware time in epoch milliseconds UTC; a naive one is refused."""
    if moment.tzinfo is None:
        raise Refused(f"{moment.isoformat()} has no time zone: give an aware time")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def iso(timestamp_ms: int) -> str:
    """Return epoch milliseconds as ISO 8601 in UTC, with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    return moment.isoformat(timespec="milliseconds")


def timestamp_ms(entry: Mapping[str, object]) -> int | None:
    """Return an entry's time in epoch milliseconds, `None` where it has none that can be read.

    Takes ISO 8601 (UTC where it names no zone), as we write it, and seconds since the epoch, as
    other managers do.
    """
    match entry.get("timestamp"):
        case str(text):
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                return None
            return epoch_ms(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        case bool():
            return None
        case int() | float() as seconds if math.isfinite(seconds):
            return round(seconds * 1000)
        case _:
            return None


def metadata_of(entry: Mapping[str, object]) -> Entry:
    """Return what an entry holds beside its reserved keys, as plain JSON."""
    metadata = {k: v for k, v in entry.items() if k not in RESERVED}
    metadata.pop(_STRUCTURED, None)
    content = entry.get("content")
    return plain_json(metadata if isinstance(content, str) else {**metadata, _STRUCTURED: content})


def assemble(
    role: str, content: str, timestamp: int, mirror_source: str | None, metadata: Entry
) -> Entry:
    """Return the entry of a stored message; metadata cannot override a key of its own.

    `timestamp` is epoch milliseconds UTC; only a mirror has a `mirror_source`.
    """
    own: Entry = {"role": role, "content": content, "timestamp": iso(timestamp)}
    if mirror_source is not None:
        own |= {"mirror": True, "mirror_source": mirror_source}
    elif _STRUCTURED in metadata:
        own["content"] = metadata[_STRUCTURED]
    return own | {k: v for k, v in metadata.items() if k not in RESERVED and k != _STRUCTURED}


def text_of(entry: Mapping[str, object]) -> str:
    """Return an entry's content as text that every database can keep, empty where it has none."""
    content = entry.get("content")
    return mended(content) if isinstance(content, str) else ""


def mended(text: str) -> str:
    """Return text with U+FFFD in place of NUL and of lone surrogates."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\x00", "\ufffd")


def plain_json(metadata: Mapping[str, object] | None) -> Entry:
    """Return a detached copy of metadata that is plain JSON.

    Raises:
        Refused: Not a mapping, a key that is not text, or a value that JSON does not have.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise Refused("metadata is not a JSON object: give a dict whose keys are text")
    try:
        text = json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False)
        storable("metadata", text)
        copy: Entry = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"metadata is not JSON ({error}): give text, numbers, lists, dicts") from None
    return copy


def storable(name: str, text: object) -> str:
    """Return `text` if every database can keep it.

    Raises:
        Refused: Not text, blank, or with characters that PostgreSQL cannot store.
    """
    if not isinstance(text, str):
        raise Refused(f"{name} is {type(text).__name__}: give text")
    if not text.strip():
        raise Refused(f"{name} is empty: give some text")
    if "\x00" in text:
        raise Refused(f"{name} contains a NUL character: leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(f"{name} is not valid Unicode: leave out lone surrogates") from None
    return text


def new_entries(stored: Sequence[Entry], history: Sequence[Entry]) -> list[Entry]:
    """Return the entries of `history` that are to be appended to what is stored.

    An entry is known by time, role and content, and a mirror by its time, so the same words said
    again are another message. New is what follows the last known one; what somebody put before it
    (a summary of the older turns) stays theirs, since a conversation that only grows has no place
    for it.

    A caller that strips the times gets the next best thing: its entries are aligned with what is
    stored by role and content, in order, and new is what finds no place after the first that did.
    """
    known = {_identity(entry) for entry in stored}
    last = max((i for i, entry in enumerate(history) if _identity(entry) in known), default=None)
    if last is not None:
        return list(history[last + 1 :])
    if any(timestamp_ms(entry) is not None for entry in history):
        return list(history)
    blocks = SequenceMatcher(
        None, [_words(e) for e in stored], [_words(e) for e in history], autojunk=False
    ).get_matching_blocks()
    found = {i for block in blocks for i in range(block.b, block.b + block.size)}
    first = min(found, default=0)
    return [entry for i, entry in enumerate(history) if i >= first and i not in found]


def _words(entry: Entry) -> tuple[object, str]:
    return entry.get("role"), json.dumps(entry.get("content"), default=str)


def _identity(entry: Entry) -> tuple[int | None, object, str] | None:
    moment = timestamp_ms(entry)
    if moment is None:
        return None
    if entry.get("mirror") is True:
        # What it says may have been edited or taken back since a turn was given it.
        return (moment, entry.get("role"), f"mirror {entry.get('mirror_source')}")
    return (moment, *_words(entry))

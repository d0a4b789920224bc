"""The verdict of a run: asked for, accepted by the platforms, rows and history compared.

`judge` is pure; `rows`, `refusals` and `arrivals` give it what it compares.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import JSON, Boolean, Engine, text

from tests.chaos.load import Asked
from worker.backoff import MAX_ATTEMPTS
from worker.database import reading
from worker.platforms import platform
from worker.platforms.base import Asks, Dedup
from worker.states import ENDS, State


@dataclass(frozen=True, slots=True)
class Arrived:
    """One message as its reader sees it, after the platform has deduplicated."""

    platform: str
    chat: str
    text: str
    id: str


@dataclass(frozen=True, slots=True)
class Row:
    """What the judge needs of a delivery's row and its attempts.

    Attributes:
        ambiguous: Attempts whose answer never came, or came when the lease was over.
    """

    id: str
    key: str | None
    target: str
    text: str
    state: str
    seq: int
    policy: str
    attempts_used: int
    maybe_duplicate: bool
    receipt: Sequence[str]
    mirror: str | None
    ambiguous: int
    mirrors: int


@dataclass(slots=True)
class Verdict:
    """What is wrong, in words, by kind; and what is not wrong but worth a figure.

    Attributes:
        marked: Second copies on platforms that can do nothing, each marked in its row.
        unknown: Rows that ended so, as their policy or the limit of attempts says.
        in_doubt: Attempts whose answer never came.
    """

    asked: int
    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    marked: int = 0
    unknown: int = 0
    in_doubt: int = 0

    def add(self, kind: str, what: str) -> None:
        """Note a violation."""
        self.wrong[kind].append(what)


#: The kinds of violations, in the order in which they are shown.
KINDS = (
    "lost",
    "doubled",
    "unmarked",
    "order",
    "mirror",
    "stuck",
    "attempts",
    "refused",
    "unasked",
)

_ROWS = text(
    """
    SELECT d.id, d.key, d.target, d.text, d.state, d.seq, d.policy, d.attempts_used,
      d.maybe_duplicate, d.receipt, d.mirror,
      (SELECT count(*) FROM attempt a WHERE a.delivery_id = d.id
        AND (a.outcome = 'ambiguous' OR a.fenced)) AS ambiguous,
      (SELECT count(*) FROM message m WHERE m.delivery_id = d.id) AS mirrors
    FROM delivery d
    """
)


def rows(engine: Engine) -> list[Row]:
    """Read all rows."""
    statement = _ROWS.columns(receipt=JSON(), maybe_duplicate=Boolean())
    with reading(engine) as connection:
        found = connection.execute(statement).mappings().all()
    return [Row(**{**row, "receipt": row["receipt"] or ()}) for row in found]


def refusals(engine: Engine) -> list[str]:
    """Read why bare Celery messages were refused."""
    with reading(engine) as connection:
        return list(connection.execute(text("SELECT reason FROM rejected")).scalars())


def judge(
    asked: Sequence[Asked],
    stored: Sequence[Row],
    arrived: Sequence[Arrived],
    refused: Sequence[str] = (),
) -> Verdict:
    """Compare what was asked for with what came of it.

    Args:
        refused: Reasons; all that was asked for was right, also what arrived after all.
    """
    verdict = Verdict(len(asked))
    for reason in refused:
        verdict.add("refused", reason)
    by_content: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in stored:
        by_content[row.target, row.text].append(row)
    places: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, message in enumerate(arrived):
        places[message.platform, message.chat, message.text.strip()].append(place)
    in_order: defaultdict[str, list[tuple[Asked, Row, list[int]]]] = defaultdict(list)
    for each in asked:
        found = by_content.pop((each.target, each.text), [])
        # Telegram trims what it is given.
        parts = Counter(part.strip() for part in each.parts)
        seen = [places.pop((each.platform, each.chat, part), []) for part in parts]
        if not found:
            verdict.add("lost", f"{each.n} ({each.way}) has no row")
            continue
        if len(found) > 1:
            verdict.add("doubled", f"{each.n} ({each.way}) has {len(found)} rows")
        row = found[0]
        firsts = [p[0] for p in seen if p]
        _judge_one(verdict, each, row, list(parts.values()), seen)
        if each.ordered:
            in_order[each.target].append((each, row, firsts))
    for target, text_ in by_content:
        verdict.add("unasked", f"a row for {target}: {text_[:40]}")
    for platform_, chat, text_ in places:
        verdict.add("unasked", f"{platform_} {chat} got {text_[:40]}")
    for chain in in_order.values():
        _judge_order(verdict, chain)
    return verdict


def _judge_one(
    verdict: Verdict,
    asked: Asked,
    row: Row,
    wanted: Sequence[int],
    seen: Sequence[Sequence[int]],
) -> None:
    what = f"{asked.n} ({asked.way}, {asked.platform}, {row.id}, {row.state})"
    counts = [len(places) for places in seen]
    missing = any(n < w for n, w in zip(counts, wanted, strict=True))
    extra = sum(max(0, n - w) for n, w in zip(counts, wanted, strict=True))
    verdict.in_doubt += row.ambiguous
    if row.state not in ENDS:
        verdict.add("stuck", what)
    elif row.state == State.SENT and missing:
        verdict.add("lost", f"{what} did not arrive")
    elif row.state == State.UNKNOWN and _may_be_unknown(asked, row):
        verdict.unknown += 1
    elif row.state != State.SENT:
        verdict.add("lost", what)
    if extra:
        _judge_extra(verdict, asked, row, extra, what)
    if row.attempts_used > MAX_ATTEMPTS:
        verdict.add("attempts", f"{what} was tried {row.attempts_used} times")
    if row.mirrors != int(row.state == State.SENT):
        verdict.add("mirror", f"{what} has {row.mirrors} mirrors")


def _may_be_unknown(asked: Asked, row: Row) -> bool:
    if row.ambiguous == 0:
        return False
    held = row.policy == "hold" and _is_blind(asked.platform)
    return held or row.attempts_used >= MAX_ATTEMPTS


def _judge_extra(verdict: Verdict, asked: Asked, row: Row, extra: int, what: str) -> None:
    if not _is_blind(asked.platform):
        verdict.add("doubled", f"{what} arrived {extra} times too often")
    elif row.policy == "hold":
        verdict.add("doubled", f"{what} arrived {extra} times too often although held")
    elif not row.maybe_duplicate:
        verdict.add("unmarked", f"{what} arrived {extra} times too often")
    elif extra > row.ambiguous:
        verdict.add("doubled", f"{what}: {extra} copies, {row.ambiguous} doubtful attempts")
    else:
        verdict.marked += extra


def _is_blind(name: str) -> bool:
    """Tell whether nothing can be done about a doubt on a platform."""
    adapter = platform(name)
    return adapter.capability.dedup is not Dedup.KEY and not isinstance(adapter, Asks)


def _judge_order(verdict: Verdict, chain: Sequence[tuple[Asked, Row, Sequence[int]]]) -> None:
    """Compare the places of a chat's deliveries, in the order in which they were stored."""
    latest = -1
    for asked, row, firsts in sorted(chain, key=lambda link: link[1].seq):
        if firsts and min(firsts) < latest:
            verdict.add("order", f"{asked.n} ({asked.target}, {row.id}) overtook")
        latest = max([latest, *firsts])


def arrivals(
    sandbox: Mapping[str, Sequence[Mapping[str, object]]],
    matrix: Sequence[tuple[str, str, str]],
) -> list[Arrived]:
    """Give what readers see: each webhook id once, as the standard asks of a receiver.

    The places of one platform are in order; those of different ones say nothing.
    """
    found = [Arrived("matrix", room, content, id_) for room, content, id_ in matrix]
    known: set[object] = set()
    for name, messages in sandbox.items():
        for message in messages:
            if name == "webhook":
                if message["nonce"] in known:
                    continue
                known.add(message["nonce"])
            found.append(
                Arrived(name, str(message["chat"]), str(message["text"]), str(message["id"]))
            )
    return found

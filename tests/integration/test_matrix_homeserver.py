import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.synapse import Account, Homeserver, running_homeserver
from worker.http import Client
from worker.platforms.base import Bot, Message, Request, Response
from worker.platforms.matrix import Matrix
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt, Scope


@pytest.fixture(scope="module")
def homeserver() -> Iterator[Homeserver]:
    with running_homeserver() as running:
        yield running


@pytest.fixture
def room(homeserver: Homeserver) -> str:
    return homeserver.new_room()


def bot_of(homeserver: Homeserver, account: Account) -> Bot:
    values = {"MATRIX_HOMESERVER": homeserver.base_url, "MATRIX_ACCESS_TOKEN": account.token}
    return Bot("matrix", "", values)


def send(message: Message, bot: Bot) -> Outcome:
    async def run() -> Outcome:
        client = Client(allow_private=False)
        try:
            answer = await client.send(Matrix().request(message, bot))
        finally:
            await client.close()
        return Matrix().outcome(answer) if isinstance(answer, Response) else answer

    return asyncio.run(run())


def refused(message: Message, bot: Bot) -> Failure:
    outcome = send(message, bot)
    assert isinstance(outcome, Failure), outcome
    return outcome


def test_a_message_is_read_back_by_another_account(homeserver: Homeserver, room: str) -> None:
    text = "Wake up, <b>Neo</b> 🐇 & *follow*\nthe rabbit"
    outcome = send(Message("d1", room, text, 0), bot_of(homeserver, homeserver.bot))
    assert isinstance(outcome, Receipt)
    (event,) = homeserver.messages(room)
    assert outcome.message_ids == (event["event_id"],)
    assert event["sender"] == homeserver.bot.user_id
    assert event["content"] == {"msgtype": "m.text", "body": text, "m.mentions": {}}


def test_the_same_delivery_sent_twice_is_one_event(homeserver: Homeserver, room: str) -> None:
    message = Message("d2", room, "once", 0)
    bot = bot_of(homeserver, homeserver.bot)
    assert send(message, bot) == send(message, bot)
    assert homeserver.texts(room) == ["once"]


def test_another_delivery_of_the_same_text_is_another_event(
    homeserver: Homeserver, room: str
) -> None:
    bot = bot_of(homeserver, homeserver.bot)
    message = Message("d3", room, "every day", 0)
    assert send(message, bot) != send(replace(message, delivery_id="d4"), bot)
    assert homeserver.texts(room) == ["every day", "every day"]


def test_a_reply_in_a_thread_and_a_silent_one_are_what_they_say(
    homeserver: Homeserver, room: str
) -> None:
    bot = bot_of(homeserver, homeserver.bot)
    root = send(Message("d5", room, "root", 0), bot)
    assert isinstance(root, Receipt)
    (root_id,) = root.message_ids
    send(Message("d6", room, "inside", 0, thread_id=root_id, silent=True), bot)
    inside = homeserver.messages(room)[-1]["content"]
    assert isinstance(inside, dict)
    assert inside["msgtype"] == "m.notice"
    assert inside["m.relates_to"]["rel_type"] == "m.thread"
    assert inside["m.relates_to"]["event_id"] == root_id


def test_the_longest_text_that_we_allow_is_accepted(homeserver: Homeserver, room: str) -> None:
    longest = "x" * Matrix.capability.max_length
    outcome = send(Message("d7", room, longest, 0), bot_of(homeserver, homeserver.bot))
    assert isinstance(outcome, Receipt)
    assert homeserver.texts(room) == [longest]


def test_a_text_over_the_homeservers_limit_is_too_long(homeserver: Homeserver, room: str) -> None:
    bot = bot_of(homeserver, homeserver.bot)
    assert refused(Message("d8", room, "x" * 66_000, 0), bot).kind is ErrorKind.TOO_LONG
    assert homeserver.texts(room) == []


def test_a_wrong_token_is_the_credentials_fault(homeserver: Homeserver, room: str) -> None:
    stranger = Account(homeserver.bot.user_id, "syt_wrong")
    failure = refused(Message("d9", room, "hello", 0), bot_of(homeserver, stranger))
    assert (failure.kind, failure.code) == (ErrorKind.AUTH, "M_UNKNOWN_TOKEN")
    assert "syt_wrong" not in repr(failure)


def test_a_room_that_the_bot_is_not_in_is_forbidden(homeserver: Homeserver) -> None:
    room = "!nowhere:localhost"
    failure = refused(Message("d10", room, "hello", 0), bot_of(homeserver, homeserver.bot))
    assert failure.kind is ErrorKind.FORBIDDEN


def change(request: Request, read: Callable[[Response, str], Outcome], id_: str) -> Outcome:
    async def run() -> Outcome:
        client = Client(allow_private=False)
        try:
            answer = await client.send(request)
        finally:
            await client.close()
        assert isinstance(answer, Response), answer
        return read(answer, id_)

    return asyncio.run(run())


def test_an_edit_is_what_the_reader_sees_and_twice_is_one_event(
    homeserver: Homeserver, room: str
) -> None:
    bot, matrix = bot_of(homeserver, homeserver.bot), Matrix()
    sent = send(Message("e1", room, "at nine", 0), bot)
    assert isinstance(sent, Receipt)
    [id_] = sent.message_ids
    longest = "é" * 30_000
    for delivery, text in (("e2", "at ten"), ("e3", longest)):
        request = matrix.editing(Message(delivery, room, text, 0), id_, bot)
        first = change(request, matrix.edited, id_)
        assert isinstance(first, Receipt), first
        assert change(request, matrix.edited, id_) == first
        assert homeserver.reads_now(room, id_) == text
    assert len(homeserver.messages(room)) == 3


def test_what_is_redacted_has_no_text_any_more_nor_have_its_edits(
    homeserver: Homeserver, room: str
) -> None:
    bot, matrix = bot_of(homeserver, homeserver.bot), Matrix()
    sent = send(Message("r1", room, "a secret", 0), bot)
    assert isinstance(sent, Receipt)
    [id_] = sent.message_ids
    edit = matrix.editing(Message("r2", room, "a worse secret", 0), id_, bot)
    edited = change(edit, matrix.edited, id_)
    assert isinstance(edited, Receipt)
    for part, event in enumerate((id_, *edited.message_ids)):
        request = matrix.retracting(Message("r3", room, "", 0, part=part), event, bot)
        done = change(request, matrix.retracted, event)
        assert isinstance(done, Receipt), done
        assert change(request, matrix.retracted, event) == done
    assert [event["content"] for event in homeserver.messages(room)] == [{}, {}]


def test_redacting_what_the_room_does_not_have_harms_nobody(
    homeserver: Homeserver, room: str
) -> None:
    bot, matrix = bot_of(homeserver, homeserver.bot), Matrix()
    unknown = "$nothing-of-this-name-was-ever-in-the-room-0000"
    request = matrix.retracting(Message("r4", room, "", 0), unknown, bot)
    assert isinstance(change(request, matrix.retracted, unknown), Receipt)


def test_the_homeservers_limit_says_how_long_to_wait_for_the_whole_bot(
    homeserver: Homeserver,
) -> None:
    room = homeserver.new_room(homeserver.hasty)
    bot = bot_of(homeserver, homeserver.hasty)
    outcomes = [send(Message(f"h{n}", room, "hurry", 0), bot) for n in range(3)]
    limited = outcomes[-1]
    assert isinstance(limited, Failure)
    assert (limited.kind, limited.scope) == (ErrorKind.RATE_LIMITED, Scope.BOT)
    assert limited.retry_after_s is not None
    assert 1 < limited.retry_after_s <= 60
    accepted = [each for each in outcomes if isinstance(each, Receipt)]
    assert len(homeserver.texts(room)) == len(accepted) >= 1

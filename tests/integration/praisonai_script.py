"""Run in an environment with PraisonAI: mirror into its real `BotSessionManager`, write JSON.

Arguments: a folder for its session files. Everything before the last line is PraisonAI's.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Callable

from praisonai_bot.bots import BotSessionManager
from praisonaiagents.session import DefaultSessionStore, InMemoryIdentityResolver

from worker.sessions import flush_mirrors, mirror_to_session, mirror_to_session_async

Entry = dict[str, object]


class Agent:
    """What a turn needs of an agent: the model is the only part that is not PraisonAI's."""

    name = "agent"

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.chat_history: list[Entry] = []
        self.prompted_with: list[Entry] = []
        self.meanwhile = meanwhile

    def chat(self, prompt: str, **_: object) -> str:
        self.prompted_with = list(self.chat_history)
        self.meanwhile()
        self.chat_history += [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": f"answer to {prompt}"},
        ]
        return f"answer to {prompt}"


def manager(folder: str, **options: object) -> BotSessionManager:
    return BotSessionManager(
        store=DefaultSessionStore(session_dir=folder), platform="telegram", **options
    )


def texts(history: list[Entry]) -> list[object]:
    return [entry["content"] for entry in history]


def stored(folder: str, user_id: str, **options: object) -> list[object]:
    """What a new process would load."""
    return texts(manager(folder, **options)._load_history(user_id))


def from_sync(folder: str) -> Entry:
    theirs = manager(folder)
    answers = [mirror_to_session(theirs, "sync", f"m{i}", "cron", {"job": i}) for i in range(3)]
    return {
        "answers": answers,
        "restarted": stored(folder, "sync"),
        "key": theirs._session_key("sync"),
        "newest_in_memory": theirs._histories["sync"][-1],
    }


async def from_a_coroutine(folder: str) -> Entry:
    theirs = manager(folder)
    answers = [mirror_to_session(theirs, "coroutine", f"m{i}") for i in range(3)]
    answers.append(await mirror_to_session_async(theirs, "coroutine", "m3"))
    return {"answers": answers, "restarted": stored(folder, "coroutine")}


async def during_a_turn(folder: str, mirrors_from: str) -> Entry:
    user = f"turn-{mirrors_from}"
    theirs = manager(folder)
    in_turn, go_on = threading.Event(), threading.Event()
    answers: list[bool] = []

    def mirror() -> None:
        answers.append(mirror_to_session(theirs, user, "reminder", "cron"))

    def meanwhile() -> None:
        if mirrors_from == "a tool":
            mirror()
            return
        in_turn.set()
        assert go_on.wait(30)

    turn = asyncio.create_task(theirs.chat(Agent(meanwhile), user, "hello"))
    if mirrors_from != "a tool":
        await asyncio.to_thread(in_turn.wait, 30)
        if mirrors_from == "the loop":
            mirror()
        else:
            await asyncio.to_thread(mirror)
        go_on.set()
    await turn
    await asyncio.to_thread(flush_mirrors, 30)
    next_turn = Agent()
    await theirs.chat(next_turn, user, "and now")
    return {
        "answers": answers,
        "next_turn_saw": texts(next_turn.prompted_with),
        "restarted": stored(folder, user),
    }


def of_a_linked_person(folder: str) -> Entry:
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "4711", "alice")
    resolver.link("slack", "U1", "bob")
    theirs = manager(folder, identity_resolver=resolver)
    return {
        "answers": [
            mirror_to_session(theirs, user_id, user_id) for user_id in ("alice", "4711", "bob")
        ],
        "restarted": stored(folder, "4711", identity_resolver=resolver),
    }


def accepted_by_a_loop_that_ended(folder: str) -> Entry:
    theirs = manager(folder)

    async def main() -> bool:
        await theirs._get_lock("ended").acquire()
        return mirror_to_session(theirs, "ended", "still")

    answer = asyncio.run(main())
    return {"answers": [answer, flush_mirrors(30)], "restarted": stored(folder, "ended")}


def main() -> None:
    folder = sys.argv[1]
    results = {
        "sync": from_sync(folder),
        "coroutine": asyncio.run(from_a_coroutine(folder)),
        "person": of_a_linked_person(folder),
        "ended": accepted_by_a_loop_that_ended(folder),
    }
    for place in ("the loop", "a thread", "a tool"):
        results[place] = asyncio.run(during_a_turn(folder, place))
    sys.stdout.write(f"\n{json.dumps(results)}\n")


if __name__ == "__main__":
    main()

"""What is dead: chats that are gone or closed to a bot, chats that moved, refused credentials.

`note` writes what a platform said, in the transaction of the settle; `look_up` tells it of the
places of a claimed chunk; `take_probes` lets one delivery an hour try whether a chat is alive
again. Each is one statement, or a few for what is rare. Says nothing about deliveries: what
follows for them is decided in `worker.suppress`.
"""

from worker.dead.keys import Dead, Place
from worker.dead.note import PROBE_EVERY_MS, Tried, note
from worker.dead.probe import delay_probes, forget, revive, take_probes
from worker.dead.standing import Note, Standing, is_any_noted, look_up

__all__ = [
    "PROBE_EVERY_MS",
    "Dead",
    "Note",
    "Place",
    "Standing",
    "Tried",
    "delay_probes",
    "forget",
    "is_any_noted",
    "look_up",
    "note",
    "revive",
    "take_probes",
]

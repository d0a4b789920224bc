"""Every error that Mirrorpost raises to a caller; each message says what would be right.

MirrorpostError
├── Refused              bad input, refused where it enters; nothing was stored
│   ├── KeyConflict      an idempotency key that was used for another body
│   └── NotFound         no row of that id or name
├── Misconfigured        the environment names something that cannot be
└── SchemaMismatch       the database is not of the schema that the code knows
    └── SchemaOutdated   it is older, or empty: `mirrorpost migrate` mends it

What a platform answers is never an exception: see `worker.taxonomy`.
"""


class MirrorpostError(Exception):
    """Something that the caller can act on; the message is one readable line."""


class Refused(MirrorpostError):
    """The input is not acceptable; nothing was stored."""


class KeyConflict(Refused):
    """The idempotency key was used before for another body."""


class NotFound(Refused):
    """There is no such row."""


class Misconfigured(MirrorpostError):
    """The environment or a setting names something that cannot be."""


class SchemaMismatch(MirrorpostError):
    """The database's schema is not the one that this code knows."""


class SchemaOutdated(SchemaMismatch):
    """The database is older than this code; run mirrorpost migrate."""

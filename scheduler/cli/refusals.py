"""What a command cannot do, as one line on standard error and exit code 1."""

from typing import Any

import typer
from typer.core import TyperGroup

from scheduler.cli.output import fail


class Commands(TyperGroup):
    """The commands; errors that a caller can act on become one line, defects a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough; typer ends the process quietly.
            raise
        except Exception as error:
            line = _line(error)
            if line is None:
                raise
            fail(line)
            raise typer.Exit(1) from None


def _line(error: Exception) -> str | None:
    """Say what went wrong; `None` for what is a defect of ours."""
    # Imported here because none of these modules is needed until something goes wrong.
    from sqlalchemy.exc import SQLAlchemyError

    from resolvers.errors import ResolverError
    from worker.errors import MirrorpostError

    match error:
        case MirrorpostError() | ResolverError():
            return str(error)
        case SQLAlchemyError():
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()
            return f"the database cannot be used: {reason[0] if reason else type(error).__name__}"
        case OSError(filename=str(path)):
            return f"{path}: {error.strerror}: set MIRRORPOST_HOME to a folder that can be written"
        case _:
            return None

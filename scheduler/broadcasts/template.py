"""Template: a broadcast's text, filled with what is known of each recipient.

Jinja2 in its sandbox: a template can neither reach beyond the attributes nor call what
changes anything, nor take long or much (`bounded`). An attribute that is not known is an
error, never an empty place.
"""

from collections.abc import Mapping

from jinja2 import Template, TemplateSyntaxError, nodes

from scheduler.broadcasts.bounded import BoundedEnvironment, one_text
from worker.errors import Refused
from worker.intake import check_text
from worker.targets import USER, Target

_environment = BoundedEnvironment()
#: What would need other templates.
_REACHES_OUT = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_ANYBODY = Target(USER, "anybody")


class NotFillable(Exception):
    """A template has no text for these attributes; the message says why."""


def check_plain(text: str) -> None:
    """Refuse a text that could not be sent; its platform is not known yet.

    Raises:
        Refused: Says what would be right.
    """
    check_text(_ANYBODY, text)


def compile_template(body: str) -> Template:
    """Compile a template.

    Raises:
        Refused: Says in which line it is wrong.
    """
    check_plain(body)
    try:
        for node in _environment.parse(body).find_all(_REACHES_OUT):
            raise Refused(
                f"the template is wrong in line {node.lineno}: there are no other templates "
                "to include, import or extend"
            )
        return _environment.from_string(body)
    except TemplateSyntaxError as error:
        raise Refused(f"the template is wrong in line {error.lineno}: {error.message}") from None
    # Of the Python that Jinja2 makes of it, or on the way there.
    except (SyntaxError, RecursionError, MemoryError, OverflowError, ValueError) as error:
        why = str(error).partition(" (")[0]
        raise Refused(f"the template cannot be compiled: {why}: write it more simply") from None


def fill(template: Template, attributes: Mapping[str, object]) -> str:
    """Give the text for one recipient.

    An attribute that is null is not known.

    Raises:
        NotFillable: An attribute is missing, or the template fails on what is there.
    """
    try:
        with one_text():
            text = template.render({k: v for k, v in attributes.items() if v is not None})
        check_plain(text)
    except Exception as error:  # noqa: BLE001 - a template can fail as any code can
        raise NotFillable(str(error) or type(error).__name__) from None
    return text

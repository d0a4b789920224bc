"""Template: a broadcast's text, filled with what is known of each recipient.

Jinja2 in its sandbox: a template can neither reach beyond the attributes nor call what
changes anything. An attribute that is not known is an error, never an empty place.
"""

from collections.abc import Mapping

from jinja2 import StrictUndefined, Template, TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment

from worker.errors import Refused
from worker.intake import check_text
from worker.targets import USER, Target

_environment = SandboxedEnvironment(
    undefined=StrictUndefined, keep_trailing_newline=True, auto_reload=False
)
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
        return _environment.from_string(body)
    except TemplateSyntaxError as error:
        raise Refused(f"the template is wrong in line {error.lineno}: {error.message}") from None


def fill(template: Template, attributes: Mapping[str, object]) -> str:
    """Give the text for one recipient.

    An attribute that is null is not known.

    Raises:
        NotFillable: An attribute is missing, or the template fails on what is there.
    """
    try:
        text = template.render({k: v for k, v in attributes.items() if v is not None})
        check_plain(text)
    except Exception as error:  # noqa: BLE001 - a template can fail as any code can
        raise NotFillable(str(error) or type(error).__name__) from None
    return text

"""Bounded: Jinja2's sandbox, in which a template can take neither the time nor the memory.

What could grow without end is counted for each text that is filled, or is not there. It gives
the same each time: what the preflight could fill, the fan-out can.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from typing import Any

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

#: Turns of loops, and calls, for one text.
_MAX_STEPS = 1_000
#: Characters of all that one text is made of, ten times what it may have itself.
_MAX_CHARACTERS = 1_000_000
#: Bits of a number.
_MAX_BITS = 1_024
#: They pad to any width, or give something else each time.
_NO_FILTERS = ("batch", "center", "format", "indent", "random", "slice", "tojson", "wordwrap")
_NO_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust"}
    | {"translate", "zfill"}
)
_STEPS, _SHORT = "counted_steps", "counted_characters"

_steps: ContextVar[int] = ContextVar("steps", default=0)
_characters: ContextVar[int] = ContextVar("characters", default=0)


@contextmanager
def one_text() -> Iterator[None]:
    """Count anew for the text that is filled inside."""
    steps, characters = _steps.set(0), _characters.set(0)
    try:
        yield
    finally:
        _steps.reset(steps)
        _characters.reset(characters)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Makes templates that are filled soon, and the same each time."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Without the optimizer, which would do while compiling what is to be counted.
        super().__init__(
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            auto_reload=False,
            optimized=False,
            finalize=_output,
        )
        for name in _NO_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.globals["range"] = _short_range
        self.filters |= {
            _STEPS: _counted,
            _SHORT: _charged,
            "join": _joined,
            "replace": _replaced,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Keep away what makes a string longer."""
        grows = isinstance(obj, str) and attr in _NO_METHODS
        return not grows and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        """Keep away `str.format`, which pads to any width."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("a text is put together with ~, not with format")

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Count a call."""
        _step()
        return super().call(context, called, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse a result that would be too large."""
        _check_result(operator, left, right)
        return super().call_binop(context, operator, left, right)


class _Counting(NodeTransformer):
    """Puts what counts around loops and concatenations."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - as Jinja2 calls it
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _STEPS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - as Jinja2 calls it
        self.generic_visit(node)
        # Two by two, so that none is made that is long already.
        return reduce(
            lambda a, b: _filtered(nodes.Concat([a, b], lineno=node.lineno), _SHORT), node.nodes
        )


def _filtered(node: nodes.Node, name: str) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _step() -> None:
    _steps.set(_steps.get() + 1)
    if _steps.get() > _MAX_STEPS:
        raise SecurityError(f"it takes more than {_MAX_STEPS} turns of loops and calls")


def _charge(characters: int) -> None:
    _characters.set(_characters.get() + characters)
    if _characters.get() > _MAX_CHARACTERS:
        raise SecurityError(f"it is made of more than {_MAX_CHARACTERS} characters")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for each in items:
        _step()
        yield each


def _charged(text: str) -> str:
    _charge(len(text))
    return text


@pass_context
def _output(_context: Context, value: Any) -> Any:
    """Count what is put out; with the context, so that it is not done while compiling."""
    if isinstance(value, str):
        _charge(len(value))
    return value


def _short_range(*args: int) -> range:
    found = range(*args)
    if len(found) > _MAX_STEPS:
        raise SecurityError(f"a range has at most {_MAX_STEPS} numbers")
    return found


def _joined(items: Iterable[Any], between: str = "", attribute: str | None = None) -> str:
    words = list[str]()
    for each in _counted(items):
        word = str(each if attribute is None else each[attribute])
        _charge(len(word) + len(between))
        words.append(word)
    return str(between).join(words)


def _replaced(text: str, old: str, new: str, count: int = -1) -> str:
    text = str(text)
    _charge(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def _check_result(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length(), right.bit_length()
        size = bits[0] * abs(right) if operator == "**" else sum(bits)
        if size > _MAX_BITS:
            raise SecurityError(f"a number has at most {_MAX_BITS} bits")
    elif operator == "%" and isinstance(left, str):
        raise SecurityError("a text is put together with ~, not with %")
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(times, int) and not isinstance(many, int | float):
                _charge(len(many) * max(0, times))
    elif operator == "+" and not isinstance(left, int | float):
        _charge(len(left) + len(right))

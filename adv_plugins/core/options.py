"""Build the parts of a recipe from names or config dicts, and print them as one writes them."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from .checks import near_names

Kinds = Mapping[str, Callable[..., Any]]


def build(option: str, base: type[Any], kinds: Kinds, entry: Any, **options: Any) -> Any:
    """Build a part from what a config may say; an instance is returned as it is.

    Args:
        option (str): The name of the option, for the messages.
        base (type): The class of the instances. A dict without a ``type`` builds this class, if it
            is one of ``kinds``.
        kinds (Mapping[str, Callable]): The classes, or functions that return an instance, by name.
        entry (Any): An instance of ``base``, what :func:`find_kind` takes, or
            ``dict(type=..., **options)`` with that as the ``type``.
        **options: Further arguments; not allowed together with an instance.

    Returns:
        Any: An instance of ``base``.

    Raises:
        ValueError: A name or argument is unknown (the message lists similar ones), a required
            argument is missing, or the ``type`` is something else.
    """
    if isinstance(entry, base):
        if options:
            given = ', '.join(f'{key}={value!r}' for key, value in options.items())
            raise ValueError(
                f'{given} together with a ready {option}; write '
                f'{getattr(entry, "name", type(entry).__name__)}(...)'
            )
        return entry
    kind = entry
    if isinstance(entry, Mapping):
        options = {**entry, **options}
        kind = options.pop('type', base.__name__ if base.__name__ in kinds else '')
    name, kind = find_kind(option, base, kinds, kind)
    _check_arguments(name, kind, options)
    return kind(**options)


def find_kind(
    option: str, base: type[Any], kinds: Kinds, given: Any
) -> tuple[str, Callable[..., Any]]:
    """The kind that a ``type`` stands for, and its name.

    Args:
        option (str): The name of the option, for the messages.
        base (type): The class of the instances.
        kinds (Mapping[str, Callable]): The known kinds by name.
        given (Any): The name of a kind in any case; the kind itself, as mmengine's pure-Python
            configs have it; a subclass of ``base``; or the dotted name of either, as mmengine
            writes it into the copy of such a config.

    Raises:
        ValueError: It is none of these.
    """
    folded = {kind.lower(): kind for kind in kinds}
    if isinstance(given, str):
        wanted = given.lower().replace('_', '')
        # A saved config names one of ours by the file in which an earlier version had it.
        own = wanted.rpartition('.')[2] if wanted.startswith('advplugins.') else wanted
        if own in folded:
            return folded[own], kinds[folded[own]]
        found = _import(option, given) if '.' in given else None
    else:
        # mmengine does not replace its stand-in for an import that is an entry of a list.
        lazy = type(given).__name__ in ('LazyObject', 'LazyAttr')
        found, wanted = given.build() if lazy else given, ''
    for name, kind in kinds.items():
        if kind is found:
            return name, kind
    if isinstance(found, type) and issubclass(found, base) and not inspect.isabstract(found):
        return found.__name__, found
    near = ' or '.join(repr(folded[match]) for match in near_names(wanted, folded))
    choices = near or ', '.join(map(repr, kinds))
    if found is None:
        raise ValueError(f'{option}={given!r} is unknown; write {choices}')
    title = getattr(found, '__qualname__', repr(found))
    raise ValueError(
        f'{option}={title} is neither a known one nor a subclass of {base.__name__} that can be '
        f'built; write {choices}'
    )


def _import(option: str, name: str) -> Any:
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f'{option}={name!r} cannot be imported: {error}') from error


def _check_arguments(name: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(kind).parameters
    named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in options:
            if key not in named:
                near = ' or '.join(near_names(key, named)) or ', '.join(named)
                raise ValueError(f'{name} has no option {key}=; write {near}')
    empty = inspect.Parameter.empty
    required = [n for n, p in named.items() if p.default is empty and n not in options]
    if required:
        raise ValueError(f'{name} needs the options {", ".join(required)}')


def describe(part: Any) -> str:
    """A dataclass as one would write it, leaving out options at their default.

    Example:
        >>> repr(TAF())
        "Recipe(name='TAF', objective=TemporalCAM(), eps=64/255, step_size=32/255, ...)"
    """
    if not is_dataclass(part):
        return object.__repr__(part)
    written = []
    for field in fields(part):
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        value = getattr(part, field.name)
        if field.init and field.repr and (default is MISSING or value != default):
            written.append(f'{field.name}={_text(value)}')
    return f'{type(part).__name__}({", ".join(written)})'


def grey_levels(value: float) -> int | None:
    """How many grey levels a fraction of the value range is, if a whole number of them."""
    levels = round(255 * value) if 0 < value < 1 else 0
    return levels if 0 < levels < 255 and abs(255 * value - levels) < 1e-6 else None


def _text(value: Any) -> str:
    """A value as Python code; grey levels as fractions of 255, and 1 - α as such."""
    levels = grey_levels(value) if isinstance(value, float) else None
    if levels and levels / 255 == value and len(repr(value)) > len('0.12345'):
        return f'{levels}/255'
    if isinstance(value, float) and len(repr(value)) > 15 and 1 - round(1 - value, 6) == value:
        return f'1 - {round(1 - value, 6)}'
    return repr(value)

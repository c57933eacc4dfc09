"""A Sphinx directive that prints the public face of a package from its docstrings: `:::{api} tensorlm.layers`.

Docstrings are Markdown, so they are parsed as the page is; examples become code blocks. Loaded by name in `_config.yml`.
"""

import importlib
import inspect
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


class Reference(Directive):
    """One entry for every name in `__all__` of the package that is the argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        node = nodes.section()
        node.document = self.state.document
        self.state.nested_parse(StringList(page(self.arguments[0])), 0, node)
        return node.children


def page(package: str) -> list[str]:
    """The lines of the reference of a package."""
    module = importlib.import_module(package)
    lines: list[str] = []
    for name in sorted(module.__all__, key=str.lower):
        lines += entry(package, name, getattr(module, name))
    return lines


def entry(package: str, name: str, thing: object) -> list[str]:
    """A class with its documented methods, a function, a constant, or a module of tools."""
    if inspect.ismodule(thing):
        listed = [(other, value) for other, value in vars(thing).items() if is_own(value, thing.__name__) and not other.startswith("_")]
        return fenced("py:module", f"{package}.{name}", prose(thing)) + [line for one in listed for line in entry(name, *one)]
    if inspect.isclass(thing):
        methods = [line for other, method in vars(thing).items() if is_public(other, method)
                   for line in fenced("py:method", other + signature(method), prose(method))]
        return fenced("py:class", f"{package}.{name}{signature(thing)}", [*prose(thing), "", *methods], colons=6)
    if callable(thing):
        return fenced("py:function", f"{package}.{name}{signature(thing)}", prose(thing))
    return fenced("py:data", f"{package}.{name}", [f"`{thing!r}`" if len(repr(thing)) < 200 else f"A {type(thing).__name__}."])


def is_own(thing: object, module: str) -> bool:
    return (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == module


def is_public(name: str, method: object) -> bool:
    method = getattr(method, "__func__", method)
    return not name.startswith("_") and (inspect.isfunction(method) or isinstance(method, property)) and bool(method.__doc__)


def signature(thing: object) -> str:
    """Names and defaults of the parameters, without types: docstrings give shapes."""
    thing = getattr(thing, "__func__", thing)
    if isinstance(thing, property):
        return ""
    try:
        found = inspect.signature(thing)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "()"
    parameters = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name not in ("self", "cls")]
    if any(not isinstance(p.default, str | int | float | bool | tuple | None) for p in parameters if p.default is not p.empty):
        parameters = [p if isinstance(p.default, str | int | float | bool | tuple | None) or p.default is p.empty
                      else p.replace(default=None) for p in parameters]
    return str(found.replace(parameters=parameters, return_annotation=found.empty))


def prose(thing: object) -> list[str]:
    """The docstring as Markdown, each run of examples as a code block."""
    thing = getattr(thing, "__func__", thing)
    lines: list[str] = []
    inside = False
    for line in inspect.cleandoc(thing.__doc__ or "").split("\n"):
        if line.startswith(">>>") and not inside:
            lines, inside = [*lines, "```python"], True
        elif not line and inside:
            lines, inside = [*lines, "```"], False
        lines.append(line)
    return [*lines, "```"] if inside else lines


def fenced(kind: str, title: str, body: list[str], colons: int = 5) -> list[str]:
    return [f"{':' * colons}{{{kind}}} {title}", "", *body, ":" * colons, ""]


def setup(app) -> dict[str, bool]:
    app.add_directive("api", Reference)
    return {"parallel_read_safe": True}

"""Decides whether a chat template only copies the messages' contents: then one rendering serves all conversations.

Rendering is the slowest part of reading a data set, and most templates do nothing to a content but put it between
fixed texts. A template that trims contents, or looks into them, is rendered for each row.
"""

from collections.abc import Iterator
from typing import Literal

from jinja2 import Environment, TemplateSyntaxError, nodes

_STATEMENTS = (nodes.Template, nodes.Output, nodes.For, nodes.If, nodes.Continue, nodes.Break)
_JOINED = (nodes.Add, nodes.Concat)
_OF_LOOP = frozenset({"first", "last", "index", "index0", "revindex", "revindex0", "length"})
_Kind = Literal["message", "content", "role"]


def only_copies(template: str) -> bool:
    """Return whether, in any rendering, each content stands as it is, and nothing else depends on it.

    False may also mean that the template is too complex to decide.
    """
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False).parse(template)
    except TemplateSyntaxError:
        return False
    paths = list(_paths(tree))
    loops = [node for *_, node in paths if isinstance(node, nodes.For) and _is_list(node.iter)]
    names = {loop.target.name for loop in loops if isinstance(loop.target, nodes.Name)}
    return all(_is_harmless(path, names) for path in paths)


def _is_harmless(path: tuple[nodes.Node, ...], messages: set[str]) -> bool:
    *above, node = path
    match node:
        case nodes.Stmt() | nodes.Template():
            return isinstance(node, _STATEMENTS)
        case nodes.Call():
            return isinstance(node.node, nodes.Name) and node.node.name == "raise_exception"
        case nodes.Name(name="loop"):
            return isinstance(above[-1], nodes.Getattr) and above[-1].attr in _OF_LOOP
    return _is_copied(above, node, messages)


def _is_copied(above: list[nodes.Node], node: nodes.Node, messages: set[str]) -> bool:
    """Return whether an expression is no part of `messages`, or one that is only taken apart and written."""
    if _is_list(node):
        in_loop = isinstance(above[-1], nodes.For) and above[-1].iter is node
        return in_loop or _is_list(above[-1]) or _kind(above[-1], messages) == "message"
    match _kind(node, messages):
        case "message":
            return _kind(above[-1], messages) in {"content", "role"}
        case "content":
            around = next(parent for parent in reversed(above) if not isinstance(parent, _JOINED))
            return isinstance(around, nodes.Output)
    return True


def _is_list(node: nodes.Node) -> bool:
    """Whether the expression is `messages`, or a slice of it."""
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _is_list(node.node)
    return isinstance(node, nodes.Name) and node.name == "messages"


def _kind(node: nodes.Node, messages: set[str]) -> _Kind | None:
    """Return what part of `messages` an expression is; `messages` names the variables that hold one of them."""
    match node:
        case nodes.Name(name=name, ctx="load") if name in messages:
            return "message"
        case nodes.Getitem(node=inner) if _is_list(inner):
            return None if _is_list(node) else "message"
        case nodes.Getattr(node=inner, attr=field) | nodes.Getitem(node=inner, arg=nodes.Const(value=field)):
            if _kind(inner, messages) == "message":
                return "content" if field == "content" else "role" if field == "role" else None
    return None


def _paths(node: nodes.Node, above: tuple[nodes.Node, ...] = ()) -> Iterator[tuple[nodes.Node, ...]]:
    """Yield every node of the tree, after all that are above it."""
    path = (*above, node)
    yield path
    for child in node.iter_child_nodes():
        yield from _paths(child, path)

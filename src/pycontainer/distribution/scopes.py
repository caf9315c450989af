"""Token scopes (distribution): "type:name:action,action", several of them separated by spaces."""

from __future__ import annotations

MAX_ACTIONS = 16


def widened(ours: str, theirs: str) -> str:
    """`ours` with the actions that `theirs` adds to the same resources, in a fixed order.

    A challenge may know better which right a request needs; it never makes us ask for another resource,
    or a registry could have the token for one repository be good for all of a user's.
    """
    offered: dict[str, list[str]] = {}
    for scope in theirs.split():
        resource, _, more = scope.rpartition(":")
        offered.setdefault(resource, []).extend(more.split(","))
    scopes = []
    for scope in ours.split():
        resource, _, text = scope.rpartition(":")
        actions = text.split(",")
        for action in offered.get(resource, [])[:MAX_ACTIONS]:
            if ((action.isascii() and action.isalpha()) or action == "*") and action not in actions:
                actions.append(action)
        scopes.append(f"{resource}:{','.join(actions)}")
    return " ".join(scopes)

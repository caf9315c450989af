"""Docker's JSON form of a seccomp profile, and the OCI runtime specification's `linux.seccomp`.

One reader serves both: Docker's form adds `archMap`, `includes` and `excludes` to the specification's
(config-linux.md, "Seccomp"; docs.docker.com/engine/security/seccomp).  Every error is an InvalidOption that
names the field.  Fields that nobody knows are refused: a misspelt `args` would turn a rule for some arguments
into one for all.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, get_args

import attrs

from pycontainer.errors import InvalidOption
from pycontainer.runtime.isolation import CAPABILITIES
from pycontainer.runtime.seccomp import profile as p

_ACTIONS: Final = {
    "SCMP_ACT_KILL": p.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": p.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": p.KILL_PROCESS,
    "SCMP_ACT_TRAP": p.TRAP,
    "SCMP_ACT_ERRNO": p.ERRNO,
    "SCMP_ACT_TRACE": p.TRACE,
    "SCMP_ACT_LOG": p.LOG,
    "SCMP_ACT_ALLOW": p.ALLOW,
}

_COMPARISONS: Final = {f"SCMP_CMP_{op}": op for op in get_args(p.Comparison)}

_TOP: Final = {
    "defaultAction", "defaultErrno", "defaultErrnoRet", "archMap", "architectures", "flags", "listenerPath",
    "listenerMetadata", "syscalls", "comment",
}  # fmt: skip
_RULE: Final = {
    "name", "names", "action", "errno", "errnoRet", "args", "comment", "includes", "excludes",
}  # fmt: skip
_ARGUMENT: Final = {"index", "value", "valueTwo", "op"}
_FILTER: Final = {"caps", "arches", "minKernel"}


@attrs.frozen
class _Field:
    """A value and where it stands, for errors."""

    path: str
    value: Any

    def refuse(self, why: str) -> NoReturn:
        raise InvalidOption(f"seccomp: {self.path}: {why}")

    def object(self, known: set[str]) -> Mapping[str, Any]:
        if not isinstance(self.value, Mapping):
            self.refuse(f"must be an object, not {self.value!r:.60}")
        for key in self.value:
            if key not in known:
                self.refuse(f"has no field called {key!r}")
        return self.value

    def get(self, key: str) -> _Field:
        """The member, with None for one that is absent: Go writes null for what is empty."""
        return _Field(f"{self.path}.{key}" if self.path != "profile" else key, self.value.get(key))

    def items(self) -> list[_Field]:
        if self.value is None:
            return []
        if not isinstance(self.value, list | tuple):
            self.refuse(f"must be a list, not {self.value!r:.60}")
        return [_Field(f"{self.path}[{index}]", value) for index, value in enumerate(self.value)]

    def string(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            self.refuse("is missing" if self.value is None else f"must be a string, not {self.value!r:.60}")
        return self.value

    def integer(self, limit: int) -> int:
        if type(self.value) is not int or not 0 <= self.value <= limit:
            self.refuse("is missing" if self.value is None else f"must be a number from 0 to {limit}")
        return self.value

    def one_of(self, known: Mapping[str, Any]) -> Any:
        name = self.string()
        if name not in known:
            self.refuse(f"{name!r} is not one of {', '.join(known)}")
        return known[name]


def parse(data: object) -> p.Profile:
    """The profile that the decoded JSON describes."""
    top = _Field("profile", data)
    top.object(_TOP)
    for name in ("flags", "listenerPath", "listenerMetadata"):
        if top.get(name).value:
            top.get(name).refuse("is not supported: filters are loaded without flags and without a listener")
    _check_architectures(top)
    rules = [rule for item in top.get("syscalls").items() for rule in _rules(item)]
    default = _action(top.get("defaultAction"), top.get("defaultErrno"), top.get("defaultErrnoRet"))
    return p.Profile(default=default, rules=tuple(rules))


def _check_architectures(top: _Field) -> None:
    """Only checks: a filter is for the machine's own architecture, whatever else a profile lists."""
    for item in top.get("architectures").items():
        item.string()
    for item in top.get("archMap").items():
        item.object({"architecture", "subArchitectures"})
        item.get("architecture").string()
        for sub in item.get("subArchitectures").items():
            sub.string()


def _action(action: _Field, name: _Field, number: _Field) -> int:
    if action.value == "SCMP_ACT_NOTIFY":
        action.refuse("SCMP_ACT_NOTIFY is not supported: there is no listener")
    kind: int = action.one_of(_ACTIONS)
    if kind not in (p.ERRNO, p.TRACE):
        return kind
    if name.value is not None and name.value != "":
        value = getattr(errno, name.string(), None)
        if not isinstance(value, int):
            name.refuse(f"{name.value!r} is not the name of an error number")
        return kind | value
    # Linux gives a program at most 4095 (MAX_ERRNO); a tracer gets all 16 bits.
    limit = 4095 if kind == p.ERRNO else 0xFFFF
    return kind | (p.EPERM if number.value is None else number.integer(limit))


def _rules(item: _Field) -> list[p.Rule]:
    """The rule, or several where one argument is compared more than once.

    libseccomp takes one comparison for an argument, so the OCI runtimes turn such a list into rules of
    one comparison each, and any of them is enough: profiles are written with that in mind.
    """
    item.object(_RULE)
    conditions = [_condition(argument) for argument in item.get("args").items()]
    rule = _restricted(
        p.Rule(
            names=_names(item),
            action=_action(item.get("action"), item.get("errno"), item.get("errnoRet")),
            conditions=tuple(conditions),
        ),
        item,
    )
    if len({condition.index for condition in conditions}) == len(conditions):
        return [rule]
    return [attrs.evolve(rule, conditions=(condition,)) for condition in conditions]


def _names(item: _Field) -> tuple[str, ...]:
    names = [name.string() for name in item.get("names").items()]
    if item.get("name").value:
        if names:
            item.get("name").refuse("stands beside names: use one of the two")
        names = [item.get("name").string()]
    if not names:
        item.get("names").refuse("is empty")
    return tuple(names)


def _condition(argument: _Field) -> p.Condition:
    argument.object(_ARGUMENT)
    index = argument.get("index").integer(5)
    op: p.Comparison = argument.get("op").one_of(_COMPARISONS)
    value = argument.get("value").integer((1 << 64) - 1)
    if op != "MASKED_EQ":
        return p.Condition(index, op, value)
    # Docker's form has the mask in `value`.
    second = argument.get("valueTwo")
    return p.Condition(index, op, 0 if second.value is None else second.integer((1 << 64) - 1), value)


def _restricted(rule: p.Rule, item: _Field) -> p.Rule:
    """The rule with its `includes` and `excludes`."""
    where: dict[str, Any] = {}
    for key, capabilities, arches, kernel in (
        ("includes", "with_capabilities", "on_arches", "from_kernel"),
        ("excludes", "without_capabilities", "not_on_arches", "before_kernel"),
    ):
        restriction = item.get(key)
        if restriction.value is None:
            continue
        restriction.object(_FILTER)
        where[capabilities] = frozenset(_capability(name) for name in restriction.get("caps").items())
        where[arches] = frozenset(name.string() for name in restriction.get("arches").items())
        where[kernel] = _kernel(restriction.get("minKernel"))
    return attrs.evolve(rule, **where)


def _capability(field: _Field) -> str:
    name = field.string().removeprefix("CAP_")
    if name not in CAPABILITIES:
        field.refuse(f"no capability is called {field.value!r}")
    return name


def _kernel(field: _Field) -> tuple[int, int] | None:
    if field.value is None or field.value == "":
        return None
    match = re.fullmatch(r"(\d+)\.(\d+)", field.string(), re.ASCII)
    if match is None:
        field.refuse(f'must be "major.minor", not {field.value!r}')
    return int(match[1]), int(match[2])

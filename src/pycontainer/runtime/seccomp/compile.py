"""The way in: a `seccomp=` option to the program that the kernel loads, remembered for the next time.

Nothing is imported here that a start does not need: the tables, the parser and json come with the first
program that has to be made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from pycontainer.errors import CapabilityUnavailable, InvalidOption

if TYPE_CHECKING:
    from pycontainer.runtime.seccomp.profile import Profile
    from pycontainer.runtime.seccomp.select import Machine

# A profile is some 20 KB; more than this is some other file.
_MAX_FILE: Final = 4 << 20

# A program has between some hundred bytes and 32 KiB.
_MAX_REMEMBERED: Final = 256
_programs: dict[tuple[str | tuple[object, ...], frozenset[str], str | None], bytes] = {}


def compile_filter(
    seccomp: str | os.PathLike[str] | dict[str, Any], capabilities: frozenset[str], arch: str | None = None
) -> bytes | None:
    """The filter as an array of `struct sock_filter` (seccomp(2)), or None for "unconfined".

    `seccomp` is "default", "unconfined", the path of a profile in Docker's or the OCI specification's JSON,
    or such a profile as a dict; `capabilities` are those of the container, without `CAP_`; `arch` is a
    machine's name as uname(2) gives it, this one's by default.

    A profile that cannot be used raises InvalidOption, which names the field; a machine without tables,
    CapabilityUnavailable.
    """
    if seccomp == "unconfined":
        return None
    key = ("default" if seccomp == "default" else _identity(seccomp), capabilities, arch)
    program = _programs.get(key)
    if program is None:
        program = _compile(_profile(key[0]), capabilities, arch)
        if len(_programs) >= _MAX_REMEMBERED:
            _programs.clear()
        _programs[key] = program
    return program


def _identity(seccomp: str | os.PathLike[str] | dict[str, Any]) -> tuple[object, ...]:
    """What tells one profile from another: its text, or the file's name, time of change and size."""
    if isinstance(seccomp, dict):
        import json

        try:
            return ("text", json.dumps(seccomp, sort_keys=True))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidOption(f"seccomp: the profile is not JSON: {error}") from error
    if not isinstance(seccomp, str | os.PathLike):
        raise InvalidOption(f'seccomp: takes "default", "unconfined", a path or a dict, not {seccomp!r:.60}')
    path = os.path.abspath(os.fspath(seccomp))
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return ("file", path, found.st_mtime_ns, found.st_size)


def _unreadable(path: str, error: Exception) -> InvalidOption:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InvalidOption(
        f'seccomp: cannot read the profile {path}: {why} (names are "default" and "unconfined")'
    )


def _profile(identity: str | tuple[object, ...]) -> Profile:
    if isinstance(identity, str):
        from pycontainer.runtime.seccomp.default import default_profile

        return default_profile()
    import json

    from pycontainer.runtime.seccomp.parse import parse

    kind, text = identity[0], str(identity[1])
    if kind == "file":
        text = _read(text)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"seccomp: the profile is not JSON: {error}") from error
    return parse(data)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE + 1)
            text = content.decode()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if len(content) > _MAX_FILE:
        raise InvalidOption(f"seccomp: the profile {path} has more than {_MAX_FILE} bytes")
    return text


def _compile(profile: Profile, capabilities: frozenset[str], arch: str | None) -> bytes:
    from pycontainer.runtime.seccomp.bpf import generate
    from pycontainer.runtime.seccomp.select import decisions, unlisted, weights

    machine = _machine(arch)
    return generate(
        machine.audit_arch,
        decisions(profile, machine, capabilities, _kernel()),
        unlisted(profile, machine),
        weights(machine),
    )


def _machine(arch: str | None) -> Machine:
    from pycontainer.runtime.seccomp.select import MACHINES

    name = os.uname().machine if arch is None else arch
    if name in MACHINES:
        return MACHINES[name]
    if arch is None:
        raise CapabilityUnavailable(
            f"a seccomp filter for {name}",
            remedy=f'seccomp="unconfined" goes without one; there are tables for {" and ".join(MACHINES)}',
        )
    raise InvalidOption(f"seccomp: no architecture is called {arch!r}, only {', '.join(MACHINES)}")


def _kernel() -> tuple[int, int]:
    """The running kernel's (major, minor)."""
    import re

    release = os.uname().release
    match = re.match(r"(\d+)\.(\d+)", release, re.ASCII)
    if match is None:
        raise CapabilityUnavailable(f"a kernel whose version is a number, not {release!r}")
    return int(match[1]), int(match[2])

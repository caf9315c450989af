"""`Options`: everything that can be said about how a container runs, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs

from pycontainer import network_options
from pycontainer import option_values as values
from pycontainer.mounts import Mount
from pycontainer.option_values import Device, HasFileno, SeccompProfile
from pycontainer.restarting import Restart, parse_restart
from pycontainer.runtime.isolation import DEFAULT_PIDS
from pycontainer.units import refuse

if TYPE_CHECKING:
    import logging

    from pycontainer.container import Container
    from pycontainer.healthcheck import Healthcheck
    from pycontainer.network_options import Port
    from pycontainer.networks import Network
    from pycontainer.runtime.cgroups import Limits
    from pycontainer.wait import Strategy

UsernsMode = Literal["auto", "host"]


def _is_flag(options: object, field: attrs.Attribute[bool], value: bool) -> None:
    # `read_only="false"` must not mean True.
    if value is not True and value is not False:
        raise refuse(field.name, value, "must be True or False")


def _is_userns(options: object, field: attrs.Attribute[str], value: str) -> None:
    if value not in ("auto", "host"):
        raise refuse(field.name, value, f"must be one of {', '.join(get_args(UsernsMode))}")


def _unknown(name: str) -> TypeError:
    """What Python says of an unexpected keyword, with the nearest option."""
    import difflib  # only for the error: 2 ms

    near = difflib.get_close_matches(name, _NAMES, n=1)
    suggestion = f". Did you mean {near[0]!r}?" if near else ""
    return TypeError(f"Options() got an unexpected keyword argument {name!r}{suggestion}")


# Without slots: attrs then fills a frozen instance's dict directly, three times as fast.
@attrs.frozen(kw_only=True, slots=False, repr=False)
class Options:
    """Options of `run()`, `create()` and `start()`; None means the default that the comment names.

    Everything is checked and brought into its final, hashable form here, so that a value is ready
    for use from any thread: `InvalidOption` names the option and its value. Mappings become sorted
    tuples of pairs (`env` keeps its order), lists become tuples.
    """

    # Process.
    entrypoint: tuple[str, ...] | None = attrs.field(default=None, converter=values.entrypoint)  # the image's
    env: tuple[tuple[str, str | None], ...] = attrs.field(default=(), converter=values.env)
    cwd: str | None = attrs.field(default=None, converter=values.cwd)  # the image's
    user: str | None = attrs.field(default=None, converter=values.user)  # the image's
    hostname: str | None = attrs.field(default=None, converter=values.hostname)  # the container's id
    tty: bool = attrs.field(default=False, validator=_is_flag)
    stdin: int | HasFileno | None = attrs.field(default=None, converter=values.stdin)
    init: bool = attrs.field(default=True, validator=_is_flag)
    pass_fds: tuple[int, ...] = attrs.field(default=(), converter=values.pass_fds)
    stop_signal: int | None = attrs.field(default=None, converter=values.stop_signal)  # the image's
    stop_timeout: float = attrs.field(default=10.0, converter=values.stop_timeout)  # seconds
    umask: int | None = attrs.field(default=None, converter=values.umask)  # 0o022
    ulimits: tuple[tuple[str, int, int], ...] = attrs.field(default=(), converter=values.ulimits)

    # Files.
    mounts: tuple[Mount, ...] = attrs.field(default=(), converter=values.mounts)
    read_only: bool = attrs.field(default=False, validator=_is_flag)
    shm_size: int | None = attrs.field(default=None, converter=values.shm_size)  # bytes; 64 MiB
    devices: tuple[Device, ...] = attrs.field(default=(), converter=values.devices)

    # Limits.
    memory: int | None = attrs.field(default=None, converter=values.memory)  # bytes; unlimited
    memory_swap: int | None = attrs.field(
        default=None, converter=values.memory_swap
    )  # bytes, memory included
    cpus: float | None = attrs.field(default=None, converter=values.cpus)  # unlimited
    cpuset: str | None = attrs.field(default=None, converter=values.cpuset)  # all
    cpu_weight: int | None = attrs.field(default=None, converter=values.cpu_weight)  # 100
    pids: int | None = attrs.field(default=None, converter=values.pids)  # 4096; 0 or -1 unlimited
    io_weight: int | None = attrs.field(default=None, converter=values.io_weight)  # 100
    io_max: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = attrs.field(
        default=(), converter=values.io_max
    )

    # Network.
    network: str | Network | Container = attrs.field(default="none", converter=network_options.network)
    ports: tuple[Port, ...] = attrs.field(default=(), converter=network_options.ports)
    dns: tuple[str, ...] = attrs.field(default=(), converter=network_options.dns)  # the network's
    extra_hosts: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=network_options.extra_hosts)
    aliases: tuple[str, ...] = attrs.field(default=(), converter=network_options.aliases)
    ip_address: tuple[str, ...] = attrs.field(default=(), converter=network_options.ip_address)  # any

    # Isolation.
    cap_add: tuple[str, ...] = attrs.field(default=(), converter=values.cap_add)
    cap_drop: tuple[str, ...] = attrs.field(default=(), converter=values.cap_drop)
    privileged: bool = attrs.field(default=False, validator=_is_flag)
    seccomp: str | Path | SeccompProfile = attrs.field(default="default", converter=values.seccomp)
    no_new_privileges: bool | None = attrs.field(  # not privileged
        default=None, validator=attrs.validators.optional(_is_flag)
    )
    userns: UsernsMode = attrs.field(default="auto", validator=_is_userns)
    sysctls: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=values.sysctls)
    masked_paths: tuple[str, ...] | None = attrs.field(default=None, converter=values.masked_paths)
    readonly_paths: tuple[str, ...] | None = attrs.field(default=None, converter=values.readonly_paths)

    # Life.
    name: str | None = attrs.field(default=None, converter=values.name)
    labels: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=values.labels)
    annotations: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=values.annotation_pairs)
    restart: Restart | None = attrs.field(default=None, converter=parse_restart)  # never
    persist: bool = attrs.field(default=False, validator=_is_flag)
    healthcheck: Healthcheck | Literal[False] | None = attrs.field(
        default=None, converter=values.healthcheck
    )  # the image's
    wait: Strategy | None = attrs.field(default=None, converter=values.wait)  # until it was executed
    log: str | logging.Logger = attrs.field(default="memory", converter=values.log)

    def __new__(cls, **given: Any) -> Options:
        if not given.keys() <= _NAMES:
            raise _unknown(next(name for name in given if name not in _NAMES))
        return super().__new__(cls)

    def __attrs_post_init__(self) -> None:
        """What two options say together."""
        if self.memory_swap is not None and self.memory_swap != -1:
            if self.memory is None:
                raise refuse("memory_swap", self.memory_swap, "needs memory too: it limits both together")
            if self.memory_swap < self.memory:
                raise refuse("memory_swap", self.memory_swap, f"must not be below memory={self.memory}")
        if self.sysctls:
            self._check_sysctls()
        if self.ports or self.aliases or self.ip_address:
            network_options.check(self)

    def _check_sysctls(self) -> None:
        for path, _ in self.sysctls:
            if path.startswith("net/") and network_options.is_hosts(self.network):
                raise refuse("sysctls", path, 'is the host\'s with network="host"')
            if path == "kernel/hostname" and self.hostname is not None:
                raise refuse("sysctls", path, f"contradicts hostname={self.hostname!r}")

    @classmethod
    def merge(cls, base: Options | None, overrides: Mapping[str, Any]) -> Options:
        """`base` with the options in `overrides` in place of its own, each as a whole.

        An override that names a default (`memory=None`) brings that default back. An unknown name
        is a TypeError, as it is for a keyword argument.
        """
        if base is None:
            base = _DEFAULTS
        if not isinstance(base, Options):
            raise refuse("options", base, f"must be pycontainer.Options, not {type(base).__name__}")
        if not overrides:
            return base
        known: Any = None
        if base is _DEFAULTS and _PLAIN.issuperset(map(type, overrides.values())):
            known = tuple([(name, type(value), value) for name, value in overrides.items()])
            if (found := _merged.get(known)) is not None:
                return found
        merged = cls.__new__(cls, **overrides)
        # As `attrs.evolve`, but only what is new is converted again: a quarter of the time.
        final = merged.__dict__
        final.update(base.__dict__)
        for name, value in overrides.items():
            field = _FIELDS[name]
            final[name] = field.converter(value) if callable(field.converter) else value
            if field.validator is not None:
                field.validator(merged, field, value)
        merged.__attrs_post_init__()
        if known is not None:
            if len(_merged) >= _MOST_MERGED:
                _merged.clear()
            _merged[known] = merged
        return merged

    def limits(self) -> Limits:
        """The group of limits as a control group takes it, with the default number of processes."""
        from pycontainer.runtime.cgroups import Limits

        pids = DEFAULT_PIDS if self.pids is None else self.pids
        return Limits(
            memory=self.memory,
            memory_swap=self.memory_swap,
            cpus=self.cpus,
            cpuset=self.cpuset,
            cpu_weight=self.cpu_weight,
            pids=pids if pids > 0 else -1,
            io_weight=self.io_weight,
            io_max=self.io_max,
        )

    def __repr__(self) -> str:
        """The options that differ from their defaults; values of `env` stay out of sight."""
        shown = []
        for field in attrs.fields(Options):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name == "env":
                value = {name: None if text is None else "***" for name, text in value}
            shown.append(f"{field.name}={value!r}")
        return f"Options({', '.join(shown)})"


_FIELDS = {field.name: field for field in attrs.fields(Options)}
_NAMES = frozenset(_FIELDS)
_DEFAULTS = Options()

_PLAIN = frozenset({bool, float, int, str, type(None)})
_MOST_MERGED = 64
_merged: dict[tuple[tuple[str, type, Any], ...], Options] = {}
"""What came of such overrides before: who runs things again and again says the same each time."""

"""A Debian root as layers, made once and kept in a cache directory: what is pulled and pushed."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import attrs

from benchmarks.harness import Unavailable

_SUITE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_SECONDS = 900
# What most builders compress with.
_LEVEL = 6


@attrs.frozen
class Layer:
    """The same layer twice: as it is transferred, and as it is unpacked."""

    tar: Path
    gz: Path


@attrs.frozen
class Layers:
    """An image's layers, lowest first; `name` is the image's in tables and registries."""

    name: str
    layers: tuple[Layer, ...]


def cache_directory() -> Path:
    """Where layers are kept between runs: about 500 MB."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pycontainer-benchmarks"


def debian_layers(cache: Path, counts: Sequence[int]) -> list[Layers]:
    """The root in so many layers, for each of `counts`. Raises `Unavailable` where it cannot be made."""
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / "debian.tar"
    if not root.exists():
        _make_root(root)
    return [split(root, cache / f"debian-{count}", count) for count in counts]


def _make_root(target: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise Unavailable("mmdebstrap is not installed")
    partial = target.with_suffix(".new.tar")
    command = [program, "--quiet", "--variant=minbase", _SUITE, str(partial), _MIRROR]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise Unavailable(f"mmdebstrap: {said[-1][:200]}")
    partial.rename(target)


def split(root: Path, directory: Path, count: int) -> Layers:
    """The archive `root` in `count` parts of about the same size, each with its parent directories, kept
    in `directory`."""
    name = f"{count} layers" if count > 1 else "one layer"
    found = Layers(
        name, tuple(Layer(directory / f"{n}.tar", directory / f"{n}.tar.gz") for n in range(count))
    )
    if directory.exists():
        return found
    partial = directory.with_suffix(".new")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_parts(root, [partial / layer.tar.name for layer in found.layers])
    for layer in found.layers:
        with open(partial / layer.tar.name, "rb") as tar, open(partial / layer.gz.name, "wb") as file:
            _compress(tar, file)
    partial.rename(directory)
    return found


def _write_parts(root: Path, paths: Sequence[Path]) -> None:
    parts = [tarfile.open(path, "w", format=tarfile.PAX_FORMAT) for path in paths]  # noqa: SIM115
    share = root.stat().st_size / len(parts)
    directories: dict[str, tarfile.TarInfo] = {}
    homes: dict[str, int] = {}
    has: list[set[str]] = [set() for _ in parts]
    with tarfile.open(root) as archive:
        for member in archive:
            number = min(int(member.offset / share), len(parts) - 1)
            if member.islnk():
                # A hard link is in the layer of what it links to.
                number = homes[member.linkname]
            homes[member.name] = number
            if member.isdir():
                directories[member.name] = member
            for above in reversed(Path(member.name).parents):
                parent = directories.get(f"./{above}" if str(above) != "." else ".")
                if parent is not None and parent.name not in has[number]:
                    has[number].add(parent.name)
                    parts[number].addfile(parent)
            if member.name not in has[number]:
                has[number].add(member.name)
                parts[number].addfile(member, archive.extractfile(member) if member.isreg() else None)
    for part in parts:
        part.close()


def _compress(source: IO[bytes], target: IO[bytes]) -> None:
    with gzip.GzipFile("", "wb", _LEVEL, target, mtime=0) as packed:
        shutil.copyfileobj(source, packed, 1 << 20)

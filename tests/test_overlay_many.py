"""Images of many layers, at names that mount options have to escape, with few descriptors to spare."""

from __future__ import annotations

import inspect
import io
import resource
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pycontainer as pc
from conftest import need
from ordinary_user import OrdinaryUser
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci.digest import Digest
from pycontainer.snapshot import overlay
from pycontainer.store import LayeredRoot, Store
from pycontainer.supervisor.plan import Data, Ops

BUSYBOX = Path("/bin/busybox")


def layer(files: dict[str, bytes], mode: int = 0o755) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def image_of(store: Store, layers: list[bytes]) -> pc.Image:
    """An image of these tar streams, lowest first."""
    diff_ids = [Digest.of(data) for data in layers]
    chains = chain_ids(diff_ids)
    lease = None
    for chain, below, diff_id, data in zip(chains, [None, *chains], diff_ids, layers, strict=False):
        lease = store.layers.ensure(chain, below, diff_id, lambda data=data: iter([data]), store.limits)
    image = pc.Image.scratch(store=store)
    lower = tuple(store.layers.tree(chain) for chain in reversed(chains))
    image._rootfs = LayeredRoot(lower, store, lease)
    return image


def stack(count: int) -> list[bytes]:
    """A program, and layers that each have a file of their own and change the one on top."""
    lowest = layer({"bin/busybox": BUSYBOX.read_bytes(), "top": b"0\n"})
    return [lowest, *(layer({f"own-{n}": b"", "top": b"%d\n" % n}) for n in range(1, count))]


SHOW = 'cd /; "$0" cat top; "$0" ls | "$0" grep -c ^own-; "$0" echo new > top; "$0" cat top; "$0" rm own-1'


def shown(image: pc.Image) -> list[str]:
    argv = ["/bin/busybox", "sh", "-c", SHOW, "/bin/busybox"]
    done = image.run(argv, capture_output=True, text=True, timeout=60)
    return (str(done.stdout) + str(done.stderr)).split()


def check(store: Store, counts: list[int]) -> None:
    for count in counts:
        image = image_of(store, stack(count))
        for _ in range(2):
            assert shown(image)[:3] == [str(count - 1), str(count - 1), "new"], count


COUNTS = [2, 39, 41, 127, 500]


@contextmanager
def few_descriptors(soft: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(autouse=True)
def program() -> None:
    need(BUSYBOX.exists(), "busybox-static")


def base(store_path: Path, tmp_path: Path) -> Path:
    """Beside the session's store, which lies where an upper directory may."""
    path = store_path.parent / f"{store_path.name}-{tmp_path.name}"
    path.mkdir(exist_ok=True, parents=True)
    return path


def test_up_to_the_kernels_500(store_path: Path, tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    need(hard == resource.RLIM_INFINITY or hard > 600, "600 descriptors for a process")
    with few_descriptors(256):
        check(Store(base(store_path, tmp_path)), COUNTS)


@pytest.mark.parametrize("count", [1, 39, 60])
def test_odd_names(store_path: Path, tmp_path: Path, count: int) -> None:
    store = Store(base(store_path, tmp_path) / "a:b,c\\d e,upperdir=x")
    image = image_of(store, stack(count))
    assert shown(image)[0] == str(count - 1)


def test_a_store_at_a_long_path(store_path: Path, tmp_path: Path) -> None:
    # SQLite opens no database at a path of more than 512 bytes.
    store = Store(base(store_path, tmp_path).joinpath(*["long" * 30] * 2))
    for count in (2, 100):
        assert shown(image_of(store, stack(count)))[:2] == [str(count - 1)] * 2


def test_more_than_the_kernel_stacks_is_refused() -> None:
    ops = Ops(Data())
    with pytest.raises(pc.InvalidImage, match=r"501 layers.*500"):
        overlay.layered_root(ops, ["/layer" * 20] * 501, "/upper", "/work", flags=0, userxattr=False)


def test_a_missing_layer_is_named(store_path: Path, tmp_path: Path) -> None:
    store = Store(base(store_path, tmp_path))
    image = image_of(store, stack(60))
    root = image.rootfs()
    assert isinstance(root, LayeredRoot)
    gone = Path(root.lower[30])
    gone.rename(gone.with_name("gone"))
    with pytest.raises(pc.LaunchError) as caught:
        image.run(["/bin/busybox"], user="0:0")
    assert caught.value.path == str(gone)
    assert list(Path(store.path).glob("containers/*/*")) == []


def test_as_an_ordinary_user(as_user: OrdinaryUser) -> None:
    functions = (layer, image_of, stack, shown, check)
    names = "\n".join(inspect.getsource(function) for function in functions)
    script = f"""
from __future__ import annotations
import io, tarfile
from pathlib import Path
import pycontainer as pc
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci.digest import Digest
from pycontainer.store import LayeredRoot, Store
BUSYBOX = Path("/bin/busybox")
SHOW = {SHOW!r}
{names}
check(Store.default(), {COUNTS})
"""
    as_user(script)

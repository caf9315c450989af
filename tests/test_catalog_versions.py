"""The catalog of an older version is brought up to date in place; which image of an index was chosen."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycontainer.errors import StoreError
from pycontainer.image import Image
from pycontainer.oci.digest import Digest
from pycontainer.oci.platform import Platform
from pycontainer.store import Store
from pycontainer.store.catalog import Choice

INDEX = Digest.of(b"an index")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def made(store: Store, tmp_path: Path, content: str) -> Image:
    (tmp_path / "tree").mkdir(exist_ok=True)
    (tmp_path / "tree" / "file").write_text(content)
    return Image.from_directory(tmp_path / "tree", tag=content, store=store)


def downgrade(store: Store) -> None:
    """What version 1 left: a catalog without the table of choices."""
    store.close()
    database = sqlite3.connect(Path(store.path) / "catalog.db")
    database.executescript("DROP TABLE choices; PRAGMA user_version = 1;")
    database.close()


def test_version_1_is_brought_up_to_date(store: Store, tmp_path: Path) -> None:
    image = made(store, tmp_path, "x")
    downgrade(store)
    with Store(store.path) as again:
        assert Image.get("x", store=again) == image and again.check() == []
        (entry,) = again.catalog.images()
        choice = Choice(INDEX, "linux/amd64")
        assert again.catalog.by_choice(choice) is None
        again.catalog.add(entry, [], [], None, choice)
        assert again.catalog.by_choice(choice) == entry
    database = sqlite3.connect(Path(store.path) / "catalog.db")
    assert database.execute("PRAGMA user_version").fetchone() == (2,)
    database.close()


def test_many_bring_it_up_to_date_at_once(store: Store, tmp_path: Path) -> None:
    made(store, tmp_path, "x")
    downgrade(store)
    errors: list[StoreError] = []

    def look() -> None:
        try:
            with Store(store.path) as again:
                assert len(again.catalog.images()) == 1
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_newer_version_is_refused(store: Store, tmp_path: Path) -> None:
    made(store, tmp_path, "x")
    store.close()
    database = sqlite3.connect(Path(store.path) / "catalog.db")
    database.execute("PRAGMA user_version = 3")
    database.close()
    with Store(store.path) as again, pytest.raises(StoreError, match="of version 3"):
        again.catalog.images()


def test_choices(store: Store, tmp_path: Path) -> None:
    one, two = made(store, tmp_path, "1"), made(store, tmp_path, "2")
    entries = {entry.id: entry for entry in store.catalog.images()}
    host = str(Platform.host())
    for image, platform in ((one, "linux/a"), (two, host)):
        store.catalog.add(entries[Digest(image.id)], [], [], None, Choice(INDEX, platform))
    assert store.catalog.by_choice(Choice(INDEX, "linux/a")) == entries[Digest(one.id)]
    assert store.catalog.by_choice(Choice(INDEX, "linux/b")) is None
    assert store.catalog.by_choice(Choice(Digest.of(b""), "linux/a")) is None
    # By the index alone it is this machine's image; where there is none, what there is.
    assert Image.get(f"x@{INDEX}", store=store) == two
    two.remove()
    assert Image.get(f"x@{INDEX}", store=store) == one
    assert store.catalog.by_choice(Choice(INDEX, host)) is None
    # Another choice takes the place of the one before.
    three = made(store, tmp_path, "3")
    entry = store.catalog.by_tag("docker.io/library/3:latest")
    assert entry is not None
    store.catalog.add(entry, [], [], None, Choice(INDEX, "linux/a"))
    assert Image.get(f"x@{INDEX}", store=store) == three
    assert store.check() == []

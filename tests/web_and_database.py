"""A web server whose page comes from a database, two containers that know each other by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pycontainer as pc
from postgres import BIN, CONFIG, DATA, INITDB, READY

DATABASE = ["postgres", "-k", "/tmp", "-c", "listen_addresses=*"]
WEB = ["lighttpd", "-D", "-f", "/srv/lighttpd.conf"]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_PREPARE = f"""
{" ".join(INITDB)}
echo "host all all samenet trust" >> {DATA}/pg_hba.conf
"""
_SEED = "CREATE TABLE visits (at timestamptz DEFAULT now())"
_SERVER = """
server.document-root = "/srv/web"
server.port = 80
server.username = "www-data"
server.modules = ("mod_cgi")
cgi.assign = (".sh" => "/bin/sh")
"""
_PAGE = f"""
printf 'Content-Type: text/plain\\r\\n\\r\\n'
{BIN}/psql -h db -U postgres -Atq 2>&1 <<END
INSERT INTO visits DEFAULT VALUES;
SELECT 'visit ' || count(*) || ' from ' || inet_client_addr() FROM visits;
END
"""
PAGE = "/page.sh"


@contextlib.contextmanager
def database(image: pc.Image, network: pc.Network) -> Iterator[pc.Container]:
    """ "db" on that network, which lets all its subnets in."""
    with image.create(DATABASE, name="database", network=network, aliases=["db"]) as container:
        container.prepare(["sh", "-ec", _PREPARE], timeout=60)
        container.start()
        container.wait_until(pc.wait.log(READY))
        container.exec(["psql", "-qh", "/tmp", "-c", _SEED], check=True)
        yield container


@contextlib.contextmanager
def web(image: pc.Image, network: pc.Network, **options: object) -> Iterator[pc.Container]:
    """ "web" on that network, with what is at its port 80 published."""
    options = {"ports": [80], "aliases": ["www"], **options}
    with image.create(WEB, name="web", user="root", env={"PATH": PATH}, network=network, **options) as made:
        made.path("/srv/web").mkdir()
        made.path("/srv/lighttpd.conf").write_text(_SERVER)
        made.path("/srv/web" + PAGE).write_text(_PAGE)
        made.start()
        made.wait_until(pc.wait.listening(80))
        yield made


def visits(text: str) -> tuple[int, str]:
    """What the page says: the visit's number, and from which address the web server asked."""
    word, number, of, address = text.split()
    assert (word, of) == ("visit", "from"), text
    return int(number), address.partition("/")[0]


__all__ = ["CONFIG", "PAGE", "database", "visits", "web"]

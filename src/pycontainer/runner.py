"""`run`, `create` and `start`: a program in a new container."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs

from pycontainer import execution, happenings, in_time, known, launch, recipes, session
from pycontainer.errors import ImageNotFound, InvalidOption
from pycontainer.execution import Text
from pycontainer.options import Options
from pycontainer.store import HostRoot
from pycontainer.streams import PIPE
from pycontainer.units import check_timeout, refuse
from pycontainer.wiring import Wiring

if TYPE_CHECKING:
    from pycontainer.completed import Completed
    from pycontainer.container import Container
    from pycontainer.image import Image
    from pycontainer.session import Session
    from pycontainer.store import Store
    from pycontainer.streams import Streams

Pull = Literal["missing", "always", "never"]
_PULLS = get_args(Pull)

_LASTING = {
    "restart": "there is one start; use start()",
    "persist": "its container is removed at its end; use start()",
    "wait": "it waits for the program's end, not for the program to be ready; use start()",
    "healthcheck": "nobody can ask for its health; use start()",
    "log": "its output is captured, or goes where stdout and stderr say; use start()",
}
"""Options of containers that last, and why `run` takes them at their defaults alone."""


def find_image(image: Image | str, store: Store | None, pull: Pull) -> Image:
    """An image by its reference: looked up in the store, pulled where it is missing, or where `pull`
    says so; "host" is this machine's own root."""
    from pycontainer.image import Image as ImageClass
    from pycontainer.image import is_whole_id

    if pull not in _PULLS:
        raise InvalidOption(f"pull={pull!r}: must be one of {', '.join(_PULLS)}")
    if isinstance(image, ImageClass):
        return image
    if not isinstance(image, str):
        raise refuse("image", image, f"must be an Image or a reference, not {type(image).__name__}")
    if image == "host":
        return ImageClass.host()
    if pull == "always":
        return ImageClass.pull(image, store=store)
    try:
        return ImageClass.get(image, store=store)
    except ImageNotFound:
        # An ID says what an image is, and not where it can be had.
        if pull == "never" or is_whole_id(image):
            raise
    return ImageClass.pull(image, store=store)


_LASTING_DEFAULTS = [(field.name, field.default) for field in attrs.fields(Options) if field.name in _LASTING]


def _refuse_lasting(options: Options) -> None:
    for name, default in _LASTING_DEFAULTS:
        value = getattr(options, name)
        # Without a healthcheck (False) is how it runs.
        if value not in (default, False):
            raise refuse(name, value, f"is not for run(): {_LASTING[name]}")


def capture(capture_output: bool, stdout: Any, stderr: Any) -> tuple[Any, Any]:
    if not capture_output:
        return stdout, stderr
    if stdout is not None or stderr is not None:
        raise InvalidOption("stdout and stderr may not be used with capture_output")
    return PIPE, PIPE


def with_input(stdin: Any, data: Any) -> Any:
    if data is None:
        return stdin
    if stdin is not None and stdin != PIPE:
        raise InvalidOption("stdin and input may not both be used")
    return PIPE


def run(
    image: Image | str,
    args: Any = None,
    *,
    input: Any = None,
    capture_output: bool = False,
    stdout: Any = None,
    stderr: Any = None,
    stdin: Any = None,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    check: bool = False,
    timeout: float | None = None,
    options: Options | None = None,
    store: Store | None = None,
    pull: Pull = "missing",
    **overrides: Any,
) -> Completed:
    """Run a program in a new container, wait for it, and remove everything but its result.

    The parameters up to `timeout` are those of `subprocess.run`; stdin is empty unless given.
    `args` None runs what the image's config names. All other keywords are options (`Options`),
    on top of `options`; those of containers that last (`restart`, say) are InvalidOption here. A `name`
    is taken as long as it runs. `timeout` is seconds, from the call on, pulling and unpacking included.

    `image` is an Image, "host", or a reference: looked up in the store, and pulled where it is missing
    (`pull="missing"`), each time ("always": one request where nothing changed), or "never".

    Raises `LaunchError` when there was no start, `Timeout` (everything is dead by then),
    `ExitError` or `OutOfMemory` with `check=True`, `InvalidOption`, `CapabilityUnavailable`,
    `ImageNotFound`, and what `Image.pull` raises.
    """
    began = time.monotonic()
    timeout = check_timeout(timeout)
    if stdin is not None:
        overrides["stdin"] = stdin
    chosen = Options.merge(options, overrides)
    _refuse_lasting(chosen)
    stdout, stderr = capture(capture_output, stdout, stderr)
    how = Text.of(text, encoding, errors)
    data = how.encode(input)
    with in_time.limited(timeout, *_words(image, args)):
        image = find_image(image, store, pull)
        image.rootfs()
    given = with_input(chosen.stdin, input)
    streams = execution.open_streams(chosen, given, stdout, stderr, pumped=True)
    with ExitStack() as held:
        begun = _begin_once(image, args, chosen, streams, held)
        result = begun.run(data, how, timeout, began=began)
    if check:
        result.check_returncode()
    return result


def _words(image: Image | str, args: Any) -> tuple[Any, ...]:
    """What is called so while nothing runs yet."""
    if args is None:
        return ("run", image)
    return tuple(args) if isinstance(args, (list, tuple)) else (args,)


def _begin_once(
    image: Image, args: Any, options: Options, streams: Streams, held: ExitStack
) -> execution.Execution:
    """Asks for a container that is removed with its program; what it has beside goes with `held`."""
    try:
        here = session.current()
        held.enter_context(here.advance.running())
        recipe = recipes.find(here, image, options)
        ready = None if recipe is None else here.advance.take(recipe)
        container = os.urandom(16).hex() if ready is None else ready.container
        if options.name is not None:
            home = known.home_of(launch.root_of(image))
            held.enter_context(known.reserved(home, options.name, container))
        if recipe is None:
            request = _decide(here, image, options, container, held).request(image, args, options)
        else:
            request = recipe.request(image, args, container)
        job = here.supervisor.new_job(None if ready is None else ready.job)
        begun = execution.begin_container(here, request, options, streams, job=job)
        happenings.tell_once(begun, container, options.name, image)
        if here.advance.worthwhile(recipe) and recipe is not None:
            # Meanwhile others start the program.
            here.advance.order(recipe, os.urandom(16).hex())
        return begun
    except BaseException:
        streams.close()
        raise
    finally:
        streams.close_child()


def _decide(
    here: Session, image: Image, options: Options, container: str, held: ExitStack
) -> execution.Decided:
    """A container that has something made for it alone."""
    root = image.rootfs()
    lower = () if isinstance(root, HostRoot) else root.lower
    used = launch.use_volumes(options, root, lower, container)
    if used is not None:
        held.callback(used.release)
    wiring = Wiring(options, container, lasting=False)
    held.callback(wiring.close)
    return recipes.decide_once(here, image, options, container, wiring)


def create(
    image: Image | str,
    args: Any = None,
    *,
    options: Options | None = None,
    store: Store | None = None,
    pull: Pull = "missing",
    timeout: float | None = None,
    **overrides: Any,
) -> Container:
    """Make a container without starting it. Options as for `run`; raises as it does, and `Timeout` where
    pulling, unpacking and making it take longer than `timeout` seconds: there is no container then.

    With `persist=True` it is there until it is removed, whatever becomes of this process, and any process
    of this user finds it (`Container.get`, `Container.list`).
    """
    from pycontainer.container import Container

    chosen = Options.merge(options, overrides)
    with in_time.limited(timeout, "create", image):
        found = find_image(image, store, pull)
        if chosen.persist:
            from pycontainer.keeping import finding

            return finding.create(found, args, chosen, store)
        return Container(found, args, chosen, home=None if store is None else store.path)


def start(
    image: Image | str,
    args: Any = None,
    *,
    options: Options | None = None,
    store: Store | None = None,
    pull: Pull = "missing",
    timeout: float | None = None,
    **overrides: Any,
) -> Container:
    """Start a program in a new container and return as soon as it runs, or with the option `wait` once it is
    ready. Options as for `run`.

    Raises as `create` and `Container.start` do; `timeout` is seconds for all of it. There is no container
    then.
    """
    with in_time.limited(timeout, "start", image):
        container = create(image, args, options=options, store=store, pull=pull, **overrides)
        try:
            return container.start()
        except BaseException:
            container.remove(force=True)
            raise

"""`run`, `create` and `start`: a program in a new container."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

from pycontainer import execution, launch, session
from pycontainer.errors import ImageNotFound, InvalidOption
from pycontainer.execution import Text
from pycontainer.options import Options
from pycontainer.runtime import plan
from pycontainer.streams import PIPE

if TYPE_CHECKING:
    from pycontainer.completed import Completed
    from pycontainer.container import Container
    from pycontainer.image import Image
    from pycontainer.store import Store


Pull = Literal["missing", "always", "never"]


def find_image(image: Image | str, store: Store | None, pull: Pull) -> Image:
    """An image by its reference: looked up in the store, pulled where it is missing, or where `pull`
    says so; "host" is this machine's own root."""
    if pull not in get_args(Pull):
        raise InvalidOption(f"pull={pull!r}: must be one of {', '.join(get_args(Pull))}")
    if not isinstance(image, str):
        return image
    from pycontainer.image import Image as ImageClass

    if image == "host":
        return ImageClass.host()
    if pull == "always":
        return ImageClass.pull(image, store=store)
    try:
        return ImageClass.get(image, store=store)
    except ImageNotFound:
        if pull == "never":
            raise
    return ImageClass.pull(image, store=store)


def check_timeout(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout:
        raise InvalidOption(f"timeout={timeout!r}: must be a number of seconds")
    return float(timeout)


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
    on top of `options`. `timeout` is seconds, from the call on.

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
    image = find_image(image, store, pull)
    stdout, stderr = capture(capture_output, stdout, stderr)
    how = Text.of(text, encoding, errors)
    data = how.encode(input)
    here = session.current()
    streams = execution.open_streams(chosen, with_input(chosen.stdin, input), stdout, stderr)
    directory, used = None, None
    try:
        root = launch.root_of(image)
        if root is not None:
            directory = root.store.new_container_dir()
        name = os.urandom(16).hex() if directory is None else directory.id
        used = launch.use_volumes(chosen, image.rootfs(), () if root is None else root.lower, name)
        begun = execution.begin_container(
            here,
            image,
            args,
            chosen,
            streams,
            container=name,
            root=plan.Root()
            if root is None or directory is None
            else plan.Root(root.lower, directory.upper, directory.work, volumes=directory.volumes),
            directory=directory,
            once=True,
        )
    except BaseException:
        streams.close()
        if directory is not None:
            directory.discard()
        if used is not None:
            used.release()
        raise
    finally:
        streams.close_child()
    try:
        result = begun.run(data, how, timeout, began=began)
    finally:
        if used is not None:
            used.release()
    if check:
        result.check_returncode()
    return result


def create(
    image: Image | str,
    args: Any = None,
    *,
    options: Options | None = None,
    store: Store | None = None,
    pull: Pull = "missing",
    **overrides: Any,
) -> Container:
    """Make a container without starting it. Options as for `run`; raises as it does."""
    from pycontainer.container import Container

    return Container(find_image(image, store, pull), args, Options.merge(options, overrides))


def start(
    image: Image | str,
    args: Any = None,
    *,
    options: Options | None = None,
    store: Store | None = None,
    pull: Pull = "missing",
    **overrides: Any,
) -> Container:
    """Start a program in a new container and return as soon as it runs. Options as for `run`."""
    container = create(image, args, options=options, store=store, pull=pull, **overrides)
    try:
        return container.start()
    except BaseException:
        container.remove(force=True)
        raise

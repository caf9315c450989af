"""`persist=True`: containers that outlive the process that made them.

Each has a *keeper*: a Python process of its own, nobody's child, that holds an ordinary container with a
supervisor of its own. Any process of the same user finds the container in the store and asks its keeper
over a Unix socket (`control`). A directory of the store (`pycontainer.store.persistent`) holds:

state.json    what the container is and how it stands (`record`); written as a whole or not at all
held          a file that is locked while the keeper, or what its supervisor started, is alive
control.sock  where the keeper listens
layer/        what the container wrote, on an image
log/          what its program wrote
keeper.log    what a keeper had to say that died of an error

A keeper ends when its container is removed, or with SIGTERM, which stops the container first. One
that was killed takes the running program along; its container is stopped then, and the next one who starts it
(or looks into its files) begins a new keeper. On the host image, what a container wrote is in memory and goes
with its keeper.

Its network is the keeper's, too: `network="bridge"` is one of that process's own, published ports are its
sockets, and both go with it. A `Network` or `Container` of another process cannot be shared.
"""

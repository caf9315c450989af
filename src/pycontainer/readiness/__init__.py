"""Waiting until a container is ready: what `pycontainer.wait` only describes is looked at here.

One thread, the caller's: every condition says what it waits for (descriptors, a time), and is looked at when
one of these comes, when the container wrote something, and at its end.
"""

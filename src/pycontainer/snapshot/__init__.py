"""Stacks of layers as mounts, returned as data: operations that give a container its root."""

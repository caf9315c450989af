"""Starts, execs and memory of pycontainer beside other engines: `python -m benchmarks --help`."""

"""Changesets: a tar stream applied to a directory, and a directory written as a tar stream."""

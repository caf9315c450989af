"""Blobs on disk: an OCI image layout, verified reads and writes, locks that die with their holder."""

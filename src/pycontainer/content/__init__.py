"""Blobs on disk: an OCI image layout with verified reads, verified writes and locks that die with their holder."""

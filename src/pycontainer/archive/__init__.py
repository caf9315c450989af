"""Images in files: docker-archive, oci-archive and OCI layout directories."""

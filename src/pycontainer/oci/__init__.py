"""Values of the OCI specifications: frozen classes that parse and serialise, and never do I/O."""

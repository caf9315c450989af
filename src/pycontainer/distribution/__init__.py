"""The client of the distribution specification: transport, authentication, blobs and manifests."""

"""Moving images between registries and the store: pull, push, copy, and how far they are."""

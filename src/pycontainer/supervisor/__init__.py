"""The client of the native supervisor: plans as data, one typed call per verb."""

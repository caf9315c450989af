"""What a container is made of: isolation, control groups, users, and the plan that puts them together."""

"""Storage: the interface of backends, what they hold, and the registry that is the only door to them."""

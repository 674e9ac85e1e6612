"""Who decides: the pure core and the shells around it."""

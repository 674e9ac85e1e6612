"""Component resources: each wraps the objects of one idea."""

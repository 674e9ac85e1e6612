"""What runs where: a Pulumi program. `objects` builds Kubernetes objects, `components` hand them to Pulumi."""

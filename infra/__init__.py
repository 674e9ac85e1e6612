"""What runs where: a Pulumi program. `objects` builds objects of Kubernetes, `components` wrap them."""

"""A real Kubernetes control plane on this machine, with nodes and pods that are simulated."""

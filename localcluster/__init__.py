"""A real Kubernetes control plane with simulated nodes, on this machine: for tests and trials."""

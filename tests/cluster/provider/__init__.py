"""A stand-in for Pulumi's Kubernetes provider, by the provider's own protocol.

For tests, and for trials without the network: it does what the official provider does with the objects of
this project, and no more. Who deploys uses the official one.
"""

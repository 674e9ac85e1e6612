"""The same decisions as the live system's, under a virtual clock: workloads, models of the stages, events."""

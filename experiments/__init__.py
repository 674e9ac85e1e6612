"""The evidence: experiments in the simulator, run by `tercet experiments`, written to docs/results.md."""

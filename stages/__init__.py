"""Who computes: engine protocols, the reference engines and the blob store."""

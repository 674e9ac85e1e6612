"""Rules that Pulumi holds a stack against, whatever program declares it: `pulumi up --policy-pack`."""

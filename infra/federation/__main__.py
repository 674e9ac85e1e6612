"""What `pulumi up` runs in this folder."""

from infra.federation.program import main

main()

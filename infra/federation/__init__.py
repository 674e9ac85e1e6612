"""The second Pulumi program: joins the stacks of several clusters under one controller."""

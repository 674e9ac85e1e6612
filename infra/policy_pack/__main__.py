"""What Pulumi runs of a policy pack."""

from pulumi_policy import PolicyPack

from infra.policy_pack.rules import RULES

PolicyPack("tercet", RULES)

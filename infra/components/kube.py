"""One Kubernetes object as one Pulumi resource, and components made of some."""

from collections.abc import Sequence
from typing import Any

import pulumi

from infra.objects.names import Object

PROVIDER_VERSION = "4.32.0"
_COUNTED = ("Deployment", "LeaderWorkerSet")


def type_token(thing: Object) -> str:
    """Return the provider's name of an object's type."""
    version = thing["apiVersion"]
    return f"kubernetes:{version if '/' in version else f'core/{version}'}:{thing['kind']}"


class KubeObject(pulumi.CustomResource):
    """A Kubernetes object, handed to the provider as it is."""

    def __init__(self, thing: Object, opts: pulumi.ResourceOptions) -> None:
        metadata = thing["metadata"]
        name = "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
        # `NodePatch` is the provider's own word; to Kubernetes it is a Node.
        kind = thing["kind"].removesuffix("Patch")
        versioned = pulumi.ResourceOptions(version=PROVIDER_VERSION)
        super().__init__(
            type_token(thing),
            name,
            {**thing, "kind": kind},
            pulumi.ResourceOptions.merge(versioned, opts),
        )


class KubeComponent(pulumi.ComponentResource):
    """Several objects of one idea.

    Args:
        name: Of the component.
        objects: Its children.
        outputs: Registered.
        opts: Of the component.
        uncounted: Whether somebody else sets its replica counts.
    """

    def __init__(
        self,
        name: str,
        objects: Sequence[Object],
        outputs: dict[str, Any],
        opts: pulumi.ResourceOptions | None = None,
        *,
        uncounted: bool = False,
    ) -> None:
        super().__init__(f"tercet:infra:{type(self).__name__}", name, {}, opts)
        namespaces: list[KubeObject] = []
        for thing in objects:
            ignored = ["spec.replicas"] if uncounted and thing["kind"] in _COUNTED else []
            options = pulumi.ResourceOptions(parent=self, depends_on=list(namespaces), ignore_changes=ignored)
            child = KubeObject(thing, options)
            if thing["kind"] == "Namespace":  # what lies in it comes after
                namespaces.append(child)
        self.register_outputs(outputs)

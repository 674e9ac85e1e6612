"""The API server, told by server-side apply."""

import json
from functools import cache
from urllib.parse import quote

import kubernetes

APPLY = "application/apply-patch+yaml"


class Refused(Exception):
    """The API server said no; the message is for people."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Api:
    """Objects of any kind, on the cluster of a kubeconfig; None: of the usual one."""

    def __init__(self, kubeconfig):
        self._client = kubernetes.config.new_client_from_config(kubeconfig)
        self._kinds = cache(self._list_kinds)

    def get(self, thing):
        """Return what the server has, None if nothing."""
        try:
            return self._call("GET", self._path(thing))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def list(self, api_version, kind, namespace, selector):
        of_kind = {"apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace}}
        return self._call("GET", self._path(of_kind), {"labelSelector": selector})["items"]

    def apply(self, thing, manager, *, force=False):
        """Return the object after its fields, and no others, are set and owned by the manager."""
        query = {"fieldManager": manager, "force": json.dumps(force), "fieldValidation": "Strict"}
        return self._call("PATCH", self._path(thing), query, thing)

    def delete(self, thing):
        """Have it and what it owns deleted; some of it may take a while."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        self._call("DELETE", self._path(thing), {}, options)

    def _path(self, thing):
        version, kind, metadata = thing["apiVersion"], thing["kind"], thing["metadata"]
        plural, namespaced = self._kinds(version).get(kind) or self._kind_made_since(version, kind)
        inside = ["namespaces", metadata.get("namespace", "default")] if namespaced else []
        named = [quote(metadata["name"])] if "name" in metadata else []
        return "/".join([_prefix(version), *inside, plural, *named])

    def _kind_made_since(self, version, kind):
        """A custom resource's definition may come after we first looked."""
        found = self._list_kinds(version).get(kind)
        if not found:
            missing = f'no matches for kind "{kind}" in version "{version}"'
            raise Refused(404, f"{missing}: is its CustomResourceDefinition installed?")
        self._kinds.cache_clear()
        return found

    def _list_kinds(self, version):
        try:
            listed = self._call("GET", _prefix(version))["resources"]
        except Refused as error:
            if error.status == 404:
                return {}
            raise
        return {
            each["kind"]: (each["name"], each["namespaced"]) for each in listed if "/" not in each["name"]
        }

    def _call(self, method, path, query=None, body=None):
        content = APPLY if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": content}
        pairs = list((query or {}).items())
        request = self._client.param_serialize(
            method, path, query_params=pairs, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        response = self._client.call_api(*request)
        answer = response.read().decode()
        if response.status >= 400:
            raise Refused(response.status, _message(answer))
        return json.loads(answer)


def _message(answer):
    """Return what a refusal says: a Status of Kubernetes, or plain text where there is nothing at all."""
    return json.loads(answer)["message"] if answer.startswith("{") else answer.strip()


def _prefix(version):
    return f"/apis/{version}" if "/" in version else f"/api/{version}"

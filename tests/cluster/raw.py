"""Objects as JSON against a control plane, whatever their kind."""

import ssl
from functools import cache

import httpx
import yaml

from tests.system.harness import until

MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


class Raw:
    """A client of one cluster.

    Args:
        cluster: It.
        token: Of whom; the administrator's without.
    """

    def __init__(self, cluster, token=""):
        token = token or yaml.safe_load(cluster.kubeconfig.read_text())["users"][0]["user"]["token"]
        self._client = httpx.Client(
            base_url=cluster.url,
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(cluster.ca)),
            trust_env=False,
        )
        self._kinds = cache(self._ask_kinds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.close()

    def create(self, thing, **query):
        return self._client.post(self._folder(thing), json=thing, params=query)

    def apply(self, thing, **query):
        """Server-side apply, as Pulumi's provider does with patches."""
        path = f"{self._folder(thing)}/{thing['metadata']['name']}"
        query = {"fieldManager": "test", **query}
        return self._client.patch(path, json=thing, params=query, headers={"Content-Type": APPLY})

    def get(self, path, **query):
        return self._client.get(path, params=query)

    def post(self, path, body):
        return self._client.post(path, json=body)

    def _folder(self, thing):
        version = thing["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        plural, namespaced = self._kinds(root)[thing["kind"]]
        inside = f"/namespaces/{thing['metadata']['namespace']}" if namespaced else ""
        return f"{root}{inside}/{plural}"

    def _ask_kinds(self, root):
        """Return plural, and whether it lies in a namespace, by kind."""
        answer = self._client.get(root)
        assert answer.is_success, f"{root} is not served: {answer.text}"
        things = (each for each in answer.json()["resources"] if "/" not in each["name"])
        return {each["kind"]: (each["name"], each["namespaced"]) for each in things}


def define(raw, file):
    """Install a definition of a resource and wait until it is served; return where its objects lie."""
    definition = yaml.safe_load(file.read_text())
    answer = raw.create(definition)
    assert answer.is_success, answer.text
    spec = definition["spec"]
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    until(f"{path} is served", lambda: raw.get(path).is_success)
    return path


def token_of(core, account, namespace):
    """Return a token of a ServiceAccount, as its pods get one."""
    return core.create_namespaced_service_account_token(account, namespace, {"spec": {}}).status.token


def kubeconfig_of(cluster, token, folder):
    """Write a kubeconfig with a token; return its path."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file

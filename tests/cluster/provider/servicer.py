"""Pulumi's provider protocol: each method one step of a resource's life."""
# ruff: noqa: N802  # the protocol names the methods

import hashlib
from contextlib import contextmanager

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from infra.components.kube import PROVIDER_VERSION
from tests.cluster.provider.api import Api, Refused
from tests.cluster.provider.differences import differences, is_same_object, replaces, written
from tests.cluster.provider.messages import message_of, value_of
from tests.cluster.provider.owners import live_inputs, without_ignored
from tests.cluster.provider.waiting import DEADLINE_S, NotInTime, Waiter

FORCE = "pulumi.com/patchForce"
MUTABLE = {"enableConfigMapMutable": "ConfigMap", "enableSecretMutable": "Secret"}
"""Settings of the provider that let data be changed in place."""


class Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """Objects as the program gives them; the state that Pulumi keeps of one is its inputs."""

    def __init__(self):
        self._mutable, self._api, self._waiter = frozenset(), None, None

    def Handshake(self, request, context):
        return provider_pb2.ProviderHandshakeResponse()

    def Attach(self, request, context):
        return Empty()

    def GetPluginInfo(self, request, context):
        return plugin_pb2.PluginInfo(version=PROVIDER_VERSION)

    def CheckConfig(self, request, context):
        unknown = set(value_of(request.news)) - {*MUTABLE, "kubeconfig", "version"}
        failures = [
            provider_pb2.CheckFailure(property=key, reason="the stand-in knows no such setting")
            for key in unknown
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    def DiffConfig(self, request, context):
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request, context):
        settings = value_of(request.args)
        self._mutable = frozenset(
            kind for key, kind in MUTABLE.items() if settings.get(key) in (True, "true")
        )
        self._api = Api(settings.get("kubeconfig"))
        self._waiter = Waiter(self._api)
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Cancel(self, request, context):
        self._waiter.cancel()
        return Empty()

    def Check(self, request, context):
        named = "name" in value_of(request.news).get("metadata", {})
        failure = provider_pb2.CheckFailure(property="metadata.name", reason="the stand-in makes up no names")
        return provider_pb2.CheckResponse(inputs=request.news, failures=[] if named else [failure])

    def Diff(self, request, context):
        old, new = value_of(request.old_inputs), value_of(request.news)
        paths = list(differences(old, new))
        replacing = [path for path in paths if replaces(path, old, self._mutable)]
        kinds = provider_pb2.PropertyDiff
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if paths else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=[str(path[0]) for path in paths],
            replaces=[written(path) for path in replacing],
            deleteBeforeReplace=is_same_object(old, new),
            hasDetailedDiff=True,
            detailedDiff={
                written(path): kinds(
                    kind=kinds.UPDATE_REPLACE if path in replacing else kinds.UPDATE, inputDiff=True
                )
                for path in paths
            },
        )

    def Create(self, request, context):
        if request.preview:
            return provider_pb2.CreateResponse(properties=request.properties)
        thing = value_of(request.properties)
        with _told(context):
            if _is_patch(request.urn) and not self._api.get(thing):
                raise Refused(404, f"there is no {thing['kind']} {thing['metadata']['name']} to patch")
            self._api.apply(thing, _manager(request.urn), force=_forced(thing))
        self._await(request, context, thing)
        return provider_pb2.CreateResponse(id=id_of(thing), properties=request.properties)

    def Update(self, request, context):
        if request.preview:
            return provider_pb2.UpdateResponse(properties=request.news)
        thing, manager = value_of(request.news), _manager(request.urn)
        with _told(context):
            live = self._api.get(thing)
            sent = without_ignored(thing, live, request.ignoreChanges, manager) if live else thing
            self._api.apply(sent, manager, force=_forced(thing))
        self._await(request, context, thing)
        return provider_pb2.UpdateResponse(properties=request.news)

    def Read(self, request, context):
        inputs = value_of(request.inputs) or value_of(request.properties)
        with _told(context):
            live = self._api.get(inputs)
        if not live:
            return provider_pb2.ReadResponse()
        now = message_of(live_inputs(inputs, live))
        return provider_pb2.ReadResponse(id=request.id, properties=now, inputs=now)

    def Delete(self, request, context):
        thing = value_of(request.old_inputs)
        with _told(context):
            live = self._api.get(thing)
            if live and _is_patch(request.urn):
                self._api.apply(_nothing_of(thing), _manager(request.urn))
            elif live:
                self._api.delete(thing)
                self._waiter.gone(thing, live["metadata"]["uid"], request.timeout or DEADLINE_S)
        return Empty()

    def _await(self, request, context, thing):
        """Wait until an applied object is ready; if it is not, Pulumi is told that it exists all the same."""
        try:
            self._waiter.ready(thing, request.timeout or DEADLINE_S)
        except NotInTime as error:
            made = provider_pb2.ErrorResourceInitFailed(
                id=id_of(thing), properties=message_of(thing), inputs=message_of(thing), reasons=[str(error)]
            )
            _abort_with(context, str(error), made)


def _manager(urn):
    """Return the field manager: each resource its own, so that two of one object are told apart."""
    return f"pulumi-{hashlib.sha256(urn.encode()).hexdigest()[:12]}"


def id_of(thing):
    """Return an object's id in Pulumi's state."""
    return "/".join(filter(None, (thing["metadata"].get("namespace"), thing["metadata"]["name"])))


def _is_patch(urn):
    return urn.split("::")[2].endswith("Patch")


def _forced(thing):
    return thing["metadata"].get("annotations", {}).get(FORCE) == "true"


def _nothing_of(thing):
    """Return an object without fields; who applies it gives up what it owned."""
    place = {key: thing["metadata"][key] for key in ("name", "namespace") if key in thing["metadata"]}
    return {"apiVersion": thing["apiVersion"], "kind": thing["kind"], "metadata": place}


@contextmanager
def _told(context):
    """Tell Pulumi of what the API server refuses."""
    try:
        yield
    except (Refused, NotInTime) as error:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))


def _abort_with(context, message, detail):
    packed = Any()
    packed.Pack(detail)
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=message, details=[packed])
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    context.abort(grpc.StatusCode.UNKNOWN, message)

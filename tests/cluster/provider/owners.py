"""Fields that a stack leaves to others: `ignoreChanges` under server-side apply."""

import copy


def without_ignored(inputs, live, ignored, manager):
    """Return what to apply so that ignored fields stay as they are.

    A field that others own is left out. One that is ours alone is sent as it stands: what its owner no longer
    sends is unset.

    Args:
        inputs: Of the resource.
        live: What the server has.
        ignored: Paths such as `spec.replicas`.
        manager: Our field manager.
    """
    sent = copy.deepcopy(inputs)
    for path in (text.split(".") for text in ignored):
        owners = {each["manager"] for each in live["metadata"].get("managedFields", ()) if _owns(each, path)}
        parent, value = _at(sent, path[:-1]), _at(live, path)
        if owners and manager not in owners:
            parent.pop(path[-1], None)
        elif value is not None:
            parent[path[-1]] = value
    return sent


def live_inputs(inputs, live):
    """Return the server's values of the fields that inputs name, for a refresh."""
    if isinstance(inputs, dict) and isinstance(live, dict):
        return {key: live_inputs(value, live[key]) for key, value in inputs.items() if key in live}
    if isinstance(inputs, list) and isinstance(live, list) and len(inputs) == len(live):
        return [live_inputs(*pair) for pair in zip(inputs, live, strict=True)]
    return live


def _owns(managed, path):
    return _at(managed["fieldsV1"], [f"f:{key}" for key in path]) is not None


def _at(thing, path):
    for key in path:
        thing = thing.get(key) if isinstance(thing, dict) else None
    return thing

"""A back end that manages devices: azure-iot-hub over the REST service API.

One JSON request per line on standard input, one JSON answer per line on standard output, as in lines.js.
"""

import inspect
import json
import os
import sys

# One of each class of the package that speaks to the service API.
hub = {}


def plain(model):
    """A model of the package as JSON, with the names that it has on the wire."""
    if isinstance(model, list):
        return [plain(item) for item in model]
    return model.serialize(keep_readonly=True) if hasattr(model, "serialize") else model


def open_manager(request):
    # The package takes its trust from here, once.
    os.environ["REQUESTS_CA_BUNDLE"] = request["caFile"]
    import azure.iot.hub as package

    for kind, name in {
        "registry": "IoTHubRegistryManager",
        "jobs": "IoTHubJobManager",
        "configurations": "IoTHubConfigurationManager",
        "runtime": "IoTHubHttpRuntimeManager",
    }.items():
        hub[kind] = getattr(package, name).from_connection_string(request["connectionString"])


def registry():
    return hub["registry"]


def messages():
    return registry().protocol.cloud_to_device_messages


def receive_feedback(_request):
    # The class that is made for this drops what it receives; the one below it does not.
    answer = messages().receive_feedback_notification(raw=True).response
    if answer.status_code == 204:
        return None
    return {"lock": answer.headers["ETag"].strip('"'), "receipts": answer.json()}


def argument(value):
    """A model of the package, {"model": name, "fields": {...}}, or any other value as it is."""
    from azure.iot.hub import models

    if isinstance(value, dict) and "model" in value:
        return getattr(models, value["model"])(**value["fields"])
    return value


def call(request):
    method = getattr(hub[request["of"]], request["method"])
    return plain(method(*[argument(value) for value in request["args"]]))


def offered(request):
    """The names of all that a class of the package offers."""
    of = hub[request["of"]]
    names = [name for name in dir(of) if not name.startswith(("_", "from_"))]
    return [name for name in names if inspect.ismethod(getattr(of, name))]


def bulk(request):
    from azure.iot.hub.models import AuthenticationMechanism, ExportImportDevice, SymmetricKey

    def entry(wanted):
        keys = SymmetricKey(primary_key=wanted.get("primaryKey"), secondary_key=wanted.get("secondaryKey"))
        return ExportImportDevice(
            id=wanted["id"],
            import_mode=wanted["importMode"],
            e_tag=wanted.get("eTag"),
            status=wanted.get("status", "enabled"),
            authentication=AuthenticationMechanism(type="sas", symmetric_key=keys),
        )

    return plain(registry().bulk_create_or_update_devices([entry(wanted) for wanted in request["devices"]]))


def job(request, kind):
    from azure.iot.hub.models import JobProperties

    wanted = JobProperties(type=kind, output_blob_container_uri=request["output"])
    wanted.input_blob_container_uri = request.get("input")
    wanted.exclude_keys_in_export = request.get("excludeKeys")
    return plain(hub["jobs"].create_import_export_job(wanted))


def query(request):
    from azure.iot.hub.models import QuerySpecification

    pages, items, token = [], [], None
    while True:
        result = registry().query_iot_hub(QuerySpecification(query=request["text"]), token, request["pageSize"])
        pages.append(len(result.items))
        items.extend(plain(item) for item in result.items)
        token = result.continuation_token
        if not token:
            return {"pages": pages, "items": items, "type": result.type}


ACTIONS = {
    "open": open_manager,
    "create": lambda r: plain(
        registry().create_device_with_sas(r["deviceId"], r.get("primaryKey", ""), r.get("secondaryKey", ""), r["status"])
    ),
    "read": lambda r: plain(registry().get_device(r["deviceId"])),
    "update": lambda r: plain(
        registry().update_device_with_sas(r["deviceId"], r["etag"], r["primaryKey"], r["secondaryKey"], r["status"])
    ),
    "remove": lambda r: registry().delete_device(r["deviceId"], r.get("etag")),
    "list": lambda r: plain(registry().get_devices(r.get("count"))),
    "bulk": bulk,
    "query": query,
    "importJob": lambda r: job(r, "import"),
    "exportJob": lambda r: job(r, "export"),
    "getJob": lambda r: plain(hub["jobs"].get_import_export_job(r["jobId"])),
    "listJobs": lambda r: plain(hub["jobs"].get_import_export_jobs()),
    "cancelJob": lambda r: hub["jobs"].cancel_import_export_job(r["jobId"]),
    "registryStatistics": lambda r: plain(registry().get_device_registry_statistics()),
    "serviceStatistics": lambda r: plain(registry().get_service_statistics()),
    "purge": lambda r: plain(messages().purge_cloud_to_device_message_queue(r["deviceId"])),
    "receiveFeedback": receive_feedback,
    "completeFeedback": lambda r: hub["runtime"].complete_feedback_notification(r["lock"]),
    "abandonFeedback": lambda r: hub["runtime"].abandon_feedback_notification(r["lock"]),
    "configurations": lambda r: plain(hub["configurations"].get_configurations()),
    "call": call,
    "offered": offered,
}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"id": request["id"], "ok": ACTIONS[request["do"]](request)}
        except Exception as error:  # whatever the package throws is what the test asks about
            status = getattr(getattr(error, "response", None), "status_code", None)
            answer = {
                "id": request["id"],
                "error": {"name": type(error).__name__, "status": status, "message": str(error)},
            }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()

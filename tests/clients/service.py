"""A back end that sends commands: azure-iot-hub, as an application uses it.

One JSON request per line on standard input, one JSON answer per line on standard output, as in lines.js.
"""

import json
import sys

import certifi

managers = {}


def open_hub(request):
    # The package takes its certificates from certifi and has no option for others.
    certifi.where = lambda: request["caFile"]
    from azure.iot.hub import IoTHubRegistryManager

    managers["hub"] = IoTHubRegistryManager.from_connection_string(request["connectionString"])


def send(request):
    for message in request["messages"]:
        managers["hub"].send_c2d_message(request["device"], message["body"], message.get("properties", {}))


def close(_request):
    del managers["hub"]


ACTIONS = {"open": open_hub, "send": send, "close": close}

for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"id": request["id"], "ok": ACTIONS[request["do"]](request)}
    except Exception as error:  # The test decides what an error means.
        answer = {"id": request["id"], "error": {"name": type(error).__name__, "message": str(error)}}
    print(json.dumps(answer), flush=True)

"""A device: azure-iot-device over MQTT, as an application uses it."""

import base64
import queue

from azure.iot.device import IoTHubDeviceClient, Message
from lines import serve

clients = {}


def opened(request):
    with open(request["caFile"], encoding="ascii") as file:
        ca = file.read()
    client = IoTHubDeviceClient.create_from_connection_string(
        request["connectionString"], server_verification_cert=ca, websockets=request["webSockets"]
    )
    commands = queue.Queue()
    client.connect()
    clients[request["device"]] = (client, commands)


def message(wanted):
    made = Message(base64.b64decode(wanted["body"]))
    made.message_id = wanted.get("messageId")
    made.correlation_id = wanted.get("correlationId")
    made.user_id = wanted.get("userId")
    made.content_type = wanted.get("contentType")
    made.content_encoding = wanted.get("contentEncoding")
    made.custom_properties = wanted.get("properties", {})
    return made


def send(request):
    client, _ = clients[request["device"]]
    for wanted in request["messages"]:
        client.send_message(message(wanted))


def listen(request):
    client, commands = clients[request["device"]]
    client.on_message_received = commands.put


def received(request):
    """The next commands, as many as asked for or as came in time."""
    _, commands = clients[request["device"]]
    found = []
    try:
        while len(found) < request["count"]:
            command = commands.get(timeout=request["waitMs"] / 1000)
            found.append(
                {
                    "body": base64.b64encode(command.data).decode(),
                    "messageId": command.message_id,
                    "properties": command.custom_properties,
                }
            )
    except queue.Empty:
        pass
    return found


def is_connected(request):
    return clients[request["device"]][0].connected


def twin(request):
    return clients[request["device"]][0].get_twin()


def close(request):
    client, _ = clients.pop(request["device"])
    client.shutdown()


serve(
    {
        "open": opened,
        "send": send,
        "listen": listen,
        "commands": received,
        "connected": is_connected,
        "twin": twin,
        "close": close,
    }
)

"""A device: azure-iot-device over MQTT, as an application uses it."""

import base64
import datetime
import queue
import threading
import time

from azure.iot.device import IoTHubDeviceClient, Message
from lines import serve

clients = {}


def opened(request):
    with open(request["caFile"], encoding="ascii") as file:
        ca = file.read()
    client = IoTHubDeviceClient.create_from_connection_string(
        request["connectionString"],
        server_verification_cert=ca,
        websockets=request["webSockets"],
        # Its own default makes tests of reconnecting long.
        connection_retry_interval=1,
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
    if "expiryMs" in wanted:
        made.expiry_time_utc = datetime.datetime.fromtimestamp(wanted["expiryMs"] / 1000, datetime.timezone.utc)
    made.custom_properties = wanted.get("properties", {})
    return made


def send(request):
    client, _ = clients[request["device"]]
    for wanted in request["messages"]:
        client.send_message(message(wanted))


def listen(request):
    client, commands = clients[request["device"]]
    client.on_message_received = commands.put


def milliseconds(text):
    """The package hands times over as they came, as text."""
    return text and round(datetime.datetime.fromisoformat(text).timestamp() * 1000)


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
                    "correlationId": command.correlation_id,
                    "expiryMs": milliseconds(command.expiry_time_utc),
                    "ack": command.ack,
                    "properties": command.custom_properties,
                }
            )
    except queue.Empty:
        pass
    return found


class Sending:
    """Sends numbered messages, one after the other with a pause, until told to stop: what is not acknowledged is sent again
    under its number, as an application would."""

    def __init__(self, client, pause_ms):
        self.acknowledged = 0
        self.stops = False
        self.client = client
        self.pause_ms = pause_ms
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stops:
            try:
                self.client.send_message(Message(f"event {self.acknowledged}".encode()))
                self.acknowledged += 1
            except Exception:  # whatever a package throws means that it is not acknowledged
                pass
            time.sleep(self.pause_ms / 1000)


sending = {}


def send_on(request):
    client, _ = clients[request["device"]]
    sending[request["device"]] = Sending(client, request["pauseMs"])


def acknowledged(request):
    return sending[request["device"]].acknowledged


def stop_sending(request):
    one = sending.pop(request["device"])
    one.stops = True
    one.thread.join()
    return one.acknowledged


def is_connected(request):
    return clients[request["device"]][0].connected


def twin(request):
    return clients[request["device"]][0].get_twin()


def report(request):
    return clients[request["device"]][0].patch_twin_reported_properties({"colour": "green"})


def watch_twin(request):
    clients[request["device"]][0].on_twin_desired_properties_patch_received = lambda patch: None


def methods(request):
    clients[request["device"]][0].on_method_request_received = lambda call: None


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
        "sendOn": send_on,
        "acknowledged": acknowledged,
        "stopSending": stop_sending,
        "twin": twin,
        "report": report,
        "watchTwin": watch_twin,
        "methods": methods,
        "close": close,
    }
)

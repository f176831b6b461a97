"""A device that speaks STOMP 1.2: stomp.py, which knows nothing of IoT Hub."""

import base64
import datetime
import hashlib
import hmac
import queue
import ssl
import time
import urllib.parse

import stomp
from lines import serve

PORT = 61614
PATIENCE_S = 20

devices = {}


def token(connection_string):
    """A SAS token for an hour; the device, and the text."""
    parts = dict(part.split("=", 1) for part in connection_string.split(";"))
    host, device = parts["HostName"], parts["DeviceId"]
    resource = urllib.parse.quote(f"{host}/devices/{device}", safe="")
    expiry = int(time.time()) + 3600
    key = base64.b64decode(parts["SharedAccessKey"])
    signature = hmac.new(key, f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
    escaped = urllib.parse.quote(base64.b64encode(signature), safe="")
    return host, device, f"SharedAccessSignature sr={resource}&sig={escaped}&se={expiry}"


class Device(stomp.ConnectionListener):
    """One connection and what came of it."""

    def __init__(self, request):
        self.receipts = queue.Queue()
        self.messages = queue.Queue()
        self.errors = queue.Queue()
        self.ended = queue.Queue()
        host, self.name, passcode = token(request["connectionString"])
        self.connection = stomp.Connection12(
            [(host, PORT)],
            reconnect_attempts_max=1,
            heartbeats=tuple(request.get("heartbeats", (0, 0))),
            auto_decode=False,
        )
        # stomp.py reads in a thread of its own while it writes, which Python's ssl does not guard: with TLS 1.3, where a ticket
        # comes behind the handshake, seven of a hundred first words were lost or failed, whoever wrote the records; with TLS 1.2 one of a thousand.
        self.connection.set_ssl([(host, PORT)], ca_certs=request["caFile"], ssl_version=ssl.PROTOCOL_TLSv1_2)
        self.connection.set_listener("device", self)
        self.connection.connect(self.name, request.get("passcode", passcode), wait=True)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_message(self, frame):
        self.messages.put(frame)

    def on_error(self, frame):
        self.errors.put(frame)

    def on_disconnected(self):
        self.ended.put(True)

    def await_receipt(self, wanted):
        found = self.receipts.get(timeout=PATIENCE_S)
        if found != wanted:
            raise ValueError(f"receipt {found} instead of {wanted}")


def opened(request):
    devices[request["device"]] = Device(request)


SYSTEM = {
    "messageId": "iothub-messageid",
    "correlationId": "iothub-correlationid",
    "contentType": "content-type",
    "contentEncoding": "iothub-contentencoding",
    "userId": "iothub-userid",
}


def send(request):
    device = devices[request["device"]]
    destination = f"/devices/{device.name}/messages/events"
    for number, wanted in enumerate(request["messages"]):
        headers = {name: wanted[key] for key, name in SYSTEM.items() if key in wanted}
        if "expiryMs" in wanted:
            moment = datetime.datetime.fromtimestamp(wanted["expiryMs"] / 1000, datetime.timezone.utc)
            headers["iothub-expiry"] = moment.isoformat()
        headers.update({f"iothub-app-{name}": value for name, value in wanted.get("properties", {}).items()})
        headers["receipt"] = f"sent-{number}"
        device.connection.send(destination, base64.b64decode(wanted["body"]), headers=headers)
    for number in range(len(request["messages"])):
        device.await_receipt(f"sent-{number}")


def listen(request):
    device = devices[request["device"]]
    destination = request.get("destination", f"/devices/{device.name}/messages/devicebound")
    headers = {"receipt": "listening"}
    device.connection.subscribe(destination, "commands", request["ack"], headers=headers)
    if "destination" not in request:
        device.await_receipt("listening")


def received(request):
    """The next commands, as many as asked for, settled as asked for."""
    device = devices[request["device"]]
    found = []
    for _ in range(request["count"]):
        frame = device.messages.get(timeout=PATIENCE_S)
        found.append({"headers": frame.headers, "body": base64.b64encode(frame.body).decode()})
        if request.get("settle") == "ack":
            device.connection.ack(frame.headers["ack"], receipt="settled")
            device.await_receipt("settled")
        elif request.get("settle") == "nack":
            device.connection.nack(frame.headers["ack"])
    return found


def failed(request):
    """The hub's last word, and that it has hung up."""
    device = devices[request["device"]]
    frame = device.errors.get(timeout=PATIENCE_S)
    device.ended.get(timeout=PATIENCE_S)
    return {"headers": frame.headers, "body": frame.body.decode()}


def alive(request):
    """Whether the connection is still there after so many seconds in which neither side has anything to say."""
    device = devices[request["device"]]
    time.sleep(request["seconds"])
    return device.connection.is_connected()


def close(request):
    device = devices.pop(request["device"])
    device.connection.disconnect(receipt="bye")
    device.await_receipt("bye")


serve(
    {
        "open": opened,
        "send": send,
        "listen": listen,
        "commands": received,
        "failed": failed,
        "alive": alive,
        "close": close,
    }
)

"""A device without a package of Azure's: paho-mqtt."""

import base64
import queue
import ssl

import paho.mqtt.client as mqtt
from lines import serve

PATIENCE_S = 20

clients = {}


class Device:
    """One connection and what came of it."""

    def __init__(self, request):
        self.events = queue.Queue()
        self.messages = queue.Queue()
        transport = "websockets" if request.get("webSockets") else "tcp"
        client = mqtt.Client(request["clientId"], request.get("cleanSession", True), transport=transport)
        client.username_pw_set(request["userName"], request["password"])
        client.tls_set(request["caFile"], tls_version=ssl.PROTOCOL_TLS_CLIENT)
        if transport == "websockets":
            client.ws_set_options(path="/$iothub/websocket")
        if "will" in request:
            client.will_set(request["will"]["topic"], request["will"]["payload"], qos=1)
        client.on_connect = lambda _, __, flags, code: self.events.put(("connect", code, bool(flags["session present"])))
        client.on_disconnect = lambda _, __, code: self.events.put(("disconnect", code))
        client.on_publish = lambda _, __, mid: self.events.put(("publish", mid))
        client.on_subscribe = lambda _, __, mid, granted: self.events.put(("subscribe", list(granted)))
        client.on_message = lambda _, __, message: self.messages.put(message)
        client.reconnect_delay_set(60, 60)
        client.connect(request["host"], 443 if request.get("webSockets") else 8883, keepalive=30)
        client.loop_start()
        self.client = client

    def event(self, kind):
        """The next event, which must be of this kind or the end."""
        event = self.events.get(timeout=PATIENCE_S)
        if event[0] != kind and event[0] != "disconnect":
            return self.event(kind)
        return list(event)


def opened(request):
    device = Device(request)
    clients[request["clientId"]] = device
    return device.event("connect")


def publish(request):
    device = clients[request["clientId"]]
    payload = base64.b64decode(request["body"])
    device.client.publish(request["topic"], payload, qos=request["qos"], retain=request.get("retain", False))
    return device.event("publish")


def subscribe(request):
    device = clients[request["clientId"]]
    device.client.subscribe(request["filter"], request["qos"])
    return device.event("subscribe")


def message(request):
    found = clients[request["clientId"]].messages.get(timeout=PATIENCE_S)
    return {"topic": found.topic, "body": base64.b64encode(found.payload).decode(), "qos": found.qos}


def ended(request):
    return clients[request["clientId"]].event("disconnect")


def close(request):
    device = clients.pop(request["clientId"])
    if request.get("abruptly"):
        # No goodbye: the socket goes, the will stays.
        device.client.loop_stop()
        device.client._sock_close()
    else:
        device.client.disconnect()
        device.client.loop_stop()


serve(
    {
        "open": opened,
        "publish": publish,
        "subscribe": subscribe,
        "message": message,
        "ended": ended,
        "close": close,
    }
)

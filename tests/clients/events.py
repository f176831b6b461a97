"""A stream processor: azure-eventhub, as an application uses it.

One JSON request per line on standard input, one JSON answer per line on standard output, as in lines.js.
"""

import base64
import datetime
import json
import sys
import threading
import time

from azure.eventhub import EventHubConsumerClient, TransportType

clients = {}
readers = {}
write_lock = threading.Lock()


def plain(value):
    """A value of an event as JSON; a time as milliseconds since 1970."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime.datetime):
        return {"date": int(value.timestamp() * 1000)}
    if isinstance(value, dict):
        return {text(name): plain(inner) for name, inner in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def text(name):
    return name.decode() if isinstance(name, bytes) else str(name)


def texts(value):
    """As plain, with binary text decoded: the package hands symbols and strings of AMQP over as bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {text(name): texts(inner) for name, inner in value.items()}
    return plain(value)


def told(event):
    return {
        "body": base64.b64encode(b"".join(event.body)).decode(),
        "offset": event.offset,
        "sequence": event.sequence_number,
        "enqueuedMs": int(event.enqueued_time.timestamp() * 1000),
        "properties": texts(event.properties or {}),
        "system": texts(event.system_properties or {}),
        "messageId": texts(event.message_id),
        "correlationId": texts(event.correlation_id),
        "contentType": texts(event.content_type),
    }


class Reader:
    """Reads one partition on a thread of its own; what arrives waits to be taken."""

    def __init__(self, request):
        self.client = connect(request)
        self.events = []
        self.errors = []
        self.last = None
        start = request["from"]
        if isinstance(start, dict):
            start = datetime.datetime.fromtimestamp(start["enqueuedOn"] / 1000, datetime.timezone.utc)
        arguments = {
            "on_event": self.on_event,
            "on_error": self.on_error,
            "partition_id": request["partition"],
            "starting_position": start,
            "starting_position_inclusive": request.get("inclusive", False),
            "owner_level": request.get("ownerLevel"),
            "track_last_enqueued_event_properties": True,
        }
        self.thread = threading.Thread(target=self.client.receive, kwargs=arguments, daemon=True)
        self.thread.start()

    def on_event(self, context, event):
        self.events.append(event)
        self.last = context.last_enqueued_event_properties

    def on_error(self, _context, error):
        condition = getattr(error, "error", None)
        self.errors.append({"name": type(error).__name__, "condition": texts(condition), "message": str(error)})

    def take(self, count, wait_ms):
        deadline = time.monotonic() + wait_ms / 1000
        while len(self.events) < count and not self.errors and time.monotonic() < deadline:
            time.sleep(0.005)
        taken, self.events = self.events, []
        return {"events": [told(event) for event in taken], "last": plain(self.last), "errors": self.errors}


def connect(request):
    return EventHubConsumerClient.from_connection_string(
        request["connectionString"],
        consumer_group=request["group"],
        connection_verify=request.get("caFile"),
        retry_total=1,
        transport_type=TransportType.AmqpOverWebsocket if request.get("webSockets") else TransportType.Amqp,
    )


def hub(request):
    with connect(request) as client:
        found = client.get_eventhub_properties()
        return {
            "name": found["eventhub_name"],
            "createdMs": int(found["created_at"].timestamp() * 1000),
            "partitions": found["partition_ids"],
        }


def partition(request):
    with connect(request) as client:
        found = client.get_partition_properties(request["partition"])
        return {
            "first": found["beginning_sequence_number"],
            "last": found["last_enqueued_sequence_number"],
            "offset": found["last_enqueued_offset"],
            "empty": found["is_empty"],
        }


def subscribe(request):
    readers[request["reader"]] = Reader(request)


def take(request):
    return readers[request["reader"]].take(request["count"], request["waitMs"])


def unsubscribe(request):
    reader = readers.pop(request["reader"])
    reader.client.close()
    reader.thread.join(10)


ACTIONS = {"hub": hub, "partition": partition, "subscribe": subscribe, "take": take, "unsubscribe": unsubscribe}


def answer(request):
    try:
        line = {"id": request["id"], "ok": ACTIONS[request["do"]](request)}
    except Exception as error:  # The test decides what an error means.
        line = {"id": request["id"], "error": {"name": type(error).__name__, "message": str(error)}}
    with write_lock:
        print(json.dumps(line), flush=True)


for line in sys.stdin:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()

#!/usr/bin/env python3
"""How much memory the hub keeps per idle device: starts it, connects devices, and compares what is resident.

    python3 bench/idle/idle_memory.py target/release/corehub --count 4000 --address 127.0.0.1

Per protocol (MQTT: a persistent session with its subscription; AMQP: a session with a telemetry link and a command link) a
fresh hub on one core gets `count` identities and a few connections that come and go, so
that its buffers have their size. What is anonymous and resident (RssAnon) then is the base; what comes on top with all
devices connected and silent for five seconds, divided by their number, is the figure. The kernel's part of a socket is not in it.
Needs Python 3 alone. The limit of open files must allow two for each device.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import platform
import resource
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse

HOST = "hub.localhost"
PORTS = {"mqtt": 8883, "amqp": 5671}


def token(key, policy, resource_uri):
    expiry = int(time.time()) + 3600
    uri = urllib.parse.quote(resource_uri, safe="")
    signed = hmac.new(base64.b64decode(key), f"{uri}\n{expiry}".encode(), hashlib.sha256).digest()
    signature = urllib.parse.quote(base64.b64encode(signed), safe="")
    return f"SharedAccessSignature sr={uri}&sig={signature}&se={expiry}&skn={policy}"


def text16(text):
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def mqtt_packet(kind, body):
    length, head = len(body), bytearray([kind])
    while True:
        length, digit = divmod(length, 128)
        head.append(digit | (128 if length else 0))
        if not length:
            return bytes(head) + body


def read_exact(stream, count):
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        if not part:
            raise SystemExit("the hub hung up")
        data += part
    return data


def open_mqtt(stream, device, password):
    body = text16("MQTT") + bytes([4, 0b1100_0000]) + struct.pack(">H", 1200)
    body += text16(device) + text16(f"{HOST}/{device}/?api-version=2021-04-12") + text16(password)
    stream.sendall(mqtt_packet(0x10, body))
    answer = read_exact(stream, 4)
    if answer[3] != 0:
        raise SystemExit(f"CONNACK {answer.hex()}")
    filter_ = text16(f"devices/{device}/messages/devicebound/#")
    stream.sendall(mqtt_packet(0x82, b"\x00\x01" + filter_ + b"\x01"))
    answer = read_exact(stream, 5)
    if answer != b"\x90\x03\x00\x01\x01":
        raise SystemExit(f"SUBACK {answer.hex()}")


def amqp_string(text):
    data = text.encode()
    return b"\xb1" + struct.pack(">I", len(data)) + data


def amqp_symbol(text):
    data = text.encode()
    return b"\xa3" + bytes([len(data)]) + data


def amqp_binary(data):
    return b"\xb0" + struct.pack(">I", len(data)) + data


def amqp_uint(number):
    return b"\x70" + struct.pack(">I", number)


def amqp_list(code, fields):
    body = b"".join(fields)
    return b"\x00\x53" + bytes([code]) + b"\xd0" + struct.pack(">II", len(body) + 4, len(fields)) + body


def amqp_frame(body, kind=0):
    return struct.pack(">IBBH", len(body) + 8, 2, kind, 0) + body


def amqp_read(stream, code):
    """Frames until one with this performative."""
    while True:
        size, offset, _, _ = struct.unpack(">IBBH", read_exact(stream, 8))
        body = read_exact(stream, size - 8)[4 * offset - 8 :]
        if body[2] == code:
            return body
        if body[2] in (0x16, 0x17, 0x18):
            raise SystemExit(f"the hub refuses: {body!r}")


NULL, TRUE, FALSE = b"\x40", b"\x41", b"\x42"


def open_amqp(stream, device, password):
    stream.sendall(b"AMQP\x03\x01\x00\x00")
    read_exact(stream, 8)
    amqp_read(stream, 0x40)
    response = f"\0{device}@sas.{HOST.split('.')[0]}\0{password}".encode()
    init = amqp_list(0x41, [amqp_symbol("PLAIN"), amqp_binary(response)])
    stream.sendall(amqp_frame(init, 1))
    outcome = amqp_read(stream, 0x44)
    if b"\x50\x00" not in outcome:
        raise SystemExit(f"SASL {outcome!r}")
    stream.sendall(b"AMQP\x00\x01\x00\x00")
    read_exact(stream, 8)
    stream.sendall(amqp_frame(amqp_list(0x10, [amqp_string("idle"), amqp_string(HOST)])))
    amqp_read(stream, 0x10)
    windows = [NULL, amqp_uint(0), amqp_uint(2048), amqp_uint(2048), amqp_uint(255)]
    stream.sendall(amqp_frame(amqp_list(0x11, windows)))
    amqp_read(stream, 0x11)
    terminus = lambda code, address: amqp_list(code, [amqp_string(address) if address else NULL])
    events = terminus(0x28, "/"), terminus(0x29, f"/devices/{device}/messages/events")
    commands = terminus(0x28, f"/devices/{device}/messages/devicebound"), terminus(0x29, "/")
    # A sender for telemetry, a receiver for commands, with credit.
    for handle, (is_receiver, (source, target)) in enumerate([(FALSE, events), (TRUE, commands)]):
        fields = [amqp_string(f"link-{handle}"), amqp_uint(handle), is_receiver, NULL, NULL, source, target]
        if is_receiver == FALSE:
            fields += [NULL, NULL, amqp_uint(0)]
        stream.sendall(amqp_frame(amqp_list(0x12, fields)))
        amqp_read(stream, 0x12)
    flow = [amqp_uint(0), amqp_uint(2048), amqp_uint(0), amqp_uint(2048), amqp_uint(1), amqp_uint(0), amqp_uint(10)]
    stream.sendall(amqp_frame(amqp_list(0x13, flow)))


OPENERS = {"mqtt": open_mqtt, "amqp": open_amqp}


def connect(address, protocol, context, device, key):
    plain = socket.create_connection((address, PORTS[protocol]))
    stream = context.wrap_socket(plain, server_hostname=HOST)
    OPENERS[protocol](stream, device, token(key, "device", f"{HOST}/devices/{device}"))
    return stream


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))


def measure(program, address, protocol, count, keep):
    with tempfile.TemporaryDirectory(dir=keep) as data:
        flags = ["--data", data, "--host", HOST, "--host", address, "--bind", address, "--cores", "1", "--partitions", "4"]
        flags += ["--https-port", "8443", "--log", "warn"]
        hub = subprocess.Popen([program, "serve", *flags], stdout=subprocess.PIPE, text=True)
        try:
            if not hub.stdout.readline().startswith("ready"):
                raise SystemExit("the hub does not start")
            command = lambda *words: subprocess.run([program, *words, "--data", data], check=True, capture_output=True, text=True)
            devices = [f"device-{number:06}" for number in range(count)]
            for start in range(0, count, 500):
                command("device", "create", *devices[start : start + 500])
            key = command("connection-string", "--policy", "device").stdout.strip().split("SharedAccessKey=")[1]
            context = ssl.create_default_context(cafile=f"{data}/tls/ca.pem")
            for stream in [connect(address, protocol, context, device, key) for device in devices[:20]]:
                stream.close()
            time.sleep(3)
            base = resident(hub.pid)
            streams = [connect(address, protocol, context, device, key) for device in devices]
            for stream in streams:
                # What else the hub has to say, session tickets for one, is taken.
                stream.setblocking(False)
            time.sleep(5)
            on_top = resident(hub.pid) - base
            version = streams[0].version()
            for stream in streams:
                stream.close()
        finally:
            hub.terminate()
            hub.wait(30)
    return {"protocol": protocol, "tls": version, "connections": count, "base_bytes": base,
            "bytes_per_connection": round(on_top / count)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--protocol", action="append", choices=OPENERS)
    parser.add_argument("--directory", help="where the hubs' data goes for the time of the run")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps({"kernel": platform.release(), "machine": platform.machine(), "processors": os.cpu_count()}))
    for protocol in options.protocol or OPENERS:
        result = measure(options.program, options.address, protocol, options.count, options.directory)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    sys.exit(main())

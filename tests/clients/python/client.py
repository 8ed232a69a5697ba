"""Registers a service, finds another one, and calls it through the mesh: with py-consul, as against Consul itself.

python client.py NAME ADDRESS PORT PEER
"""

import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import consul

name, address, port, peer = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
registry = consul.Consul(host="127.0.0.1", port=15000)
leaving = threading.Event()


def say(*words):
    print(*words, flush=True)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"this is {name}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve():
    ThreadingHTTPServer((address, port), Handler).serve_forever()


def register():
    check = {"CheckID": f"service:{name}-1", "TTL": "5s", "DeregisterCriticalServiceAfter": "1m"}
    registry.agent.service.register(
        name, service_id=f"{name}-1", address=address, port=port, tags=["example"], meta={"language": "python"}, check=check
    )
    say("registered", f"{name}-1")


def beat():
    """Says that all is well, also while the registry is away for a moment; registers anew should it have forgotten."""
    while True:
        try:
            is_known = registry.agent.check.ttl_pass(f"service:{name}-1", "all is well")
            if not is_known and not leaving.is_set():
                register()
        except (consul.ConsulException, OSError) as error:
            say("registry:", type(error).__name__)
        time.sleep(1)


def find():
    """Waits until the peer is well; a blocking query answers as soon as that changes."""
    index = None
    while True:
        try:
            index, found = registry.health.service(peer, passing=True, index=index, wait="5s")
        except (consul.ConsulException, OSError) as error:
            say("registry:", type(error).__name__)
            time.sleep(1)
            continue
        if found:
            virtual = found[0]["Service"]["TaggedAddresses"]["virtual"]
            say("found", found[0]["Service"]["ID"])
            return f"http://{virtual['Address']}:{virtual['Port']}/"


def leave(*_):
    leaving.set()
    registry.agent.service.deregister(f"{name}-1")
    say("deregistered")
    sys.exit(0)


signal.signal(signal.SIGTERM, leave)
threading.Thread(target=serve, daemon=True).start()
register()
threading.Thread(target=beat, daemon=True).start()
url = find()
while True:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            say("answer:", answer.read().decode())
    except OSError as error:
        say("call failed:", error)
    time.sleep(0.2)

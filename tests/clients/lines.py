"""The conversation with a test: one JSON request per line on standard input, one JSON answer per line on standard output.

As in lines.js: a request is {"id": n, "do": "name", ...}; the answer {"id": n, "ok": value} or {"id": n, "error": {...}}.
"""

import json
import sys


def serve(actions):
    """Serve requests with the functions of `actions`, one by one, until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"id": request["id"], "ok": actions[request["do"]](request)}
        except Exception as error:  # whatever a package throws is the answer
            text = str(error) or repr(error)
            answer = {"id": request["id"], "error": {"name": type(error).__name__, "message": text}}
        print(json.dumps(answer), flush=True)

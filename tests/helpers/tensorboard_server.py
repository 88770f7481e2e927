"""TensorBoard itself, asked over HTTP what it shows."""

import contextlib
import json
import threading
import urllib.parse
import urllib.request

from tensorboard import program


@contextlib.contextmanager
def serving(folder):
    """Gives a function that returns TensorBoard's answer, as bytes, to a path and its query."""
    board = program.TensorBoard()
    # It has read the folder before it answers.
    board.configure(
        argv=[
            "tensorboard",
            f"--logdir={folder}",
            "--port=0",
            "--host=127.0.0.1",
            "--load_fast=false",
            "--reload_interval=0",
            "--reload_task=blocking",
        ]
    )
    server = board._make_server()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)

    def ask(path, body=None, **query):
        url = urllib.parse.urljoin(server.get_url(), f"data/{path}")
        if query:
            url += "?" + urllib.parse.urlencode(query)
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with opener.open(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return answer.read()

    thread.start()
    try:
        yield ask
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

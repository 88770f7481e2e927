"""Time and memory of the rendezvous server while many workers register and then stay connected.

python -m benchmarks.rendezvous_gather --workers=1000,4000 --output=runs/rendezvous_gather.csv

The server is the one of worker 0, in a separate process; the workers are coroutines of another
one, which prove that they know the secret, register, report that they are ready and send
heartbeats for ten seconds. The rate of connections is that of strangers who connect, say something
and leave, one after the other.
"""

import argparse
import asyncio
import csv
import json
import multiprocessing
import os
import resource
import socket
import time

from tf_lars.cluster import messages, secret
from tf_lars.cluster.rendezvous_server import BEAT_SECONDS, RendezvousServer
from tf_lars.cluster.spec import Cluster
from tf_lars.cluster.supervisor import free_ports

FACTS = {f"--flag_{i}": "a value of usual length" for i in range(100)}
BEATING_SECONDS = 10.0
STRANGERS = 2000


def serve(workers: int, port: int, key: secret.Secret, pipe) -> None:
    """Runs the server until all workers have left, and sends its CPU time and memory."""
    cluster = Cluster((f"127.0.0.1:{port}", *[""] * (workers - 1)), 0, "the benchmark")
    listener = messages.bound("127.0.0.1", port)
    server = RendezvousServer(cluster, listener, timeout=600, secret=key)
    server.start()
    pipe.send("ready")
    server.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))


async def worker(rank: int, workers: int, port: int, key: bytes, turn) -> float:
    """Does what a worker does; returns the time at which the job may begin."""
    async with turn:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)

        def send(message):
            writer.write(messages.encoded(message))

        greeting, own = json.loads(await reader.readline()), secret.new_challenge()
        answer = secret.answer(key, "worker", greeting["challenge"], own)
        send({"answer": answer, "challenge": own})
        proof = json.loads(await reader.readline())
        assert secret.is_answer(proof["answer"], key, "server", own, greeting["challenge"])
        hello = {"rank": rank, "num_workers": workers, "host": "127.0.0.1", "port": 1024 + rank}
        send({"hello": hello | {"facts": FACTS}})
    peers = json.loads(await reader.readline())["peers"]
    assert len(peers) == workers
    send({"ready": None})
    assert json.loads(await reader.readline()) == {"go": True}
    begin = time.perf_counter()
    send({"joined": True})
    while time.perf_counter() < begin + BEATING_SECONDS:
        send({"alive": True})
        await asyncio.sleep(BEAT_SECONDS)
    send({"bye": True})
    while line := await reader.readline():
        assert "end" not in json.loads(line), line
    writer.close()
    return begin


async def gather(workers: int, port: int, key: bytes) -> float:
    """Runs all workers; returns the seconds until the last may begin."""
    turn = asyncio.Semaphore(200)  # as many start at the same moment
    begin = time.perf_counter()
    ranks = range(workers)
    return max(await asyncio.gather(*(worker(r, workers, port, key, turn) for r in ranks))) - begin


def strangers(port: int) -> float:
    """Returns the connections per second of strangers."""
    begin = time.perf_counter()
    for _ in range(STRANGERS):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.recv(1000)
            connection.sendall(b'{"answer": "x", "challenge": "y"}\n')
    return STRANGERS / (time.perf_counter() - begin)


def measure(workers: int) -> dict[str, float]:
    """Returns the measurements of a gather."""
    (port,) = free_ports(1)
    key = secret.create(None, {secret.VARIABLE: "of the benchmark"})
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(workers, port, key, there))
    process.start()
    here.recv()
    rate = strangers(port)
    seconds = asyncio.run(gather(workers, port, key.key))
    cpu, memory = here.recv()
    process.join()
    return {
        "workers": workers,
        "gather_seconds": round(seconds, 2),
        "server_cpu_seconds": round(cpu, 2),
        "server_mebibytes": round(memory),
        "strangers_per_second": round(rate),
    }


def main() -> None:
    """Measures each number of workers, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1000,4000")
    parser.add_argument("--output")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows = [measure(int(count)) for count in arguments.workers.split(",")]
    for row in rows:
        print(", ".join(f"{name} {value:,}" for name, value in row.items()))
    if arguments.output:
        os.makedirs(os.path.dirname(arguments.output) or ".", exist_ok=True)
        with open(arguments.output, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

"""Load on the HTTP service over loopback, through a reload and a stop: latency, errors, memory.

    python benchmarks/serving.py --model=saved/RUN --clients=20 --seconds=300 --out=results/serving
    python benchmarks/serving.py --model=packed --starts=5 --name=start --out=results/serving

Each client sends one request after another on a connection of its own: histories of 1 to 100
items of the catalogue, k = 10. The service is `recbole-lite serve` in a process of its own (with
--workers: in several). At half of the time it gets SIGHUP and loads the model again; at the end it
gets SIGTERM while the clients go on until they are told to close. Every answer other than 200 with
ten items, and every request without an answer, is an error; of requests that begin after SIGTERM,
those that are not accepted are counted apart. Memory is the proportional set size (PSS) of all
processes, every five seconds. With --starts the service is started so many times instead: seconds
until /health answers, and memory then and after 200 requests.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from shared import parser_of, write
from tabulate import tabulate

from recbole_lite.inference.catalogue import Catalogue


def main() -> None:
    parser = parser_of(__doc__, data=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--starts", type=int, default=0, help="measure starts, and no load")
    parser.add_argument("--name", default="load", help="stem of the files in --out")
    parser.add_argument("--out", type=Path, help="folder for <name>.json and <name>.md")
    args = parser.parse_args()
    if args.clients < 1 or args.seconds <= 0:
        parser.error("--clients and --seconds must be more than 0")
    if args.starts:
        report = starts(args)
    else:
        with service(args.model, args.workers) as (address, process):
            report = load(address, process, args)
    rows = [[key, value] for key, value in report.items() if not isinstance(value, (list, dict))]
    text = tabulate(rows, ["load", ""], tablefmt="github", floatfmt=",.1f", intfmt=",")
    write(args.out and args.out / f"{args.name}.json", report, text)


@contextmanager
def service(model: str, workers: int = 1) -> Iterator[tuple[str, psutil.Process]]:
    """A service of a model in a process of its own, and its address."""
    command = [sys.executable, "-m", "recbole_lite", "serve", f"--model={model}", "--port=0"]
    command.append(f"--workers={workers}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()  # http://ADDRESS/ ...
            if not line:
                sys.exit("the service did not start")
            yield line.split("/")[2], psutil.Process(server.pid)
        finally:
            server.terminate()


def starts(args) -> dict:
    """Medians over several starts; the first one, which may make the graph, does not count."""
    ids = Catalogue.load(Path(args.model, "items.jsonl")).ids[1:]
    found = []
    for _ in range(args.starts + 1):
        started = time.perf_counter()
        with service(args.model, args.workers) as (address, process):
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.request("GET", "/health")
            connection.getresponse().read()
            ready, idle = time.perf_counter() - started, _memory(process)
            for number in range(200):
                body = json.dumps({"history": ids[: 1 + number % 40], "k": 10})
                connection.request("POST", "/recommend", body, {"content-type": "application/json"})
                if connection.getresponse().read() and number == 199:
                    found.append((ready, idle, _memory(process)))
    ready, idle, used = np.median(found[1:], axis=0)
    return {
        "starts": args.starts,
        "seconds until ready": float(ready),
        "memory MiB, ready": float(idle),
        "memory MiB, after 200 requests": float(used),
    }


def load(address: str, server: psutil.Process, args) -> dict:
    ids = Catalogue.load(Path(args.model, "items.jsonl")).ids[1:]
    latencies: list[list[float]] = [[] for _ in range(args.clients)]
    errors: list[str] = []
    refused: list[str] = []
    stopped = threading.Event()

    def client(number: int) -> None:
        draw = random.Random(number)
        connection = http.client.HTTPConnection(address, timeout=60)
        closes = False
        while not closes:
            history = draw.choices(ids, k=draw.randint(1, 100))
            body = json.dumps({"history": history, "k": 10})
            late, started = stopped.is_set(), time.perf_counter()
            try:
                connection.request("POST", "/recommend", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                found = json.loads(answer.read())
                closes = answer.getheader("connection") == "close"
                if answer.status != 200 or len(found["recommendations"]) != 10:
                    errors.append(f"{answer.status}: {found}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                (refused if late else errors).append(repr(error))
                connection.close()
                closes = stopped.is_set()
            latencies[number].append(time.perf_counter() - started)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(args.clients)]
    cpu, begin = _cpu(server), time.monotonic()
    for thread in threads:
        thread.start()
    memory, reloaded = [], False
    while (passed := time.monotonic() - begin) < args.seconds:
        memory.append(_memory(server))
        if not reloaded and passed >= args.seconds / 2:
            reloaded = True
            server.send_signal(signal.SIGHUP)
        time.sleep(min(5.0, args.seconds / 10))
    used, reloads = _cpu(server) - cpu, _reloads(address)
    stopped.set()
    asked_to_stop = time.monotonic()
    server.terminate()
    status = server.wait(60)
    ended = time.monotonic() - asked_to_stop
    for thread in threads:
        thread.join()
    all_of_them = 1000 * np.array([value for row in latencies for value in row])
    quarter = max(1, len(memory) // 4)
    return {
        "clients": args.clients,
        "workers": args.workers,
        "seconds": args.seconds,
        "requests": len(all_of_them),
        "errors": len(errors),
        "first errors": errors[:3],
        "not accepted after SIGTERM": len(refused),
        "reloads": reloads,
        "seconds from SIGTERM to the end": ended,
        "exit status": status,
        "requests / s": len(all_of_them) / args.seconds,
        "p50 ms": float(np.percentile(all_of_them, 50)),
        "p95 ms": float(np.percentile(all_of_them, 95)),
        "p99 ms": float(np.percentile(all_of_them, 99)),
        "most ms": float(all_of_them.max()),
        "server's cpu ms / request": 1000 * used / max(1, len(all_of_them)),
        "memory MiB, after the first quarter": memory[quarter],
        "memory MiB, at the end": memory[-1],
        "memory MiB, most": max(memory),
        "memory MiB": memory,
    }


def _tree(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def _memory(server: psutil.Process) -> float:
    return sum(process.memory_full_info().pss for process in _tree(server)) / 2**20


def _cpu(server: psutil.Process) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _tree(server))


def _reloads(address: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    found = re.findall(r'reloads_total{outcome="ok"} (\S+)', text)
    return int(float(found[0])) if found else 0


if __name__ == "__main__":
    main()

"""Through HTTP: time to first token and tokens per second with 1, 8 and 32 clients.

Mohist's server and llama.cpp's, each a process of its own with the same file, and Mohist's engine without a
server. Every client streams one completion of a text that no cache knows. Clients read sockets and nothing
more until all have ended: they share the processor with what they measure.
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx2

from bench.machine import Ticks
from bench.measure import Goal, Run, Series, alternate, ratio_goal
from bench.report import Report, number, table
from bench.work import fresh_tokens

__all__ = ["REPEATS", "run"]

REPEATS = 3
CLIENTS = (1, 8, 32)
PROMPT_TOKENS, NEW_TOKENS = 32, 96
START_S = 120
OURS, THEIRS, BARE = "Mohist's server", "llama.cpp's server", "Mohist's engine"


class Answered(NamedTuple):
    """What one client saw."""

    first_s: float
    """From the request to the first token."""
    tokens: int


def run(files: dict[str, str], threads: int, repeats: int) -> Report:
    """All three with every number of clients; Mohist twice as often, for a ratio that is near its goal."""
    firsts: dict[str, list[float]] = {}
    with ExitStack() as stack:
        url, process = stack.enter_context(mohist_server(files["q4_1"], threads))
        their_url, their_process = stack.enter_context(llama_server(files["q4_1"], threads))
        pids = (process.pid, their_process.pid)
        texts = Texts(files["q4_1"], threads)
        ours: dict[str, Run] = {}
        theirs: dict[str, Run] = {}
        for clients in CLIENTS:
            for runs, name, where in ((ours, OURS, url), (theirs, THEIRS, their_url)):
                label = label_of(name, clients)
                runs[label] = partial(rate, where, texts, clients, firsts.setdefault(label, []))
            ours[label_of(BARE, clients)] = partial(texts.engine_rate, clients)
        # Server and engine are close and soon done; of llama.cpp's, a round takes a minute.
        series = alternate(ours, 2 * repeats, lambda: Ticks.now(*pids), tries=2)
        series |= alternate(theirs, repeats, lambda: Ticks.now(*pids), tries=1)
    return Report(
        title=f"Through HTTP, {threads} thread{'s' * (threads > 1)}",
        tables=[speeds(series, firsts)],
        goals=goals(series),
        notes=[
            f"SmolLM2 Q4_1. Every client streams {NEW_TOKENS} greedy tokens after a prompt of "
            f"{PROMPT_TOKENS}; tokens per second are those of all clients, prompts included in the time.",
            "llama.cpp's server is that of llama-cpp-python, which answers one request after the other. "
            'Mohist guesses no tokens (`speculate = "off"`): how many come true differs from text to text.',
        ],
        data={**series, "first_token_s": firsts},
    )


def label_of(name: str, clients: int) -> str:
    return f"{name}, {clients} client{'s' * (clients > 1)}"


def goals(series: dict[str, Series]) -> list[Goal]:
    """HTTP costs little, and batching pays."""
    found = []
    for clients in CLIENTS:
        ours = series[label_of(OURS, clients)]
        bare, theirs = series[label_of(BARE, clients)], series[label_of(THEIRS, clients)]
        found.append(ratio_goal(f"{label_of(OURS, clients)} / engine", ours, bare, 0.9))
        some = Series(ours.name, ours.values[: len(theirs.values)])
        found.append(ratio_goal(f"{label_of(OURS, clients)} / llama.cpp's", some, theirs, 1.0))
    return found


def speeds(series: dict[str, Series], firsts: dict[str, list[float]]) -> str:
    rows = []
    for name, one in series.items():
        seen = firsts.get(name, [])
        median = f"{statistics.median(seen) * 1000:,.0f}" if seen else ""
        worst = f"{max(seen) * 1000:,.0f}" if seen else ""
        low, high = one.spread
        rows.append([name, number(one.median), f"{number(low)} - {number(high)}", median, worst])
    return table(["", "new tokens/s", "from - to", "first token, ms", "at most, ms"], rows)


def rate(url: str, texts: Texts, clients: int, firsts: list[float], seed: int) -> float:
    """New tokens per second of all clients together."""
    prompts = texts.prompts(clients, seed)
    start = time.perf_counter()
    answers = streamed(url, prompts)
    seconds = time.perf_counter() - start
    firsts += [answer.first_s for answer in answers]
    return sum(answer.tokens for answer in answers) / seconds


def streamed(url: str, prompts: list[str]) -> list[Answered]:
    """Every prompt from a client of its own, all at once."""
    selector, start = selectors.DefaultSelector(), time.perf_counter()
    received = [bytearray() for _ in prompts]
    first_s = [0.0] * len(prompts)
    for i, prompt in enumerate(prompts):
        selector.register(asked(url, prompt), selectors.EVENT_READ, i)
    while selector.get_map():
        for key, _ in selector.select():
            connection, i = key.fileobj, key.data
            assert isinstance(connection, socket.socket)
            data = connection.recv(1 << 16)
            received[i] += data
            if not data:
                selector.unregister(connection)
                connection.close()
            elif not first_s[i] and b"data: {" in received[i]:
                first_s[i] = time.perf_counter() - start
    selector.close()
    return [Answered(first, tokens_of(bytes(text))) for first, text in zip(first_s, received, strict=True)]


def asked(url: str, prompt: str) -> socket.socket:
    """A connection that asked for a completion. HTTP/1.0 sends the body as it is, to the end."""
    where = urlsplit(url)
    body = {"model": "default", "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "stream": True}
    content = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.0\r\n"
        f"host: {where.netloc}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection((where.hostname, where.port))
    connection.sendall(head.encode() + content)
    return connection


def tokens_of(response: bytes) -> int:
    """How many tokens were streamed."""
    status, _, body = response.partition(b"\r\n")
    if b" 200 " not in status:
        raise SystemExit(f"bench: the server answered {response.decode(errors='replace')}")
    lines = [line for line in body.splitlines() if line.startswith(b"data: {")]
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines]
    usage = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]
    # llama.cpp's server sends a chunk a token and no usage.
    return usage[-1] if usage else sum(bool(chunk["choices"][0]["text"]) for chunk in chunks)


class Texts:
    """The prompts, and the engine without a server."""

    def __init__(self, path: str, threads: int) -> None:
        from mohist.llm import LLM

        self._llm = LLM.load(path, threads=threads)

    def prompts(self, count: int, seed: int) -> list[str]:
        """Texts of about PROMPT_TOKENS tokens."""
        decode = self._llm.chat.tokenizer.decode
        return [decode(fresh_tokens(PROMPT_TOKENS, 1000 * seed + i)) for i in range(count)]

    def engine_rate(self, clients: int, seed: int) -> float:
        """New tokens per second of the engine alone, asked for the same."""
        prompts = [self._llm.encode(text) for text in self.prompts(clients, seed)]
        params = self._llm.defaults.replace(temperature=0.0, max_tokens=NEW_TOKENS)
        start = time.perf_counter()
        answers, _ = self._llm.generate(prompts, params, raw=True)
        seconds = time.perf_counter() - start
        return sum(len(answer.completion.tokens) for answer in answers) / seconds


@contextmanager
def mohist_server(path: str, threads: int) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """`mohist serve` with one model."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "serve.toml"
        config.write_text(f'[[models]]\nsource = "{path}"\nthreads = {threads}\nspeculate = "off"\n')
        command = ["-m", "mohist", "serve", "--config", str(config), "--data", folder]
        with started(lambda port: [*command, "--server.port", str(port)], "/health/live") as server:
            yield server


@contextmanager
def llama_server(path: str, threads: int) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """llama-cpp-python's server; without `interrupt_requests` a new request does not end the running one."""
    options = ["--n_threads", str(threads), "--n_threads_batch", str(threads), "--n_ctx", "2048"]
    command = ["-m", "llama_cpp.server", "--model", path, *options, "--interrupt_requests", "false"]
    with started(lambda port: [*command, "--port", str(port)], "/v1/models") as server:
        yield server


@contextmanager
def started(command: Callable[[int], list[str]], path: str) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """A server on a free port, once it answers at `path`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *command(port)], stdout=log, stderr=log)
        try:
            end_s = time.monotonic() + START_S
            while not answers(url + path):
                if process.poll() is not None or time.monotonic() > end_s:
                    log.seek(0)
                    raise SystemExit(f"bench: no server:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield url, process
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False

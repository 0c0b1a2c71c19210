"""Through HTTP: time to first token and tokens per second with 1, 8 and 32 clients.

Mohist's server and llama.cpp's, each a process of its own with the same file, and Mohist's engine without a
server. Every client streams one completion of a text that no cache knows.
"""

from __future__ import annotations

import asyncio
import json
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
from typing import Any, NamedTuple

import httpx2

from bench.machine import Ticks
from bench.measure import Goal, Run, Series, alternate, ratio_goal
from bench.report import Report, number, table
from bench.work import fresh_tokens

__all__ = ["REPEATS", "run"]

REPEATS = 3
CLIENTS = (1, 8, 32)
PROMPT_TOKENS, NEW_TOKENS = 32, 48
START_S = 120
OURS, THEIRS, BARE = "Mohist's server", "llama.cpp's server", "Mohist's engine"


class Answered(NamedTuple):
    """What one client saw."""

    first_s: float
    """From the request to the first token."""
    tokens: int


def run(files: dict[str, str], threads: int, repeats: int) -> Report:
    """All three with every number of clients."""
    firsts: dict[str, list[float]] = {}
    with ExitStack() as stack:
        url, process = stack.enter_context(mohist_server(files["q4_1"], threads))
        their_url, their_process = stack.enter_context(llama_server(files["q4_1"], threads))
        pids = (process.pid, their_process.pid)
        texts = Texts(files["q4_1"], threads)
        runs: dict[str, Run] = {}
        for clients in CLIENTS:
            for name, work in ((OURS, partial(streamed, url)), (THEIRS, partial(streamed, their_url))):
                label = label_of(name, clients)
                runs[label] = partial(rate, work, texts, clients, firsts.setdefault(label, []))
            runs[label_of(BARE, clients)] = partial(texts.engine_rate, clients)
        series = alternate(runs, repeats, lambda: Ticks.now(*pids), tries=2)
    return Report(
        title=f"Through HTTP, {threads} thread{'s' * (threads > 1)}",
        tables=[speeds(series, firsts)],
        goals=goals(series),
        notes=[
            f"SmolLM2 Q4_1. Every client streams {NEW_TOKENS} greedy tokens after a prompt of "
            f"{PROMPT_TOKENS}; tokens per second are those of all clients, prompts included in the time.",
            "llama.cpp's server is that of llama-cpp-python, which answers one request after the other.",
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
        found.append(ratio_goal(f"{label_of(OURS, clients)} / llama.cpp's", ours, theirs, 1.0))
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


def rate(
    work: Callable[[list[str]], Any], texts: Texts, clients: int, firsts: list[float], seed: int
) -> float:
    """New tokens per second of all clients together."""
    prompts = texts.prompts(clients, seed)
    start = time.perf_counter()
    answers: list[Answered] = asyncio.run(work(prompts))
    seconds = time.perf_counter() - start
    firsts += [answer.first_s for answer in answers]
    return sum(answer.tokens for answer in answers) / seconds


async def streamed(url: str, prompts: list[str]) -> list[Answered]:
    """Every prompt from a client of its own, all at once."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        return list(await asyncio.gather(*(one_stream(client, prompt) for prompt in prompts)))


async def one_stream(client: httpx2.AsyncClient, prompt: str) -> Answered:
    body = {"model": "default", "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "stream": True}
    start = time.perf_counter()
    first_s, chunks, tokens = 0.0, 0, 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            first_s = first_s or time.perf_counter() - start
            chunks += bool(chunk["choices"][0]["text"])
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    # llama.cpp's server sends a chunk a token and no usage.
    return Answered(first_s, tokens or chunks)


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
        config.write_text(f'[[models]]\nsource = "{path}"\nthreads = {threads}\n')
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

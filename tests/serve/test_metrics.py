from __future__ import annotations

from dataclasses import replace

from mohist.engine.engine import Engine
from mohist.serve.answer import Usage
from mohist.serve.metrics import Metrics
from tests.engine.fake_runner import FakeRunner

IDLE = Engine(FakeRunner(num_blocks=16, block_size=4)).stats()
STATS = replace(IDLE, running=3, waiting=5, blocks_used=4, preemptions=2)


def samples(metrics: Metrics) -> dict[str, float]:
    lines = metrics.text().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")
    }


def test_the_customary_names() -> None:
    metrics = Metrics(lambda: {"m": STATS})
    metrics.first_token("m", 0.3)
    for seconds in (0.02, 0.03):
        metrics.next_token("m", seconds)
    metrics.finished(
        "m", "stop", Usage(prompt_tokens=100, cached_tokens=64, completion_tokens=3), seconds=1.5
    )
    metrics.refused(429)
    found = samples(metrics)
    expected = {
        'mohist:num_requests_running{model="m"}': 3,
        'mohist:num_requests_waiting{model="m"}': 5,
        'mohist:kv_cache_usage_perc{model="m"}': 0.25,
        'mohist:num_preemptions_total{model="m"}': 2,
        'mohist:prefix_cache_queries_total{model="m"}': 100,
        'mohist:prefix_cache_hits_total{model="m"}': 64,
        'mohist:prompt_tokens_total{model="m"}': 100,
        'mohist:generation_tokens_total{model="m"}': 3,
        'mohist:request_success_total{finished_reason="stop",model="m"}': 1,
        'mohist:time_to_first_token_seconds_count{model="m"}': 1,
        'mohist:time_to_first_token_seconds_bucket{le="0.25",model="m"}': 0,
        'mohist:time_to_first_token_seconds_bucket{le="0.5",model="m"}': 1,
        'mohist:inter_token_latency_seconds_count{model="m"}': 2,
        'mohist:inter_token_latency_seconds_sum{model="m"}': 0.05,
        'mohist:e2e_request_latency_seconds_sum{model="m"}': 1.5,
        'mohist:requests_refused_total{code="429"}': 1,
    }
    assert {name: found[name] for name in expected} == expected


def test_two_servers_in_one_process_count_apart() -> None:
    first, second = Metrics(dict), Metrics(dict)
    first.finished("m", "stop", Usage(prompt_tokens=1), seconds=1)
    assert 'mohist:prompt_tokens_total{model="m"}' not in samples(second)

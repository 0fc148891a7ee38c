"""Decoding: a task and a page of a hundred, with the decoder of each contender."""

import json
import time
import uuid
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from affinity.models.secondary import MergeTask as SdkTask

import aiotasks
from benchmarks.cpu import PAGE, Page
from benchmarks.figures import median


ROUNDS = 9
ROUND = 0.05

Decode = Callable[[bytes], object]


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Measure microseconds for each body and decoder."""
    rounds = 3 if quick else ROUNDS
    task = json.dumps(_task(1)).encode()
    page = json.dumps({"data": [_task(n) for n in range(PAGE)], "pagination": {}}).encode()
    return {"task": _compare(task, _TASK, rounds), "page": _compare(page, _PAGE, rounds)}


def _task(number: int) -> dict[str, Any]:
    task_id = uuid.UUID(int=Random(number).getrandbits(128), version=4)  # noqa: S311
    summary = {"total": 1, "inProgress": 1, "success": 0, "failed": 0}
    return {"id": str(task_id), "status": "in-progress", "resultsSummary": summary}


def _sdk_task(body: bytes) -> object:
    return SdkTask.model_validate(json.loads(body))


def _sdk_page(body: bytes) -> object:
    return [SdkTask.model_validate(item) for item in json.loads(body)["data"]]


_TASK: dict[str, Decode] = {
    "msgspec, typed (aiotasks)": msgspec.json.Decoder(aiotasks.MergeTask).decode,
    "json, untyped": json.loads,
    "json + pydantic (affinity-sdk)": _sdk_task,
}
_PAGE: dict[str, Decode] = {
    "msgspec, typed (aiotasks)": msgspec.json.Decoder(Page).decode,
    "json, untyped": json.loads,
    "json + pydantic (affinity-sdk)": _sdk_page,
}


def _compare(body: bytes, decoders: dict[str, Decode], rounds: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decode in decoders.items():
            taken[name].append(_microseconds(decode, body))
    ours = median(next(iter(taken.values())))
    return {
        "unit": "microseconds",
        "bytes": len(body),
        "rounds": rounds,
        "decoders": {
            name: {
                "median": round(median(numbers), 3),
                "to_ours": round(median(numbers) / ours, 2),
            }
            for name, numbers in taken.items()
        },
    }


def _microseconds(decode: Decode, body: bytes) -> float:
    count = 0
    started = time.process_time()
    while (spent := time.process_time() - started) < ROUND:
        for _ in range(50):
            _ = decode(body)
        count += 50
    return spent / count * 1e6

"""Kills front ends and the device process at random under load, and checks each answer against its own image.

    python -m loadtests.faults.kills [--requests 50000] [--front-ends 2] [--seed 0]

A server with `LYNCEUS_ENGINE=process`. Clients ask with images whose answers differ. Meanwhile a process is
killed (SIGKILL), again and again as soon as the server is whole: a front end, the device process, or both.
Exits 1 where an answer is another image's, a request gets nothing in time, a slot is not given back, or
anything is left behind.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

from loadtests import command
from loadtests.faults.site import Site
from loadtests.server import exit_on_sigterm

DEADLINE: Final = 6.0
"""Seconds that the server gives a request."""

HUNG: Final = 10.0
"""Seconds until a client gives up."""

APART: Final = 0.05
SAME: Final = 0.005
"""How far the scores of two images differ at least, and those of one image in two answers at most."""

SHM: Final = Path("/dev/shm")  # noqa: S108

Scores = NDArray[np.float64]


def is_mapped(path: str) -> bool:
    """Whether a process has the file mapped: then it is of another program that runs beside this one."""
    with contextlib.suppress(OSError):  # it has gone
        found = Path(path).stat()
        file = f" {os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x} {found.st_ino} "
        for maps in Path("/proc").glob("[0-9]*/maps"):
            with contextlib.suppress(OSError):  # it has ended
                if file in maps.read_text():  # by its name not: that of a semaphore is a later one
                    return True
    return False


class Asking:
    """Clients with kept connections, each with one request under way.

    Args:
        site: the server; ready.
        images: encoded.
        seed: of the order.

    Attributes:
        counts: requests by outcome; an error of the server by its code.
    """

    def __init__(self, site: Site, images: list[bytes], seed: int) -> None:
        self._site, self._seed = site, seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._known: list[tuple[bytes, Scores]] = []
        connection = http.client.HTTPConnection(site.address, timeout=HUNG)
        for image in images:
            scores = _scores(_post(connection, image)[1])
            if all(np.abs(scores - other).max() > APART for _, other in self._known):
                self._known.append((image, scores))
        connection.close()
        if len(self._known) < 8:
            raise RuntimeError("too few images have answers of their own")

    def start(self, clients: int) -> None:
        """They ask from now on."""
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """They have their last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        chance = random.Random(1000 * self._seed + number)
        connection = http.client.HTTPConnection(self._site.address, timeout=HUNG)
        while not self._stop.is_set():
            image, scores = chance.choice(self._known)
            what = self._outcome(connection, image, scores)
            with self._lock:
                self.counts[what] += 1
            if what != "ok":
                connection.close()
                self._stop.wait(0.02)
        connection.close()

    def _outcome(self, connection: http.client.HTTPConnection, image: bytes, scores: Scores) -> str:
        try:
            code, body = _post(connection, image)
        except TimeoutError:
            return "hung"
        except ConnectionRefusedError:
            return "no connection"
        except (OSError, http.client.HTTPException):
            return "reset"
        if code != 200:
            return str(json.loads(body)["code"])
        if np.abs(_scores(body) - scores).max() > SAME:
            self.wrong.append(body.decode())
            return "wrong"
        return "ok"


def _post(connection: http.client.HTTPConnection, image: bytes) -> tuple[int, bytes]:
    connection.request("POST", "/v1/classify?top_k=10", image, {"content-type": "image/png"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def _scores(body: bytes) -> Scores:
    """Of the ten digits, in their order."""
    labels = json.loads(body)["labels"]
    return np.array([one["score"] for one in sorted(labels, key=lambda one: int(one["index"]))])


def images(count: int, seed: int) -> list[bytes]:
    """Small images of grey noise: their scores lie between the digits'."""
    chance = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        pixels = chance.normal(chance.uniform(0, 128), chance.uniform(5, 90), (28, 28)).clip(0, 255)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
        made.append(file.getvalue())
    return made


def device_process(site: Site) -> psutil.Process | None:
    """The device process, if it is there."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(site.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if "service.device" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    return process
    return None


def kill(site: Site, what: str, chance: random.Random) -> None:
    """Kills a ``front end``, the ``device process``, or ``both`` at one moment."""
    victims = [] if what == "device process" else [chance.choice(site.worker_processes())]
    device = None if what == "front end" else device_process(site)
    for victim in [*victims, *filter(None, [device])]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


def run(
    *, requests: int, seconds: float, front_ends: int, clients: int, kills: int, pause: float, seed: int
) -> dict[str, Any]:
    """One run.

    Args:
        requests: right answers that are waited for.
        seconds: after which it ends with fewer.
        front_ends, clients: how many of each.
        kills: at least so many.
        pause: the longest from when the server is whole to the next kill.
        seed: of the images, of their order and of the kills.

    Returns:
        what happened, and under ``failures`` what may not.
    """
    chance = random.Random(seed)
    shared = set(SHM.iterdir())
    failures: list[str] = []
    done: Counter[str] = Counter()
    with Site(engine="process", workers=front_ends, timeout_seconds=DEADLINE) as site:
        site.until_ready()
        asking = Asking(site, images(400, seed), seed)
        began = time.monotonic()
        asking.start(clients)
        while True:
            enough = asking.counts["ok"] >= requests and done.total() >= kills
            if enough or time.monotonic() > began + seconds:
                break
            what = chance.choice(("front end", "device process", "device process", "both"))
            time.sleep(chance.uniform(0, pause))
            kill(site, what, chance)
            done[what] += 1
            time.sleep(0.2)
            site.until_ready(120, probes=2)
        site.until_ready(120)
        before = asking.counts["ok"]
        time.sleep(1.0)
        asking.stop()
        took = time.monotonic() - began
        time.sleep(2.5)  # two looks of the watchdog
        device = device_process(site)
        maps = Path(f"/proc/{device.pid}/maps").read_text() if device else ""
        mapped = maps.count("memfd:lynceus-slots")
        owed = site.metric(r'lynceus_hang_seconds{what="model"}')
        deaths = site.metric(r'lynceus_device_deaths_total{signal="SIGKILL"}')
        lost = site.metric(r'lynceus_dropped_total{model="lenet5",reason="lost"}')
        log = site.said()
        site.signal(signal.SIGTERM)
        code, ended = site.end()
        new = sorted(str(path) for path in set(SHM.iterdir()) - shared)
        left = [*site.left_behind(), *(path for path in new if not is_mapped(path))]
    counts, expected = asking.counts, done["device process"] + done["both"]
    for holds, said in (
        (counts["ok"] > before, "no answer after the last kill"),
        (not counts["wrong"], f"{counts['wrong']} wrong answers: {asking.wrong[:3]}"),
        (not counts["hung"], f"{counts['hung']} hung"),
        (not counts["internal"], f"{counts['internal']} internal errors"),
        (counts["reset"] <= clients * (done["front end"] + done["both"]), f"{counts['reset']} resets"),
        (mapped == front_ends, f"the device process has the memory of {mapped} front ends, not {front_ends}"),
        (owed == 0, f"an image has had no answer for {owed:.0f} s"),
        (deaths == expected, f"{deaths:.0f} deaths are counted, not {expected}"),
        (log.count("device process 1 (pid") >= 2 * expected, "the log does not tell of each death and start"),
        (code == 0, f"status {code}"),
        (not left, f"left behind: {left}"),
    ):
        if not holds:
            failures.append(said)
    return {
        "seconds": round(took, 1),
        "kills": dict(done),
        "requests": dict(counts),
        "lost with the device process": lost,
        "ended after": round(ended, 1),
        "failures": failures,
    }


def main() -> int:
    """Prints what happened as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which it ends with fewer")
    parser.add_argument("--front-ends", type=int, default=2)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kills", type=int, default=1, help="at least so many")
    parser.add_argument("--pause", type=float, default=1.5, help="longest until the next kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    exit_on_sigterm()
    found = run(**vars(options))
    print(json.dumps(found, indent=2))
    return int(bool(found["failures"]))


if __name__ == "__main__":
    sys.exit(main())

"""Jobs in Redis: one record each, and the images beside it; changed by scripts that Redis runs as a whole.

A record says all that clients may learn of a job. An *attempt* is one run of it by a worker. Every change
that a run makes names its attempt, so a run that was given up for lost (its worker was not heard of for a
while) changes nothing any more: a job ends once, whatever became of its workers. Times are those of Redis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from service import __version__
from service.errors import JobFinished, JobUnknown, Overloaded
from service.jobs.backend import LONGEST, BackendError
from service.jobs.job import IMAGES, Job, NewJob, Reason, State

FORMAT: Final = "2"
"""Of the records; a service reads only its own."""

PREFIX: Final = "lynceus:jobs:"
IMAGE_BYTES: Final = 16 << 20
"""Largest image that is kept; 1024 pixels square, the largest result, are 3 MiB unpacked."""

UNCLAIMED: Final = 600
"""Seconds that images are kept whose job was not accepted: the service died in between."""

LIFE: Final = 1_209_600
"""Seconds after which even a job that never ended is forgotten: nothing is kept for ever."""

SCRIPT: Final = """
local prefix, life, format, version, id = '@PREFIX', @LIFE, ARGV[1], ARGV[2], ARGV[3]
local record = prefix .. 'job:' .. id
local clock = redis.call('TIME')
local now = string.format('%d.%06d', clock[1], clock[2])
local function get(field) return redis.call('HGET', record, field) or '' end
local function set(...) redis.call('HSET', record, ...) redis.call('HINCRBY', record, 'revision', 1) end
local function leave_queue()
  redis.call('SREM', prefix .. 'queued', id)
  redis.call('SREM', prefix .. 'waiting:' .. get('client'), id)
end
local function enter_queue()
  redis.call('SREM', prefix .. 'running', id)
  redis.call('SADD', prefix .. 'queued', id)
  redis.call('SADD', prefix .. 'waiting:' .. get('client'), id)
  redis.call('EXPIRE', prefix .. 'waiting:' .. get('client'), life)
end
local function over(state, reason, expiry)
  set('state', state, 'reason', reason, 'eta', '', 'finished', now, 'expiry', expiry)
  leave_queue()
  redis.call('DEL', record .. ':content', record .. ':style')
  redis.call('EXPIRE', record, expiry)
  redis.call('EXPIRE', record .. ':preview', expiry)
end
local function free()
  redis.call('HSET', record, 'busy', '0')
  redis.call('SREM', prefix .. 'running', id)
end
""".replace("@PREFIX", PREFIX).replace("@LIFE", str(LIFE))
SCRIPTS: Final = {
    "submit": """
local client, waiting, share = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
if get('state') ~= '' then return 'accepted' end
if redis.call('SCARD', prefix .. 'queued') >= waiting then return 'full' end
if redis.call('SCARD', prefix .. 'waiting:' .. client) >= share then return 'share' end
redis.call('HSET', record, 'format', format, 'version', version, 'client', client, 'state', 'queued',
  'revision', '0', 'attempt', '0', 'busy', '0', 'options', ARGV[7], 'steps', ARGV[8], 'step', '0',
  'work', ARGV[9], 'kind', ARGV[10], 'created', now)
enter_queue()
for _, name in ipairs({'', ':content', ':style'}) do redis.call('EXPIRE', record .. name, life) end
return 'accepted'
""",
    "begin": """
local state = get('state')
if state ~= 'queued' and state ~= 'running' then return 0 end
if get('format') ~= format or get('version') ~= version then
  over('failed', 'version', ARGV[4])
  free()
  return -1
end
local attempt = redis.call('HINCRBY', record, 'attempt', 1)
redis.call('HDEL', record, 'losses', 'preview')
set('state', 'running', 'step', '0', 'eta', '', 'busy', '1', 'started', now)
leave_queue()
redis.call('SADD', prefix .. 'running', id)
return attempt
""",
    "progress": """
if get('state') ~= 'running' or get('attempt') ~= ARGV[4] then return 0 end
set('step', ARGV[5], 'losses', ARGV[6], 'eta', ARGV[7])
if ARGV[8] ~= '' then
  redis.call('SET', record .. ':preview', ARGV[8], 'EX', life)
  redis.call('HSET', record, 'preview', '1')
end
return 1
""",
    "finish": """
local attempt, state, reason, expiry = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local before = get('state')
if before == '' then
  redis.call('SREM', prefix .. 'queued', id)
  redis.call('SREM', prefix .. 'running', id)
end
if before == '' or (attempt ~= '' and get('attempt') ~= attempt) then return 0 end
local ended = before == 'queued' or before == 'running'
if ended and state == '' then return 0 end
if ended then
  if state == 'succeeded' then
    redis.call('SET', record .. ':result', ARGV[8], 'EX', expiry)
    redis.call('LPUSH', prefix .. 'seconds', tonumber(now) - (tonumber(get('started')) or tonumber(now)))
    redis.call('LTRIM', prefix .. 'seconds', 0, 7)
  end
  over(state, reason, expiry)
end
free()
return ended and 1 or 0
""",
    "cancel": """
local state = get('state')
if state ~= 'queued' and state ~= 'running' then return state end
over('cancelled', '', ARGV[4])
return ''
""",
    "requeue": """
if get('attempt') ~= ARGV[4] then return 0 end
if get('state') ~= 'running' then
  if get('state') ~= 'queued' then free() end
  return 0
end
set('state', 'queued', 'step', '0', 'eta', '', 'busy', '0')
redis.call('HDEL', record, 'losses', 'preview', 'started')
enter_queue()
return 1
""",
}


class JobRecords:
    """The records. Every method raises BackendError where Redis fails it.

    Args:
        redis: gives bytes.
        max_waiting: how many jobs may wait; of one client at most half of them, rounded up.
        expiry: seconds that a finished job is kept.
        version: of this process; jobs of another one are not run.
    """

    def __init__(
        self, redis: Redis, *, max_waiting: int = 8, expiry: float = 3600.0, version: str = __version__
    ) -> None:
        self._redis, self._waiting, self._expiry = redis, max_waiting, max(1, round(expiry))
        self._version = version
        self._scripts = {name: redis.register_script(SCRIPT + text) for name, text in SCRIPTS.items()}

    def check_room(self, client: str, workers: int = 1) -> None:
        """
        Args:
            client: whose job would come.
            workers: that there are; the estimated wait depends on them.

        Raises:
            Overloaded: too many jobs wait, or too many of this client.
        """
        with reached():
            queued: int = self._redis.scard(f"{PREFIX}queued")
            own: int = self._redis.scard(f"{PREFIX}waiting:{client}")
        if queued >= self._waiting:
            raise Overloaded(f"{queued} jobs wait already", self._seconds(workers))
        if own >= self._share:
            what = f"{own} jobs of this client wait already, which is its share"
            raise Overloaded(what, self._seconds(workers))

    def submit(self, job: str, new: NewJob) -> None:
        """A job of this id, which waits.

        Raises:
            Overloaded: as `check_room`.
        """
        with reached():
            for role in IMAGES[new.kind]:
                self._redis.set(self._key(job, role), new.images[role], ex=UNCLAIMED)
            answer = self._run(
                "submit",
                job,
                new.client,
                self._waiting,
                self._share,
                json.dumps(dict(new.options)),
                new.steps,
                new.work,
                new.kind,
            )
        if answer != b"accepted":
            with reached():
                for role in IMAGES[new.kind]:
                    self._redis.delete(self._key(job, role))
            self.check_room(new.client)
            raise Overloaded("too many jobs wait already", 1.0)  # one has just left

    def get(self, job: str) -> Job:
        """A job as it stands.

        Raises:
            JobUnknown: there is none of that id, or another version keeps it in another way.
        """
        with reached():
            found = self._redis.hgetall(self._key(job))
        record = {name.decode(): value.decode() for name, value in found.items()}  # type: ignore[union-attr]
        if "state" not in record:
            raise JobUnknown("there is no job of that id, or it has expired")
        if record["format"] != FORMAT:
            raise JobUnknown(
                f"the job was taken by version {record['version']}, which keeps jobs differently from"
                f" this one, {self._version}: ask a server of that version, or submit it again"
            )
        expiry = float(record.get("expiry") or self._expiry)  # once it is over
        return Job.of({**record, "id": job}, busy=record["busy"] == "1", expiry=expiry)

    def image(self, job: str, name: str) -> bytes:
        """One of a job's images: `content` and `style` until it ends, `preview`, `result`.

        Raises:
            JobUnknown: it has expired.
        """
        with reached():
            data = self._redis.get(self._key(job, name))
        if data is None:
            raise JobUnknown("the job has expired")
        return bytes(data)  # type: ignore[arg-type]

    def cancel(self, job: str) -> Job:
        """Ends a job. Who works on it learns of it with its next step.

        Raises:
            JobUnknown: there is none of that id.
            JobFinished: it has ended already.
        """
        found = self.get(job)
        state = self._run("cancel", job, self._expiry)
        if state:
            ended = State(state.decode())
            raise JobFinished(f"the job {'was' if ended is State.CANCELLED else 'has'} {ended} already")
        return self.get(found.id)

    def begin(self, job: str) -> int | None:
        """A worker takes a job: the number of its attempt; None where the job has ended.

        A job of another version ends by this, with the reason `version`.
        """
        attempt = int(self._run("begin", job, self._expiry))
        return attempt if attempt > 0 else None

    def progress(
        self,
        job: str,
        attempt: int,
        step: int,
        losses: Mapping[str, float],
        eta: float | None,
        preview: bytes = b"",
    ) -> bool:
        """A step is done; whether the work is still wanted."""
        told = (step, json.dumps(dict(losses)), "" if eta is None else eta, _bounded(preview))
        return bool(self._run("progress", job, attempt, *told))

    def finish(
        self,
        job: str,
        state: State | None,
        reason: Reason | None = None,
        *,
        attempt: int | None = None,
        result: bytes = b"",
    ) -> bool:
        """Nothing works on a job any more; whether it has ended by this, and not before.

        Args:
            job: its id.
            state: in which it ends, unless it has ended already; None: only one that has is left.
            reason: why it failed.
            attempt: whose end it is; another one's is ignored. None: any.
            result: the image of a job that succeeded.
        """
        number = "" if attempt is None else attempt
        how = (state or "", reason or "", self._expiry, _bounded(result))
        return bool(self._run("finish", job, number, *how))

    def attempt(self, job: str) -> int:
        """The number of a job's latest attempt; 0 where none was begun."""
        with reached():
            return int(self._redis.hget(self._key(job), "attempt") or 0)

    def requeue(self, job: str, attempt: int) -> bool:
        """A job of which this attempt runs waits again, for its worker is gone; whether it does."""
        return bool(self._run("requeue", job, attempt))

    def unfinished(self) -> dict[State, set[str]]:
        """Ids of the jobs that wait, and of those that something works on."""
        with reached():
            return {
                state: {member.decode() for member in self._redis.smembers(f"{PREFIX}{state}")}  # type: ignore[union-attr]
                for state in (State.QUEUED, State.RUNNING)
            }

    @property
    def _share(self) -> int:
        return (self._waiting + 1) // 2

    def _seconds(self, workers: int) -> float:
        """Estimated until a waiting job begins."""
        with reached():
            recent = [float(took) for took in self._redis.lrange(f"{PREFIX}seconds", 0, -1)]
        mean = sum(recent) / len(recent) if recent else 30.0
        return min(LONGEST, max(1.0, mean / max(1, workers)))

    def _run(self, script: str, job: str, *arguments: str | bytes | float) -> Any:
        with reached():
            return self._scripts[script](args=[FORMAT, self._version, job, *arguments])

    @staticmethod
    def _key(job: str, name: str = "") -> str:
        return f"{PREFIX}job:{job}" + (f":{name}" if name else "")


@contextmanager
def reached() -> Iterator[None]:
    """Redis is used within; it may fail."""
    try:
        yield
    except RedisError as exc:
        raise BackendError(f"Redis: {' '.join(str(exc).split())}") from exc


def _bounded(image: bytes) -> bytes:
    if len(image) > IMAGE_BYTES:
        raise BackendError(f"an image of {len(image)} bytes; at most {IMAGE_BYTES} are kept")
    return image

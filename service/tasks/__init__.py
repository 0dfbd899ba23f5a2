"""The tasks of the service, in the order of the documents."""

from __future__ import annotations

from typing import Any

from service.tasks.analyze import ANALYZE
from service.tasks.classify import CLASSIFY
from service.tasks.detect import DETECT
from service.tasks.embed import EMBED
from service.tasks.explain import EXPLAIN
from service.tasks.faces.compare import FACES_COMPARE
from service.tasks.faces.detect import FACES_DETECT
from service.tasks.faces.embed import FACES_EMBED
from service.tasks.faces.identify import FACES_IDENTIFY
from service.tasks.faces.verify import FACES_VERIFY
from service.tasks.stylize import STYLIZE
from service.tasks.task import Task

TASKS: tuple[Task[Any, Any], ...] = (
    CLASSIFY,
    EXPLAIN,
    EMBED,
    DETECT,
    FACES_DETECT,
    FACES_EMBED,
    FACES_VERIFY,
    FACES_COMPARE,
    FACES_IDENTIFY,
    STYLIZE,
    ANALYZE,
)

"""Forget what the surroundings say: it could be somebody's bot or somebody's data."""

import os
import re

_FOREIGN = re.compile(
    r"MIRRORPOST_(?!TEST_).*|.*_TOKEN(_.*)?|.*_API_BASE|MATRIX_.*|WEBHOOK_.*"
    r"|DATABASE_URL|REDIS_URL|CELERY_.*"
)


def forget_foreign_variables() -> None:
    """Remove every variable that Mirrorpost or Celery would read from this environment."""
    for name in [name for name in os.environ if _FOREIGN.fullmatch(name)]:
        del os.environ[name]

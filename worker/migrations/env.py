"""Alembic's entry: run the revisions on the connection that `worker.database` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()

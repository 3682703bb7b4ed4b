"""Runs revisions on a connection that is already in a transaction. Knows no URL: it comes with the connection."""

from alembic import context

from anyloom.storage.schema import VERSION_TABLE
from anyloom.storage.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

"""Jobs and their items, and full-text search, filled from the turns that are there."""

import sqlalchemy as sa
from alembic import op

from anyloom.storage.search import create_index, reindex

revision = "0002"
down_revision = "0001"

CODE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, index the words of all turns."""
    _jobs()
    create_index(op.get_bind())
    reindex(op.get_bind())


def downgrade() -> None:
    """Drop them."""
    for table in ("search", "items", "jobs"):
        op.execute(f"DROP TABLE {table}")


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_jobs"),
        sa.UniqueConstraint("name", name="uq_jobs_name"),
    )
    op.create_table(
        "items",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("job", NUMBER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease", sa.Double(), nullable=True),
        sa.Column("turn", CODE, nullable=True),
        sa.Column("outputs", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_items"),
        sa.UniqueConstraint("job", "name", name="uq_items_job"),
        sa.ForeignKeyConstraint(["job"], ["jobs.number"], name="fk_items_job"),
        sa.ForeignKeyConstraint(["turn"], ["turns.id"], name="fk_items_turn"),
    )
    op.create_index("ix_items_turn", "items", ["turn"])
    op.create_index("ix_items_job_state", "items", ["job", "state", "number"])
    op.create_index("ix_items_job_key", "items", ["job", "key"])

"""The store's identity, conversations, turns and their content, media, memo, voices."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

CODE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the first tables and name the store."""
    facts = op.create_table(
        "facts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_facts"),
    )
    op.bulk_insert(facts, [{"name": "store", "value": uuid.uuid4().hex}])
    _conversations()
    _media()
    _content()
    _memo()


def downgrade() -> None:
    """Drop them."""
    for table in ("voices", "memo_media", "memo_codes", "timings", "parts", "generations", "media", "turns"):
        op.drop_table(table)
    op.drop_table("conversations")
    op.drop_table("facts")


def _conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_updated", "conversations", ["updated"])
    op.create_table(
        "turns",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", CODE, nullable=False),
        sa.Column("conversation", sa.Text(), nullable=False),
        sa.Column("parent", CODE, nullable=True),
        sa.Column("run", sa.Text(), nullable=True),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("dropped", sa.Integer(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("erased", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_turns"),
        sa.UniqueConstraint("id", name="uq_turns_id"),
        sa.UniqueConstraint("run", name="uq_turns_run"),
        sa.ForeignKeyConstraint(["conversation"], ["conversations.id"], name="fk_turns_conversation"),
        sa.ForeignKeyConstraint(["parent"], ["turns.id"], name="fk_turns_parent"),
    )
    op.create_index("ix_turns_parent", "turns", ["parent"])
    op.create_index("ix_turns_at", "turns", ["at"])
    op.create_index("ix_turns_conversation_number", "turns", ["conversation", "number"])


def _media() -> None:
    op.create_table(
        "media",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("mime", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("duration", sa.Double(), nullable=True),
        sa.Column("sample_rate", sa.Integer(), nullable=True),
        sa.Column("refs", sa.Integer(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("touched", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_media"),
    )


def _content() -> None:
    op.create_table(
        "generations",
        sa.Column("turn", NUMBER, autoincrement=False, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt", sa.LargeBinary(), nullable=False),
        sa.Column("ids", sa.LargeBinary(), nullable=False),
        sa.Column("logprobs", sa.LargeBinary(), nullable=False),
        sa.Column("margins", sa.LargeBinary(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("finish", sa.Text(), nullable=False),
        sa.Column("seed", sa.Text(), nullable=False),
        sa.Column("bounds", sa.Text(), nullable=False),
        sa.Column("sampling", sa.Text(), nullable=False),
        sa.Column("fingerprints", sa.Text(), nullable=False),
        sa.Column("versions", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("turn", name="pk_generations"),
        sa.ForeignKeyConstraint(["turn"], ["turns.number"], name="fk_generations_turn"),
    )
    op.create_table(
        "parts",
        sa.Column("turn", NUMBER, autoincrement=False, nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("media", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("span", sa.LargeBinary(), nullable=True),
        sa.Column("span_modality", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("generated", sa.Boolean(), nullable=False),
        sa.Column("seed", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("turn", "side", "position", name="pk_parts"),
        sa.ForeignKeyConstraint(["turn"], ["turns.number"], name="fk_parts_turn"),
        sa.ForeignKeyConstraint(["media"], ["media.hash"], name="fk_parts_media"),
    )
    op.create_index("ix_parts_media", "parts", ["media"])
    op.create_table(
        "timings",
        sa.Column("turn", NUMBER, autoincrement=False, nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("turn", "node", name="pk_timings"),
        sa.ForeignKeyConstraint(["turn"], ["turns.number"], name="fk_timings_turn"),
    )


def _memo() -> None:
    op.create_table(
        "memo_codes",
        sa.Column("media", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("codebooks", sa.Integer(), nullable=False),
        sa.Column("codes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("media", "fingerprint", name="pk_memo_codes"),
    )
    op.create_table(
        "memo_media",
        sa.Column("codes", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("seed", sa.Text(), nullable=False),
        sa.Column("media", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("codes", "fingerprint", "seed", name="pk_memo_media"),
    )
    op.create_index("ix_memo_media_media", "memo_media", ["media"])
    op.create_table(
        "voices",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media", sa.Text(), nullable=False),
        sa.Column("consent", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_voices"),
        sa.ForeignKeyConstraint(["media"], ["media.hash"], name="fk_voices_media"),
    )
    op.create_index("ix_voices_media", "voices", ["media"])

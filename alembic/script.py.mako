"""${message}.

Revises ${down_revision or "nothing"}.
"""

from alembic import op

revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}

UPGRADE: tuple[str, ...] = ${config.attributes["upgrade"]}

DOWNGRADE: tuple[str, ...] = ${config.attributes["downgrade"]}


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)

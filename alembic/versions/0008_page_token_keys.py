"""The keys by which servers know the page tokens that they made."""

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"

UPGRADE = (
    r"""
CREATE TABLE page_token_keys (
  page_token_key_id uuid        NOT NULL DEFAULT gen_random_uuid(),
  secret            bytea       NOT NULL
    CONSTRAINT page_token_keys_secret_check CHECK (octet_length(secret) >= 32),
  created_at        timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT page_token_keys_pkey PRIMARY KEY (page_token_key_id)
)
""",
    """COMMENT ON TABLE page_token_keys IS
  'By which servers authenticate page tokens: the newest key makes them, all of them verify. Only for ledger_app.'""",
    "COMMENT ON COLUMN page_token_keys.page_token_key_id IS 'Random, so that the keys of two databases can stand beside each other.'",
    "COMMENT ON COLUMN page_token_keys.secret IS 'The key of HMAC-SHA256. Never shown.'",
    "COMMENT ON COLUMN page_token_keys.created_at IS 'When it was made, by the database''s clock.'",
    # Each UUID has 122 random bits from PostgreSQL's strong source; the hash makes them a key of 256 bits.
    """
INSERT INTO page_token_keys (secret)
SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
""",
    "GRANT SELECT ON page_token_keys TO ledger_app",
)

DOWNGRADE = ("DROP TABLE page_token_keys",)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)

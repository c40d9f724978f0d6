"""Restaurants, and their balance accounts: one restaurant in one currency."""

from alembic import op

revision: str = "0001"
down_revision: str | None = None

UPGRADE = (
    r"""
CREATE TABLE restaurants (
  restaurant_id text COLLATE "C" NOT NULL
    CONSTRAINT restaurants_restaurant_id_check CHECK (restaurant_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(restaurant_id) <= 128),
  name          text        NOT NULL DEFAULT ''
    CONSTRAINT restaurants_name_check CHECK (char_length(name) <= 200),
  active        boolean     NOT NULL DEFAULT true,
  maturity_days integer
    CONSTRAINT restaurants_maturity_days_check CHECK (maturity_days BETWEEN 0 AND 365),
  metadata      jsonb       NOT NULL DEFAULT '{}'
    CONSTRAINT restaurants_metadata_check CHECK (jsonb_typeof(metadata) = 'object'),
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT restaurants_pkey PRIMARY KEY (restaurant_id)
)
""",
    "COMMENT ON TABLE restaurants IS 'Whose money it is. The profile may change; rows are never deleted.'",
    "COMMENT ON COLUMN restaurants.restaurant_id IS 'The caller''s id, compared byte by byte.'",
    "COMMENT ON COLUMN restaurants.name IS 'For people; empty when the restaurant was registered by its first event.'",
    "COMMENT ON COLUMN restaurants.active IS 'Whether payout runs pay it.'",
    """COMMENT ON COLUMN restaurants.maturity_days IS
  'Days of 24 hours from a charge''s occurred_at until it is available; 0 at once; NULL: the service''s setting.'""",
    "COMMENT ON COLUMN restaurants.metadata IS 'Whatever the caller keeps with it: an object of strings.'",
    "COMMENT ON COLUMN restaurants.created_at IS 'When it was registered, by the database''s clock.'",
    "COMMENT ON COLUMN restaurants.updated_at IS 'When its profile was last put, by the database''s clock.'",
    r"""
CREATE TABLE balance_accounts (
  balance_account_id bigint GENERATED ALWAYS AS IDENTITY,
  restaurant_id      text COLLATE "C" NOT NULL,
  currency           text COLLATE "C" NOT NULL
    CONSTRAINT balance_accounts_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
  lock_pad           boolean     NOT NULL DEFAULT false,
  created_at         timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT balance_accounts_pkey PRIMARY KEY (balance_account_id),
  CONSTRAINT balance_accounts_restaurant_id_currency_key UNIQUE (restaurant_id, currency),
  CONSTRAINT balance_accounts_restaurant_id_fkey FOREIGN KEY (restaurant_id)
    REFERENCES restaurants (restaurant_id) ON DELETE RESTRICT
)
""",
    """COMMENT ON TABLE balance_accounts IS
  'One restaurant in one currency: the unit that is summed, locked and sharded. Every entry stays inside one of them.'""",
    "COMMENT ON COLUMN balance_accounts.balance_account_id IS 'Internal; gaps mean nothing.'",
    "COMMENT ON COLUMN balance_accounts.restaurant_id IS 'Whose account it is.'",
    "COMMENT ON COLUMN balance_accounts.currency IS 'ISO 4217 code; amounts are in its minor units.'",
    """COMMENT ON COLUMN balance_accounts.lock_pad IS
  'Never written. The application may lock rows only where it may update a column, and this is the one.'""",
    "COMMENT ON COLUMN balance_accounts.created_at IS 'When it was opened, by the database''s clock.'",
    "GRANT SELECT ON alembic_version TO ledger_app, ledger_read",
    "GRANT SELECT, INSERT (restaurant_id, name, active, maturity_days, metadata) ON restaurants TO ledger_app",
    "GRANT UPDATE (name, active, maturity_days, metadata, updated_at) ON restaurants TO ledger_app",
    "GRANT SELECT, INSERT (restaurant_id, currency), UPDATE (lock_pad) ON balance_accounts TO ledger_app",
    "GRANT SELECT ON restaurants, balance_accounts TO ledger_read",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM restaurants) THEN
    RAISE EXCEPTION 'there are restaurants: they are not removed' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP TABLE balance_accounts",
    "DROP TABLE restaurants",
    "REVOKE ALL ON alembic_version FROM ledger_app, ledger_read",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
